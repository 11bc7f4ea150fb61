//! A WebSocket's bytes, counted against the memory of request bodies while they are read.

use crate::api::httpd::body::{BodyMemory, Held};
use poem::Upgraded;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The connection's bytes: what it has read of a frame counts as the memory of bodies.
pub(super) struct Metered {
    inner: Upgraded,
    memory: BodyMemory,
    held: Held,
    bytes: usize,
}

impl Metered {
    /// Nothing is read yet.
    pub(super) fn new(inner: Upgraded, memory: BodyMemory) -> Self {
        Self { inner, held: memory.hold(), memory, bytes: 0 }
    }

    /// The memory of the frame that was read.
    pub(super) fn take(&mut self) -> Held {
        self.bytes = 0;
        std::mem::replace(&mut self.held, self.memory.hold())
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(cx, out);
        self.bytes += out.filled().len() - before;
        let bytes = self.bytes;
        match self.held.grow_to(bytes) {
            Ok(()) => poll,
            Err(full) => Poll::Ready(Err(io::Error::other(full))),
        }
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
