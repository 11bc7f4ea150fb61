//! Looking without touching.

use super::coordinator::{Coordinator, StreamRef};
use super::gateway::{Forwarded, Forwardee, Road};
use super::opening::{Found, open};
use super::scan;
use super::stream_cell::{Side, StreamCell};
use crate::base::ids::SubscriptionId;
use crate::base::seams::blocking;
use crate::message::envelope::{Content, Header, Kept, Reason};
use crate::protocol::lease::{Death, Hold};
use crate::protocol::op::Refusal;
use crate::protocol::stream::{MessageId, Place, Standing};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Places looked at in one go.
const STRIDE: usize = 512;
/// Strides of one look: who wants rare messages of a long queue gets a cursor to go on with.
const STRIDES_MAX: usize = 64;

/// How many messages of a reader are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Waiting to be received.
    pub ready: u64,
    /// Under a running lease.
    pub leased: u64,
    /// Not due yet.
    pub delayed: u64,
    /// Dead.
    pub dead: u64,
    /// Bytes of all of them, as kept.
    pub bytes: u64,
    /// Since when the oldest is here, in ms; 0: there is none.
    pub oldest_age_ms: u64,
    /// Receivers that wait at this node.
    pub waiting: usize,
}

/// What a stream keeps for all its readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Messages, each once.
    pub messages: u64,
    /// Bytes of all of them, as kept.
    pub bytes: u64,
    /// Rows of a purge are still being removed.
    pub is_being_purged: bool,
}

/// Which messages to look at.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Browse {
    /// Only those that stand so.
    pub state: Option<Standing>,
    /// Only those behind this place.
    pub after: Option<Place>,
    /// Messages at most.
    pub limit: usize,
    /// Bytes of payloads at most, but one message always fits.
    pub bytes_max: usize,
}

/// A message that was looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Where it is in the order.
    pub place: Place,
    /// Where it stands.
    pub standing: Standing,
    /// The clear part.
    pub header: Header,
    /// What was sent.
    pub content: Content,
    /// Leases so far.
    pub receive_count: u32,
    /// Failures so far.
    pub failure_count: u32,
    /// When its lease ends, in ms from now.
    pub lease_ends_in_ms: Option<u64>,
    /// When it is due, in ms from now.
    pub due_in_ms: Option<u64>,
    /// The name of the user who has it.
    pub held_by: Option<String>,
    /// When and why it died.
    pub death: Option<Death>,
    /// Why it failed last, if it is dead and somebody said so.
    pub detail: Option<Reason>,
    /// When it is dropped, in ms from now.
    pub expires_in_ms: u64,
}

/// Messages that were looked at.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Browsed {
    /// In dispatch order.
    pub items: Vec<Seen>,
    /// Where to go on; none: there are no more.
    pub next: Option<Place>,
}

/// What is known of a message without its payload.
struct Facts {
    place: Place,
    standing: Standing,
    counts: (u32, u32),
    lease_ends_ms: Option<u64>,
    due_ms: Option<u64>,
    held_by: Option<String>,
    death: Option<Death>,
}

fn waiting(cell: &StreamCell, reader: SubscriptionId, side: Side) -> usize {
    cell.bell(reader, side).waiting.load(Ordering::Relaxed)
}

fn facts(cell: &StreamCell, reader: SubscriptionId, places: &[Place], now_ms: u64) -> Vec<Facts> {
    cell.decide(|state| {
        let of = |place: &Place| {
            let dot = place.1;
            let standing = state.standing(reader, *place, now_ms);
            let attempt = state.attempt(reader, dot);
            let lease_ends_ms = attempt.and_then(|a| match a.hold {
                Hold::Leased { until_ms } if standing == Standing::Leased => Some(until_ms),
                _ => None,
            });
            let held_by = lease_ends_ms.and_then(|_| state.holder(reader, dot).map(str::to_owned));
            Facts {
                place: *place,
                standing,
                counts: attempt.map_or((0, 0), |a| (a.receive_count, a.failures(now_ms))),
                lease_ends_ms,
                due_ms: (standing == Standing::Delayed).then(|| state.due_ms(reader, dot)),
                held_by,
                death: attempt.and_then(|a| a.death),
            }
        };
        places.iter().map(of).collect()
    })
}

impl Facts {
    fn seen(self, kept: &Kept, content: Content, now_ms: u64, retention_ms: u64) -> Seen {
        Seen {
            place: self.place,
            standing: self.standing,
            header: kept.envelope.header.clone(),
            content,
            receive_count: self.counts.0,
            failure_count: self.counts.1,
            lease_ends_in_ms: self.lease_ends_ms.map(|at| at.saturating_sub(now_ms)),
            due_in_ms: self.due_ms.map(|at| at.saturating_sub(now_ms)),
            held_by: self.held_by,
            death: self.death,
            detail: None,
            expires_in_ms: kept.ends_ms(retention_ms).saturating_sub(now_ms),
        }
    }

