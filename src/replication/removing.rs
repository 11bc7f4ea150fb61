//! The operations of people: delete one message, purge, redrive.

use super::coordinator::{Coordinator, StreamRef};
use super::gateway::{Forwarded, Forwardee, Road};
use super::settling::Settled;
use crate::base::ids::{RequesterId, SubscriptionId};
use crate::crdt::context::DotSet;
use crate::protocol::op::{Answer, Refusal, Request, SettleAction, SettleItem, SubscriptionOp};
use crate::protocol::stream::{MessageId, Place};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a redrive did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redriven {
    /// Messages that are ready again.
    pub moved: u64,
    /// Dead messages that are left.
    pub remaining: u64,
}

impl Coordinator {
    async fn place_anywhere(
        &self,
        stream: &StreamRef,
        reader: SubscriptionId,
        id: MessageId,
    ) -> Result<Option<Place>, Refusal> {
        if self.is_replica(stream) {
            let cell = self.parts.replica.cell(stream.generation).await?;
            return self.place_or_none(&cell, stream, reader, id).await;
        }
        let seen = self.find(stream, reader, id, u64::MAX).await?;
        Ok(seen.map(|seen| seen.place))
    }

    /// Takes one message out, whoever holds it [R32].
    pub async fn remove(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        id: MessageId,
    ) -> Settled {
        let place = match self.place_anywhere(stream, reader, id).await {
            Ok(Some(place)) => place,
            // What is not there was settled before, or never was: nothing is to be done.
            Ok(None) => return Settled::Done,
            Err(refusal) => return Settled::Refused(refusal),
        };
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
        let mut seen = DotSet::new();
        let take = |answer| match answer {
            Answer::Seen(dots) => {
                seen.merge(&dots);
                true
            }
            _ => false,
        };
        let (tally, _) = self.poll(stream, Request::Context(stream.header()), take).await;
        tally.reached().then_some(seen)
    }

    /// Has a majority change its readers; the greatest count that any of them tells.
    pub(super) async fn count_up(
        &self,
        stream: &StreamRef,
        request: Request,
    ) -> Result<Option<u64>, Refusal> {
        let mut most = 0;
        let take = |answer| match answer {
            Answer::Counted(count) => {
                most = most.max(count);
                true
            }
            Answer::Joined => true,
            _ => false,
        };
        let (tally, refusal) = self.poll(stream, request, take).await;
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
        if let Road::There(nodes) = self.to_replica(stream) {
            let operation = Forwarded::Redrive(stream.target(), reader, max);
            return match self.hand_on_repeatable(nodes, stream.life, operation).await? {
                Forwardee::Redriven(redriven) => Ok(redriven),
                _ => Err(Refusal::Overloaded),
            };
        }
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
