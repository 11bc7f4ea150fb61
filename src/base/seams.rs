//! The seams between a node and the world: network, disk, clock, entropy, tasks. Production hands
//! in the operating system; a simulation hands in its own. `node::Parts` bundles them.

pub use super::clock::Clock;
pub use super::rng::Rng;

use futures_util::future::BoxFuture;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream between two ends.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Accepts byte streams.
pub trait Listener: Send + Sync {
    /// The next stream and its far end's address.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>>;
    /// Where it listens.
    fn local_addr(&self) -> SocketAddr;
}

/// The network: connects and listens. TLS goes on top.
pub trait Net: Send + Sync {
    /// Opens a byte stream to an address.
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>>;
    /// Listens at an address.
    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// A file of bytes that loses what was not synced when the power goes: what lies under the store.
pub trait BlockFile: Send + Sync + std::fmt::Debug {
    /// Its length in bytes.
    ///
    /// # Errors
    /// As the disk says.
    fn len(&self) -> io::Result<u64>;
    /// Whether it is empty.
    ///
    /// # Errors
    /// As the disk says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Fills the buffer from an offset.
    ///
    /// # Errors
    /// As the disk says; reading past the end is one.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    /// Writes at an offset.
    ///
    /// # Errors
    /// As the disk says.
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Grows (with zeros) or cuts.
    ///
    /// # Errors
    /// As the disk says.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns when all that was written is durable.
    ///
    /// # Errors
    /// As the disk says. After one, nothing written since the last success may be believed [R7].
    fn sync(&self) -> io::Result<()>;
    /// Bytes that can still be written to the disk it lies on.
    ///
    /// # Errors
    /// As the disk says.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Runs work beside the caller.
pub trait Spawn: Send + Sync {
    /// Runs a task until it ends.
    fn task(&self, task: BoxFuture<'static, ()>);
    /// Runs work that may block on a disk or burn a core, on a thread made for such.
    fn blocking(&self, work: Box<dyn FnOnce() + Send>);
    /// Runs a task on a thread of its own: it may block there as it likes.
    fn dedicated(&self, name: &'static str, task: BoxFuture<'static, ()>);
}

/// Runs `work` where it may block, and waits for what it returns.
///
/// # Panics
/// When the work panicked.
pub async fn blocking<T: Send + 'static>(
    spawn: &dyn Spawn,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (done, result) = tokio::sync::oneshot::channel();
    spawn.blocking(Box::new(move || {
        let _ = done.send(work());
    }));
    result.await.expect("blocking work ends with a result")
}

/// The operating system's TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemNet;

struct SystemListener {
    inner: tokio::net::TcpListener,
    local: SocketAddr,
}

impl Listener for SystemListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async {
            let (tcp, far) = self.inner.accept().await?;
            tcp.set_nodelay(true)?;
            Ok((Box::new(tcp) as Box<dyn Stream>, far))
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Net for SystemNet {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let tcp = tokio::net::TcpStream::connect(to).await?;
            tcp.set_nodelay(true)?;
            Ok(Box::new(tcp) as Box<dyn Stream>)
        })
    }

    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let inner = tokio::net::TcpListener::bind(at).await?;
            let local = inner.local_addr()?;
            Ok(Box::new(SystemListener { inner, local }) as Box<dyn Listener>)
        })
    }
}

/// Tokio's tasks and the operating system's threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemSpawn;

impl Spawn for SystemSpawn {
    fn task(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }

    fn dedicated(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || runtime.block_on(task))
            .expect("the operating system starts a thread");
    }
}
