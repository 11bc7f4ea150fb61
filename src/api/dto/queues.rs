//! Queues.

use super::grants::{Right, rights};
use super::scalars::Time;
use super::validate::{Bound, Faults, Rule, Validate, bound};
use super::{page, present};
use crate::base::limits;
use crate::broker::{self, Broker, Caller, Entry, QueueChange};
use crate::protocol::record::{self, Queue};
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

/// A queue's settings. In requests every field is optional; answers have them all.
#[derive(Clone, Copy, Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// Seconds of a lease where the receiver says nothing. Default: 30.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<i32>,
    /// Bytes of one message: body, attributes and content type. Default: 1048576.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<i32>,
    /// Copies of each message, as far as there are nodes. Fixed once the queue exists. Default: 3.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
}

impl Validate for QueueConfig {
    const MAY_BE_ABSENT: bool = true;
    const BOUNDS: &'static [Bound] = &[
        bound("lease_seconds", Rule::Number(1, limits::LEASE_SECONDS_MAX as i64)),
        bound("max_message_bytes", Rule::Number(1, limits::MESSAGE_BYTES_MAX as i64)),
        bound("replicas", Rule::Number(1, limits::REPLICAS_MAX as i64)),
    ];

    fn validate(&self, faults: &mut Faults) {
        faults.number::<Self>("lease_seconds", self.lease_seconds);
        faults.number::<Self>("max_message_bytes", self.max_message_bytes);
        faults.number::<Self>("replicas", self.replicas);
    }
}

impl From<QueueConfig> for QueueChange {
    fn from(config: QueueConfig) -> Self {
        Self {
            lease_seconds: config.lease_seconds,
            max_message_bytes: config.max_message_bytes,
            replicas: config.replicas,
        }
    }
}

impl From<record::QueueConfig> for QueueConfig {
    fn from(config: record::QueueConfig) -> Self {
        Self {
            lease_seconds: Some(config.lease_seconds),
            max_message_bytes: Some(config.max_message_bytes),
            replicas: Some(config.replicas),
        }
    }
}

/// A queue.
#[derive(Debug, Object, Serialize)]
pub struct QueueView {
    /// The name.
    pub name: String,
    /// Who may delete it.
    pub owner: String,
    /// `live`, or `draining`: it takes no messages and is deleted when the last one is settled.
    /// More may come.
    pub state: String,
    /// When it was created.
    pub created_at: Time,
    /// When its settings or grants last changed.
    pub updated_at: Time,
    /// Names this version of the queue, for `If-Match`.
    pub etag: String,
    /// What you may do with it.
    pub my_rights: Vec<Right>,
    /// Its settings, every field present: may be sent back as they are.
    pub config: QueueConfig,
    /// The subscriptions that deliver into it; absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linked_from: Option<Vec<LinkView>>,
}

/// A subscription that delivers into the queue.
#[derive(Debug, Object, Serialize)]
pub struct LinkView {
    /// The topic that it reads.
    pub topic: String,
    /// Its name.
    pub subscription: String,
}

impl QueueView {
    /// A queue as its caller may see it.
    #[must_use]
    pub fn new(broker: &Broker, by: &Caller, entry: Entry<Queue>) -> Self {
        let queue = &entry.value;
        let links = broker.links_into(entry.record.generation).into_iter();
        let links: Vec<_> =
            links.map(|(topic, subscription)| LinkView { topic, subscription }).collect();
        Self {
            linked_from: (!links.is_empty()).then_some(links),
            // An owner who is gone while his queues are being deleted has no name any more.
            owner: broker.user_name(queue.owner).unwrap_or_default(),
            state: if queue.ending == record::Ending::Drain { "draining" } else { "live" }
                .to_owned(),
            created_at: Time(queue.created_ms),
            updated_at: Time(queue.updated_ms),
            etag: broker::etag(&entry.record),
            my_rights: rights(broker.rights_on(by, queue)),
            config: queue.config.clone().into(),
            name: entry.name,
        }
    }
}

page!(
    /// Queues, by name.
    QueuePage of QueueView
);

/// What becomes of the messages of a queue that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum DeletionMode {
    /// They are gone at once and for good.
    Discard,
    /// Sends are refused; the queue is deleted when the last message is settled.
    Drain,
    /// The queue is deleted only if it is empty, leased messages counted.
    Refuse,
}
