//! The byte stream as hyper gets it: the bytes that told the protocol are put back in front; a
//! client that takes nothing of its answer for too long is let go, and so is one that does not end
//! a header that it began.

use bytes::{Buf, Bytes};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Whether a request of an HTTP/1.1 connection is being answered; if not, bytes that come in are
/// those of a header.
#[derive(Clone, Default)]
pub(super) struct Answering(Arc<Requests>);

#[derive(Default)]
struct Requests {
    running: AtomicBool,
    /// How many have begun.
    begun: AtomicUsize,
}

impl Answering {
    /// Until what it returns is dropped.
    pub(super) fn begin(&self) -> impl Drop + Send + Sync + use<> {
        struct Ends(Answering);
        impl Drop for Ends {
            fn drop(&mut self) {
                self.0.0.running.store(false, Ordering::Relaxed);
            }
        }
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.running.store(true, Ordering::Relaxed);
        Ends(self.clone())
    }

    fn now(&self) -> bool {
        self.0.running.load(Ordering::Relaxed)
    }

    fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }
}

/// The bound on headers. hyper's own counts from the end of the last request, so it has to allow
/// for idling; this one counts from a header's first byte.
struct HeaderWatch {
    time: Duration,
    answering: Answering,
    /// Requests whose headers have ended, as last seen: one may begin and end between two reads.
    requests: usize,
    /// Runs while a header has begun and not ended.
    begun: Option<Pin<Box<Sleep>>>,
}

impl HeaderWatch {
    /// Sees a read that brought `bytes`.
    fn see(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<()> {
        let requests = self.answering.begun();
        if requests != self.requests {
            (self.requests, self.begun) = (requests, None);
        }
        if self.answering.now() {
            return Poll::Pending;
        }
        if self.begun.is_none() && bytes > 0 {
            self.begun = Some(Box::pin(tokio::time::sleep(self.time)));
        }
        self.begun.as_mut().map_or(Poll::Pending, |begun| begun.as_mut().poll(cx))
    }
}

/// A stream with bytes put back and bounds on how long a write or a header may stand still.
pub(super) struct Guarded<S> {
    /// Read already, to be read again.
    front: Bytes,
    inner: S,
    stall_time: Duration,
    /// Runs while the far end takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    headers: Option<HeaderWatch>,
}

impl<S> Guarded<S> {
    pub(super) fn new(front: Bytes, inner: S, stall_time: Duration) -> Self {
        Self { front, inner, stall_time, stalled: None, headers: None }
    }

    /// Bounds the time of each HTTP/1.1 header.
    pub(super) fn watch_headers(&mut self, time: Duration, answering: Answering) {
        self.headers = Some(HeaderWatch { time, answering, requests: 0, begun: None });
    }

    /// Passes a write's outcome on, unless it has been pending for too long.
    fn watch<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stalled = None;
            return poll;
        }
        let stall_time = self.stall_time;
        let sleep = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_time)));
        match sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> Guarded<S> {
    fn poll_bytes(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.front.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, out);
        }
        let n = self.front.len().min(out.remaining());
        out.put_slice(&self.front[..n]);
        self.front.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let poll = self.poll_bytes(cx, out);
        let bytes = out.filled().len() - before;
        let late = self.headers.as_mut().is_some_and(|watch| watch.see(cx, bytes).is_ready());
        if late {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn bytes_put_back_are_read_first() {
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(b"world").await.unwrap();
        drop(far);
        let mut near = Guarded::new(Bytes::from_static(b"hello "), near, Duration::from_secs(1));
        let mut text = String::new();
        near.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello world");
    }

    #[tokio::test]
    async fn a_header_has_its_time_from_its_first_byte() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut near = Guarded::new(Bytes::from_static(b"a"), near, Duration::from_secs(1));
        let answering = Answering::default();
        near.watch_headers(Duration::from_millis(20), answering.clone());
        let mut bytes = [0; 8];
        assert_eq!(near.read(&mut bytes).await.unwrap(), 1);
        // The request begins and ends without a read in between: the next header is another.
        drop(answering.begin());
        let idle = tokio::time::timeout(Duration::from_millis(60), near.read(&mut bytes)).await;
        assert!(idle.is_err(), "idling is not bounded here");
        let running = answering.begin();
        far.write_all(b"body").await.unwrap();
        assert_eq!(near.read(&mut bytes).await.unwrap(), 4);
        let slow = tokio::time::timeout(Duration::from_millis(60), near.read(&mut bytes)).await;
        assert!(slow.is_err(), "nor is an answer");
        drop(running);
        far.write_all(b"GET").await.unwrap();
        assert_eq!(near.read(&mut bytes).await.unwrap(), 3);
        let late = near.read(&mut bytes).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_far_end_that_takes_nothing_is_let_go() {
        let (far, near) = tokio::io::duplex(4);
        let mut near = Guarded::new(Bytes::new(), near, Duration::from_millis(20));
        let outcome = near.write_all(b"more than four").await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(far);
    }
}
