//! Operations that another node has to run: sends at a node that is no replica, as only replicas
//! mint [R17]; receives, which the dispatcher of the stream serves so that few compete [R25];
//! looks at messages that are not here.
//!
//! Handed on once: whoever is asked runs the operation itself, with what is left of its life [R54].
//! Settling needs no one else: it is a quorum of the replicas whoever asks them.

use super::coordinator::{Coordinator, StreamRef};
use super::dispatcher::{Delivery, Granted, ReceiveError, Wanted};
use super::inspecting::{Browse, Browsed, Seen, Stats};
use super::life::Life;
use super::peers::CallError;
use super::removing::Redriven;
use super::sending::{Outgoing, Sender, Stored};
use super::stream_cell::Side;
use super::withdrawing::Unanswered;
use crate::base::ids::{Generation, NodeId, RequesterId, SubscriptionId};
use crate::base::limits::WATCH_TIME;
use crate::protocol::op::Refusal;
use crate::protocol::stream::MessageId;
use crate::rpc::Handler;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// The kind under which operations are handed on.
pub const FORWARD_CALL: u16 = 3;
/// How long a dispatcher has to serve a receive before another is asked.
const DISPATCH_TIME: Duration = Duration::from_secs(2);

/// The stream that an operation is about, as its sender knows it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Target {
    generation: Generation,
    record_version: u64,
}

/// An operation that is handed on. Sent as postcard: only appended to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Forwarded {
    /// Store messages.
    Store(Target, Sender, Vec<Outgoing>, bool),
    /// Lease messages that are there now to this request, which the asker withdraws if it gets no
    /// answer [R25].
    Receive(Target, Wanted, RequesterId),
    /// Answer when a message may have become ready, or after [`WATCH_TIME`].
    Watch(Target, SubscriptionId, Side),
    /// Look at messages.
    Browse(Target, SubscriptionId, Browse, u64),
    /// Look at one message.
    Find(Target, SubscriptionId, MessageId, u64),
    /// Bring dead messages back.
    Redrive(Target, SubscriptionId, usize),
    /// Count messages.
    Stats(Target, SubscriptionId),
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Forwardee {
    /// Nothing was done.
    Refused(Refusal),
    /// One outcome per message.
    Stored(Vec<Stored>),
    /// Leased messages.
    Received(Result<Vec<Delivery>, ReceiveError>),
    /// Something may be ready.
    Watched,
    /// Messages.
    Browsed(Browsed),
    /// A message.
    Found(Option<Box<Seen>>),
    /// How many are back.
    Redriven(Redriven),
    /// How many there are.
    Counted(Stats),
}

/// Who runs an operation.
pub(super) enum Road {
    /// This node.
    Here,
    /// One of these, the first that can be reached.
    There(Vec<NodeId>),
}

impl Coordinator {
    /// Whether this node replicates a stream.
    #[must_use]
    pub fn is_replica(&self, stream: &StreamRef) -> bool {
        stream.view.replicas().contains(&self.parts.replica.node())
    }

    fn is_up(&self, node: NodeId) -> bool {
        node == self.parts.replica.node() || self.parts.peers.alive(node)
    }

    /// The road of what any replica can run.
    pub(super) fn to_replica(&self, stream: &StreamRef) -> Road {
        let is_here = stream.life.is_handed_on() || self.is_replica(stream);
        if is_here { Road::Here } else { Road::There(self.by_preference(stream)) }
    }

    /// The road of what the dispatcher should run: the first in the preference list that is up. It
    /// stays the same as long as that one lives.
    pub(super) fn to_dispatcher(&self, stream: &StreamRef) -> Road {
        if stream.life.is_handed_on() {
            return Road::Here;
        }
        let me = self.parts.replica.node();
        let mut nodes = self.by_preference(stream);
        if let Some(at) = nodes.iter().position(|node| *node == me) {
            // Whoever comes behind this node dispatches later than it.
            nodes.truncate(at);
            nodes.retain(|node| self.is_up(*node));
        }
        if nodes.is_empty() { Road::Here } else { Road::There(nodes) }
    }

