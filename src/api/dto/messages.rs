//! Messages on their way in and out.

use super::objects::objects;
use super::present;
use super::scalars::{Base64, Time};
use super::validate::{Bound, Faults, Rule, Validate, bound};
use crate::api::problem::Problem;
use crate::base::limits;
use crate::broker::send::Due;
use crate::broker::{self, Body, DeathReason, SendStatus};
use crate::message::envelope::is_attribute_key;
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Messages to send, 1 to 100.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// The messages, judged one by one.
    #[serde(deserialize_with = "objects::<_, _, { limits::SEND_BATCH_MAX }>")]
    pub messages: Vec<OutgoingMessage>,
}

impl Validate for SendRequest {
    const BOUNDS: &'static [Bound] = &[bound("messages", Rule::Items(1, limits::SEND_BATCH_MAX))];

    fn validate(&self, faults: &mut Faults) {
        faults.items::<Self>("messages", self.messages.len());
        if self.messages.len() <= limits::SEND_BATCH_MAX {
            faults.each("messages", &self.messages);
        }
    }
}

/// A message to send: either `body` or `body_base64`.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutgoingMessage {
    /// The body as text. The empty text is a body.
    #[serde(default, deserialize_with = "present")]
    pub body: Option<String>,
    /// The body as bytes: standard base64 with padding.
    #[serde(default, deserialize_with = "present")]
    pub body_base64: Option<Base64>,
    /// What the body is. Default: `text/plain;charset=utf-8`, with `body_base64`
    /// `application/octet-stream`.
    #[serde(default, deserialize_with = "present")]
    pub content_type: Option<String>,
    /// Your own words about it: keys of `[A-Za-z0-9._-]{1,128}`, values of at most 1024 bytes.
    #[serde(default, deserialize_with = "present")]
    pub attributes: Option<BTreeMap<String, String>>,
    /// Words joined by `.`, by which filters of subscriptions choose.
    #[serde(default, deserialize_with = "present")]
    pub routing_key: Option<String>,
    /// Messages of one group are handed out one at a time and in order, where the queue is ordered
    /// by group.
    #[serde(default, deserialize_with = "present")]
    pub group: Option<String>,
    /// Your own name for it: sent again under this name, within the queue's `dedup_seconds`, it
    /// is stored once. Replaces the request's `Idempotency-Key` for this message.
    #[serde(default, deserialize_with = "present")]
    pub dedup_id: Option<String>,
    /// Seconds until it is due; at most the queue's retention. Default: the queue's.
    #[serde(default, deserialize_with = "present")]
    pub delay_seconds: Option<i32>,
    /// When it is due, instead of `delay_seconds`: a repeat under the same key says the same.
    #[serde(default, deserialize_with = "present")]
    pub deliver_at: Option<Time>,
    /// Seconds after which it is dropped; at most the queue's retention, which is the default.
    #[serde(default, deserialize_with = "present")]
    pub ttl_seconds: Option<i32>,
}

impl Validate for OutgoingMessage {
    const BOUNDS: &'static [Bound] = &[
        bound("content_type", Rule::Printable(1, limits::CONTENT_TYPE_CHARS_MAX)),
        bound("attributes", Rule::Map(limits::ATTRIBUTES_MAX, limits::ATTRIBUTE_VALUE_BYTES_MAX)),
        bound("routing_key", Rule::Words(limits::ROUTING_KEY_CHARS_MAX)),
        bound("group", Rule::Text(1, limits::KEY_CHARS_MAX)),
        bound("dedup_id", Rule::Text(1, limits::KEY_CHARS_MAX)),
        bound("delay_seconds", Rule::Number(0, limits::DELAY_SECONDS_MAX as i64)),
        bound("ttl_seconds", Rule::Number(1, limits::DELAY_SECONDS_MAX as i64)),
    ];

    fn validate(&self, faults: &mut Faults) {
        match (&self.body, &self.body_base64) {
            (Some(_), None) | (None, Some(_)) => {}
            (None, None) => {
                faults.add("body", "either body or body_base64 is required", "required")
            }
            (Some(_), Some(_)) => {
                faults.add("body_base64", "either body or body_base64, not both", "conflict");
            }
        }
        faults.text::<Self>("content_type", self.content_type.as_deref());
        faults.map::<Self>("attributes", self.attributes.as_ref(), is_attribute_key);
        faults.text::<Self>("routing_key", self.routing_key.as_deref());
        faults.text::<Self>("group", self.group.as_deref());
        faults.text::<Self>("dedup_id", self.dedup_id.as_deref());
        faults.number::<Self>("delay_seconds", self.delay_seconds);
        faults.number::<Self>("ttl_seconds", self.ttl_seconds);
        if self.delay_seconds.is_some() && self.deliver_at.is_some() {
            faults.add("deliver_at", "either delay_seconds or deliver_at, not both", "conflict");
        }
    }
}

