//! Repair: replicas compare what they know, and each takes in what it lacks.
//!
//! Everything is pulled, so whoever is behind sets the pace, and a pull that breaks off is begun
//! again from what was taken in. A comparison is a digest per stream; only what differs is told in
//! intervals, only what lacks is sent. All of it is of the class "repair": it never stands before
//! a client's work.

use super::coordinator::{Coordinator, StreamRef};
use super::opening::open;
use super::peers::CallError;
use super::replica::Replica;
use super::rows::ROW_BYTES;
use super::rules;
use super::scan;
use super::stream_cell::StreamCell;
use crate::base::ids::{Generation, NodeId, SubscriptionId};
use crate::base::limits::{PULL_BYTES_MAX, PULL_MESSAGES_MAX};
use crate::base::seams::blocking;
use crate::crdt::context::DotSet;
use crate::crdt::dot::{Dot, KeyedId};
use crate::protocol::lease::Attempt;
use crate::protocol::op::{Change, Refusal};
use crate::protocol::stream::{
    KeyedFact, Place, Repaired, SetMark, Stream, SubscriptionSet, Summary,
};
use crate::store::WriteClass;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a peer has for one answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Places that a peer looks at for one answer.
const STRIDE: usize = 4_096;
/// Keyed messages in one answer.
const FACTS_MAX: usize = 2_048;
/// Keyed messages asked for in one call.
const PULL_IDS_MAX: usize = 2_048;
/// Attempts in one answer.
const ATTEMPTS_MAX: usize = 1_024;

/// What a replica asks another about their streams. Sent as postcard: only appended to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RepairRequest {
    /// Which of these streams have another digest at your side? The asker is told to you so that
    /// you can look at its side too.
    Compare(NodeId, Vec<(Generation, u64)>),
    /// What do you know of this stream?
    Summary(Generation),
    /// Which keyed messages of this bucket do you know, after this one?
    Keyed(Generation, u8, Option<KeyedId>),
    /// Send me these of your messages, those after this place first.
    Pull(Generation, DotSet, Option<Place>),
    /// Which readers does this topic have?
    Set(Generation),
    /// Are these keyed messages open at your side for nobody?
    Settled(Generation, Vec<KeyedId>),
    /// What do you remember of the attempts at these?
    Attempts(Generation, SubscriptionId, DotSet),
    /// Send me these keyed messages, at most 2,048 of them, in this order.
    PullKeyed(Generation, Vec<KeyedId>),
}

/// The answer to a [`RepairRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RepairAnswer {
    /// Not now, or no such stream.
    Refused,
    /// These differ.
    Differ(Vec<Generation>),
    /// What is known.
    Summary(Box<Summary>),
    /// Its set of readers, and keyed messages, rising; fewer than asked for: there are no more.
    Keyed(SetMark, Vec<KeyedFact>),
    /// Messages, and after which place to go on; none: there are no more.
    Messages(Vec<Repaired>, Option<Place>),
    /// Readers.
    Set(SubscriptionSet),
    /// One word per message.
    Settled(Vec<bool>),
    /// Attempts.
    Attempts(Vec<Attempt>),
}

/// Why a comparison was not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RepairError {
    /// The peer gave no answer, or refused.
    #[error("the peer gave no answer")]
    NoAnswer,
    /// This replica cannot take it in now.
    #[error("what was pulled cannot be stored: {0}")]
    Refused(#[from] Refusal),
}

impl From<CallError> for RepairError {
    fn from(_: CallError) -> Self {
        Self::NoAnswer
    }
}

impl Replica {
    /// Answers another replica's question about their streams. What it tells is durable.
    pub async fn answer_repair(&self, request: RepairRequest) -> RepairAnswer {
        let answered = match request {
            RepairRequest::Compare(asker, digests) => self.compare(asker, digests).await,
            RepairRequest::Summary(stream) => {
                self.tell(stream, |s, now_ms| RepairAnswer::Summary(Box::new(s.summary(now_ms))))
                    .await
            }
            RepairRequest::Settled(stream, ids) => {
                self.tell(stream, |s, _| RepairAnswer::Settled(s.are_settled(&ids))).await
            }
            RepairRequest::Set(stream) => {
                self.tell(stream, |s, _| RepairAnswer::Set((**s.set()).clone())).await
            }
            RepairRequest::Keyed(stream, bucket, after) => {
                self.tell(stream, |s, now_ms| {
                    let facts = s.keyed_facts(bucket, after, FACTS_MAX, now_ms);
                    RepairAnswer::Keyed(s.set().mark(), facts)
                })
                .await
            }
            RepairRequest::Attempts(stream, reader, dots) => {
                self.tell(stream, |s, _| {
                    RepairAnswer::Attempts(s.attempts_at(reader, &dots, ATTEMPTS_MAX))
                })
                .await
            }
            RepairRequest::Pull(stream, dots, after) => self.give(stream, dots, after).await,
            RepairRequest::PullKeyed(stream, ids) => self.give_keyed(stream, &ids).await,
        };
        answered.unwrap_or(RepairAnswer::Refused)
    }

