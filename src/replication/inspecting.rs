//! Looking without touching, and the operations of people: delete one, purge, redrive.

use super::coordinator::{Coordinator, StreamRef};
use super::opening::{Found, open};
use super::peers::CallError;
use super::scan;
use super::settling::Settled;
use super::stream_cell::{Side, StreamCell};
use crate::base::ids::{RequesterId, SubscriptionId};
use crate::base::seams::blocking;
use crate::crdt::context::DotSet;
use crate::message::envelope::{Content, Header, Kept, Reason};
use crate::protocol::lease::{Death, Hold};
use crate::protocol::op::{Answer, Refusal, Request, SettleAction, SettleItem, SubscriptionOp};
use crate::protocol::quorum::Tally;
use crate::protocol::stream::{MessageId, Place, Standing};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Places looked at in one go.
const STRIDE: usize = 512;
/// Strides of one look: who wants rare messages of a long queue gets a cursor to go on with.
const STRIDES_MAX: usize = 64;

/// How many messages of a reader are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug, Default)]
pub struct Browsed {
    /// In dispatch order.
    pub items: Vec<Seen>,
    /// Where to go on; none: there are no more.
    pub next: Option<Place>,
}

/// What a redrive did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redriven {
    /// Messages that are ready again.
    pub moved: u64,
    /// Dead messages that are left.
    pub remaining: u64,
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
        let replica = &self.parts.replica;
        let cell = replica.cell(stream.generation).await?;
        let place = replica.decide(&cell, reader, |state, _| {
            state.place_of(id).filter(|place| state.is_open(reader, place.1))
        });
        let Some(place) = place else { return Ok(None) };
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

    /// Takes one message out, whoever holds it [R32].
    pub async fn remove(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        id: MessageId,
    ) -> Settled {
        let cell = match self.parts.replica.cell(stream.generation).await {
            Ok(cell) => cell,
            Err(refusal) => return Settled::Refused(refusal),
        };
        let place =
            cell.decide(|state| state.place_of(id).filter(|place| state.is_open(reader, place.1)));
        // What is not there was settled before, or never was: nothing is to be done.
        let Some(place) = place else { return Settled::Done };
        let items = vec![item(place, SettleAction::Remove)];
        self.settle(stream, reader, items, false).await.pop().unwrap_or(Settled::Unknown)
    }

    /// Settles what a read quorum has seen: everything acknowledged to its sender before, nothing
    /// sent after [G13]. Returns how many messages that were; `None`: no majority confirmed.
    ///
    /// # Errors
    /// [`Refusal`], and nothing was settled.
    pub async fn purge(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
    ) -> Result<Option<u64>, Refusal> {
        let Some(seen) = self.seen(stream).await else { return Err(Refusal::Overloaded) };
        let request = Request::Subscription(stream.header(), SubscriptionOp::Purge(reader, seen));
        self.count_up(stream, request).await
    }

    /// The union of the contexts of a majority.
    async fn seen(&self, stream: &StreamRef) -> Option<DotSet> {
        let mut tally = Tally::new(stream.view.clone());
        let mut seen = DotSet::new();
        let request = Arc::new(Request::Context(stream.header()));
        let local = self.own_vote(request.clone());
        self.ask(&stream.view, request, None, local, |node, answer| {
            match answer {
                Ok(Answer::Seen(dots)) => {
                    seen.merge(&dots);
                    tally.yes(node);
                }
                Ok(Answer::Refused(_)) | Err(CallError::NotAsked) => tally.no(node),
                Ok(_) | Err(CallError::Lost) => tally.lost(node),
            }
            tally.outcome().is_some()
        })
        .await;
        tally.reached().then_some(seen)
    }

    /// Has a majority change its readers; the greatest count that any of them tells.
    pub(super) async fn count_up(
        &self,
        stream: &StreamRef,
        request: Request,
    ) -> Result<Option<u64>, Refusal> {
        let mut tally = Tally::new(stream.view.clone());
        let (mut most, mut refusal) = (0, None);
        let request = Arc::new(request);
        let local = self.own_vote(request.clone());
        self.ask(&stream.view, request, None, local, |node, answer| {
            match answer {
                Ok(Answer::Counted(count)) => {
                    most = most.max(count);
                    tally.yes(node);
                }
                Ok(Answer::Joined) => tally.yes(node),
                Ok(Answer::Refused(why)) => {
                    refusal = Some(why);
                    tally.no(node);
                }
                Err(CallError::NotAsked) => tally.no(node),
                Ok(_) | Err(CallError::Lost) => tally.lost(node),
            }
            tally.outcome().is_some()
        })
        .await;
        match (tally.reached(), refusal) {
            (true, _) => Ok(Some(most)),
            (false, Some(refusal)) if tally.refused() => Err(refusal),
            (false, _) => Ok(None),
        }
    }

    /// Makes up to `max` dead messages ready again, the oldest first.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn redrive(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        max: usize,
    ) -> Result<Redriven, Refusal> {
        let replica = &self.parts.replica;
        let cell = replica.cell(stream.generation).await?;
        let dead = replica.decide(&cell, reader, |state, _| state.dead(reader, None, max));
        let items = dead.into_iter().map(|place| item(place, SettleAction::Redrive)).collect();
        let settled = self.settle(stream, reader, items, false).await;
        let moved = settled.iter().filter(|settled| **settled == Settled::Done).count() as u64;
        let remaining = replica.decide(&cell, reader, |state, _| state.counts(reader).dead);
        Ok(Redriven { moved, remaining })
    }
}

/// A settlement that asks for no lease.
pub(super) fn item(place: Place, action: SettleAction) -> SettleItem {
    let requester = RequesterId([0; 16]);
    SettleItem { place, requester, counter: 0, receive_count: 0, failure_count: 0, action }
}