impl From<OutgoingMessage> for broker::OutgoingMessage {
    fn from(message: OutgoingMessage) -> Self {
        let body = match (message.body_base64, message.body) {
            (Some(bytes), _) => Body::Binary(bytes.0),
            (None, text) => Body::Text(text.unwrap_or_default()),
        };
        let due = match (message.deliver_at, message.delay_seconds) {
            (Some(at), _) => Due::At(at.0),
            (None, Some(seconds)) => Due::After(seconds),
            (None, None) => Due::Default,
        };
        Self {
            body,
            content_type: message.content_type,
            attributes: message.attributes.unwrap_or_default(),
            routing_key: message.routing_key,
            group: message.group,
            dedup_id: message.dedup_id,
            due,
            ttl_seconds: message.ttl_seconds,
        }
    }
}

/// How many copies must be on disk before a send is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// A majority.
    Quorum,
    /// A majority; then up to 5 seconds are spent waiting for the others.
    All,
}

impl From<Durability> for broker::Durability {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Quorum => Self::Quorum,
            Durability::All => Self::All,
        }
    }
}

/// What became of the messages, at least one of which is stored.
#[derive(Debug, Object, Serialize)]
pub struct SendResponse {
    /// One per message, in order.
    pub results: Vec<SendResult>,
    /// How many are not known to be stored.
    pub failed_count: i32,
}

/// What became of one message.
#[derive(Debug, Object, Serialize)]
pub struct SendResult {
    /// Its place in the request, from 0.
    pub index: i32,
    /// `stored`: it is safe. `duplicate`: an earlier send under the same key had stored it.
    /// `failed`: it will never be delivered. `unknown`: it may or may not be. More may come.
    pub status: String,
    /// The message's id, when it is stored, now or before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Copies on disk when this was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Why it is not stored: a problem's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether sending it once more may succeed.
    pub retryable: bool,
}

impl SendResult {
    /// What became of the message at `index`, and the problem when it is not stored.
    #[must_use]
    pub fn new(index: usize, status: SendStatus) -> (Self, Option<Problem>) {
        let (word, problem) = match status {
            SendStatus::Stored { id, replicas, is_duplicate } => {
                let word = if is_duplicate { "duplicate" } else { "stored" };
                let stored = Self {
                    id: Some(id),
                    replicas: Some(replicas),
                    ..Self::bare(index, word, false)
                };
                return (stored, None);
            }
            SendStatus::Failed(refusal) => ("failed", Problem::from(refusal)),
            SendStatus::Unknown(detail) => {
                let outcome = Some(broker::refusal::Outcome::Unknown);
                ("unknown", Problem { detail, ..Problem::not_enough_replicas(outcome) })
            }
        };
        let result = Self {
            code: Some(problem.code.clone()),
            detail: Some(problem.detail.clone()),
            ..Self::bare(index, word, problem.retryable)
        };
        (result, Some(problem))
    }

    fn bare(index: usize, status: &str, retryable: bool) -> Self {
        Self {
            index: i32::try_from(index).unwrap_or(i32::MAX),
            status: status.to_owned(),
            id: None,
            replicas: None,
            code: None,
            detail: None,
            retryable,
        }
    }
}

/// A wish for messages.
#[derive(Debug, Default, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiveRequest {
    /// Messages wanted; fewer may come. Default: 1.
    #[serde(default, deserialize_with = "present")]
    pub max_messages: Option<i32>,
    /// Seconds to wait for the first message. Default: 0.
    #[serde(default, deserialize_with = "present")]
    pub wait_seconds: Option<i32>,
    /// Seconds of the lease. Default: the queue's.
    #[serde(default, deserialize_with = "present")]
    pub lease_seconds: Option<i32>,
    /// Settled before the answer leaves: delivered at most once, without a receipt.
    /// Default: false.
    #[serde(default, deserialize_with = "present")]
    pub auto_ack: Option<bool>,
    /// Which messages. Default: `ready`.
    #[serde(default, deserialize_with = "present")]
    pub from: Option<ReceiveFrom>,
}

