//! The simulated network under a node.

use futures_util::future::BoxFuture;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use tertulia::base::seams::{Listener, Net, Stream};
use turmoil::net::{TcpListener, TcpStream};

/// turmoil's TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimNet;

struct SimListener {
    inner: TcpListener,
    local: SocketAddr,
}

impl Listener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async {
            let (tcp, far) = self.inner.accept().await?;
            Ok((Box::new(tcp) as Box<dyn Stream>, far))
        })
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Net for SimNet {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let tcp = TcpStream::connect(to).await?;
            Ok(Box::new(tcp) as Box<dyn Stream>)
        })
    }

    fn bind(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let inner = TcpListener::bind((Ipv4Addr::UNSPECIFIED, at.port())).await?;
            let local = inner.local_addr()?;
            Ok(Box::new(SimListener { inner, local }) as Box<dyn Listener>)
        })
    }
}
