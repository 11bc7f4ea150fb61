//! Sending: the coordinator mints, seals, stores at a majority.

use super::coordinator::{Coordinator, StreamRef};
use super::gateway::Road;
use super::peers::CallError;
use super::replica::StoreFailed;
use super::rows::ROW_BYTES;
use crate::base::hlc::Hlc;
use crate::base::ids::{NodeId, SubscriptionId, UserId};
use crate::crdt::dot::Dot;
use crate::message::envelope::{Content, Envelope, GroupHash, Header};
use crate::protocol::op::{Answer, Outcome, Refusal, Reply, Request, StoreVote};
use crate::protocol::quorum::Tally;
use crate::protocol::stream::{MessageId, StreamKind};
use crate::security::sealing::{content_mac, seal_message};
use crate::store::WriteClass;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// How long `durability=all` waits for the copies beyond the majority.
const ALL_COPIES_TIME: Duration = Duration::from_secs(5);

/// How often filters are evaluated anew because the subscriptions have changed.
const SETS_MAX: usize = 64;

/// Who sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sender {
    /// The user.
    pub id: UserId,
    /// Its name now.
    pub name: String,
}

/// A message on its way into a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outgoing {
    /// What is sealed.
    pub content: Content,
    /// Its name, when its sender gave it one [F1].
    pub named: Option<Dot>,
    /// It is due this long after a replica stored it, in ms.
    pub delay_ms: u64,
    /// It is dropped this long after a replica stored it, in ms; 0: by retention only.
    pub ttl_ms: u64,
    /// The times as the request gave them: part of what makes it the same message [F2].
    pub times_given: Vec<u8>,
}

impl Outgoing {
    /// A message without name and times.
    #[must_use]
    pub fn plain(content: Content) -> Self {
        Self { content, named: None, delay_ms: 0, ttl_ms: 0, times_given: Vec::new() }
    }

    fn has_mark(&self) -> bool {
        self.delay_ms > 0 || self.ttl_ms > 0 || self.content.group.is_some()
    }
}

/// How the send of one message ended [R30].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stored {
    /// On disk on a majority.
    Done {
        /// Its name.
        id: MessageId,
        /// Copies on disk when answered.
        copies: usize,
        /// It was there before: this send has added nothing.
        is_duplicate: bool,
        /// Subscriptions that get it; 0 in queues.
        matched: usize,
    },
    /// It will never be delivered.
    NotStored(Refusal),
    /// It may or may not be delivered.
    Unknown,
}

/// One message while replicas are asked.
struct Sent {
    id: MessageId,
    matched: usize,
    is_duplicate: bool,
    tally: Tally,
    /// Who knows another content under its name [F1].
    clash: Tally,
    refusal: Refusal,
}

impl Sent {
    fn refuse(&mut self, node: NodeId, why: Refusal) {
        self.refusal = why;
        self.tally.no(node);
        self.clash.no(node);
    }

    fn lost(&mut self, node: NodeId) {
        self.tally.lost(node);
        self.clash.lost(node);
    }

    /// Whether nothing that comes can change the outcome. What a majority knows under another
    /// content is never stored under this one, whatever the others say [F1].
    fn is_certain(&self) -> bool {
        let is_done = self.tally.reached() || self.clash.reached();
        is_done || (self.tally.outcome().is_some() && self.clash.outcome().is_some())
    }

    fn outcome(self) -> Stored {
        if self.clash.reached() {
            return Stored::NotStored(Refusal::OtherContent);
        }
        match self.tally.outcome() {
            Some(Outcome::Done) => Stored::Done {
                id: self.id,
                copies: self.tally.copies(),
                is_duplicate: self.is_duplicate,
                matched: self.matched,
            },
            Some(Outcome::NotStored) => Stored::NotStored(self.refusal),
            Some(Outcome::Unknown) | None => Stored::Unknown,
        }
    }
}

impl Coordinator {
    /// Stores messages: each durable on a majority before it is [`Stored::Done`]. With
    /// `all_copies` it waits up to 5 s for the others too; never an error once a majority has it.
    /// One outcome per message, in order.
    pub async fn store(
        &self,
        stream: &StreamRef,
        sender: &Sender,
        messages: Vec<Outgoing>,
        all_copies: bool,
    ) -> Vec<Stored> {
        // The dispatcher keeps the order of a group [F25].
        let is_grouped = messages.iter().any(|message| message.content.group.is_some());
        let road = if is_grouped { self.to_dispatcher(stream) } else { self.to_replica(stream) };
        match road {
            Road::Here => self.store_here(stream, sender, messages, all_copies).await,
            Road::There(nodes) => {
                self.hand_on_store(nodes, stream, sender, &messages, all_copies).await
            }
        }
    }

    pub(super) async fn store_here(
        &self,
        stream: &StreamRef,
        sender: &Sender,
        messages: Vec<Outgoing>,
        all_copies: bool,
    ) -> Vec<Stored> {
        for _ in 0..SETS_MAX {
            return match self.originate(stream, sender, &messages).await {
                Ok((request, votes, local)) => {
                    self.count_stores(stream, request, votes, local, all_copies).await
                }
                // Somebody subscribed meanwhile: filters are evaluated anew.
                Err(Refusal::StaleSet) => continue,
                Err(refusal) => messages.iter().map(|_| Stored::NotStored(refusal)).collect(),
            };
        }
        messages.iter().map(|_| Stored::NotStored(Refusal::StaleSet)).collect()
    }

