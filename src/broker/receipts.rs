//! Receipts: the sealed proof that a client holds a message. They name queue, message and lease,
//! so that any node can use them without looking anything up.

use super::consumers::SourceName;
use super::objects::name_of;
use super::sources::{Address, Reading};
use super::{Answer, Broker, Refusal};
use crate::base::ids::{Generation, RequesterId, SubscriptionId};
use crate::protocol::op::{SettleAction, SettleItem};
use crate::protocol::stream::Place;
use crate::replication::dispatcher::Lease;
use serde::{Deserialize, Serialize};

/// What is sealed. Only appended to: receipts outlive an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The stream.
    pub generation: Generation,
    /// The reader.
    pub reader: SubscriptionId,
    /// CRC-32C of its name: tells an earlier creation of this name from another one.
    pub address: u32,
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
pub fn fingerprint(address: &Address) -> u32 {
    crc32c::crc32c(address.to_string().as_bytes())
}

impl Broker {
    /// Where the message of a receipt comes from.
    ///
    /// # Errors
    /// `ReceiptInvalid` for what is no receipt, `QueueNotFound`, `SubscriptionNotFound`.
    pub fn source_of_receipt(&self, receipt: &str) -> Answer<SourceName> {
        let receipt = self.open_receipt(receipt).ok_or(Refusal::ReceiptInvalid)?;
        if receipt.reader == SubscriptionId::QUEUE {
            let found = self.catalog.stream_by_generation(receipt.generation);
            let (key, _) = found.ok_or(Refusal::QueueNotFound)?;
            return Ok(SourceName::Queue(name_of(&key)));
        }
        let found = self.catalog.subscription_by_generation(Generation(receipt.reader.0));
        let found = found.map(|(key, _)| name_of(&key));
        let names = found.as_deref().and_then(|name| name.split_once('/'));
        let (topic, name) = names.ok_or(Refusal::SubscriptionNotFound)?;
        Ok(SourceName::Subscription { topic: topic.to_owned(), name: name.to_owned() })
    }

    pub(super) fn seal_receipt(&self, reading: &Reading, lease: &Lease, expires_ms: u64) -> String {
        let receipt = Receipt {
            generation: reading.stream.generation,
            reader: reading.reader,
            address: fingerprint(&reading.address),
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
