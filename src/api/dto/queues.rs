//! Queues.

use super::browse::QueueStats;
use super::grants::{Right, rights};
use super::scalars::Time;
use super::validate::{Bound, Faults, Rule, Validate, bound};
use super::{page, present};
use crate::base::limits;
use crate::broker::{self, Broker, Caller, Entry, QueueChange};
use crate::protocol::record::{self, Queue};
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

/// In which order messages are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// Oldest first, as far as nothing fails.
    BestEffort,
    /// One message of a group is out at a time; one that failed holds its group back.
    Group,
}

impl From<Ordering> for record::Ordering {
    fn from(ordering: Ordering) -> Self {
        match ordering {
            Ordering::BestEffort => Self::BestEffort,
            Ordering::Group => Self::Group,
        }
    }
}

impl From<record::Ordering> for Ordering {
    fn from(ordering: record::Ordering) -> Self {
        match ordering {
            record::Ordering::BestEffort => Self::BestEffort,
            record::Ordering::Group => Self::Group,
        }
    }
}

/// A queue's settings. In requests every field is optional; answers have them all.
#[derive(Clone, Debug, Object, Serialize, Deserialize)]
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
    /// Seconds until a message is dropped, settled or not. Default: 1209600, two weeks.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub retention_seconds: Option<i32>,
    /// Seconds until a message may be received where its sender says nothing; at most
    /// `retention_seconds`. Default: 0.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<i32>,
    /// Failures after which a message becomes a dead letter; 0: never. A lease that expires is a
    /// failure. Default: 10.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<i32>,
    /// Seconds until a message comes again after its first failure, and twice as long after each
    /// next one; at most `backoff_max_seconds`. Default: 0.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub backoff_min_seconds: Option<i32>,
    /// The longest such pause, in seconds. Default: 600.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub backoff_max_seconds: Option<i32>,
    /// Seconds for which the key of a send is remembered; 0: keys are refused. Default: 600.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub dedup_seconds: Option<i32>,
    /// Messages under lease at once. Default: 120000.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<i32>,
    /// Bytes of all messages; 0: no limit. Default: 0.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<i64>,
    /// In which order messages are received. Fixed once the queue exists. Default: `best_effort`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub ordering: Option<Ordering>,
    /// A queue of the same owner that takes the dead letters; absent in answers when there is
    /// none, empty in requests to have none. Default: they stay in place.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// Receives find nothing. Default: false.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

impl Validate for QueueConfig {
    const MAY_BE_ABSENT: bool = true;
    const BOUNDS: &'static [Bound] = &[
        bound("lease_seconds", Rule::Number(1, limits::LEASE_SECONDS_MAX as i64)),
        bound("max_message_bytes", Rule::Number(1, limits::MESSAGE_BYTES_MAX as i64)),
        bound("replicas", Rule::Number(1, limits::REPLICAS_MAX as i64)),
        bound(
            "retention_seconds",
            Rule::Number(
                limits::RETENTION_SECONDS_MIN as i64,
                limits::RETENTION_SECONDS_MAX as i64,
            ),
        ),
        bound("delay_seconds", Rule::Number(0, limits::RETENTION_SECONDS_MAX as i64)),
        bound("max_failures", Rule::Number(0, limits::FAILURES_MAX as i64)),
        bound("backoff_min_seconds", Rule::Number(0, limits::BACKOFF_SECONDS_MAX as i64)),
        bound("backoff_max_seconds", Rule::Number(0, limits::BACKOFF_SECONDS_MAX as i64)),
        bound("dedup_seconds", Rule::Number(0, limits::DEDUP_SECONDS_MAX as i64)),
        bound("max_in_flight", Rule::Number(1, limits::IN_FLIGHT_MAX as i64)),
        bound("max_bytes", Rule::Number(0, limits::STREAM_BYTES_MAX)),
        bound("dead_letter", Rule::Text(0, 128)),
    ];

    fn validate(&self, faults: &mut Faults) {
        faults.number::<Self>("lease_seconds", self.lease_seconds);
        faults.number::<Self>("max_message_bytes", self.max_message_bytes);
        faults.number::<Self>("replicas", self.replicas);
        faults.number::<Self>("retention_seconds", self.retention_seconds);
        faults.number::<Self>("delay_seconds", self.delay_seconds);
        faults.number::<Self>("max_failures", self.max_failures);
        faults.number::<Self>("backoff_min_seconds", self.backoff_min_seconds);
        faults.number::<Self>("backoff_max_seconds", self.backoff_max_seconds);
        faults.number::<Self>("dedup_seconds", self.dedup_seconds);
        faults.number::<Self>("max_in_flight", self.max_in_flight);
        faults.number::<Self>("max_bytes", self.max_bytes);
        faults.text::<Self>("dead_letter", self.dead_letter.as_deref());
    }
}

impl From<QueueConfig> for QueueChange {
    fn from(config: QueueConfig) -> Self {
        Self {
            lease_seconds: config.lease_seconds,
            max_message_bytes: config.max_message_bytes,
            replicas: config.replicas,
            retention_seconds: config.retention_seconds,
            delay_seconds: config.delay_seconds,
            max_failures: config.max_failures,
            backoff_min_seconds: config.backoff_min_seconds,
            backoff_max_seconds: config.backoff_max_seconds,
            dedup_seconds: config.dedup_seconds,
            max_in_flight: config.max_in_flight,
            max_bytes: config.max_bytes,
            ordering: config.ordering.map(Into::into),
            dead_letter: config.dead_letter,
            paused: config.paused,
        }
    }
}

impl From<record::QueueConfig> for QueueConfig {
    fn from(config: record::QueueConfig) -> Self {
        Self {
            lease_seconds: Some(config.lease_seconds),
            max_message_bytes: Some(config.max_message_bytes),
            replicas: Some(config.replicas),
            retention_seconds: Some(config.retention_seconds),
            delay_seconds: Some(config.delay_seconds),
            max_failures: Some(config.max_failures),
            backoff_min_seconds: Some(config.backoff_min_seconds),
            backoff_max_seconds: Some(config.backoff_max_seconds),
            dedup_seconds: Some(config.dedup_seconds),
            max_in_flight: Some(config.max_in_flight),
            max_bytes: Some(config.max_bytes),
            ordering: Some(config.ordering.into()),
            dead_letter: config.dead_letter,
            paused: Some(config.paused),
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
    /// How many messages it has; in lists only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<QueueStats>,
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
            stats: None,
        }
    }
}

page!(
    /// Queues, by name.
    QueuePage of QueueView
);

/// What else a list of queues shall show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum QueueInclude {
    /// How many messages each has.
    Stats,
}

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