    async fn originate(
        &self,
        stream: &StreamRef,
        sender: &Sender,
        messages: &[Outgoing],
    ) -> Result<
        (
            Arc<Request>,
            Vec<StoreVote>,
            impl Future<Output = Result<Reply, StoreFailed>> + Send + 'static + use<>,
        ),
        Refusal,
    > {
        let replica = &self.parts.replica;
        let cell = replica.cell(stream.generation).await?;
        if messages.iter().any(Outgoing::has_mark) && !replica.has_room_for_marks() {
            return Err(Refusal::TooManyMarks);
        }
        let plain: Vec<Vec<u8>> = messages.iter().map(|m| m.content.to_bytes()).collect();
        let bytes = plain.iter().map(|p| p.len() + ROW_BYTES).sum();
        let dots: Vec<Option<Dot>> = messages.iter().map(|m| m.named).collect();
        let admission = replica.admit(WriteClass::Growth, bytes)?;
        let is_topic =
            replica.bounds(stream.generation).is_some_and(|(kind, _)| kind == StreamKind::Topic);
        let set = is_topic.then(|| cell.decide(|state| state.set().clone()));
        let set_version = set.as_ref().map_or(0, |set| set.version);
        let wanted = |m: &Outgoing| set.as_ref().map_or_else(Vec::new, |s| s.matched(&m.content));
        let matched: Vec<Vec<SubscriptionId>> = messages.iter().map(wanted).collect();
        let (op, votes, ticket) =
            replica.originate(&cell, stream.header(), admission, &dots, |i, dot, hlc| {
                let matched = matched[i].clone();
                let header = self.head(stream, sender, &messages[i], &plain[i], (dot, hlc));
                self.seal_message(stream, Header { matched, set_version, ..header }, &plain[i])
            })?;
        let local = {
            let (replica, votes) = (replica.clone(), votes.clone());
            async move { replica.stored(ticket, votes).await }
        };
        Ok((Arc::new(Request::Store(op)), votes, local))
    }

    fn head(
        &self,
        stream: &StreamRef,
        sender: &Sender,
        message: &Outgoing,
        plain: &[u8],
        (dot, hlc): (Dot, Hlc),
    ) -> Header {
        let mac = content_mac(&stream.key, &[plain, &sender.id.0, &message.times_given]);
        let group = self.group_hash(stream, &message.content);
        Header {
            dot,
            sender: sender.id,
            sender_name: sender.name.clone(),
            hlc,
            sent_ms: self.parts.clock.wall_ms(),
            content_mac: mac,
            delay_ms: message.delay_ms,
            ttl_ms: message.ttl_ms,
            group,
            hop: 0,
            set_version: 0,
            matched: Vec::new(),
        }
    }

    pub(super) fn group_hash(&self, stream: &StreamRef, content: &Content) -> Option<GroupHash> {
        let group = content.group.as_ref()?;
        let hash = content_mac(&stream.key, &[b"group", group.as_bytes()]);
        Some(GroupHash(hash[..16].try_into().expect("16 of 32 bytes")))
    }

    /// What makes a copy the same copy: the content, its sender and its times.
    pub(super) fn copy_mac(&self, stream: &StreamRef, plain: &[u8], source: &Header) -> [u8; 32] {
        let times = source.ttl_ms.to_le_bytes();
        content_mac(&stream.key, &[b"copy", plain, &source.sender.0, &times])
    }

    pub(super) fn seal_message(
        &self,
        stream: &StreamRef,
        header: Header,
        plain: &[u8],
    ) -> Arc<Envelope> {
        let bound = header.associated(stream.generation);
        let sealed = seal_message(&stream.key, &header.dot, &bound, plain, &*self.parts.rng);
        Arc::new(Envelope { header, nonce: sealed.nonce, sealed: sealed.bytes.into() })
    }

    pub(super) async fn count_stores(
        &self,
        stream: &StreamRef,
        request: Arc<Request>,
        own: Vec<StoreVote>,
        local: impl Future<Output = Result<Reply, StoreFailed>> + Send + 'static,
        all_copies: bool,
    ) -> Vec<Stored> {
        let Request::Store(op) = &*request else { return Vec::new() };
        let new = |(envelope, vote): (&Arc<Envelope>, StoreVote)| Sent {
            id: MessageId::of((envelope.header.hlc, envelope.header.dot)),
            matched: envelope.header.matched.len(),
            is_duplicate: vote == StoreVote::Known,
            tally: Tally::new(stream.view.clone()),
            clash: Tally::new(stream.view.clone()),
            refusal: Refusal::OtherContent,
        };
        let mut sent: Vec<Sent> = op.envelopes.iter().zip(own).map(new).collect();
        let counting = self.ask(stream, request.clone(), None, local, |node, answer| {
            for (i, sent) in sent.iter_mut().enumerate() {
                match &answer {
                    Ok(Answer::Stored(votes)) => match votes.get(i) {
                        Some(StoreVote::Stored | StoreVote::Known) => {
                            sent.tally.yes(node);
                            sent.clash.no(node);
                        }
                        Some(StoreVote::OtherContent) => {
                            sent.tally.no(node);
                            sent.clash.yes(node);
                        }
                        None => sent.lost(node),
                    },
                    Ok(Answer::Refused(why)) => {
                        sent.refuse(node, *why);
                    }
                    Err(CallError::NotAsked) => {
                        sent.refuse(node, Refusal::Overloaded);
                    }
                    Ok(_) | Err(CallError::Lost) => sent.lost(node),
                }
            }
            let is_certain =
                |sent: &Sent| sent.is_certain() && (!all_copies || sent.tally.complete());
            sent.iter().all(is_certain)
        });
        if all_copies {
            // What a majority has is safe, however long the others take.
            let _ = tokio::time::timeout(ALL_COPIES_TIME, counting).await;
        } else {
            counting.await;
        }
        sent.into_iter().map(Sent::outcome).collect()
    }
}
