//! Giving back what was leased and never handed out, and what only a minority granted [R25].

use super::coordinator::{Coordinator, StreamRef};
use super::dispatcher::Lease;
use super::settling::Settled;
use crate::base::ids::SubscriptionId;
use crate::protocol::op::{SettleAction, SettleItem};
use std::sync::Arc;
use std::time::Duration;

/// How often a withdrawal is tried, and the first pause between two tries; each next one is twice
/// as long.
const WITHDRAW_TRIES: u32 = 8;
const WITHDRAW_PAUSE: Duration = Duration::from_millis(50);

impl Coordinator {
    /// A withdrawal that an overloaded node refuses is tried again for a while: the messages would
    /// stay hidden until their leases end.
    async fn withdraw_until_done(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        mut items: Vec<SettleItem>,
    ) {
        for tried in 0..WITHDRAW_TRIES {
            let settled = self.settle(&stream.anew(), reader, items.clone(), false).await;
            let mut open =
                settled.iter().map(|s| matches!(s, Settled::Refused(_) | Settled::Unknown));
            items.retain(|_| open.next().unwrap_or(false));
            if items.is_empty() {
                return;
            }
            tokio::time::sleep(WITHDRAW_PAUSE * 2_u32.pow(tried)).await;
        }
    }

    /// Gives back leases whose messages were never handed out, in the background.
    pub(super) fn withdraw(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        leases: Vec<Lease>,
    ) {
        let items = leases.iter().map(|lease| lease.item(SettleAction::Withdraw)).collect();
        self.withdraw_items(stream, reader, items);
    }

    pub(super) fn withdraw_items(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        items: Vec<SettleItem>,
    ) {
        if items.is_empty() {
            return;
        }
        let (coordinator, stream) = (self.clone(), stream.clone());
        self.parts.replica.spawn().task(Box::pin(async move {
            coordinator.withdraw_until_done(&stream, reader, items).await;
        }));
    }
}
