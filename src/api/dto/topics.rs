//! Topics.

use super::grants::{Right, rights};
use super::scalars::Time;
use super::validate::{Bound, Faults, Rule, Validate, bound};
use super::{page, present};
use crate::base::limits;
use crate::broker::{self, Broker, Caller, Entry, TopicChange};
use crate::protocol::record::{self, Topic};
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

/// A topic's settings. In requests every field is optional; answers have them all.
#[derive(Clone, Copy, Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicConfig {
    /// Bytes of one message: body, attributes and content type. Default: 1048576.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<i32>,
    /// Copies of each message, as far as there are nodes. Fixed once the topic exists. Default: 3.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Seconds after which a message that is not settled is dropped. Default: 1209600.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub retention_seconds: Option<i32>,
    /// Seconds for which the key of a publish is remembered; 0: keys are refused. Default: 600.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub dedup_seconds: Option<i32>,
    /// Bytes of all messages; 0: no limit. Default: 0.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<i64>,
}

impl Validate for TopicConfig {
    const MAY_BE_ABSENT: bool = true;
    const BOUNDS: &'static [Bound] = &[
        bound("max_message_bytes", Rule::Number(1, limits::MESSAGE_BYTES_MAX as i64)),
        bound("replicas", Rule::Number(1, limits::REPLICAS_MAX as i64)),
        bound(
            "retention_seconds",
            Rule::Number(
                limits::RETENTION_SECONDS_MIN as i64,
                limits::RETENTION_SECONDS_MAX as i64,
            ),
        ),
        bound("dedup_seconds", Rule::Number(0, limits::DEDUP_SECONDS_MAX as i64)),
        bound("max_bytes", Rule::Number(0, limits::STREAM_BYTES_MAX)),
    ];

    fn validate(&self, faults: &mut Faults) {
        faults.number::<Self>("max_message_bytes", self.max_message_bytes);
        faults.number::<Self>("replicas", self.replicas);
        faults.number::<Self>("retention_seconds", self.retention_seconds);
        faults.number::<Self>("dedup_seconds", self.dedup_seconds);
        faults.number::<Self>("max_bytes", self.max_bytes);
    }
}

impl From<TopicConfig> for TopicChange {
    fn from(config: TopicConfig) -> Self {
        Self {
            max_message_bytes: config.max_message_bytes,
            replicas: config.replicas,
            retention_seconds: config.retention_seconds,
            dedup_seconds: config.dedup_seconds,
            max_bytes: config.max_bytes,
        }
    }
}

impl From<record::TopicConfig> for TopicConfig {
    fn from(config: record::TopicConfig) -> Self {
        Self {
            max_message_bytes: Some(config.max_message_bytes),
            replicas: Some(config.replicas),
            retention_seconds: Some(config.retention_seconds),
            dedup_seconds: Some(config.dedup_seconds),
            max_bytes: Some(config.max_bytes),
        }
    }
}

/// A topic.
#[derive(Debug, Object, Serialize)]
pub struct TopicView {
    /// The name.
    pub name: String,
    /// Who may delete it.
    pub owner: String,
    /// When it was created.
    pub created_at: Time,
    /// When its settings or grants last changed.
    pub updated_at: Time,
    /// Names this version of the topic, for `If-Match`.
    pub etag: String,
    /// What you may do with it.
    pub my_rights: Vec<Right>,
    /// Its settings, every field present: may be sent back as they are.
    pub config: TopicConfig,
    /// How many subscriptions it has, also those that you may not see.
    pub subscription_count: i32,
    /// What it keeps; in lists only when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<TopicStats>,
}

/// What a topic keeps.
#[derive(Debug, Object, Serialize)]
pub struct TopicStats {
    /// Messages that some subscription has not settled, each counted once.
    pub messages: i64,
    /// Bytes of all of them, as kept.
    pub bytes: i64,
    /// Whether these are estimates: a purge is still being carried out.
    pub approximate: bool,
}

impl From<broker::stats::TopicStats> for TopicStats {
    fn from(stats: broker::stats::TopicStats) -> Self {
        let broker::stats::TopicStats { messages, bytes, approximate } = stats;
        Self { messages, bytes, approximate }
    }
}

impl TopicView {
    /// A topic as its caller may see it.
    #[must_use]
    pub fn new(broker: &Broker, by: &Caller, entry: Entry<Topic>) -> Self {
        let topic = &entry.value;
        let count = broker.count_subscriptions(&entry.record);
        Self {
            // An owner who is gone while his topics are being deleted has no name any more.
            owner: broker.user_name(topic.owner).unwrap_or_default(),
            created_at: Time(topic.created_ms),
            updated_at: Time(topic.updated_ms),
            etag: broker::etag(&entry.record),
            my_rights: rights(broker.rights_on(by, topic)),
            config: topic.config.clone().into(),
            subscription_count: i32::try_from(count).unwrap_or(i32::MAX),
            name: entry.name,
            stats: None,
        }
    }
}

page!(
    /// Topics, by name.
    TopicPage of TopicView
);

/// What else a list of topics shall show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum TopicInclude {
    /// What each keeps.
    Stats,
}

/// Whether a topic goes that still has messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum TopicDeletionMode {
    /// What its subscriptions had not settled is gone at once and for good.
    Discard,
    /// The topic is deleted only if no message is left.
    Refuse,
}
