//! Three replicas in one process: real stores, real RPC, a network in memory whose links can be
//! cut, held back and doubled.

use super::fault_disk::FaultDisk;
use super::memory_net::MemoryNet;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tertulia::base::clock::{Clock, ServiceClock, SystemClock};
use tertulia::base::hlc::HlcClock;
use tertulia::base::ids::{Boot, Generation, NodeId, SubscriptionId, UserId};
use tertulia::base::rng::{Rng, SystemRng};
use tertulia::base::seams::{Net, Spawn, SystemSpawn};
use tertulia::layout::members::Layout;
use tertulia::layout::placement;
use tertulia::message::envelope::{Body, Content};
use tertulia::metadata::{Catalog, Draft, Registers};
use tertulia::protocol::op::{Answer, Reply, Request, SettleItem, StoreVote};
use tertulia::protocol::record::{Ending, Kind, Queue, QueueConfig, RecordKey, State, Value};
use tertulia::replication::coordinator::{Coordinator, CoordinatorParts, StreamRef};
use tertulia::replication::dispatcher::{Delivery, ReceiveError, Wanted};
use tertulia::replication::lapses::Lapses;
use tertulia::replication::peers::{
    CallError, Peer, Peers, REPLICA_CALL, RemotePeer, replica_handler,
};
use tertulia::replication::replica::{Replica, ReplicaParts};
use tertulia::replication::sending::{Outgoing, Sender, Stored};
use tertulia::replication::settling::Settled;
use tertulia::rpc;
use tertulia::security::keys::{ClusterSecret, DataKey, Keys};
use tertulia::store::{RowOp, Store, StoreOptions, Table};
use tokio::sync::Notify;

/// A link to one replica, with what can go wrong on it.
pub struct Link {
    peer: Mutex<Option<Arc<RemotePeer>>>,
    alive: AtomicBool,
    held: AtomicBool,
    doubled: AtomicBool,
    asked: AtomicUsize,
    changed: Notify,
}

impl Link {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            peer: Mutex::new(None),
            alive: AtomicBool::new(true),
            held: AtomicBool::new(false),
            doubled: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    async fn until(&self, met: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if met() {
                return;
            }
            changed.await;
        }
    }
}

struct LinkPeer(Arc<Link>);

impl Peer for LinkPeer {
    fn call(
        &self,
        request: Arc<Request>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Reply, CallError>> {
        let link = self.0.clone();
        Box::pin(async move {
            // A dead replica: whether it was reached is not known.
            if !link.alive.load(Ordering::SeqCst) {
                return Err(CallError::Lost);
            }
            let peer = link.peer.lock().unwrap().clone().ok_or(CallError::NotAsked)?;
            let reply = peer.call(request.clone(), deadline).await;
            link.asked.fetch_add(1, Ordering::SeqCst);
            link.changed.notify_waiters();
            if link.doubled.load(Ordering::SeqCst) {
                let again = peer.call(request, deadline).await?;
                // What is stored the first time is known the second: the same "yes".
                let plain = |answer: &Answer| match answer {
                    Answer::Stored(votes) => Answer::Stored(vec![StoreVote::Known; votes.len()]),
                    other => other.clone(),
                };
                assert_eq!(plain(&again.answer), plain(&reply.clone()?.answer));
            }
            link.until(|| !link.held.load(Ordering::SeqCst)).await;
            reply
        })
    }
}

struct Member {
    replica: Arc<Replica>,
    key: Vec<u8>,
}

/// The cluster; node 0 coordinates.
#[derive(Clone)]
pub struct Three(Arc<Inside>);

struct Inside {
    coordinator: Arc<Coordinator>,
    members: Vec<Member>,
    links: Vec<Arc<Link>>,
    stream: StreamRef,
    _disks: Vec<FaultDisk>,
}

const STREAM: Generation = Generation([3; 16]);

pub fn content(text: &str) -> Content {
    let content_type = "text/plain".to_owned();
    Content {
        body: Body::Text(text.to_owned()),
        content_type,
        attributes: BTreeMap::new(),
        routing_key: None,
        group: None,
        topic: None,
        died: None,
    }
}

fn stamp() -> RowOp {
    RowOp::Put { table: Table::Node, key: b"stamp".to_vec(), tag: 1, bytes: vec![0] }
}

async fn registers(store: &Store, wrapped: &[u8]) -> Arc<Catalog> {
    let (registers, catalog) = Registers::open(store.clone()).unwrap();
    let config = QueueConfig { replicas: 3, ..tertulia::broker::queues::DEFAULTS };
    let queue = Queue {
        owner: UserId([1; 16]),
        config,
        ending: Ending::No,
        data_key: wrapped.to_vec(),
        grants: BTreeMap::new(),
        created_ms: 0,
        updated_ms: 0,
    };
    let draft = Draft { generation: STREAM, state: State::Live, value: Value::Queue(queue) };
    registers.change(RecordKey::new(Kind::Queue, "q"), 0, draft).await.unwrap();
    catalog
}

impl Three {
    pub async fn start() -> Self {
        let (clock, rng): (Arc<dyn Clock>, Arc<dyn Rng>) =
            (Arc::new(SystemClock), Arc::new(SystemRng));
        let spawn: Arc<dyn Spawn> = Arc::new(SystemSpawn);
        let net = Arc::new(MemoryNet::default());
        let keys = Arc::new(Keys::derive(&ClusterSecret::generate(&*rng), "three"));
        let wrapped = keys.wrap(STREAM, &DataKey::generate(&*rng), &*rng);
        let nodes: Vec<NodeId> = (0..3).map(NodeId).collect();
        let layout = Layout { version: 1, slots: 256, members: nodes.iter().copied().collect() };
        let view = placement::view_of(&layout, STREAM, 3);
        let (mut members, mut disks, mut links) = (Vec::new(), Vec::new(), Vec::new());
        let mut peers = Peers::new();
        for node in nodes {
            let disk = FaultDisk::new();
            let open = Store::open(Arc::new(disk.clone()), 1 << 20).unwrap();
            let options = StoreOptions { reserve_bytes: 0, stamp: Arc::new(|_| stamp()) };
            let store = open.start(&*spawn, options, 0);
            let catalog = registers(&store, &wrapped).await;
            let service = Arc::new(ServiceClock::resume(clock.clone(), None));
            let lapses = Lapses::new(service.clone());
            spawn.task(Box::pin(lapses.clone().run()));
            let hlc = Arc::new(HlcClock::new(clock.clone(), node, None));
            let (boot, spawn, view) = (Boot(1), spawn.clone(), view.id());
            let parts =
                ReplicaParts { node, boot, store, catalog, service, hlc, spawn, lapses, view };
            let replica = Replica::new(parts);
            let link = Link::new();
            let peer: Arc<dyn Peer> = Arc::new(LinkPeer(link.clone()));
            peers.insert(node, peer);
            links.push(link);
            disks.push(disk);
            members.push(Member { replica, key: wrapped.clone() });
        }
        let parts = CoordinatorParts {
            replica: members[0].replica.clone(),
            peers,
            layout,
            keys,
            clock,
            rng,
        };
        let coordinator = Coordinator::new(parts);
        let stream = coordinator.stream(STREAM, 1, &members[0].key, 3).unwrap();
        let three = Self(Arc::new(Inside { coordinator, members, links, stream, _disks: disks }));
        for node in 1..3 {
            three.serve(node, &net, &spawn).await;
        }
        three
    }

