//! The links of a node to the others of its cluster, and the door at which they come in.

use super::parts::Parts;
use super::running::{Born, StartError};
use crate::base::ids::{Generation, NodeId};
use crate::base::seams::{Listener, Spawn};
use crate::config::Settings;
use crate::layout::members::Layout;
use crate::layout::placement;
use crate::layout::view::ViewId;
use crate::replication::coordinator::Coordinator;
use crate::replication::gateway::{FORWARD_CALL, forward_handler};
use crate::replication::peers::{
    Peers, REPAIR_CALL, REPLICA_CALL, RemotePeer, repair_handler, replica_handler,
};
use crate::rpc::{Dialer, Doors, Link, LinkParts, Myself};
use crate::security::{Keys, PeerTls};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a node has of its cluster before its rooms are built.
pub(super) struct Links {
    /// The layout in force.
    pub layout: Layout,
    node: NodeId,
    is_member: bool,
    open: Option<Open>,
}

/// What only a node with others has.
struct Open {
    listener: Box<dyn Listener>,
    tls: Option<PeerTls>,
    me: Myself,
}

impl Links {
    /// Listens for the others, if the node is to have any; nobody is served yet.
    ///
    /// # Errors
    /// [`StartError`].
    pub(super) async fn begin(
        parts: &Parts,
        settings: &Settings,
        keys: &Keys,
        born: &Born,
    ) -> Result<Self, StartError> {
        let node = born.identity.node;
        let Some(cluster) = &parts.cluster else {
            let layout = Layout::alone(node);
            return Ok(Self { layout, node, is_member: true, open: None });
        };
        let is_member = node == cluster.node && cluster.layout.members.contains(&node);
        if !is_member {
            tracing::warn!(%node, "this node is not a member of its cluster: it votes on nothing");
        }
        let tls = match cluster.tls {
            true => Some(PeerTls::new(keys, &settings.cluster.name, node, &*parts.rng)?),
            false => None,
        };
        let at = cluster.listen;
        let listener =
            parts.net.bind(at).await.map_err(|error| StartError::ListenPeers { at, error })?;
        // The layout handed in is the cluster's first one.
        let me = Myself { cluster: cluster.layout.hash(), node, boot: born.boot };
        let open = Some(Open { listener, tls, me });
        Ok(Self { layout: cluster.layout.clone(), node, is_member, open })
    }

    /// In which view the node's replica votes.
    pub(super) fn view(&self) -> ViewId {
        match self.is_member {
            true => placement::view_of(&self.layout, Generation([0; 16]), 1).id(),
            false => ViewId::NONE,
        }
    }

    /// Where the others connect.
    pub(super) fn listens_at(&self) -> Option<SocketAddr> {
        self.open.as_ref().map(|open| open.listener.local_addr())
    }

    /// The replicas of the other members, each behind a link of its own.
    pub(super) fn peers(&self, parts: &Parts, spawn: &Arc<dyn Spawn>) -> Peers {
        let mut peers = Peers::new();
        let (Some(cluster), Some(open)) = (&parts.cluster, &self.open) else { return peers };
        let dial = Arc::new(Dialer {
            net: parts.net.clone(),
            spawn: spawn.clone(),
            addresses: cluster.addresses.clone(),
            tls: open.tls.clone(),
            me: open.me,
        });
        for node in self.layout.members.iter().copied().filter(|node| *node != self.node) {
            let (dial, spawn, rng) = (dial.clone(), spawn.clone(), parts.rng.clone());
            let link = Link::new(&LinkParts { node, dial, spawn, rng });
            peers.insert(node, Arc::new(RemotePeer::over(link)));
        }
        peers
    }

    /// Serves the others until the node's workers are told to go.
    pub(super) fn serve(self, coordinator: &Arc<Coordinator>, spawn: &Arc<dyn Spawn>) {
        let Some(Open { listener, tls, me }) = self.open else { return };
        let replica = coordinator.replica();
        let handlers = Arc::new(BTreeMap::from([
            (REPLICA_CALL, replica_handler(replica.clone())),
            (REPAIR_CALL, repair_handler(replica.clone())),
            (FORWARD_CALL, forward_handler(coordinator.clone())),
        ]));
        if self.is_member {
            spawn.task(Box::pin(coordinator.clone().run_repair()));
            spawn.task(Box::pin(coordinator.clone().run_grant_checks()));
            spawn.task(Box::pin(coordinator.clone().run_retiring()));
        }
        let doors = Doors { tls, me, handlers, spawn: spawn.clone() };
        spawn.task(Box::pin(doors.run(listener)));
    }
}

/// Spawns tasks that are waited for when the node stops, and cut short where they are.
pub(super) struct NodeTasks {
    pub(super) spawn: Arc<dyn Spawn>,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Spawn for NodeTasks {
    fn task(&self, task: BoxFuture<'static, ()>) {
        let stop = self.stop.clone();
        let until = async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        };
        self.spawn.task(Box::pin(self.tasks.track_future(until)));
    }

    fn blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.spawn.blocking(work);
    }

    fn dedicated(&self, name: &'static str, task: BoxFuture<'static, ()>) {
        self.spawn.dedicated(name, task);
    }
}
