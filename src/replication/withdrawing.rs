//! Giving back what was leased and never handed out, and what only a minority granted [R25].

use super::coordinator::{Coordinator, StreamRef};
use super::dispatcher::{Granted, Lease, Wanted};
use super::settling::Settled;
use crate::base::ids::{RequesterId, SubscriptionId};
use crate::protocol::op::{Answer, Request, SettleAction, SettleItem};
use std::sync::Arc;
use std::time::Duration;

/// How often a withdrawal is tried, and the first pause between two tries; each next one is twice
/// as long.
const WITHDRAW_TRIES: u32 = 8;
const WITHDRAW_PAUSE: Duration = Duration::from_millis(50);

/// A receive that another node runs: withdrawn as a whole unless that one's answer comes, whatever
/// becomes of whoever waits for it here [R25].
pub(super) struct Unanswered {
    coordinator: Arc<Coordinator>,
    stream: StreamRef,
    reader: SubscriptionId,
    /// `None`: it was answered, or its sender may repeat it and gets it then [F26].
    requester: Option<RequesterId>,
}

impl Unanswered {
    pub(super) fn of(
        coordinator: &Arc<Coordinator>,
        stream: &StreamRef,
        wanted: &Wanted,
        requester: RequesterId,
    ) -> Self {
        let requester = wanted.requester.is_none().then_some(requester);
        let (coordinator, stream) = (coordinator.clone(), stream.clone());
        Self { coordinator, stream, reader: wanted.reader, requester }
    }

    pub(super) fn is_answered(&mut self) {
        self.requester = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let Some(requester) = self.requester else { return };
        let (coordinator, stream) = (self.coordinator.clone(), self.stream.clone());
        let reader = self.reader;
        self.coordinator.parts.replica.spawn().task(Box::pin(async move {
            coordinator.withdraw_request(&stream, reader, requester).await;
        }));
    }
}

impl Granted {
    /// Keeps what was settled, and withdraws what certainly was not: else it would stay hidden for
    /// its lease and count a failure. What may have been settled is neither [F12].
    pub fn keep_settled(&mut self, settled: &[Settled]) {
        let mut back = Vec::new();
        let mut verdicts = settled.iter();
        self.deliveries.retain(|delivery| match verdicts.next() {
            Some(Settled::Done) => true,
            Some(Settled::Lost | Settled::Refused(_)) => {
                back.push(delivery.lease);
                false
            }
            Some(Settled::Unknown) | None => false,
        });
        self.coordinator.withdraw(&self.stream, self.reader, back);
    }
}

impl Coordinator {
    /// Withdraws all that a request was granted, at every replica that can be reached, until a
    /// majority has done so; the others find its grants to be nobody's [F10].
    async fn withdraw_request(
        &self,
        stream: &StreamRef,
        reader: SubscriptionId,
        requester: RequesterId,
    ) {
        metrics::counter!("tertulia_receives_withdrawn_total").increment(1);
        for tried in 0..WITHDRAW_TRIES {
            let stream = &stream.anew();
            let request = Request::Withdraw(stream.header(), reader, requester);
            let take = |answer| matches!(answer, Answer::Disowned(_));
            let (tally, _) = self.poll(stream, request, take).await;
            if tally.reached() {
                return;
            }
            tokio::time::sleep(WITHDRAW_PAUSE * 2_u32.pow(tried)).await;
        }
    }

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