    /// Node `node` answers RPC at an address of the memory network, and is connected to.
    async fn serve(&self, node: usize, net: &Arc<MemoryNet>, spawn: &Arc<dyn Spawn>) {
        let at: SocketAddr = format!("127.0.0.1:{}", 7_000 + node).parse().unwrap();
        let listener = net.bind(at).await.unwrap();
        let handler = replica_handler(self.0.members[node].replica.clone());
        let handlers = Arc::new(BTreeMap::from([(REPLICA_CALL, handler)]));
        let serving = spawn.clone();
        spawn.task(Box::pin(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.task(Box::pin(rpc::serve(
                    stream,
                    rpc::Class::Data,
                    handlers.clone(),
                    serving.clone(),
                )));
            }
        }));
        let client = rpc::Client::new(net.connect(at).await.unwrap(), rpc::Class::Data, &**spawn);
        *self.0.links[node].peer.lock().unwrap() = Some(Arc::new(RemotePeer::new(client)));
    }

    pub fn kill(&self, node: usize) {
        self.0.links[node].alive.store(false, Ordering::SeqCst);
    }

    pub async fn revive(&self, node: usize) {
        self.0.links[node].alive.store(true, Ordering::SeqCst);
    }

    pub fn hold(&self, node: usize) {
        self.0.links[node].held.store(true, Ordering::SeqCst);
    }

    pub fn let_go(&self, node: usize) {
        self.0.links[node].held.store(false, Ordering::SeqCst);
        self.0.links[node].changed.notify_waiters();
    }

    pub fn double_answers(&self, node: usize) {
        self.0.links[node].doubled.store(true, Ordering::SeqCst);
    }

    /// Returns once the node has answered (its answer may still be held back).
    pub async fn asked(&self, node: usize) {
        let link = &self.0.links[node];
        link.until(|| link.asked.load(Ordering::SeqCst) > 0).await;
    }

    pub async fn send(&self, text: &str, all: bool) -> Stored {
        let sender = Sender { id: UserId([1; 16]), name: "alice".into() };
        let message = Outgoing::plain(content(text));
        self.0.coordinator.store(&self.0.stream, &sender, vec![message], all).await.remove(0)
    }

    pub async fn receive(&self, max: usize, lease_ms: u64) -> Result<Vec<Delivery>, ReceiveError> {
        let stream = &self.0.stream;
        let wanted = Wanted {
            reader: SubscriptionId::QUEUE,
            holder: "bob".into(),
            requester: None,
            from_dead: false,
            max,
            bytes_max: 8 << 20,
            duration_ms: lease_ms,
            in_flight_max: 120_000,
            retention_ms: u64::MAX,
        };
        let granted = self.0.coordinator.try_receive(stream, &wanted).await?;
        Ok(granted.hand_over())
    }

    /// Receives, waiting for the bell.
    pub async fn received_within(
        &self,
        within: Duration,
        max: usize,
        lease_ms: u64,
    ) -> Vec<Delivery> {
        let listening =
            self.0.coordinator.listen(&self.0.stream, SubscriptionId::QUEUE).await.unwrap();
        let wait = async {
            loop {
                let news = listening.bell().notified();
                tokio::pin!(news);
                news.as_mut().enable();
                match self.receive(max, lease_ms).await {
                    Ok(got) if !got.is_empty() => return got,
                    Ok(_) => news.await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        };
        tokio::time::timeout(within, wait).await.expect("a message becomes ready in time")
    }

    pub async fn settle(&self, item: SettleItem, late: bool) -> Settled {
        let reader = SubscriptionId::QUEUE;
        self.0.coordinator.settle(&self.0.stream, reader, vec![item], late).await[0]
    }

    /// Messages present at one replica.
    pub async fn count(&self, node: usize) -> u64 {
        let request = Request::Census(self.0.stream.header());
        match self.0.members[node].replica.handle(&request).await.unwrap().answer {
            Answer::Counted(count) => count,
            other => panic!("{other:?}"),
        }
    }
}
