//! Messages that are looked at, and what people do about many at once.

use super::messages::DeadLetterInfo;
use super::scalars::{Base64, Time};
use super::validate::{Bound, Faults, Rule, Validate, bound};
use super::{page, present};
use crate::base::limits;
use crate::broker::Body;
use crate::broker::browse::{self, Redriven};
use crate::broker::stats;
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a message is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// It waits to be received, or for an older one of its group.
    Ready,
    /// Somebody has it.
    Leased,
    /// It is not due yet.
    Delayed,
    /// It is a dead letter.
    Dead,
}

impl From<MessageState> for browse::MessageState {
    fn from(state: MessageState) -> Self {
        match state {
            MessageState::Ready => Self::Ready,
            MessageState::Leased => Self::Leased,
            MessageState::Delayed => Self::Delayed,
            MessageState::Dead => Self::Dead,
        }
    }
}

/// What else a list of messages shall show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum MessageInclude {
    /// The bodies.
    Body,
}

/// A message that was looked at; nothing about it has changed.
#[derive(Debug, Object, Serialize)]
pub struct BrowsedMessage {
    /// Names the message.
    pub id: String,
    /// The body, if it was sent as text and is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body, if it was sent as bytes and is asked for: standard base64 with padding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<Base64>,
    /// What the body is.
    pub content_type: String,
    /// The sender's words about it.
    pub attributes: BTreeMap<String, String>,
    /// Words by which filters choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_key: Option<String>,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Who sent it: the authenticated name.
    pub sender: String,
    /// When it was sent.
    pub sent_at: Time,
    /// Leases so far.
    pub receive_count: i32,
    /// Leases that expired or were released as failed.
    pub failure_count: i32,
    /// `ready`, `leased`, `delayed` or `dead`. More may come.
    pub state: String,
    /// When a delayed one is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Time>,
    /// Who has a leased one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leased_by: Option<String>,
    /// When the lease of a leased one ends, by the node's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<Time>,
    /// The topic that it was published to, when it came by a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Where and why it died, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetterInfo>,
    /// Why it is or is not handed out, for people.
    pub explanation: String,
}

impl BrowsedMessage {
    /// A message, with its body if that is asked for.
    #[must_use]
    pub fn new(message: browse::BrowsedMessage, with_body: bool) -> Self {
        let (body, body_base64) = match message.body {
            _ if !with_body => (None, None),
            Body::Text(text) => (Some(text), None),
            Body::Binary(bytes) => (None, Some(Base64(bytes))),
        };
        let state = match message.state {
            browse::MessageState::Ready => "ready",
            browse::MessageState::Leased => "leased",
            browse::MessageState::Delayed => "delayed",
            browse::MessageState::Dead => "dead",
        };
        Self {
            id: message.id,
            body,
            body_base64,
            content_type: message.content_type,
            attributes: message.attributes,
            routing_key: message.routing_key,
            group: message.group,
            sender: message.sender,
            sent_at: Time(message.sent_ms),
            receive_count: message.receive_count,
            failure_count: message.failure_count,
            state: state.to_owned(),
            ready_at: message.ready_ms.map(Time),
            leased_by: message.leased_by,
            lease_expires_at: message.lease_expires_ms.map(Time),
            topic: message.topic,
            dead_letter: message.dead_letter.map(DeadLetterInfo::from),
            explanation: message.explanation,
        }
    }
}

page!(
    /// Messages, in dispatch order.
    MessagePage of BrowsedMessage
);

/// What a purge has done.
#[derive(Debug, Object, Serialize)]
pub struct PurgeResult {
    /// Messages that were taken out.
    pub purged_count: i64,
    /// Whether that is an estimate.
    pub approximate: bool,
}

/// A wish to have dead letters ready again.
#[derive(Debug, Default, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedriveRequest {
    /// Messages at most, the oldest first. Default: 100.
    #[serde(default, deserialize_with = "present")]
    pub max_messages: Option<i32>,
}

impl Validate for RedriveRequest {
    const MAY_BE_ABSENT: bool = true;
    const BOUNDS: &'static [Bound] =
        &[bound("max_messages", Rule::Number(1, limits::REDRIVE_BATCH_MAX as i64))];

    fn validate(&self, faults: &mut Faults) {
        faults.number::<Self>("max_messages", self.max_messages);
    }
}

/// What a redrive has done.
#[derive(Debug, Object, Serialize)]
pub struct RedriveResult {
    /// Messages that are ready again.
    pub moved_count: i64,
    /// Dead letters that are left: repeat until it is 0.
    pub remaining_count: i64,
}

impl From<Redriven> for RedriveResult {
    fn from(redriven: Redriven) -> Self {
        Self { moved_count: redriven.moved, remaining_count: redriven.remaining }
    }
}

/// How many messages a queue, or a subscription, has, and who keeps them.
#[derive(Debug, Object, Serialize)]
pub struct QueueStats {
    /// Waiting to be received, or for an older one of their group.
    pub ready: i64,
    /// Under a running lease.
    pub leased: i64,
    /// Not due yet.
    pub delayed: i64,
    /// Dead letters.
    pub dead: i64,
    /// Bytes of all of them, as kept.
    pub bytes: i64,
    /// Age of the oldest, in seconds; 0: there is none.
    pub oldest_age_seconds: i64,
    /// Receivers that wait for a message.
    pub receivers_waiting: i32,
    /// The nodes that keep a copy.
    pub replicas: Vec<ReplicaView>,
    /// Whether these are estimates.
    pub approximate: bool,
}

/// A node that keeps a copy of a queue, or of a subscription's topic.
#[derive(Debug, Object, Serialize)]
pub struct ReplicaView {
    /// The node.
    pub node: String,
    /// `in_sync`. More may come.
    pub state: String,
}

impl From<stats::QueueStats> for QueueStats {
    fn from(stats: stats::QueueStats) -> Self {
        let replica = |node| ReplicaView { node, state: "in_sync".to_owned() };
        Self {
            ready: stats.ready,
            leased: stats.leased,
            delayed: stats.delayed,
            dead: stats.dead,
            bytes: stats.bytes,
            oldest_age_seconds: stats.oldest_age_seconds,
            receivers_waiting: stats.receivers_waiting,
            replicas: stats.replicas.into_iter().map(replica).collect(),
            approximate: false,
        }
    }
}