    /// Replicas that seem alive first, each part in preference order.
    fn by_preference(&self, stream: &StreamRef) -> Vec<NodeId> {
        let (up, down): (Vec<_>, Vec<_>) =
            stream.view.replicas().into_iter().partition(|node| self.is_up(*node));
        up.into_iter().chain(down).collect()
    }

    pub(super) async fn hand_on(
        &self,
        node: NodeId,
        operation: Forwarded,
        deadline: Duration,
    ) -> Result<Forwardee, CallError> {
        let peer = self.parts.peers.get(&node).ok_or(CallError::NotAsked)?;
        peer.forward(operation, deadline).await
    }

    /// Hands on what may be done twice: it is asked of one after another until one answers.
    pub(super) async fn hand_on_repeatable(
        &self,
        nodes: Vec<NodeId>,
        life: Life,
        operation: Forwarded,
    ) -> Result<Forwardee, Refusal> {
        for node in nodes {
            match self.hand_on(node, operation.clone(), life.left().min(DISPATCH_TIME)).await {
                Ok(Forwardee::Refused(Refusal::Behind)) | Err(_) => {}
                Ok(Forwardee::Refused(refusal)) => return Err(refusal),
                Ok(done) => return Ok(done),
            }
        }
        Err(Refusal::Overloaded)
    }

    pub(super) async fn hand_on_store(
        &self,
        nodes: Vec<NodeId>,
        stream: &StreamRef,
        sender: &Sender,
        messages: &[Outgoing],
        all_copies: bool,
    ) -> Vec<Stored> {
        let all = |stored: Stored| vec![stored; messages.len()];
        for node in nodes {
            let operation =
                Forwarded::Store(stream.target(), sender.clone(), messages.to_vec(), all_copies);
            match self.hand_on(node, operation, stream.life.left()).await {
                Ok(Forwardee::Stored(stored)) if stored.len() == messages.len() => return stored,
                Ok(Forwardee::Refused(Refusal::Behind)) | Err(CallError::NotAsked) => {}
                Ok(Forwardee::Refused(refusal)) => return all(Stored::NotStored(refusal)),
                Ok(_) | Err(CallError::Lost) => return all(Stored::Unknown),
            }
        }
        all(Stored::NotStored(Refusal::Overloaded))
    }

    /// Has the dispatcher lease messages. `None`: none of those that come first can be reached.
    pub(super) async fn hand_on_receive(
        self: &Arc<Self>,
        nodes: Vec<NodeId>,
        stream: &StreamRef,
        wanted: &Wanted,
    ) -> Option<Result<Granted, ReceiveError>> {
        // The lease counts from before the request leaves, on this node's clock [R20].
        let began_ms = self.parts.clock.boottime_ms();
        for node in nodes {
            let requester = self.requester(wanted);
            let operation = Forwarded::Receive(stream.target(), wanted.clone(), requester);
            let mut unanswered = Unanswered::of(self, stream, wanted, requester);
            let time = stream.life.left().min(DISPATCH_TIME);
            let answer = self.hand_on(node, operation, time).await;
            if !matches!(answer, Err(CallError::Lost)) {
                unanswered.is_answered();
            }
            drop(unanswered);
            match answer {
                Ok(Forwardee::Received(Ok(mut deliveries))) => {
                    deliveries.iter_mut().for_each(|it| it.lease.began_ms = began_ms);
                    // The answer may have taken its time: what has run out is nobody's [R20].
                    let now_ms = self.parts.clock.boottime_ms();
                    let (deliveries, over): (Vec<_>, Vec<_>) =
                        deliveries.into_iter().partition(|it| it.lease.runs_at(now_ms));
                    let over = over.iter().map(|it| it.lease).collect();
                    self.withdraw(stream, wanted.reader, over);
                    return Some(Ok(Granted {
                        coordinator: self.clone(),
                        stream: stream.clone(),
                        reader: wanted.reader,
                        is_repeat: wanted.requester.is_some(),
                        deliveries,
                    }));
                }
                Ok(Forwardee::Received(Err(error))) => return Some(Err(error)),
                Ok(Forwardee::Refused(Refusal::Behind)) | Err(_) => {}
                Ok(Forwardee::Refused(refusal)) => {
                    return Some(Err(ReceiveError::Refused(refusal)));
                }
                Ok(_) => return Some(Err(ReceiveError::NoQuorum)),
            }
        }
        None
    }

