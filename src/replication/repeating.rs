//! A keyed receive that asks again gets what it holds already [F26]: a lost answer costs no lease,
//! whichever node the first one went through, and if that node is gone.
//!
//! So many replicas are asked that one of them was in the majority that granted. What any of them
//! holds is extended: a majority decides about that, as it does about a lease.

use super::coordinator::{Coordinator, StreamRef};
use super::dispatcher::{Delivery, Granted, Lease, ReceiveError, Wanted};
use super::opening::{Found, open};
use super::replica::Replica;
use super::settling::Settled;
use super::stream_cell::StreamCell;
use crate::base::ids::{RequesterId, SubscriptionId};
use crate::crdt::dot::Dot;
use crate::protocol::lease::Attempt;
use crate::protocol::op::{Answer, OpHeader, Refusal, Request, SettleAction};
use crate::store::Ticket;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Replica {
    /// What is leased to a request here.
    pub(super) async fn held(
        &self,
        header: &OpHeader,
        reader: SubscriptionId,
        requester: RequesterId,
    ) -> Result<(Ticket, Answer), Refusal> {
        let cell = self.cell_of(header).await?;
        let held =
            self.decide(&cell, reader, |state, now_ms| state.leased_to(reader, requester, now_ms));
        Ok((self.store().barrier(), Answer::Held(held)))
    }
}

impl Coordinator {
    /// What a request of that name holds already, extended [F26]; `None`: nothing.
    ///
    /// # Errors
    /// [`ReceiveError::NoQuorum`]: nobody can tell.
    pub(super) async fn repeat(
        self: &Arc<Self>,
        cell: &Arc<StreamCell>,
        stream: &StreamRef,
        wanted: &Wanted,
        began_ms: u64,
    ) -> Result<Option<Granted>, ReceiveError> {
        let (reader, duration_ms) = (wanted.reader, wanted.duration_ms);
        let Some(requester) = wanted.requester else { return Ok(None) };
        let held = self.held_by(stream, reader, requester).await?;
        self.fetch(cell, stream, &held).await;
        // Each replica may keep a keyed message under a stamp of its own.
        let own = |attempt: Attempt| {
            let place = cell.decide(|state| state.own_place(attempt.place));
            Attempt { place, ..attempt }
        };
        let held: Vec<Attempt> = held.into_iter().map(own).collect();
        let lease = |attempt: &Attempt| Lease {
            place: attempt.place,
            requester,
            counter: attempt.counter,
            receive_count: attempt.receive_count,
            failure_count: attempt.failure_count,
            began_ms,
            duration_ms,
        };
        let leases: Vec<Lease> = held.iter().map(lease).collect();
        let extend = |lease: &Lease| lease.item(SettleAction::Extend { duration_ms });
        let items = leases.iter().map(extend).collect();
        let settled = self.settle(stream, reader, items, false).await;
        let mut deliveries = Vec::new();
        for ((lease, attempt), settled) in leases.iter().zip(&held).zip(settled) {
            if settled != Settled::Done {
                continue;
            }
            let found = self.read(stream, vec![lease.place], 1).await.pop();
            if let Some(Found::Here(kept)) = found
                && let Some(content) = open(stream, &kept.envelope)
            {
                let (header, death) = (kept.envelope.header.clone(), attempt.death);
                let (lease, detail) = (*lease, None);
                deliveries.push(Delivery { header, content, lease, death, detail });
            }
        }
        deliveries.sort_by_key(|delivery| delivery.lease.place);
        let (coordinator, stream) = (self.clone(), stream.clone());
        let granted = Granted { coordinator, stream, reader, deliveries, is_repeat: true };
        Ok((!granted.deliveries.is_empty()).then_some(granted))
    }

    /// What replicas hold for a request: of a majority, each message under its highest ballot.
    async fn held_by(
        &self,
        stream: &StreamRef,
        reader: SubscriptionId,
        requester: RequesterId,
    ) -> Result<Vec<Attempt>, ReceiveError> {
        let mut held: BTreeMap<Dot, Attempt> = BTreeMap::new();
        let take = |answer| {
            let Answer::Held(attempts) = answer else { return false };
            for attempt in attempts {
                let known = held.entry(attempt.place.1).or_insert(attempt);
                if attempt.counter > known.counter {
                    *known = attempt;
                }
                known.receive_count = known.receive_count.max(attempt.receive_count);
                known.failure_count = known.failure_count.max(attempt.failure_count);
            }
            true
        };
        let request = Request::Held(stream.header(), reader, requester);
        let (tally, _) = self.poll(stream, request, take).await;
        if !tally.reached() {
            return Err(ReceiveError::NoQuorum);
        }
        Ok(held.into_values().collect())
    }

    /// Pulls what is held and not here.
    async fn fetch(&self, cell: &Arc<StreamCell>, stream: &StreamRef, held: &[Attempt]) {
        let lacks =
            || cell.decide(|state| held.iter().any(|attempt| !state.is_known(attempt.place.1)));
        let me = self.parts.replica.node();
        for peer in stream.view.replicas().into_iter().filter(|node| *node != me) {
            if !lacks() {
                return;
            }
            let pulling = self.catch_up(stream, peer);
            let _ = tokio::time::timeout(stream.life.left() / 2, pulling).await;
        }
    }
}
