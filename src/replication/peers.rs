//! The replicas of other nodes, as the coordinator sees them.

use super::gateway::{FORWARD_CALL, Forwarded, Forwardee};
use super::repair::{RepairAnswer, RepairRequest};
use super::replica::Replica;
use crate::base::ids::NodeId;
use crate::protocol::op::{Refusal, Reply, Request};
use crate::rpc::{CallError as RpcError, Caller, Class, Handler, Refusal as RpcRefusal};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The kind under which replicas are called.
pub const REPLICA_CALL: u16 = 1;
/// The kind under which replicas compare their streams.
pub const REPAIR_CALL: u16 = 2;

/// Why a replica gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It was certainly not asked, or refused before it looked: nothing was written.
    #[error("the replica was not asked")]
    NotAsked,
    /// It may or may not have done it.
    #[error("the replica did not answer")]
    Lost,
}

impl CallError {
    fn of(error: RpcError) -> Self {
        match error {
            RpcError::NotSent | RpcError::Refused(RpcRefusal::Overloaded | RpcRefusal::Late) => {
                Self::NotAsked
            }
            _ => Self::Lost,
        }
    }
}

/// A replica on another node.
pub trait Peer: Send + Sync {
    /// Asks it, within a deadline.
    fn call(
        &self,
        request: Arc<Request>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Reply, CallError>>;

    /// Whether it seems alive: who dispatches depends on it, nothing that must be safe does.
    fn is_up(&self) -> bool {
        true
    }

    /// Has it run an operation, within a deadline.
    fn forward(
        &self,
        operation: Forwarded,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Forwardee, CallError>>;

    /// Asks it about their streams, within a deadline.
    fn repair(
        &self,
        request: RepairRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<RepairAnswer, CallError>>;
}

/// The other replicas by node. Empty on a node alone.
#[derive(Clone, Default)]
pub struct Peers(BTreeMap<NodeId, Arc<dyn Peer>>);

impl Peers {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more.
    pub fn insert(&mut self, node: NodeId, peer: Arc<dyn Peer>) {
        self.0.insert(node, peer);
    }

    /// The nodes.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.keys().copied()
    }

    /// The replica of a node.
    #[must_use]
    pub fn get(&self, node: &NodeId) -> Option<&Arc<dyn Peer>> {
        self.0.get(node)
    }

    /// Whether an answer of that node is to be expected: whom to choose where there is a choice.
    #[must_use]
    pub fn alive(&self, node: NodeId) -> bool {
        self.0.get(&node).is_some_and(|peer| peer.is_up())
    }
}

/// A replica behind a connection, or behind a link that makes its own.
pub struct RemotePeer {
    caller: Arc<dyn Caller>,
}

impl RemotePeer {
    /// A peer that is called over this.
    #[must_use]
    pub fn new(caller: impl Caller + 'static) -> Self {
        Self::over(Arc::new(caller))
    }

    /// The same, where others call over it too.
    #[must_use]
    pub fn over(caller: Arc<dyn Caller>) -> Self {
        Self { caller }
    }
}

impl Peer for RemotePeer {
    fn call(
        &self,
        request: Arc<Request>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Reply, CallError>> {
        let caller = self.caller.clone();
        Box::pin(async move {
            let body = postcard::to_stdvec(&*request).map_err(|_| CallError::NotAsked)?;
            match caller.call(Class::Data, REPLICA_CALL, body.into(), deadline).await {
                Ok(bytes) => postcard::from_bytes(&bytes).map_err(|_| CallError::Lost),
                Err(error) => Err(CallError::of(error)),
            }
        })
    }

    fn forward(
        &self,
        operation: Forwarded,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Forwardee, CallError>> {
        let caller = self.caller.clone();
        Box::pin(async move {
            let body = postcard::to_stdvec(&operation).map_err(|_| CallError::NotAsked)?;
            match caller.call(Class::Data, FORWARD_CALL, body.into(), deadline).await {
                Ok(bytes) => postcard::from_bytes(&bytes).map_err(|_| CallError::Lost),
                Err(error) => Err(CallError::of(error)),
            }
        })
    }

    fn repair(
        &self,
        request: RepairRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<RepairAnswer, CallError>> {
        let caller = self.caller.clone();
        Box::pin(async move {
            let body = postcard::to_stdvec(&request).map_err(|_| CallError::NotAsked)?;
            let answer = caller.call(Class::Repair, REPAIR_CALL, body.into(), deadline).await;
            let answer = answer.map_err(|_| CallError::Lost)?;
            postcard::from_bytes(&answer).map_err(|_| CallError::Lost)
        })
    }

    fn is_up(&self) -> bool {
        self.caller.is_up()
    }
}

/// Answers other replicas' questions about their streams.
#[must_use]
pub fn repair_handler(replica: Arc<Replica>) -> Handler {
    Arc::new(move |body: Bytes, _left| {
        let replica = replica.clone();
        Box::pin(async move {
            let answer = match postcard::from_bytes::<RepairRequest>(&body) {
                Ok(request) => replica.answer_repair(request).await,
                // A newer protocol.
                Err(_) => RepairAnswer::Refused,
            };
            postcard::to_stdvec(&answer).ok().map(Bytes::from)
        })
    })
}

/// Answers other coordinators' calls with this replica.
#[must_use]
pub fn replica_handler(replica: Arc<Replica>) -> Handler {
    Arc::new(move |body: Bytes, _left| {
        let replica = replica.clone();
        Box::pin(async move {
            let Ok(request) = postcard::from_bytes::<Request>(&body) else {
                // A newer protocol: refused before any write.
                return encode(&replica.refuse(Refusal::ViewChanged));
            };
            let reply = replica.handle(&request).await.ok()?;
            encode(&reply)
        })
    })
}

fn encode(reply: &Reply) -> Option<Bytes> {
    postcard::to_stdvec(reply).ok().map(Bytes::from)
}
