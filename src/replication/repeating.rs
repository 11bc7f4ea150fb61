//! A keyed receive that asks again gets what it holds already [F26]: a lost answer costs no lease.

use super::coordinator::{Coordinator, StreamRef};
use super::dispatcher::{Delivery, Granted, Lease, Wanted};
use super::opening::{Found, open};
use super::settling::Settled;
use super::stream_cell::StreamCell;
use crate::protocol::lease::Attempt;
use crate::protocol::op::SettleAction;
use std::sync::Arc;

impl Coordinator {
    /// What a request of that name holds already, extended [F26]; `None`: nothing.
    pub(super) async fn repeat(
        self: &Arc<Self>,
        cell: &Arc<StreamCell>,
        stream: &StreamRef,
        wanted: &Wanted,
        began_ms: u64,
    ) -> Option<Granted> {
        let (reader, duration_ms) = (wanted.reader, wanted.duration_ms);
        let requester = wanted.requester?;
        let held = self
            .parts
            .replica
            .decide(cell, reader, |state, now_ms| state.leased_to(reader, requester, now_ms));
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
        (!granted.deliveries.is_empty()).then_some(granted)
    }
}
