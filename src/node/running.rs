//! A node from its start to its end.

use super::certificate::{CertificateError, Freshener};
use super::identity::{Damaged, Identity, Stamp};
use super::links::Links;
use super::parts::Parts;
use super::wiring;
use crate::api::Readiness;
use crate::base::clock::ServiceClock;
use crate::base::hlc::HlcClock;
use crate::base::ids::{Boot, NodeId};
use crate::base::limits;
use crate::base::seams::Listener;
use crate::broker::{Broker, Refusal};
use crate::config::Settings;
use crate::metadata::Registers;
use crate::replication::coordinator::Coordinator;
use crate::security::{Keys, TlsError};
use crate::store::{OpenError, ReadError, Store, StoreOptions, Table, WriteClass};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not open.
    #[error("the data folder's store: {0}")]
    Store(#[from] OpenError),
    /// The store cannot be read or written.
    #[error("the data folder's store cannot be used: {0}")]
    Unusable(String),
    /// The data is sealed under another secret or cluster name.
    #[error(
        "the data was made with another {what}; start it with that one, or choose another data_dir"
    )]
    WrongSecret {
        /// What differs.
        what: &'static str,
    },
    /// The node cannot know who it is.
    #[error(transparent)]
    Identity(#[from] Damaged),
    /// Records cannot be read.
    #[error("the records cannot be read: {0}")]
    Records(String),
    /// The certificate cannot be used.
    #[error("the certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The address cannot be listened at.
    #[error("http.listen {at}: {error}; choose another address or stop what listens there")]
    Listen {
        /// The address.
        at: SocketAddr,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// The address for other nodes cannot be listened at.
    #[error("the address for other nodes, {at}: {error}")]
    ListenPeers {
        /// The address.
        at: SocketAddr,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// Other nodes cannot be talked to.
    #[error("TLS between nodes: {0}")]
    PeerTls(#[from] TlsError),
    /// The first administrator cannot be made.
    #[error(
        "auth.admin_username: {0}; if the user exists, auth.admin_password_file must hold its \
         password"
    )]
    Admin(Refusal),
    /// Nobody could ever log in.
    #[error(
        "nobody could log in: registration is closed and there are no users; set \
         auth.admin_username and auth.admin_password_file"
    )]
    Nobody,
}

impl From<ReadError> for StartError {
    fn from(error: ReadError) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// A running node.
pub struct Node {
    pub(super) id: NodeId,
    pub(super) boot: Boot,
    pub(super) local: SocketAddr,
    pub(super) store: Store,
    pub(super) broker: Arc<Broker>,
    pub(super) registers: Arc<Registers>,
    pub(super) coordinator: Arc<Coordinator>,
    /// Where other nodes connect.
    pub(super) peers_at: Option<SocketAddr>,
    pub(super) ready: watch::Sender<Readiness>,
    /// Tells clients to go: long polls answer, connections end.
    pub(super) stopping: CancellationToken,
    /// Tells workers to go, after the last client.
    pub(super) workers: CancellationToken,
    /// Asks the worker of the certificate to look now; empty where there is none.
    pub(super) look: Option<mpsc::Sender<oneshot::Sender<()>>>,
    pub(super) tasks: TaskTracker,
    pub(super) server: TaskTracker,
}

/// What is known of the node once its store is open.
pub(super) struct Born {
    pub identity: Identity,
    pub boot: Boot,
    pub store: Store,
    pub service: Arc<ServiceClock>,
    pub hlc: Arc<HlcClock>,
}

impl Node {
    /// Starts a node: opens the store, makes its boot durable, listens, serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing is served then.
    pub async fn start(mut parts: Parts, settings: Settings) -> Result<Self, StartError> {
        let keys = Arc::new(Keys::derive(&parts.secret, &settings.cluster.name));
        let born = Self::open(&parts, &settings, &keys).await?;
        let (registers, _) =
            Registers::open(born.store.clone()).map_err(|e| StartError::Records(e.to_string()))?;
        let fresh = if settings.http.tls {
            let hosts = wiring::hosts(&settings);
            Some(Freshener::begin(&parts, &settings, &keys, hosts).await?)
        } else {
            None
        };
        if let Some(hook) = parts.before_listening.take() {
            hook().map_err(StartError::Unusable)?;
        }
        let at = settings.http.listen;
        let listener: Box<dyn Listener> =
            parts.net.bind(at).await.map_err(|error| StartError::Listen { at, error })?;
        let links = Links::begin(&parts, &settings, &keys, &born).await?;
        let mut node =
            wiring::assemble(&parts, &settings, keys, born, registers, &*listener, links);
        if let (Some(admin), Some(password)) = (&settings.auth.first_admin, &parts.admin_password) {
            let made = node.broker.ensure_admin(admin.username.as_str(), password).await;
            made.map_err(StartError::Admin)?;
        } else if !settings.registration_open() && node.broker.has_no_users() {
            node.stop_quietly().await;
            return Err(StartError::Nobody);
        }
        wiring::serve(&mut node, &parts, &settings, listener, fresh);
        node.ready.send_replace(Readiness::Ready);
        Ok(node)
    }