    /// A stream of which this node has something to tell: one that it replicates [R1].
    async fn cell_told(&self, stream: Generation) -> Result<Arc<StreamCell>, Refusal> {
        self.check_replica(stream)?;
        self.cell(stream).await
    }

    async fn tell(
        &self,
        stream: Generation,
        tell: impl FnOnce(&Stream, u64) -> RepairAnswer,
    ) -> Result<RepairAnswer, Refusal> {
        let cell = self.cell_told(stream).await?;
        let told = self.look(&cell, |stream, now_ms| tell(stream, now_ms));
        self.store().barrier().await.map_err(|_| Refusal::Stopping)?;
        Ok(told)
    }

    async fn compare(
        &self,
        asker: NodeId,
        digests: Vec<(Generation, u64)>,
    ) -> Result<RepairAnswer, Refusal> {
        let mut differ = Vec::new();
        self.check_member()?;
        for (stream, theirs) in digests {
            // What it has of a stream that it does not replicate is no evidence [R1].
            if self.check_replica(stream).is_err() {
                continue;
            }
            // A stream of which no record is here yet is compared again once there is one.
            let Ok(cell) = self.cell(stream).await else { continue };
            if self.digest(&cell) != theirs {
                self.unrepaired().note_for(asker, stream);
                differ.push(stream);
            }
        }
        self.store().barrier().await.map_err(|_| Refusal::Stopping)?;
        Ok(RepairAnswer::Differ(differ))
    }

    /// Messages for a replica that lacks them, in the order of their places.
    async fn give(
        &self,
        stream: Generation,
        dots: DotSet,
        after: Option<Place>,
    ) -> Result<RepairAnswer, Refusal> {
        let store = self.store().clone();
        let find = move || {
            let places = scan::places(&store, stream, SubscriptionId::QUEUE, after, STRIDE)?;
            let next = (places.len() == STRIDE).then(|| places.last().copied()).flatten();
            let wanted = places.into_iter().filter(|place| dots.contains(place.1)).collect();
            Ok::<_, scan::LoadError>((wanted, next))
        };
        self.give_found(&self.cell_told(stream).await?, find).await
    }

    /// Keyed messages for a replica that lacks them. Their rows are read one by one: names do not
    /// lie beside each other.
    async fn give_keyed(
        &self,
        stream: Generation,
        ids: &[KeyedId],
    ) -> Result<RepairAnswer, Refusal> {
        let cell = self.cell_told(stream).await?;
        let ids = &ids[..ids.len().min(PULL_IDS_MAX)];
        let places = cell.decide(|state| state.keyed_places(ids));
        self.give_found(&cell, move || Ok((places, None))).await
    }

    /// Gives messages at places, as many as one answer holds: after the last of them is gone on,
    /// or else where the finder says.
    async fn give_found(
        &self,
        cell: &Arc<StreamCell>,
        find: impl FnOnce() -> Result<(Vec<Place>, Option<Place>), scan::LoadError> + Send + 'static,
    ) -> Result<RepairAnswer, Refusal> {
        let (store, stream) = (self.store().clone(), cell.generation);
        store.barrier().await.map_err(|_| Refusal::Stopping)?;
        let read = move || {
            let (places, mut next) = find()?;
            let (mut kept, mut bytes) = (Vec::new(), 0);
            for place in places {
                // One that does not open is a hole here too: others are asked.
                if let Some(message) = scan::message(&store, stream, place)? {
                    bytes += message.envelope.sealed.len();
                    kept.push(message);
                }
                if bytes >= PULL_BYTES_MAX || kept.len() >= PULL_MESSAGES_MAX {
                    next = Some(place);
                    break;
                }
            }
            Ok::<_, scan::LoadError>((kept, next))
        };
        let (kept, next) = blocking(&**self.spawn(), read).await.map_err(|error| {
            tracing::error!(%error, %stream, "messages for a peer cannot be read");
            Refusal::Overloaded
        })?;
        let messages = self.look(cell, |state, now_ms| {
            let repaired = |kept: crate::message::envelope::Kept| Repaired {
                open: state.open_for_whom(kept.envelope.header.dot),
                age_ms: now_ms.saturating_sub(kept.received_ms),
                envelope: kept.envelope,
            };
            // What was settled while it was read is no news.
            kept.into_iter().map(repaired).filter(|repaired| !repaired.open.is_empty()).collect()
        });
        Ok(RepairAnswer::Messages(messages, next))
    }

