//! The seams, bundled: what a node needs of the world.

use crate::base::clock::SystemClock;
use crate::base::ids::NodeId;
use crate::base::rng::SystemRng;
use crate::base::seams::{BlockFile, Clock, Net, Rng, Spawn, SystemNet, SystemSpawn};
use crate::layout::members::Layout;
use crate::security::ClusterSecret;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

/// scrypt's cost in production: N = 2^17, 128 MiB and about a third of a second.
pub const PASSWORD_COST_LOG2: u8 = 17;

/// What a node is started with beside its settings.
pub struct Parts {
    /// The network.
    pub net: Arc<dyn Net>,
    /// The file under the store.
    pub disk: Arc<dyn BlockFile>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Entropy.
    pub rng: Arc<dyn Rng>,
    /// Tasks and threads.
    pub spawn: Arc<dyn Spawn>,
    /// What every key of the cluster is derived from.
    pub secret: ClusterSecret,
    /// The first administrator's password, when one is configured.
    pub admin_password: Option<zeroize::Zeroizing<String>>,
    /// scrypt's cost; only tests lower it.
    pub password_cost_log2: u8,
    /// Renders the metrics.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// The cluster that the node is in; `None`: it is alone.
    pub cluster: Option<ClusterParts>,
    /// Called once the store is known to be this node's, before the listener opens.
    pub before_listening: Option<Hook>,
}

/// The cluster that a node is started into.
pub struct ClusterParts {
    /// The identity that a fresh data folder takes. A folder that has another stays what it is,
    /// and the node is a gateway: it votes on nothing.
    pub node: NodeId,
    /// The members. A node that is not among them is a gateway.
    pub layout: Layout,
    /// Where other nodes connect.
    pub listen: SocketAddr,
    /// Where nodes are reached, as far as that is known.
    pub addresses: watch::Receiver<BTreeMap<NodeId, SocketAddr>>,
    /// Whether nodes speak TLS. Only a simulation turns it off.
    pub tls: bool,
}

/// Something that is done once, and may fail with a reason.
pub type Hook = Box<dyn FnOnce() -> Result<(), String> + Send>;

impl Parts {
    /// The operating system's parts around a disk and a secret.
    #[must_use]
    pub fn system(
        disk: Arc<dyn BlockFile>,
        secret: ClusterSecret,
        metrics: Arc<dyn Fn() -> String + Send + Sync>,
    ) -> Self {
        Self {
            net: Arc::new(SystemNet),
            disk,
            clock: Arc::new(SystemClock),
            rng: Arc::new(SystemRng),
            spawn: Arc::new(SystemSpawn),
            secret,
            admin_password: None,
            password_cost_log2: PASSWORD_COST_LOG2,
            metrics,
            cluster: None,
            before_listening: None,
        }
    }
}
