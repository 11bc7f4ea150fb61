//! The coordinator: runs one operation's quorum.
//!
//! It asks every replica of the view at once, counts voters with one [`Tally`], answers as soon
//! as the outcome is certain, and leaves the rest to finish in the background. With a replica set
//! of one it does exactly the same.

use super::life::Life;
use super::peers::{CallError, Peers};
use super::replica::{Replica, StoreFailed};
use crate::base::clock::Clock;
use crate::base::ids::{Generation, NodeId};
use crate::base::rng::Rng;
use crate::layout::members::Layout;
use crate::layout::placement;
use crate::layout::view::View;
use crate::protocol::op::{Answer, LeaseVote, OpHeader, Outcome, Refusal, Reply, Request, Seal};
use crate::protocol::quorum::Tally;
use crate::protocol::record::Value;
use crate::security::keys::{DataKey, Keys};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::mpsc;

/// A stream as an operation sees it: which one, under which record version, with which key and
/// replicas.
#[derive(Clone)]
pub struct StreamRef {
    /// The stream.
    pub generation: Generation,
    /// The record version that the operation acts on [F20].
    pub record_version: u64,
    /// The key of its messages.
    pub key: DataKey,
    /// Its replicas.
    pub view: View,
    /// How long the operation has.
    pub life: Life,
}

impl StreamRef {
    /// What every operation on it carries.
    #[must_use]
    pub fn header(&self) -> OpHeader {
        let (stream, record_version) = (self.generation, self.record_version);
        OpHeader { stream, record_version, view: self.view.id() }
    }
}

/// What a coordinator is made of.
pub struct CoordinatorParts {
    /// This node's replica.
    pub replica: Arc<Replica>,
    /// The others.
    pub peers: Peers,
    /// The layout in force.
    pub layout: Layout,
    /// Unwraps the streams' keys.
    pub keys: Arc<Keys>,
    /// Stamps messages for people, times leases for their holders.
    pub clock: Arc<dyn Clock>,
    /// Draws nonces and requester ids.
    pub rng: Arc<dyn Rng>,
}

/// Runs quorums.
pub struct Coordinator {
    pub(super) parts: CoordinatorParts,
    /// Keys and views of the streams in use; rebuilt from the records at will.
    streams: RwLock<BTreeMap<Generation, (DataKey, View)>>,
    /// Receivers that listen, all streams together.
    pub(super) listeners: AtomicUsize,
}

impl Coordinator {
    /// A coordinator on this node's replica.
    #[must_use]
    pub fn new(parts: CoordinatorParts) -> Arc<Self> {
        Arc::new(Self { parts, streams: RwLock::default(), listeners: AtomicUsize::new(0) })
    }

    /// This node's replica.
    #[must_use]
    pub fn replica(&self) -> &Arc<Replica> {
        &self.parts.replica
    }