    /// Takes in a change that repair makes, durably.
    async fn take_in<T>(
        &self,
        cell: &Arc<StreamCell>,
        (class, bytes): (WriteClass, usize),
        merge: impl FnOnce(&mut Stream, u64) -> (T, Vec<Change>),
    ) -> Result<T, Refusal> {
        let admission = self.admit(class, bytes)?;
        let (result, ticket, changed, now_ms) = self.look(cell, |stream, now_ms| {
            let (result, changes) = merge(stream, now_ms);
            let changed = !changes.is_empty();
            (result, self.submit(admission, cell.generation, stream, changes), changed, now_ms)
        });
        if changed {
            if let Some(at_ms) = cell.wake(now_ms) {
                self.lapses().watch(cell, at_ms);
            }
            cell.note_left_over();
            cell.ring_all();
        }
        ticket.await.map_err(|_| Refusal::Stopping)?;
        Ok(result)
    }
}

/// What a summary leaves to be asked for.
struct Lacking {
    messages: DotSet,
    buckets: Vec<u8>,
    fates: BTreeMap<SubscriptionId, DotSet>,
}

impl Coordinator {
    /// Takes in from a peer all that this node's replica lacks of a stream.
    ///
    /// # Errors
    /// [`RepairError`]; what was taken in before it stays.
    pub async fn catch_up(&self, stream: &StreamRef, peer: NodeId) -> Result<(), RepairError> {
        let replica = &self.parts.replica;
        let generation = stream.generation;
        let cell = replica.cell(generation).await?;
        let theirs = match self.ask_repair(peer, RepairRequest::Summary(generation)).await? {
            RepairAnswer::Summary(theirs) => *theirs,
            _ => return Err(RepairError::NoAnswer),
        };
        let own = cell.decide(|state| state.set().mark());
        if theirs.set.0 > own.0 {
            self.learn_set(&cell, peer).await?;
        } else if theirs.set.0 == own.0 && theirs.set != own {
            let version = own.0;
            tracing::error!(%peer, stream = %generation, version, "two sets under one version");
            metrics::counter!("tertulia_set_clashes_total").increment(1);
        }
        let size = (WriteClass::Reserve, 16 * ROW_BYTES);
        let lacking = replica
            .take_in(&cell, size, |state, now_ms| {
                let changes = state.merge_settled(&theirs, now_ms);
                let own = state.keyed_digests(now_ms);
                // Those that only this side tells of are asked for, too: what is over at the peer
                // may be open here.
                let told: BTreeSet<u8> = own.keys().chain(theirs.keyed.keys()).copied().collect();
                let differs = |bucket: &u8| own.get(bucket) != theirs.keyed.get(bucket);
                let buckets = told.into_iter().filter(differs).collect();
                let (messages, fates) = (state.lacks(&theirs), state.lacks_fates(&theirs));
                (Lacking { messages, buckets, fates }, changes)
            })
            .await?;
        // Keyed holes; then what the peer's buckets name. Never a bigger wish than one call takes.
        let mut wanted: Vec<KeyedId> = lacking.messages.keyed().collect();
        for bucket in lacking.buckets {
            self.learn_keyed(stream, &cell, (peer, bucket), &mut wanted).await?;
        }
        self.pull_keyed(stream, &cell, peer, &wanted).await?;
        let numbered = lacking.messages.numbered();
        if !numbered.is_empty() {
            self.pull(stream, &cell, peer, numbered).await?;
        }
        for (reader, dots) in lacking.fates {
            self.learn_fates(&cell, peer, reader, dots).await?;
        }
        Ok(())
    }

    pub(super) async fn ask_repair(
        &self,
        peer: NodeId,
        request: RepairRequest,
    ) -> Result<RepairAnswer, RepairError> {
        let peer = self.parts.peers.get(&peer).ok_or(RepairError::NoAnswer)?;
        match peer.repair(request, ANSWER_TIME).await? {
            RepairAnswer::Refused => Err(RepairError::NoAnswer),
            answer => Ok(answer),
        }
    }

    async fn learn_set(&self, cell: &Arc<StreamCell>, peer: NodeId) -> Result<(), RepairError> {
        let request = RepairRequest::Set(cell.generation);
        let RepairAnswer::Set(set) = self.ask_repair(peer, request).await? else {
            return Err(RepairError::NoAnswer);
        };
        let replica = &self.parts.replica;
        let rules = |id| rules::reader(replica.catalog(), cell.generation, id);
        let size = (WriteClass::Reserve, (4 + set.filters.len()) * ROW_BYTES);
        replica
            .take_in(cell, size, |state, now_ms| ((), state.merge_set(&set, &rules, now_ms)))
            .await?;
        Ok(())
    }

