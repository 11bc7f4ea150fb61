//! A network in memory.

use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use tertulia::base::seams::{Listener, Net, Stream};
use tokio::io::duplex;
use tokio::sync::mpsc;

/// A network in memory: whoever binds an address is reached by connecting to it.
#[derive(Default)]
pub struct MemoryNet {
    listeners: Mutex<BTreeMap<SocketAddr, mpsc::UnboundedSender<Box<dyn Stream>>>>,
}

struct MemoryListener {
    incoming: tokio::sync::Mutex<mpsc::UnboundedReceiver<Box<dyn Stream>>>,
    at: SocketAddr,
}

impl Listener for MemoryListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async {
            let stream = self.incoming.lock().await.recv().await;
            let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
            Ok((stream.ok_or_else(gone)?, self.at))
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.at
    }
}

impl Net for MemoryNet {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let (here, there) = duplex(1 << 16);
            let listeners = self.listeners.lock().unwrap();
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let listener = listeners.get(&to).ok_or_else(refused)?;
            listener.send(Box::new(there)).map_err(|_| refused())?;
            Ok(Box::new(here) as Box<dyn Stream>)
        })
    }

    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (sender, incoming) = mpsc::unbounded_channel();
            self.listeners.lock().unwrap().insert(at, sender);
            let incoming = tokio::sync::Mutex::new(incoming);
            Ok(Box::new(MemoryListener { incoming, at }) as Box<dyn Listener>)
        })
    }
}
