//! Calls that lay in a buffer [R54].
#![allow(clippy::unwrap_used)]

use super::{CallError, Class, Client, Handler, Refusal, serve};
use crate::base::limits;
use crate::base::seams::SystemSpawn;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::{Instant, sleep};

/// A line on which bytes may stop for a while.
#[derive(Clone, Default)]
struct Ice {
    is_frozen: Arc<AtomicBool>,
    reader: Arc<Mutex<Option<Waker>>>,
}

impl Ice {
    fn freeze(&self) {
        self.is_frozen.store(true, Ordering::SeqCst);
    }

    fn thaw(&self) {
        self.is_frozen.store(false, Ordering::SeqCst);
        if let Some(reader) = self.reader.lock().unwrap().take() {
            reader.wake();
        }
    }
}

/// The answering end of such a line.
struct Frozen(DuplexStream, Ice);

impl AsyncRead for Frozen {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.1.is_frozen.load(Ordering::SeqCst) {
            *self.1.reader.lock().unwrap() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Frozen {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A caller, what its calls freeze on, and how many of them were begun.
fn line() -> (Client, Ice, Arc<AtomicUsize>) {
    let (here, there) = tokio::io::duplex(1 << 16);
    let (ice, begun) = (Ice::default(), Arc::new(AtomicUsize::new(0)));
    let counted = begun.clone();
    let echo: Handler = Arc::new(move |body, left| {
        assert!(left <= limits::OPERATION_TIME + limits::CALL_SLACK_TIME);
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { Some(body) })
    });
    let handlers = Arc::new(BTreeMap::from([(1, echo)]));
    let far = Box::new(Frozen(there, ice.clone()));
    tokio::spawn(serve(far, Class::Data, handlers, Arc::new(SystemSpawn)));
    (Client::new(Box::new(here), Class::Data, &SystemSpawn), ice, begun)
}

async fn call(client: &Client, deadline: Duration) -> Result<Bytes, CallError> {
    client.call(1, Bytes::from_static(b"x"), deadline).await
}

#[tokio::test(start_paused = true)]
async fn r54_a_call_that_lay_frozen_longer_than_it_lives_is_never_begun() {
    let (client, ice, begun) = line();
    // The connection is old and idle, and beats: a fresh call is no late one.
    sleep(Duration::from_secs(3_600)).await;
    assert!(call(&client, Duration::from_secs(1)).await.is_ok());
    ice.freeze();
    let second = Duration::from_secs(1);
    assert_eq!(call(&client, second).await, Err(CallError::Lost), "nobody answers");
    sleep(second).await;
    ice.thaw();
    // Whatever was sent before this one has been read.
    assert!(call(&client, second).await.is_ok());
    assert_eq!(begun.load(Ordering::SeqCst), 2, "the frozen one was not begun");
}

#[tokio::test(start_paused = true)]
async fn r54_a_call_that_lay_frozen_for_half_its_life_is_begun_all_the_same() {
    let (client, ice, begun) = line();
    sleep(Duration::from_secs(60)).await;
    ice.freeze();
    let life = Duration::from_secs(2);
    let late = async {
        let stuck = client.call(1, Bytes::from_static(b"x"), life);
        tokio::join!(stuck, async {
            sleep(life / 2).await;
            ice.thaw();
        })
        .0
    };
    assert!(late.await.is_ok(), "half of its life was left");
    assert_eq!(begun.load(Ordering::SeqCst), 1);
    assert_eq!(CallError::from(Refusal::Late).to_string(), "the call came too late");
}

#[tokio::test(start_paused = true)]
async fn r54_a_line_on_which_nothing_is_read_dies_with_what_lies_on_it() {
    let (client, ice, begun) = line();
    sleep(Duration::from_secs(60)).await;
    ice.freeze();
    let began = Instant::now();
    let stuck = call(&client, Duration::from_secs(3_600)).await;
    assert_eq!(stuck, Err(CallError::Lost));
    assert!(began.elapsed() <= 2 * limits::PEER_QUIET_TIME, "{:?}", began.elapsed());
    ice.thaw();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(begun.load(Ordering::SeqCst), 0, "however long it might have lived");
}

#[tokio::test(start_paused = true)]
async fn an_idle_line_stays() {
    let (client, _, _) = line();
    sleep(Duration::from_secs(86_400)).await;
    assert!(client.is_open() && !client.is_silent());
}