    /// Learns what a peer knows of a bucket. What is lacking is wanted, and pulled whenever that
    /// is enough for a call.
    async fn learn_keyed(
        &self,
        stream: &StreamRef,
        cell: &Arc<StreamCell>,
        (peer, bucket): (NodeId, u8),
        wanted: &mut Vec<KeyedId>,
    ) -> Result<(), RepairError> {
        let mut after = None;
        loop {
            let request = RepairRequest::Keyed(cell.generation, bucket, after);
            let RepairAnswer::Keyed(set, facts) = self.ask_repair(peer, request).await? else {
                return Err(RepairError::NoAnswer);
            };
            let Some(last) = facts.last() else { return Ok(()) };
            after = Some(last.id);
            let is_end = facts.len() < FACTS_MAX;
            let size = (WriteClass::Reserve, facts.len() * ROW_BYTES);
            let lacking = self
                .parts
                .replica
                .take_in(cell, size, |state, now_ms| {
                    let changes = state.merge_keyed(set, &facts, now_ms);
                    (state.lacks_keyed(&facts), changes)
                })
                .await?;
            wanted.extend(lacking);
            if wanted.len() >= PULL_IDS_MAX {
                self.pull_keyed(stream, cell, peer, wanted).await?;
                wanted.clear();
            }
            if is_end {
                return Ok(());
            }
        }
    }

    async fn pull_keyed(
        &self,
        stream: &StreamRef,
        cell: &Arc<StreamCell>,
        peer: NodeId,
        wanted: &[KeyedId],
    ) -> Result<(), RepairError> {
        let mut rest = wanted;
        while !rest.is_empty() {
            let asked = &rest[..rest.len().min(PULL_IDS_MAX)];
            let request = RepairRequest::PullKeyed(stream.generation, asked.to_vec());
            let RepairAnswer::Messages(messages, next) = self.ask_repair(peer, request).await?
            else {
                return Err(RepairError::NoAnswer);
            };
            self.take_messages(stream, cell, messages).await?;
            let last = next.and_then(|(_, dot)| asked.iter().position(|id| dot == Dot::Keyed(*id)));
            rest = &rest[last.map_or(asked.len(), |last| last + 1)..];
        }
        Ok(())
    }

    async fn pull(
        &self,
        stream: &StreamRef,
        cell: &Arc<StreamCell>,
        peer: NodeId,
        wanted: DotSet,
    ) -> Result<(), RepairError> {
        let mut after = None;
        loop {
            let request = RepairRequest::Pull(stream.generation, wanted.clone(), after);
            let RepairAnswer::Messages(messages, next) = self.ask_repair(peer, request).await?
            else {
                return Err(RepairError::NoAnswer);
            };
            self.take_messages(stream, cell, messages).await?;
            if next.is_none() {
                return Ok(());
            }
            after = next;
        }
    }

    async fn take_messages(
        &self,
        stream: &StreamRef,
        cell: &Arc<StreamCell>,
        messages: Vec<Repaired>,
    ) -> Result<(), RepairError> {
        // What does not open is the peer's hole: it is not taken for the message [G18].
        let opens = |repaired: &Repaired| open(stream, &repaired.envelope).is_some();
        let messages: Vec<Repaired> = messages.into_iter().filter(opens).collect();
        if messages.is_empty() {
            return Ok(());
        }
        let weight = |r: &Repaired| r.envelope.sealed.len() + ROW_BYTES;
        let size = (WriteClass::Growth, messages.iter().map(weight).sum());
        metrics::counter!("tertulia_messages_repaired_total").increment(messages.len() as u64);
        self.parts
            .replica
            .take_in(cell, size, |state, now_ms| ((), state.merge_messages(&messages, now_ms)))
            .await?;
        Ok(())
    }

    async fn learn_fates(
        &self,
        cell: &Arc<StreamCell>,
        peer: NodeId,
        reader: SubscriptionId,
        mut dots: DotSet,
    ) -> Result<(), RepairError> {
        while !dots.is_empty() {
            let request = RepairRequest::Attempts(cell.generation, reader, dots.clone());
            let RepairAnswer::Attempts(attempts) = self.ask_repair(peer, request).await? else {
                return Err(RepairError::NoAnswer);
            };
            if attempts.is_empty() {
                return Ok(());
            }
            dots.subtract(&attempts.iter().map(|attempt| attempt.place.1).collect());
            let size = (WriteClass::Reserve, attempts.len() * ROW_BYTES);
            self.parts
                .replica
                .take_in(cell, size, |state, now_ms| {
                    ((), state.merge_fates(reader, &attempts, now_ms))
                })
                .await?;
        }
        Ok(())
    }
}
