//! The byte stream as hyper gets it: the bytes that told the protocol are put back in front; a
//! client that takes nothing of its answer for too long is let go, and so is one that does not end
//! a header that it began; one whose header is refused gets the endpoint's answer, not hyper's.

use super::refusal::{self, Bare, Refusal};
use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
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
    pub(super) fn begin(&self) -> Answers {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.running.store(true, Ordering::Relaxed);
        Answers(self.clone())
    }

    fn now(&self) -> bool {
        self.0.running.load(Ordering::Relaxed)
    }

    fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }
}

/// A request is being answered while this is there.
pub(super) struct Answers(Answering);

impl Drop for Answers {
    fn drop(&mut self) {
        self.0.0.running.store(false, Ordering::Relaxed);
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

/// Makes the answer that takes the place of a bare one.
pub(super) type Refuse = Box<dyn Fn(Bare) -> BoxFuture<'static, Bytes> + Send>;

/// A stream with bytes put back and bounds on how long a write or a header may stand still.
pub(super) struct Guarded<S> {
    /// Read already, to be read again.
    front: Bytes,
    inner: S,
    stall_time: Duration,
    /// Runs while the far end takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    headers: Option<HeaderWatch>,
    refuse: Option<Refuse>,
    /// The last thing that is written.
    refusal: Option<Refusal>,
}

impl<S> Guarded<S> {
    pub(super) fn new(front: Bytes, inner: S, stall_time: Duration) -> Self {
        let (stalled, headers, refuse, refusal) = (None, None, None, None);
        Self { front, inner, stall_time, stalled, headers, refuse, refusal }
    }

    /// Bounds the time of each HTTP/1.1 header, and answers those that hyper refuses.
    pub(super) fn watch_headers(&mut self, time: Duration, answering: Answering, refuse: Refuse) {
        self.headers = Some(HeaderWatch { time, answering, requests: 0, begun: None });
        self.refuse = Some(refuse);
    }

    /// Takes a write that ends with hyper's bare answer to a header, and will write another. While
    /// a request is being answered there is none: hyper does not read the next.
    fn intercept(&mut self, slices: &[&[u8]]) -> Option<usize> {
        let idle = self.headers.as_ref().is_some_and(|watch| !watch.answering.now());
        let refuse = self.refuse.as_ref().filter(|_| idle && self.refusal.is_none())?;
        let (last, before) = slices.split_last()?;
        let bare = refusal::bare(last)?;
        let before = [before.concat().as_slice(), &last[..bare.start]].concat();
        self.refusal = Some(Refusal::new(Bytes::from(before), refuse(bare)));
        Some(slices.iter().map(|slice| slice.len()).sum())
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

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// Writes what takes the place of a bare answer, if there is one.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.refusal {
            Some(refusal) => refusal.poll_write(cx, &mut self.inner),
            None => Poll::Ready(Ok(())),
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(n) = self.intercept(&[bytes]) {
            return Poll::Ready(Ok(n));
        }
        let poll = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bytes.last().is_some_and(|last| last.ends_with(b"\r\n\r\n")) {
            let slices: Vec<&[u8]> = bytes.iter().map(|slice| &**slice).collect();
            if let Some(n) = self.intercept(&slices) {
                return Poll::Ready(Ok(n));
            }
        }
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.watch(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match self.poll_refusal(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.inner).poll_flush(cx),
            unfinished => unfinished,
        };
        self.watch(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match self.poll_refusal(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.inner).poll_shutdown(cx),
            unfinished => unfinished,
        };
        ready!(self.watch(cx, poll))?;
        let this = &mut *self;
        if let Some(refusal) = &mut this.refusal {
            ready!(refusal.poll_discard(cx, &mut this.inner));
        }
        Poll::Ready(Ok(()))
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
        let refuse: Refuse = Box::new(|_| Box::pin(async { Bytes::new() }));
        near.watch_headers(Duration::from_millis(20), answering.clone(), refuse);
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
