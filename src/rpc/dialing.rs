//! Reaching another node: address, connection, TLS, greeting.

use super::greeting::{Myself, Unwelcome};
use super::{Class, Client};
use crate::base::ids::NodeId;
use crate::base::limits;
use crate::base::seams::{Net, Spawn, Stream};
use crate::security::{PeerTls, node_of};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a node was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody knows where it is.
    #[error("no address is known")]
    NoAddress,
    /// No connection, or no TLS over it.
    #[error("{at}: {error}")]
    Unreachable {
        /// Where it should be.
        at: SocketAddr,
        /// What is wrong.
        error: io::Error,
    },
    /// What answers there is somebody else.
    #[error("{at}: {error}")]
    Unwelcome {
        /// Where it should be.
        at: SocketAddr,
        /// What is wrong.
        error: Unwelcome,
    },
}

/// Makes connections to other nodes.
pub trait Dial: Send + Sync {
    /// One attempt; ends in bounded time.
    fn dial(&self, node: NodeId, class: Class) -> BoxFuture<'_, Result<Client, DialError>>;
    /// Where nodes are; attempts are made anew when it changes.
    fn addresses(&self) -> watch::Receiver<BTreeMap<NodeId, SocketAddr>>;
}

/// Dials over the network.
pub struct Dialer {
    /// The network.
    pub net: Arc<dyn Net>,
    /// Runs the connections.
    pub spawn: Arc<dyn Spawn>,
    /// Where nodes are.
    pub addresses: watch::Receiver<BTreeMap<NodeId, SocketAddr>>,
    /// TLS; `None` in a simulation.
    pub tls: Option<PeerTls>,
    /// What this node says of itself.
    pub me: Myself,
}

impl Dialer {
    async fn connect(&self, node: NodeId, at: SocketAddr) -> io::Result<Box<dyn Stream>> {
        let stream = self.net.connect(at).await?;
        let Some(tls) = &self.tls else { return Ok(stream) };
        let connector = tokio_rustls::TlsConnector::from(tls.client_config());
        let stream = connector.connect(PeerTls::host(), stream).await?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        match shown.and_then(node_of) {
            Some(shown) if shown == node => Ok(Box::new(stream)),
            _ => Err(io::Error::other("its certificate is another node's")),
        }
    }
}

impl Dial for Dialer {
    fn dial(&self, node: NodeId, class: Class) -> BoxFuture<'_, Result<Client, DialError>> {
        Box::pin(async move {
            let at = self.addresses.borrow().get(&node).copied().ok_or(DialError::NoAddress)?;
            let unreachable = |error| DialError::Unreachable { at, error };
            let connecting = self.connect(node, at);
            let mut stream = tokio::time::timeout(limits::PEER_CONNECT_TIME, connecting)
                .await
                .map_err(|slow| unreachable(slow.into()))?
                .map_err(unreachable)?;
            let greeting = self.me.greet(&mut stream, class, node).await;
            let far = greeting.map_err(|error| DialError::Unwelcome { at, error })?;
            tracing::debug!(%node, boot = far.boot.0, ?class, %at, "connected");
            Ok(Client::new(stream, class, &*self.spawn))
        })
    }

    fn addresses(&self) -> watch::Receiver<BTreeMap<NodeId, SocketAddr>> {
        self.addresses.clone()
    }
}
