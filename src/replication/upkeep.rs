//! What the broker does to messages by itself: drops those whose time is over, buries those that
//! failed too often, removes the rows of a purge.
//!
//! It acts like a consumer: majority lease, act, settle [F18].

use super::coordinator::{Coordinator, StreamRef};
use super::gateway::Road;
use super::removing::item;
use super::rows::ROW_BYTES;
use super::scan;
use super::settling::Settled;
use super::stream_cell::StreamCell;
use crate::base::ids::{RequesterId, SubscriptionId};
use crate::base::seams::blocking;
use crate::protocol::op::{
    Answer, LeaseDot, LeaseOp, LeaseVote, Purpose, Refusal, Request, SettleAction, SettleItem,
};
use crate::protocol::quorum::Tally;
use crate::protocol::stream::{Place, Stream};
use crate::store::WriteClass;
use std::sync::Arc;

/// Messages dealt with in one go.
const CHUNK: usize = 500;
/// How long the broker holds what it drops, in ms.
const HOLD_MS: u64 = 30_000;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attended {
    /// Messages dropped because their time was over.
    pub expired: u64,
    /// Messages that are dead now.
    pub buried: u64,
    /// Some could not be won: no majority, or others hold them.
    pub is_some_left: bool,
}

impl Coordinator {
    /// Deals with what is left to do for a reader.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or overloaded: what is left stays noted.
    pub async fn attend(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
    ) -> Result<Attended, Refusal> {
        let replica = &self.parts.replica;
        let cell = replica.cell(stream.generation).await?;
        let mut attended = Attended::default();
        // Of several replicas the dispatcher does it: three that ask at once win nothing.
        while matches!(self.to_dispatcher(stream), Road::Here) {
            let stream = &stream.anew();
            let doomed =
                replica.decide(&cell, reader, |state, now_ms| state.doomed(reader, CHUNK, now_ms));
            let of = |wanted: Purpose| -> Vec<Place> {
                let fits =
                    |(place, purpose): &(Place, Purpose)| (*purpose == wanted).then_some(*place);
                doomed.iter().filter_map(fits).collect()
            };
            let (bury, expire) = (of(Purpose::Bury), of(Purpose::Expire));
            let buried = self.take(stream, reader, bury, Purpose::Bury).await?.len() as u64;
            let expired = self.expire(stream, reader, expire).await?;
            attended.buried += buried;
            attended.expired += expired;
            // What could not be won is tried again the next time, if it is still doomed then.
            if buried + expired == 0 {
                attended.is_some_left = !doomed.is_empty();
                let left: Vec<Place> = doomed.iter().map(|(place, _)| *place).collect();
                replica.decide(&cell, reader, |state, now_ms| {
                    state.reconsider(reader, &left, now_ms);
                });
                break;
            }
        }
        self.sweep_purged(&cell, stream).await?;
        Ok(attended)
    }

