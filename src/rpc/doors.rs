//! Where other nodes come in: accepts, shakes hands, greets, serves.

use super::greeting::{Greeting, Myself, Unwelcome};
use super::{Class, Handler, serve};
use crate::base::ids::{Boot, NodeId};
use crate::base::limits;
use crate::base::seams::{Listener, Spawn, Stream};
use crate::security::{PeerTls, node_of};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// What serves other nodes.
pub struct Doors {
    /// TLS; `None` in a simulation.
    pub tls: Option<PeerTls>,
    /// What this node says of itself.
    pub me: Myself,
    /// What answers calls, by kind.
    pub handlers: Arc<BTreeMap<u16, Handler>>,
    /// Runs connections and calls; ends with the node.
    pub spawn: Arc<dyn Spawn>,
}

/// Why a connection was not served.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the handshake failed: {0}")]
    Handshake(#[from] io::Error),
    #[error(transparent)]
    Unwelcome(#[from] Unwelcome),
    #[error("too many connections")]
    Full,
    #[error("a later start of the same node is connected")]
    Outdated,
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::Handshake(_) => "handshake",
            Self::Unwelcome(_) => "greeting",
            Self::Full => "full",
            Self::Outdated => "outdated",
        }
    }
}

/// One connection per node and class: a newer one takes the place of the older, whose far end is
/// gone even if nobody has said so.
type Guests = BTreeMap<(NodeId, Class), (Boot, CancellationToken)>;

struct Inside {
    doors: Doors,
    guests: Mutex<Guests>,
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Doors {
    /// Serves whoever comes, for ever. Owns the listener: it closes when this is dropped.
    pub async fn run(self, listener: Box<dyn Listener>) {
        let inside = Arc::new(Inside { doors: self, guests: Mutex::default() });
        let unknown = Arc::new(Semaphore::new(limits::PEER_HANDSHAKES_MAX));
        loop {
            // Taken before the accept: strangers wait in the kernel's queue.
            let Ok(slot) = unknown.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let guest = inside.clone();
                    let served = async move { guest.receive(stream, from, slot).await };
                    inside.doors.spawn.task(Box::pin(served));
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection of a node accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Inside {
    async fn receive(
        self: Arc<Self>,
        stream: Box<dyn Stream>,
        from: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) {
        let opened = match self.open(stream).await {
            Ok((stream, far)) => Stay::begin(&self, &far).map(|stay| (stream, far, stay)),
            Err(refused) => Err(refused),
        };
        drop(slot);
        match opened {
            Ok((stream, far, stay)) => {
                let (handlers, spawn) = (self.doors.handlers.clone(), self.doors.spawn.clone());
                let serving = serve(stream, far.class, handlers, spawn);
                tokio::select! {
                    () = serving => {}
                    () = stay.replaced.cancelled() => {}
                }
            }
            Err(refused) => {
                let reason = refused.reason();
                metrics::counter!("tertulia_peer_refused_total", "reason" => reason).increment(1);
                tracing::warn!(%from, error = %refused, "a connection to this node is refused");
            }
        }
    }

    async fn open(&self, stream: Box<dyn Stream>) -> Result<(Box<dyn Stream>, Greeting), Refused> {
        let (mut stream, shown): (Box<dyn Stream>, _) = match &self.doors.tls {
            None => (stream, None),
            Some(tls) => {
                let acceptor = tokio_rustls::TlsAcceptor::from(tls.server_config());
                let shaking = acceptor.accept(stream);
                let slow = |slow: tokio::time::error::Elapsed| io::Error::from(slow);
                let tls = tokio::time::timeout(limits::PEER_CONNECT_TIME, shaking)
                    .await
                    .map_err(slow)??;
                let chain = tls.get_ref().1.peer_certificates();
                let shown = chain.and_then(|chain| chain.first()).and_then(node_of);
                let nobody = || io::Error::other("its certificate names no node");
                let shown = shown.ok_or_else(nobody)?;
                (Box::new(tls), Some(shown))
            }
        };
        let far = self.doors.me.welcome(&mut stream, shown).await?;
        Ok((stream, far))
    }

    fn guests(&self) -> std::sync::MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stay of one connection: counted until it ends.
struct Stay {
    inside: Arc<Inside>,
    who: (NodeId, Class),
    /// A newer connection took its place.
    replaced: CancellationToken,
}

impl Stay {
    fn begin(inside: &Arc<Inside>, far: &Greeting) -> Result<Self, Refused> {
        let who = (far.node, far.class);
        let replaced = CancellationToken::new();
        {
            let mut guests = inside.guests();
            match guests.get(&who) {
                // What an earlier start had begun arrives late.
                Some((boot, _)) if *boot > far.boot => return Err(Refused::Outdated),
                Some((_, older)) => older.cancel(),
                None if guests.len() >= limits::PEER_CONNECTIONS_MAX => return Err(Refused::Full),
                None => {}
            }
            guests.insert(who, (far.boot, replaced.clone()));
        }
        metrics::gauge!("tertulia_peer_connections").increment(1.0);
        Ok(Self { inside: inside.clone(), who, replaced })
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        metrics::gauge!("tertulia_peer_connections").decrement(1.0);
        let mut guests = self.inside.guests();
        // Asked under the lock: what a newer connection has put there stays.
        if !self.replaced.is_cancelled() {
            guests.remove(&self.who);
        }
    }
}