    /// The replicas of other nodes.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.parts.peers
    }

    /// A stream by its record. `None` when its key does not unwrap under this cluster's secret.
    #[must_use]
    pub fn stream(
        &self,
        generation: Generation,
        record_version: u64,
        wrapped_key: &[u8],
        replicas: usize,
    ) -> Option<StreamRef> {
        let known = {
            let streams = self.streams.read().unwrap_or_else(PoisonError::into_inner);
            streams.get(&generation).cloned()
        };
        let (key, view) = match known {
            Some(known) => known,
            None => {
                let key = self.parts.keys.unwrap(generation, wrapped_key)?;
                let view = placement::view_of(&self.parts.layout, generation, replicas);
                let mut streams = self.streams.write().unwrap_or_else(PoisonError::into_inner);
                streams.insert(generation, (key.clone(), view.clone()));
                (key, view)
            }
        };
        Some(StreamRef { generation, record_version, key, view, life: Life::begin() })
    }

    /// A stream by its generation alone, as its record is now; `None` when there is no such
    /// record, or its key does not unwrap.
    #[must_use]
    pub fn stream_of(&self, generation: Generation) -> Option<StreamRef> {
        let (_, record) = self.parts.replica.catalog().stream_by_generation(generation)?;
        let (key, replicas) = match &record.value {
            Value::Queue(queue) => (&queue.data_key, queue.config.replicas),
            Value::Topic(topic) => (&topic.data_key, topic.config.replicas),
            _ => return None,
        };
        let replicas = usize::try_from(replicas).unwrap_or(1);
        self.stream(generation, record.version, key, replicas)
    }

    /// Forgets the key of a deleted stream.
    pub fn forget(&self, generation: Generation) {
        self.streams.write().unwrap_or_else(PoisonError::into_inner).remove(&generation);
        self.parts.replica.forget(generation);
    }

    /// Asks the replicas of a stream, for as long as the operation lives [R54]. `local` is this
    /// node's own vote. `each` is told every answer once and returns whether the outcome is
    /// certain; what is still under way then goes on in the background. `fallback` is asked of a replica that lacks a payload [R27].
    pub(super) async fn ask(
        &self,
        stream: &StreamRef,
        request: Arc<Request>,
        fallback: Option<Arc<Request>>,
        local: impl Future<Output = Result<Reply, StoreFailed>> + Send + 'static,
        mut each: impl FnMut(NodeId, Result<Answer, CallError>) -> bool + Send,
    ) {
        let me = self.parts.replica.node();
        let (replicas, life) = (stream.view.replicas(), stream.life);
        let of_local = |reply: Result<Reply, StoreFailed>| match reply {
            Ok(reply) => Ok(reply.answer),
            Err(StoreFailed) => Err(CallError::Lost),
        };
        if replicas == [me] {
            let reply = tokio::time::timeout(life.left(), local).await;
            each(me, reply.map_or(Err(CallError::Lost), of_local));
            return;
        }
        if let Err(refusal) = self.parts.replica.check_member() {
            // Only a replica coordinates [R17]: nobody is asked.
            for node in replicas {
                each(node, Ok(Answer::Refused(refusal)));
            }
            return;
        }
        let (answers, mut answered) = mpsc::unbounded_channel();
        let spawn = self.parts.replica.spawn();
        for node in replicas.iter().copied().filter(|node| *node != me) {
            let asked = (request.clone(), fallback.clone());
            self.ask_one(node, life, asked, answers.clone());
        }
        // A node that is no replica has no vote.
        if replicas.contains(&me) {
            let own = answers.clone();
            spawn.task(Box::pin(async move {
                let reply = tokio::time::timeout(life.left(), local).await;
                let _ = own.send((me, reply.map_or(Err(CallError::Lost), of_local)));
            }));
        }
        drop(answers);
        let deadline = tokio::time::sleep(life.left());
        tokio::pin!(deadline);
        let mut open: Vec<NodeId> = replicas;
        while !open.is_empty() {
            tokio::select! {
                Some((node, answer)) = answered.recv() => {
                    open.retain(|n| *n != node);
                    if each(node, answer) {
                        return;
                    }
                }
                () = &mut deadline => break,
            }
        }
        for node in open {
            each(node, Err(CallError::Lost));
        }
    }

    /// Asks one replica, in the background.
    fn ask_one(
        &self,
        node: NodeId,
        life: Life,
        (request, fallback): (Arc<Request>, Option<Arc<Request>>),
        answers: mpsc::UnboundedSender<(NodeId, Result<Answer, CallError>)>,
    ) {
        let Some(peer) = self.parts.peers.get(&node).cloned() else {
            let _ = answers.send((node, Err(CallError::NotAsked)));
            return;
        };
        self.parts.replica.spawn().task(Box::pin(async move {
            let mut reply = peer.call(request, life.left()).await;
            if let (Ok(first), Some(fallback)) = (&reply, fallback)
                && needs_payload(&first.answer)
            {
                reply = peer.call(fallback, life.left()).await;
            }
            // Whoever answers in the place of a member has no vote of that member's [R1, R18].
            let reply = match reply {
                Ok(reply) if reply.voter.node != node => Err(CallError::Lost),
                other => other,
            };
            let _ = answers.send((node, reply.map(|reply| reply.answer)));
        }));
    }

    /// This node's vote on a request.
    pub(super) fn own_vote(
        &self,
        request: Arc<Request>,
    ) -> impl Future<Output = Result<Reply, StoreFailed>> + Send + 'static {
        let replica = self.parts.replica.clone();
        async move { replica.handle(&request).await }
    }

    /// Asks the replicas of a stream and counts those whose answer `take` takes. Returns the count,
    /// and why one of them refused.
    pub(super) async fn poll(
        &self,
        stream: &StreamRef,
        request: Request,
        mut take: impl FnMut(Answer) -> bool + Send,
    ) -> (Tally, Option<Refusal>) {
        let (mut tally, mut refusal) = (Tally::new(stream.view.clone()), None);
        let request = Arc::new(request);
        let local = self.own_vote(request.clone());
        self.ask(stream, request, None, local, |node, answer| {
            match answer {
                Ok(Answer::Refused(why)) => {
                    refusal = Some(why);
                    tally.no(node);
                }
                Err(CallError::NotAsked) => tally.no(node),
                Ok(answer) => match take(answer) {
                    true => tally.yes(node),
                    false => tally.lost(node),
                },
                Err(CallError::Lost) => tally.lost(node),
            }
            tally.outcome().is_some()
        })
        .await;
        (tally, refusal)
    }

    /// Closes a stream at a majority of its replicas [F5].
    pub async fn seal(&self, stream: &StreamRef, seal: Seal) -> Outcome {
        let request = Request::Seal(stream.header(), seal);
        let (tally, _) = self.poll(stream, request, |answer| answer == Answer::Sealed).await;
        tally.outcome().unwrap_or(Outcome::Unknown)
    }

    /// The most messages that any replica of a majority has; `None` without a majority.
    pub async fn census(&self, stream: &StreamRef) -> Option<u64> {
        let mut most = 0;
        let take = |answer| match answer {
            Answer::Counted(count) => {
                most = most.max(count);
                true
            }
            _ => false,
        };
        let (tally, _) = self.poll(stream, Request::Census(stream.header()), take).await;
        tally.reached().then_some(most)
    }
}

fn needs_payload(answer: &Answer) -> bool {
    matches!(answer, Answer::Leased(votes) if votes.contains(&LeaseVote::NeedsPayload))
}
