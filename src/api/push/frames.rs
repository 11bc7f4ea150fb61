//! The WebSocket's frames: JSON texts, checked like the bodies of the REST routes, and answered
//! with the same bodies and problems.

use crate::api::codes;
use crate::api::dto::messages::{OutgoingMessage, ReceivedMessage, SendRequest};
use crate::api::dto::objects::objects;
use crate::api::dto::present;
use crate::api::dto::scalars::Secret;
use crate::api::dto::settlements::{REASON, ReleaseOutcome};
use crate::api::dto::validate::{Bound, Faults, Rule, Validate, bound};
use crate::api::params::IdempotencyKey;
use crate::api::payload::decode;
use crate::api::problem::Problem;
use crate::base::limits;
use crate::base::names::{QueueName, SubscriptionName, TopicName};
use crate::broker::SourceName;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Characters of a `ref` that is a text.
const REF_CHARS_MAX: usize = 128;

/// What every frame has.
#[derive(Deserialize)]
struct Head {
    #[serde(default, deserialize_with = "present")]
    op: Option<String>,
    #[serde(default, rename = "ref")]
    reference: Value,
}

impl Validate for Head {
    fn validate(&self, _faults: &mut Faults) {}
}

/// What a client asks for.
pub(super) enum Op {
    Hello(Hello),
    Send(Send),
    Publish(Publish),
    Subscribe(Subscribe),
    Credit(Credit),
    Unsubscribe(Unsubscribe),
    Ack(Ack),
    Extend(Extend),
    Release(Release),
}

/// Reads a frame: its `ref`, as far as it has a fit one, and the rest.
pub(super) fn read(text: &str) -> (Option<Value>, Result<Op, Problem>) {
    let head = match decode::<Head>(text.as_bytes()) {
        Ok(head) => head,
        Err(problem) => return (None, Err(problem)),
    };
    let fit = match &head.reference {
        Value::Number(number) => number.is_i64(),
        Value::String(text) => text.chars().count() <= REF_CHARS_MAX,
        _ => false,
    };
    if !fit {
        let about = format!("a whole number, or a text of at most {REF_CHARS_MAX} characters");
        return (None, Err(Problem::invalid("ref", about, "type")));
    }
    let op = match head.op.as_deref() {
        Some("hello") => of(text, Op::Hello),
        Some("send") => of(text, Op::Send),
        Some("publish") => of(text, Op::Publish),
        Some("subscribe") => of(text, Op::Subscribe),
        Some("credit") => of(text, Op::Credit),
        Some("unsubscribe") => of(text, Op::Unsubscribe),
        Some("ack") => of(text, Op::Ack),
        Some("extend") => of(text, Op::Extend),
        Some("release") => of(text, Op::Release),
        Some(_) => Err(Problem::invalid("op", "there is no such operation here", "unknown")),
        None => Err(Problem::invalid("op", "it is required", "required")),
    };
    (Some(head.reference), op)
}

fn of<T: DeserializeOwned + Validate>(text: &str, op: impl Fn(T) -> Op) -> Result<Op, Problem> {
    decode(text.as_bytes()).map(op)
}