    /// Drops messages at the head of a reader whose retention is over. Reads no more of the disk
    /// than these.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn expire_head(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        retention_ms: u64,
    ) -> Result<u64, Refusal> {
        let mut expired = 0;
        let mut limit = 1;
        if matches!(self.to_dispatcher(stream), Road::There(_)) {
            return Ok(0);
        }
        loop {
            let stream = &stream.anew();
            let places = self.places(stream, reader, None, limit).await?;
            let over = self.over(stream, &places, retention_ms).await;
            if over.is_empty() {
                return Ok(expired);
            }
            let all = over.len() == places.len();
            let done = self.expire(stream, reader, over).await?;
            expired += done;
            if done == 0 || !all {
                return Ok(expired);
            }
            limit = CHUNK;
        }
    }

    async fn over(&self, stream: &StreamRef, places: &[Place], retention_ms: u64) -> Vec<Place> {
        let found = self.read(stream, places.to_vec(), usize::MAX).await;
        let now_ms = self.parts.replica.service().now_ms();
        let is_over = |(place, found): (&Place, super::opening::Found)| match found {
            super::opening::Found::Here(kept) => {
                (kept.ends_ms(retention_ms) <= now_ms).then_some(*place)
            }
            _ => None,
        };
        places.iter().zip(found).filter_map(is_over).collect()
    }

    async fn expire(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        places: Vec<Place>,
    ) -> Result<u64, Refusal> {
        let won = self.take(stream, reader, places, Purpose::Expire).await?;
        let settled = self.settle(stream, reader, won, false).await;
        let count = settled.iter().filter(|settled| **settled == Settled::Done).count() as u64;
        metrics::counter!("tertulia_messages_expired_total").increment(count);
        Ok(count)
    }

    /// Leases messages to the broker; an acknowledgement for each that a majority granted.
    async fn take(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        places: Vec<Place>,
        purpose: Purpose,
    ) -> Result<Vec<SettleItem>, Refusal> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let replica = &self.parts.replica;
        let cell = replica.cell(stream.generation).await?;
        let now_ms = replica.service().now_ms();
        let (counter, failures, dots) = cell.decide(|state| {
            let failures = |place: &Place| state.failures(reader, place.1, now_ms);
            let dots = places.iter().map(|place| bare(state, *place)).collect();
            (state.next_counter(reader), places.iter().map(failures).collect(), dots)
        });
        let requester = RequesterId::random(&*self.parts.rng);
        let op = LeaseOp {
            header: stream.header(),
            reader,
            requester,
            holder: String::new(),
            purpose,
            counter,
            duration_ms: HOLD_MS,
            dots,
            failures,
        };
        let mut tallies: Vec<Tally> =
            places.iter().map(|_| Tally::new(stream.view.clone())).collect();
        let mut refusal = None;
        let request = Arc::new(Request::Lease(op));
        let local = self.own_vote(request.clone());
        self.ask(stream, request, None, local, |node, answer| {
            for (i, tally) in tallies.iter_mut().enumerate() {
                match &answer {
                    Ok(Answer::Leased(votes)) => match votes.get(i) {
                        Some(LeaseVote::Granted { .. }) => tally.yes(node),
                        _ => tally.no(node),
                    },
                    Ok(Answer::Refused(why)) => {
                        refusal = Some(*why);
                        tally.no(node);
                    }
                    _ => tally.lost(node),
                }
            }
            tallies.iter().all(|tally| tally.outcome().is_some())
        })
        .await;
        let (mut won, mut lost) = (Vec::new(), Vec::new());
        for (place, tally) in places.iter().zip(&tallies) {
            let ack = SettleItem { requester, counter, ..item(*place, SettleAction::Ack) };
            if tally.reached() {
                won.push(ack);
            } else {
                lost.push(SettleItem { action: SettleAction::Withdraw, ..ack });
            }
        }
        // What a minority granted would hide the messages until it runs out [R25].
        self.withdraw_items(stream, reader, lost);
        match refusal {
            Some(refusal) if won.is_empty() => Err(refusal),
            _ => Ok(won),
        }
    }

    /// Removes the rows of what was purged, piece by piece, and readers that left.
    async fn sweep_purged(
        &self,
        cell: &Arc<StreamCell>,
        stream: &StreamRef,
    ) -> Result<(), Refusal> {
        let replica = &self.parts.replica;
        for reader in cell.decide(|state| state.unswept()) {
            let all = cell.decide(|state| state.to_sweep(reader));
            let mut after = None;
            loop {
                let places = self.places(stream, reader, after, CHUNK).await?;
                let is_end = places.len() < CHUNK;
                after = places.last().copied();
                let admission = replica.admit(WriteClass::Reserve, 4 * CHUNK * ROW_BYTES)?;
                let ticket = cell.decide(|state| {
                    let mut changes = state.sweep(reader, &places);
                    if is_end {
                        changes.extend(state.swept(reader, &all));
                    }
                    replica.submit(admission, cell.generation, state, changes)
                });
                ticket.await.map_err(|_| Refusal::Stopping)?;
                if is_end {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether a reader's first message on the disk is over: looks at no stream in memory.
    ///
    /// # Errors
    /// [`Refusal`], when the disk cannot be read.
    pub async fn head_is_over(
        &self,
        stream: &StreamRef,
        reader: SubscriptionId,
        retention_ms: u64,
    ) -> Result<bool, Refusal> {
        let (store, generation) = (self.parts.replica.store().clone(), stream.generation);
        let read = move || {
            let first = scan::places(&store, generation, reader, None, 1).ok()?.pop()?;
            scan::message(&store, generation, first).ok().flatten()
        };
        let kept = blocking(&**self.parts.replica.spawn(), read).await;
        let now_ms = self.parts.replica.service().now_ms();
        Ok(kept.is_some_and(|kept| kept.ends_ms(retention_ms) <= now_ms))
    }
}

/// A message to be leased, without its payload.
fn bare(state: &Stream, place: Place) -> LeaseDot {
    let content_mac = state.content_mac(place.1);
    LeaseDot { place, envelope: None, age_ms: 0, content_mac }
}