    /// Runs an operation for another node, within what is left of its life.
    pub(super) async fn run(self: &Arc<Self>, operation: Forwarded, left: Duration) -> Forwardee {
        self.try_run(operation, Life::handed_on(left)).await.unwrap_or_else(Forwardee::Refused)
    }

    /// The stream as it is known here; never an older one than the asker knows [F20].
    fn targeted(&self, target: Target, life: Life) -> Result<StreamRef, Refusal> {
        let stream = self.stream_of(target.generation).ok_or(Refusal::Behind)?;
        let is_here = self.is_replica(&stream);
        if stream.record_version < target.record_version || !is_here {
            return Err(Refusal::Behind);
        }
        Ok(StreamRef { life, ..stream })
    }

    async fn try_run(
        self: &Arc<Self>,
        operation: Forwarded,
        life: Life,
    ) -> Result<Forwardee, Refusal> {
        Ok(match operation {
            Forwarded::Store(target, sender, messages, all) => {
                let stream = self.targeted(target, life)?;
                Forwardee::Stored(self.store_here(&stream, &sender, messages, all).await)
            }
            Forwarded::Receive(target, wanted, requester) => {
                let stream = self.targeted(target, life)?;
                let received = self.receive_here(&stream, &wanted, requester).await;
                Forwardee::Received(received.map(Granted::hand_over))
            }
            Forwarded::Watch(target, reader, side) => {
                let stream = self.targeted(target, life)?;
                let listening = self.listen(&stream, reader, side).await?;
                let _ = tokio::time::timeout(WATCH_TIME, listening.bell().notified()).await;
                Forwardee::Watched
            }
            Forwarded::Browse(target, reader, browse, retention_ms) => {
                let stream = self.targeted(target, life)?;
                Forwardee::Browsed(self.browse(&stream, reader, browse, retention_ms).await?)
            }
            Forwarded::Find(target, reader, id, retention_ms) => {
                let stream = self.targeted(target, life)?;
                Forwardee::Found(self.find(&stream, reader, id, retention_ms).await?.map(Box::new))
            }
            Forwarded::Redrive(target, reader, max) => {
                let stream = self.targeted(target, life)?;
                Forwardee::Redriven(self.redrive(&stream, reader, max).await?)
            }
            Forwarded::Stats(target, reader) => {
                let stream = self.targeted(target, life)?;
                Forwardee::Counted(self.stats(&stream, reader).await?)
            }
        })
    }
}

impl StreamRef {
    pub(super) fn target(&self) -> Target {
        Target { generation: self.generation, record_version: self.record_version }
    }
}

/// Runs operations for other nodes.
#[must_use]
pub fn forward_handler(coordinator: Arc<Coordinator>) -> Handler {
    Arc::new(move |body: Bytes, left: Duration| {
        let coordinator = coordinator.clone();
        Box::pin(async move {
            let done = match postcard::from_bytes::<Forwarded>(&body) {
                Ok(operation) => coordinator.run(operation, left).await,
                // A newer protocol: nothing was done.
                Err(_) => Forwardee::Refused(Refusal::Behind),
            };
            postcard::to_stdvec(&done).ok().map(Bytes::from)
        })
    })
}
