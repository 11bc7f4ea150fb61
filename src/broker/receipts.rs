//! Receipts: the sealed proof that a client holds a message. They name queue, message and lease,
//! so that any node can use them without looking anything up.

use super::{Answer, Broker, Refusal};
use crate::base::ids::{Generation, RequesterId};
use crate::base::names::QueueName;
use crate::protocol::op::{SettleAction, SettleItem};
use crate::protocol::stream::Place;
use crate::replication::dispatcher::Lease;
use serde::{Deserialize, Serialize};

/// What is sealed. Only appended to: receipts outlive an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The stream.
    pub generation: Generation,
    /// CRC-32C of the queue's name: tells an earlier queue of this name from another queue.
    pub queue: u32,
    /// The message.
    pub place: Place,
    /// The holder.
    pub requester: RequesterId,
    /// The fence.
    pub counter: u64,
    /// Leases so far.
    pub receive_count: u32,
    /// Failures so far.
    pub failure_count: u32,
    /// Wall time of the lease's end when it began, in ms: a hint, never a judgement.
    pub expires_ms: u64,
}

impl Receipt {
    /// What to tell the replicas about its message.
    pub(super) fn item(&self, action: SettleAction) -> SettleItem {
        let Self { place, requester, counter, receive_count, failure_count, .. } = *self;
        SettleItem { place, requester, counter, receive_count, failure_count, action }
    }
}

/// The name's fingerprint in a receipt.
pub fn fingerprint(queue: &QueueName) -> u32 {
    crc32c::crc32c(queue.as_str().as_bytes())
}

impl Broker {
    /// The queue whose message a receipt is for.
    ///
    /// # Errors
    /// `ReceiptInvalid` for what is no receipt, `QueueNotFound`.
    pub fn queue_of_receipt(&self, receipt: &str) -> Answer<String> {
        let receipt = self.open_receipt(receipt).ok_or(Refusal::ReceiptInvalid)?;
        let found = self.catalog.queue_by_generation(receipt.generation);
        found.map(|(name, _)| name.to_string()).ok_or(Refusal::QueueNotFound)
    }

    pub(super) fn seal_receipt(
        &self,
        generation: Generation,
        queue: &QueueName,
        lease: &Lease,
        expires_ms: u64,
    ) -> String {
        let receipt = Receipt {
            generation,
            queue: fingerprint(queue),
            place: lease.place,
            requester: lease.requester,
            counter: lease.counter,
            receive_count: lease.receive_count,
            failure_count: lease.failure_count,
            expires_ms,
        };
        let plain = postcard::to_stdvec(&receipt).expect("a receipt always encodes");
        self.receipts.seal(&plain)
    }

    pub(super) fn open_receipt(&self, text: &str) -> Option<Receipt> {
        postcard::from_bytes(&self.receipts.open(text)?).ok()
    }
}