/// Which messages a receive is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ReceiveFrom {
    /// Those that wait to be received.
    Ready,
    /// Dead letters.
    Dead,
}

impl Validate for ReceiveRequest {
    const MAY_BE_ABSENT: bool = true;
    const BOUNDS: &'static [Bound] = &[
        bound("max_messages", Rule::Number(1, limits::RECEIVE_BATCH_MAX as i64)),
        bound("wait_seconds", Rule::Number(0, limits::WAIT_SECONDS_MAX as i64)),
        bound("lease_seconds", Rule::Number(1, limits::LEASE_SECONDS_MAX as i64)),
    ];

    fn validate(&self, faults: &mut Faults) {
        faults.number::<Self>("max_messages", self.max_messages);
        faults.number::<Self>("wait_seconds", self.wait_seconds);
        faults.number::<Self>("lease_seconds", self.lease_seconds);
    }
}

impl From<ReceiveRequest> for broker::ReceiveRequest {
    fn from(request: ReceiveRequest) -> Self {
        Self {
            max_messages: request.max_messages.unwrap_or(1),
            wait_seconds: request.wait_seconds.unwrap_or(0),
            lease_seconds: request.lease_seconds,
            auto_ack: request.auto_ack.unwrap_or(false),
            from_dead: request.from == Some(ReceiveFrom::Dead),
            key: None,
        }
    }
}

/// Messages under lease.
#[derive(Debug, Object, Serialize)]
pub struct ReceiveResponse {
    /// The messages; none when the queue had none.
    pub messages: Vec<ReceivedMessage>,
}

/// A message under lease: `body` or `body_base64`, as it was sent.
#[derive(Debug, Object, Serialize)]
pub struct ReceivedMessage {
    /// Names the message.
    pub id: String,
    /// Settles this lease; absent only with `auto_ack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// The body, if it was sent as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body, if it was sent as bytes: standard base64 with padding.
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
    /// Leases so far; above 1 somebody may have worked on it.
    pub receive_count: i32,
    /// Leases that expired or were released as failed.
    pub failure_count: i32,
    /// Rises with every lease of the message: store it with your result and refuse a lower one.
    pub fence: i64,
    /// When the lease ends, by the node's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<Time>,
    /// The same in milliseconds from the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_remaining_ms: Option<i32>,
    /// The topic that it was published to, when it came by a link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Where and why it died, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetterInfo>,
}

/// Where and why a message died.
#[derive(Debug, Object, Serialize)]
pub struct DeadLetterInfo {
    /// The queue in which it died.
    pub queue: String,
    /// `max_failures`: it failed as often as its queue allows. `poison`: a consumer said so. More
    /// may come.
    pub reason: String,
    /// The last `reason` that a consumer gave when it released it as `failed` or `poison`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it died.
    pub died_at: Time,
}

impl From<broker::DeadLetter> for DeadLetterInfo {
    fn from(letter: broker::DeadLetter) -> Self {
        let reason = match letter.reason {
            DeathReason::MaxFailures => "max_failures",
            DeathReason::Poison => "poison",
        };
        Self {
            queue: letter.queue,
            reason: reason.to_owned(),
            detail: letter.detail.map(|detail| detail.0),
            died_at: Time(letter.died_ms),
        }
    }
}

impl From<broker::ReceivedMessage> for ReceivedMessage {
    fn from(message: broker::ReceivedMessage) -> Self {
        let (body, body_base64) = match message.body {
            Body::Text(text) => (Some(text), None),
            Body::Binary(bytes) => (None, Some(Base64(bytes))),
        };
        Self {
            id: message.id,
            receipt: message.receipt,
            body,
            body_base64,
            content_type: message.content_type,
            attributes: message.attributes,
            sender: message.sender,
            sent_at: Time(message.sent_ms),
            receive_count: message.receive_count,
            failure_count: message.failure_count,
            fence: message.fence,
            lease_expires_at: message.lease_expires_ms.map(Time),
            lease_remaining_ms: message.lease_remaining_ms,
            routing_key: message.routing_key,
            group: message.group,
            topic: message.topic,
            dead_letter: message.dead_letter.map(DeadLetterInfo::from),
        }
    }
}