    /// Whether people who ask for a state mean this.
    fn is(&self, wanted: Option<Standing>) -> bool {
        let shown = match self.standing {
            Standing::Settled | Standing::Expired => return false,
            Standing::Blocked => Standing::Ready,
            Standing::Failed => Standing::Dead,
            other => other,
        };
        wanted.is_none_or(|wanted| wanted == shown)
    }
}

impl Coordinator {
    /// Counts a reader's messages.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn stats(
        &self,
        stream: &StreamRef,
        reader: SubscriptionId,
    ) -> Result<Stats, Refusal> {
        if let Road::There(nodes) = self.to_replica(stream) {
            let operation = Forwarded::Stats(stream.target(), reader);
            return match self.hand_on_repeatable(nodes, stream.life, operation).await? {
                Forwardee::Counted(stats) => Ok(stats),
                _ => Err(Refusal::Overloaded),
            };
        }
        let replica = &self.parts.replica;
        let cell = replica.cell(stream.generation).await?;
        let counts = replica.decide(&cell, reader, |state, _| state.counts(reader));
        let mut oldest_age_ms = 0;
        if counts.ready + counts.leased + counts.delayed + counts.dead > 0 {
            let first = self.places(stream, reader, None, 1).await?.first().copied();
            let kept = self.read(stream, first.into_iter().collect(), 1).await.pop();
            if let Some(Found::Here(kept)) = kept {
                oldest_age_ms = replica.service().now_ms().saturating_sub(kept.received_ms);
            }
        }
        Ok(Stats {
            ready: counts.ready,
            leased: counts.leased,
            delayed: counts.delayed,
            dead: counts.dead,
            bytes: counts.bytes,
            oldest_age_ms,
            waiting: Side::ALL.map(|side| waiting(&cell, reader, side)).iter().sum(),
        })
    }

    /// Counts what a stream keeps, whoever it is for. Reads no disk.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn kept(&self, stream: &StreamRef) -> Result<Totals, Refusal> {
        let cell = self.parts.replica.cell(stream.generation).await?;
        Ok(cell.decide(|state| Totals {
            messages: state.count(),
            bytes: state.bytes(),
            is_being_purged: !state.unswept().is_empty(),
        }))
    }

    /// A reader's places on the disk.
    pub(super) async fn places(
        &self,
        stream: &StreamRef,
        reader: SubscriptionId,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Vec<Place>, Refusal> {
        let (store, generation) = (self.parts.replica.store().clone(), stream.generation);
        // What is queued for the disk must be on it before the disk is asked.
        store.barrier().await.map_err(|_| Refusal::Stopping)?;
        let read = move || scan::places(&store, generation, reader, after, limit);
        blocking(&**self.parts.replica.spawn(), read).await.map_err(|error| {
            tracing::error!(%error, stream = %generation, "a stream cannot be read");
            Refusal::Overloaded
        })
    }

    /// Where these messages are, as far as they are known here.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn places_of(
        &self,
        stream: &StreamRef,
        ids: &[MessageId],
    ) -> Result<Vec<Place>, Refusal> {
        let cell = self.parts.replica.cell(stream.generation).await?;
        Ok(cell.decide(|state| ids.iter().filter_map(|id| state.place_of(*id)).collect()))
    }

    /// Looks at a reader's messages in dispatch order. Nothing changes.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn browse(
        &self,
        stream: &StreamRef,
        reader: SubscriptionId,
        browse: Browse,
        retention_ms: u64,
    ) -> Result<Browsed, Refusal> {
        if let Road::There(nodes) = self.to_replica(stream) {
            let operation = Forwarded::Browse(stream.target(), reader, browse, retention_ms);
            return match self.hand_on_repeatable(nodes, stream.life, operation).await? {
                Forwardee::Browsed(browsed) => Ok(browsed),
                _ => Err(Refusal::Overloaded),
            };
        }
        let replica = &self.parts.replica;
        let cell = replica.cell(stream.generation).await?;
        replica.decide(&cell, reader, |_, _| ());
        let mut after = browse.after;
        let mut found: Vec<Facts> = Vec::new();
        let mut is_end = false;
        for _ in 0..STRIDES_MAX {
            let places = self.places(stream, reader, after, STRIDE).await?;
            let now_ms = replica.service().now_ms();
            let all = facts(&cell, reader, &places, now_ms);
            is_end = places.len() < STRIDE;
            after = places.last().copied().or(after);
            found.extend(all.into_iter().filter(|facts| facts.is(browse.state)));
            if is_end || found.len() > browse.limit {
                break;
            }
        }
        if found.len() > browse.limit {
            found.truncate(browse.limit);
            (after, is_end) = (found.last().map(|facts| facts.place), false);
        }
        let opening = self.open_seen(stream, found, browse, retention_ms, (after, is_end));
        let mut browsed = opening.await?;
        self.add_reasons(&cell, stream, reader, &mut browsed.items).await;
        Ok(browsed)
    }

    async fn open_seen(
        &self,
        stream: &StreamRef,
        found: Vec<Facts>,
        browse: Browse,
        retention_ms: u64,
        (after, is_end): (Option<Place>, bool),
    ) -> Result<Browsed, Refusal> {
        let places: Vec<Place> = found.iter().map(|facts| facts.place).collect();
        let mut read = self.read(stream, places, browse.bytes_max).await.into_iter();
        let now_ms = self.parts.replica.service().now_ms();
        let mut browsed = Browsed { items: Vec::new(), next: after.filter(|_| !is_end) };
        let mut last = browse.after;
        for facts in found {
            let place = facts.place;
            match read.next() {
                Some(Found::Here(kept)) => {
                    if let Some(content) = open(stream, &kept.envelope) {
                        browsed.items.push(facts.seen(&kept, content, now_ms, retention_ms));
                    }
                }
                // Settled meanwhile.
                Some(Found::Nothing) => {}
                // There is enough already: the next page begins here.
                Some(Found::Later) | None => {
                    browsed.next = last;
                    break;
                }
            }
            last = Some(place);
        }
        Ok(browsed)
    }

    /// Looks at one message; `None` when it is not there (any more).
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn find(
        &self,
        stream: &StreamRef,
        reader: SubscriptionId,
        id: MessageId,
        retention_ms: u64,
    ) -> Result<Option<Seen>, Refusal> {
        if let Road::There(nodes) = self.to_replica(stream) {
            let operation = Forwarded::Find(stream.target(), reader, id, retention_ms);
            return match self.hand_on_repeatable(nodes, stream.life, operation).await? {
                Forwardee::Found(seen) => Ok(seen.map(|seen| *seen)),
                _ => Err(Refusal::Overloaded),
            };
        }
        let replica = &self.parts.replica;
        let cell = replica.cell(stream.generation).await?;
        let Some(place) = self.place_or_none(&cell, stream, reader, id).await? else {
            return Ok(None);
        };
        let found = self.read(stream, vec![place], 1).await.pop();
        let now_ms = replica.service().now_ms();
        let facts = facts(&cell, reader, &[place], now_ms).pop();
        let (Some(Found::Here(kept)), Some(facts)) = (found, facts) else { return Ok(None) };
        let content = open(stream, &kept.envelope);
        let seen = content.map(|content| facts.seen(&kept, content, now_ms, retention_ms));
        let mut seen: Vec<Seen> = seen.into_iter().collect();
        self.add_reasons(&cell, stream, reader, &mut seen).await;
        Ok(seen.pop())
    }

    /// Adds to the dead why they failed.
    async fn add_reasons(
        &self,
        cell: &StreamCell,
        stream: &StreamRef,
        reader: SubscriptionId,
        seen: &mut [Seen],
    ) {
        let mut dead: Vec<&mut Seen> = seen.iter_mut().filter(|it| it.death.is_some()).collect();
        let dots = dead.iter().map(|it| it.place.1).collect();
        let reasons = self.reasons(cell, stream, reader, dots).await;
        for (seen, reason) in dead.iter_mut().zip(reasons) {
            seen.detail = reason;
        }
    }

    /// Where an open message is. `None` only when so many replicas were asked that none that a
    /// majority has can be missed [F27].
    pub(super) async fn place_or_none(
        &self,
        cell: &Arc<StreamCell>,
        stream: &StreamRef,
        reader: SubscriptionId,
        id: MessageId,
    ) -> Result<Option<Place>, Refusal> {
        let began = tokio::time::Instant::now();
        let place = || {
            self.parts.replica.decide(cell, reader, |state, _| {
                state.place_of(id).filter(|place| state.is_open(reader, place.1))
            })
        };
        if let Some(place) = place() {
            return Ok(Some(place));
        }
        if !self.confirm(stream, began).await {
            return Err(Refusal::Overloaded);
        }
        Ok(place())
    }
}