/// Defines a frame's fields beside `op` and `ref`.
macro_rules! frame {
    ($name:ident { $($(#[$attribute:meta])* $field:ident: $type:ty),* $(,)? }
        [$($bound:expr),*] |$this:ident, $faults:ident| $check:block) => {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            #[serde(rename = "op")]
            _op: IgnoredAny,
            #[serde(rename = "ref")]
            _ref: IgnoredAny,
            $($(#[$attribute])* pub(super) $field: $type,)*
        }

        impl Validate for $name {
            const BOUNDS: &'static [Bound] = &[$($bound),*];

            fn validate(&self, $faults: &mut Faults) {
                let $this = self;
                $check
            }
        }
    };
}

const RECEIPT: Bound = bound("receipt", Rule::Text(1, limits::RECEIPT_CHARS_MAX));
const CREDIT: Bound = bound("credit", Rule::Number(1, limits::CREDIT_MAX as i64));
const LEASE: Bound = bound("lease_seconds", Rule::Number(1, limits::LEASE_SECONDS_MAX as i64));

const DELAY: Bound = bound("delay_seconds", Rule::Number(0, limits::DELAY_SECONDS_MAX as i64));

fn queue(faults: &mut Faults, name: &str) {
    if let Err(error) = QueueName::parse(name) {
        faults.add("queue", error.to_string(), "name");
    }
}

fn topic(faults: &mut Faults, name: &str) {
    if let Err(error) = TopicName::parse(name) {
        faults.add("topic", error.to_string(), "name");
    }
}

fn batch(faults: &mut Faults, messages: &[OutgoingMessage]) {
    faults.items::<SendRequest>("messages", messages.len());
    if messages.len() <= limits::SEND_BATCH_MAX {
        faults.each("messages", messages);
    }
}

/// What a route takes as the header `Idempotency-Key`.
fn key(faults: &mut Faults, key: Option<&str>) {
    if key.is_some_and(|key| !IdempotencyKey::is_fit(key.as_bytes())) {
        faults.add("idempotency_key", IdempotencyKey::rule(), "pattern");
    }
}

/// Either a queue, or a topic and a subscription.
fn source(faults: &mut Faults, it: &Subscribe) {
    let wrong = match (&it.queue, &it.topic, &it.subscription) {
        (Some(_), None, None) | (None, Some(_), Some(_)) => None,
        (None, Some(_), None) => Some("subscription"),
        (None, None, Some(_)) => Some("topic"),
        (None, None, None) | (Some(_), _, _) => Some("queue"),
    };
    if let Some(field) = wrong {
        let message = "either `queue`, or `topic` and `subscription`";
        faults.add(field, message.to_owned(), "required");
    }
    if let Some(name) = &it.queue {
        queue(faults, name);
    }
    if let Some(name) = &it.topic {
        topic(faults, name);
    }
    if let Some(Err(error)) = it.subscription.as_deref().map(SubscriptionName::parse) {
        faults.add("subscription", error.to_string(), "name");
    }
}

impl Subscribe {
    /// Where from, as it was checked.
    pub(super) fn source(&self) -> Option<SourceName> {
        match (self.queue.clone(), self.topic.clone(), self.subscription.clone()) {
            (Some(name), None, None) => Some(SourceName::Queue(name)),
            (None, Some(topic), Some(name)) => Some(SourceName::Subscription { topic, name }),
            _ => None,
        }
    }
}

frame! {
    Hello { token: Secret } [] |_it, _faults| {}
}
frame! {
    Send {
        queue: String,
        #[serde(deserialize_with = "objects::<_, _, { limits::SEND_BATCH_MAX }>")]
        messages: Vec<OutgoingMessage>,
        #[serde(default, deserialize_with = "present")]
        idempotency_key: Option<String>,
    } [] |it, faults| {
        queue(faults, &it.queue);
        batch(faults, &it.messages);
        key(faults, it.idempotency_key.as_deref());
    }
}
frame! {
    Publish {
        topic: String,
        #[serde(deserialize_with = "objects::<_, _, { limits::SEND_BATCH_MAX }>")]
        messages: Vec<OutgoingMessage>,
        #[serde(default, deserialize_with = "present")]
        idempotency_key: Option<String>,
    } [] |it, faults| {
        topic(faults, &it.topic);
        batch(faults, &it.messages);
        key(faults, it.idempotency_key.as_deref());
    }
}
frame! {
    Subscribe {
        #[serde(default, deserialize_with = "present")]
        queue: Option<String>,
        #[serde(default, deserialize_with = "present")]
        topic: Option<String>,
        #[serde(default, deserialize_with = "present")]
        subscription: Option<String>,
        credit: i32,
        #[serde(default, deserialize_with = "present")]
        lease_seconds: Option<i32>,
    } [CREDIT, LEASE] |it, faults| {
        source(faults, it);
        faults.number::<Self>("credit", Some(it.credit));
        faults.number::<Self>("lease_seconds", it.lease_seconds);
    }
}
frame! {
    Credit { consumer: String, credit: i32 } [CREDIT] |it, faults| {
        faults.number::<Self>("credit", Some(it.credit));
    }
}
frame! {
    Unsubscribe { consumer: String } [] |_it, _faults| {}
}
frame! {
    Ack { receipt: String } [RECEIPT] |it, faults| {
        faults.text::<Self>("receipt", Some(&it.receipt));
    }
}
frame! {
    Extend { receipt: String, lease_seconds: i32 } [RECEIPT, LEASE] |it, faults| {
        faults.text::<Self>("receipt", Some(&it.receipt));
        faults.number::<Self>("lease_seconds", Some(it.lease_seconds));
    }
}
frame! {
    Release {
        receipt: String,
        #[serde(default, deserialize_with = "present")]
        outcome: Option<ReleaseOutcome>,
        #[serde(default, deserialize_with = "present")]
        delay_seconds: Option<i32>,
        #[serde(default, deserialize_with = "present")]
        reason: Option<String>,
    } [RECEIPT, DELAY, bound("reason", REASON)] |it, faults| {
        faults.text::<Self>("receipt", Some(&it.receipt));
        faults.number::<Self>("delay_seconds", it.delay_seconds);
        faults.text::<Self>("reason", it.reason.as_deref());
    }
}

/// An answer to a frame.
#[derive(Serialize)]
struct Answer<'a, T> {
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a Value>,
    status: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a T>,
}

/// What an operation answers: a status and its body's JSON type.
pub(super) enum Outcome {
    Done,
    Sent(crate::api::dto::messages::SendResponse),
    Published(crate::api::dto::publish::PublishResponse),
    Consumer(Named),
    Lease(crate::api::dto::settlements::LeaseView),
}

/// The answer to `subscribe`.
#[derive(Serialize)]
pub(super) struct Named {
    pub(super) consumer: String,
}

/// The text of an answer.
pub(super) fn answer(reference: Option<&Value>, outcome: &Result<Outcome, Problem>) -> String {
    match outcome {
        Ok(Outcome::Done) => write(&Answer::<()> { reference, status: 204, body: None }),
        Ok(Outcome::Sent(body)) => write(&Answer { reference, status: 201, body: Some(body) }),
        Ok(Outcome::Published(body)) => write(&Answer { reference, status: 201, body: Some(body) }),
        Ok(Outcome::Consumer(body)) => write(&Answer { reference, status: 200, body: Some(body) }),
        Ok(Outcome::Lease(body)) => write(&Answer { reference, status: 200, body: Some(body) }),
        Err(problem) => write(&Answer { reference, status: problem.status, body: Some(problem) }),
    }
}

fn write(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("answers are plain data")
}

/// A pushed message.
pub(super) fn message(consumer: &str, message: &ReceivedMessage) -> String {
    #[derive(Serialize)]
    struct Push<'a> {
        event: &'static str,
        consumer: &'a str,
        message: &'a ReceivedMessage,
    }
    write(&Push { event: "message", consumer, message })
}

/// A consumer that ended by itself.
pub(super) fn ended(consumer: &str, problem: &Problem) -> String {
    #[derive(Serialize)]
    struct Ended<'a> {
        event: &'static str,
        consumer: &'a str,
        problem: &'a Problem,
    }
    write(&Ended { event: "ended", consumer, problem })
}

/// The node stops.
pub(super) const CLOSING: &str = r#"{"event":"closing"}"#;

/// The problem of an operation that took too long: it may have happened.
pub(super) fn too_late() -> Problem {
    Problem::not_enough_replicas(Some(crate::broker::refusal::Outcome::Unknown))
}

/// A consumer that this connection does not have.
pub(super) fn no_consumer() -> Problem {
    Problem::invalid("consumer", "this connection has no such consumer", "unknown")
}

/// The bug that cannot be.
pub(super) fn internal() -> Problem {
    Problem::new(codes::INTERNAL, "internal error")
}
