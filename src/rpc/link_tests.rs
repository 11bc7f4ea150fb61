//! Links to far ends that refuse, fall silent, and come back.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::base::rng::SystemRng;
use crate::base::seams::SystemSpawn;
use crate::rpc::{DialError, Handler, serve};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use tokio::io::{DuplexStream, duplex};

/// What the far end does with whoever dials.
#[derive(Clone, Copy, PartialEq)]
enum Far {
    Refuses,
    Answers,
    /// Takes everything and says nothing.
    Silent,
}

struct Fake {
    far: Mutex<Far>,
    dials: AtomicUsize,
    at_once: AtomicUsize,
    /// Ends that say nothing, kept open.
    kept: Mutex<Vec<DuplexStream>>,
    addresses: watch::Sender<BTreeMap<NodeId, SocketAddr>>,
}

impl Fake {
    fn new(far: Far) -> Arc<Self> {
        Arc::new(Self {
            far: Mutex::new(far),
            dials: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            kept: Mutex::default(),
            addresses: watch::channel(BTreeMap::new()).0,
        })
    }
}

impl Dial for Fake {
    fn dial(&self, _node: NodeId, class: Class) -> BoxFuture<'_, Result<Client, DialError>> {
        Box::pin(async move {
            self.dials.fetch_add(1, Ordering::SeqCst);
            assert_eq!(self.at_once.fetch_add(1, Ordering::SeqCst), 0, "one attempt at a time");
            tokio::task::yield_now().await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            let far = *self.far.lock().unwrap();
            let (here, there) = duplex(1 << 16);
            match far {
                Far::Refuses => return Err(DialError::NoAddress),
                Far::Silent => self.kept.lock().unwrap().push(there),
                Far::Answers => {
                    let echo: Handler = Arc::new(|body, _| Box::pin(async move { Some(body) }));
                    let handlers = Arc::new(BTreeMap::from([(1, echo)]));
                    let serving = serve(Box::new(there), class, handlers, Arc::new(SystemSpawn));
                    SystemSpawn.task(Box::pin(serving));
                }
            }
            Ok(Client::new(Box::new(here), class, &SystemSpawn))
        })
    }

    fn addresses(&self) -> watch::Receiver<BTreeMap<NodeId, SocketAddr>> {
        self.addresses.subscribe()
    }
}

fn link(fake: &Arc<Fake>) -> Arc<Link> {
    Link::new(&LinkParts {
        node: NodeId(2),
        dial: fake.clone(),
        spawn: Arc::new(SystemSpawn),
        rng: Arc::new(SystemRng),
    })
}

async fn call(link: &Arc<Link>, deadline_ms: u64) -> Result<Bytes, CallError> {
    let deadline = Duration::from_millis(deadline_ms);
    link.call(Class::Data, 1, Bytes::from_static(b"hi"), deadline).await
}

#[tokio::test]
async fn it_connects_on_the_first_call_once_for_many() {
    let fake = Fake::new(Far::Answers);
    let link = link(&fake);
    assert_eq!(fake.dials.load(Ordering::SeqCst), 0);
    assert!(link.is_up(), "nothing bad is known");
    let calls = (0..50).map(|_| call(&link, 5_000));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), Bytes::from_static(b"hi"));
    }
    assert_eq!(fake.dials.load(Ordering::SeqCst), 1);
    let other = link.call(Class::Repair, 1, Bytes::new(), Duration::from_secs(5)).await;
    assert!(other.is_ok());
    assert_eq!(fake.dials.load(Ordering::SeqCst), 2, "a class has a connection of its own");
}

#[tokio::test]
async fn nobody_waits_long_for_a_far_end_that_refuses_and_it_is_found_when_it_moves() {
    let fake = Fake::new(Far::Refuses);
    let link = link(&fake);
    let began = Instant::now();
    assert_eq!(call(&link, 60_000).await, Err(CallError::NotSent));
    assert!(began.elapsed() < Duration::from_secs(30), "not for as long as its deadline");
    // Until the pauses are too long to wait for; then calls end at once.
    while !matches!(&*link.line(Class::Data).state.borrow(), State::Down(next)
        if *next > Instant::now() + limits::PEER_WAIT_TIME + Duration::from_millis(200))
    {
        tokio::task::yield_now().await;
    }
    let dials = fake.dials.load(Ordering::SeqCst);
    assert_eq!(call(&link, 60_000).await, Err(CallError::NotSent));
    assert_eq!(fake.dials.load(Ordering::SeqCst), dials, "nobody was called for it");
    assert!(!link.is_up());
    *fake.far.lock().unwrap() = Far::Answers;
    let at: SocketAddr = "127.0.0.1:7".parse().unwrap();
    fake.addresses.send_modify(|all| {
        all.insert(NodeId(2), at);
    });
    let mut state = link.line(Class::Data).state.subscribe();
    let up = state.wait_for(|state| matches!(state, State::Up(_)));
    tokio::time::timeout(Duration::from_secs(30), up).await.expect("it is found").unwrap();
    assert!(call(&link, 5_000).await.is_ok());
    assert!(link.is_up());
}

#[tokio::test]
async fn a_far_end_that_fell_silent_is_dropped_and_calls_on_it_are_lost() {
    let fake = Fake::new(Far::Silent);
    let link = link(&fake);
    // A short call says nothing yet: too little time has passed.
    assert_eq!(call(&link, 100).await, Err(CallError::Lost));
    assert!(link.is_up());
    let began = Instant::now();
    let (long, short) = tokio::join!(call(&link, 60_000), call(&link, 2_100));
    assert_eq!((long, short), (Err(CallError::Lost), Err(CallError::Lost)));
    assert!(began.elapsed() < Duration::from_secs(50), "the long call ends with the connection");
    *fake.far.lock().unwrap() = Far::Answers;
    assert!(call(&link, 5_000).await.is_ok());
}