    /// Opens the store and counts the boot: fsynced before the node does anything else [R10].
    async fn open(
        parts: &Parts,
        settings: &Settings,
        keys: &Arc<Keys>,
    ) -> Result<Born, StartError> {
        let open = Store::open(parts.disk.clone(), settings.store.cache_bytes)?;
        let identity = match open.get(Table::Node, Identity::KEY)? {
            Some(row) => Identity::read(&row)?,
            None => Identity {
                node: match &parts.cluster {
                    Some(cluster) => cluster.node,
                    None => NodeId((*parts.rng).u64()),
                },
                secret_id: keys.id(),
                cluster_name: settings.cluster.name.clone(),
            },
        };
        if identity.cluster_name != settings.cluster.name {
            return Err(StartError::WrongSecret { what: "cluster.name" });
        }
        if identity.secret_id != keys.id() {
            return Err(StartError::WrongSecret { what: "secret" });
        }
        let last = match open.get(Table::Node, Stamp::KEY)? {
            Some(row) => Some(Stamp::read(&row)?),
            None => None,
        };
        let boot = Boot(last.map_or(0, |stamp| stamp.boot.0) + 1);
        let service =
            Arc::new(ServiceClock::resume(parts.clock.clone(), last.map(|stamp| stamp.service)));
        let hlc = Arc::new(HlcClock::new(
            parts.clock.clone(),
            identity.node,
            last.map(|stamp| stamp.hlc),
        ));
        let stamp = {
            let (service, hlc) = (service.clone(), hlc.clone());
            Arc::new(move |commit| {
                Stamp { boot, commit, service: service.stamp(), hlc: hlc.last() }.put()
            })
        };
        let options = StoreOptions { reserve_bytes: settings.store.reserve_bytes, stamp };
        let store = open.start(&*parts.spawn, options, last.map_or(0, |stamp| stamp.commit));
        let unusable = |error: &dyn std::fmt::Display| StartError::Unusable(error.to_string());
        let admission = store.admit(WriteClass::Reserve, 256).map_err(|e| unusable(&e))?;
        store.submit(admission, vec![identity.put()]).await.map_err(|e| unusable(&e))?;
        tracing::info!(node = %identity.node, boot = boot.0, "the store is open");
        Ok(Born { identity, boot, store, service, hlc })
    }

    /// This node.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// How often it was started.
    #[must_use]
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// Where clients connect.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether the first user to register becomes administrator.
    #[must_use]
    pub fn wants_first_admin(&self) -> bool {
        self.broker.has_no_users()
    }

    /// Looks now, and not only in a while, whether clients are to see another certificate.
    /// Returns when new connections see it.
    pub async fn look_at_certificate(&self) {
        let (done, looked) = oneshot::channel();
        if let Some(look) = &self.look
            && look.send(done).await.is_ok()
        {
            let _ = looked.await;
        }
    }

    /// Turns true when the store has failed: the process must end [R7].
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<bool> {
        self.store.failed()
    }

    /// The product's rules, for whoever drives a node without HTTP.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// The records, for whoever drives a node without HTTP.
    #[must_use]
    pub fn registers(&self) -> &Arc<Registers> {
        &self.registers
    }

    /// The coordinator of streams, for the same.
    #[must_use]
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.coordinator
    }

    /// Where other nodes connect; `None` on a node alone.
    #[must_use]
    pub fn peers_addr(&self) -> Option<SocketAddr> {
        self.peers_at
    }

    /// Lets go of everything at once and writes nothing more: what a crash leaves of a process.
    pub fn abandon(self) {
        self.stopping.cancel();
        self.workers.cancel();
    }

    /// Drains: not ready, no new connections, long polls answer with what they have, running
    /// requests get the grace period; then the last commit.
    pub async fn stop(self) {
        let why = "the node is stopping".to_owned();
        self.ready.send_replace(Readiness::NotReady(why));
        self.stopping.cancel();
        self.server.close();
        self.server.wait().await;
        self.stop_quietly().await;
        tracing::info!("stopped");
    }

    async fn stop_quietly(&self) {
        self.stopping.cancel();
        self.workers.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.clone().close().await;
    }

    /// Persists the service clock when nothing else is written [F11].
    pub(super) async fn keep_time(store: Store, identity: Identity, stop: CancellationToken) {
        let mut last = store.commit_number();
        loop {
            tokio::select! {
                () = tokio::time::sleep(limits::SERVICE_CLOCK_PERIOD) => {}
                () = stop.cancelled() => return,
            }
            if store.commit_number() == last
                && let Ok(admission) = store.admit(WriteClass::Reserve, 256)
                && store.submit(admission, vec![identity.put()]).await.is_err()
            {
                return;
            }
            last = store.commit_number();
        }
    }
}
