//! Sending: rights and sizes from the catalog, then one store for the whole batch.

use super::{Address, Answer, Broker, Caller, Fault, Outcome, Refusal};
use crate::base::ids::Generation;
use crate::base::limits;
use crate::crdt::dot::{Dot, SendKey};
use crate::message::envelope::{Body, Content};
use crate::protocol::op;
use crate::protocol::record::{Ending, Queue, Right};
use crate::replication::sending::{Outgoing, Sender, Stored};
use std::collections::BTreeMap;

/// The content type of text that names none.
pub const TEXT: &str = "text/plain;charset=utf-8";
/// The content type of bytes that name none.
pub const BYTES: &str = "application/octet-stream";

const UNKNOWN: &str =
    "no majority confirmed in time: the message may or may not be delivered, once";

/// A message on its way in.
#[derive(Clone, Debug)]
pub struct OutgoingMessage {
    /// What it says.
    pub body: Body,
    /// Its media type; text and bytes have a default each.
    pub content_type: Option<String>,
    /// Named values beside the body.
    pub attributes: BTreeMap<String, String>,
    /// Words by which filters choose.
    pub routing_key: Option<String>,
    /// Messages of one group go out one at a time, where the queue says so.
    pub group: Option<String>,
    /// What its sender calls it: sent again under this name, it is the same message.
    pub dedup_id: Option<String>,
    /// When it is due.
    pub due: Due,
    /// Seconds after which it is dropped; none: by the queue's retention only.
    pub ttl_seconds: Option<i32>,
}

/// When a message is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Due {
    /// As the queue says.
    #[default]
    Default,
    /// So many seconds after it was stored.
    After(i32),
    /// At that wall time, in ms.
    At(u64),
}

impl OutgoingMessage {
    /// A message that is a body and nothing else.
    #[must_use]
    pub fn of(body: Body) -> Self {
        Self {
            body,
            content_type: None,
            attributes: BTreeMap::new(),
            routing_key: None,
            group: None,
            dedup_id: None,
            due: Due::Default,
            ttl_seconds: None,
        }
    }
}

/// How long a send waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Until a majority has it on disk.
    Quorum,
    /// Up to 5 s longer, for the others.
    All,
}

/// How the send of one message ended.
#[derive(Clone, Debug)]
pub struct SendResult {
    /// The outcome.
    pub status: SendStatus,
}

/// The outcome of one message's send.
#[derive(Clone, Debug)]
pub enum SendStatus {
    /// It is safe.
    Stored {
        /// Its id.
        id: String,
        /// Copies on disk when answered.
        replicas: i32,
        /// An earlier send under the same key had stored it.
        is_duplicate: bool,
    },
    /// It will never be delivered.
    Failed(Refusal),
    /// It may or may not be delivered, once.
    Unknown(String),
}

/// What a stream's settings say about what is sent into it.
pub(super) struct Intake {
    pub(super) address: Address,
    pub(super) generation: Generation,
    pub(super) message_bytes_max: i32,
    pub(super) delay_seconds: i32,
    pub(super) retention_seconds: i32,
    pub(super) dedup_seconds: i32,
}

impl Intake {
    fn of_queue(
        name: crate::base::names::QueueName,
        generation: Generation,
        queue: &Queue,
    ) -> Self {
        Self {
            address: Address::Queue(name),
            generation,
            message_bytes_max: queue.config.max_message_bytes,
            delay_seconds: queue.config.delay_seconds,
            retention_seconds: queue.config.retention_seconds,
            dedup_seconds: queue.config.dedup_seconds,
        }
    }
}

impl Broker {
    /// Sends messages into a queue. One result per message, in order. `key`: the request's; item
    /// `i` is known as (key, `i`) for as long as the queue remembers, whoever sends it again.
    ///
    /// # Errors
    /// [`Refusal`] when the request as a whole is refused; nothing is stored then.
    pub async fn send(
        &self,
        by: &Caller,
        queue: &str,
        messages: Vec<OutgoingMessage>,
        durability: Durability,
        key: Option<&str>,
    ) -> Answer<Vec<SendResult>> {
        let (name, record) = self.queue_for(by, queue, Right::Send)?;
        let value = record.queue().ok_or(Refusal::QueueNotFound)?;
        if value.ending == Ending::Drain {
            return Err(Refusal::Draining);
        }
        let intake = Intake::of_queue(name, record.generation, value);
        let stream = self.stream_of(&record, value)?;
        let (fits, verdicts) = self.take_in(by, &intake, messages, key)?;
        let stored = if fits.is_empty() {
            Vec::new()
        } else {
            let sender = Sender { id: by.user, name: by.name.to_string() };
            let all = durability == Durability::All;
            self.coordinator.store(&stream, &sender, fits, all).await
        };
        let results = self.results(&intake.address, stored, verdicts);
        let count =
            results.iter().filter(|r| matches!(r.status, SendStatus::Stored { .. })).count();
        metrics::counter!("tertulia_messages_sent_total").increment(count as u64);
        Ok(results)
    }

    /// What fits the stream, and per message why it does not.
    pub(super) fn take_in(
        &self,
        by: &Caller,
        intake: &Intake,
        messages: Vec<OutgoingMessage>,
        key: Option<&str>,
    ) -> Answer<(Vec<Outgoing>, Vec<Option<Refusal>>)> {
        check_batch(messages.len())?;
        if intake.dedup_seconds == 0 {
            check_no_keys(&messages, key)?;
        }
        check_times(&messages, intake.retention_seconds, self.clock.wall_ms())?;
        check_distinct(&messages)?;
        let limit = intake.message_bytes_max;
        let max = usize::try_from(limit).unwrap_or(0);
        let (mut fits, mut verdicts) = (Vec::new(), Vec::new());
        for (index, message) in (0u32..).zip(messages) {
            let outgoing = self.outgoing(by, intake, message, key, index);
            if outgoing.content.size() > max {
                verdicts.push(Some(Refusal::TooLarge { limit }));
            } else {
                verdicts.push(None);
                fits.push(outgoing);
            }
        }
        Ok((fits, verdicts))
    }

    fn outgoing(
        &self,
        by: &Caller,
        intake: &Intake,
        message: OutgoingMessage,
        key: Option<&str>,
        index: u32,
    ) -> Outgoing {
        let ms = |seconds: i32| u64::try_from(seconds).unwrap_or(0) * 1_000;
        let delay_ms = match message.due {
            Due::Default => ms(intake.delay_seconds),
            Due::After(seconds) => ms(seconds),
            Due::At(at_ms) => at_ms.saturating_sub(self.clock.wall_ms()),
        };
        let given = match message.due {
            Due::Default => (0u8, 0u64),
            Due::After(seconds) => (1, ms(seconds)),
            Due::At(at_ms) => (2, at_ms),
        };
        let ttl_ms = message.ttl_seconds.map_or(0, ms);
        let send_key = match (&message.dedup_id, key) {
            // A message's own name goes before the request's.
            (Some(id), _) => Some(SendKey::Dedup(id)),
            (None, Some(key)) => Some(SendKey::Item(key, index)),
            (None, None) => None,
        };
        let default = match &message.body {
            Body::Text(_) => TEXT,
            Body::Binary(_) => BYTES,
        };
        Outgoing {
            named: send_key.map(|key| Dot::keyed(intake.generation, by.user, key)),
            delay_ms,
            ttl_ms,
            times_given: postcard::to_stdvec(&(given, ttl_ms)).expect("numbers always encode"),
            content: Content {
                body: message.body,
                content_type: message.content_type.unwrap_or_else(|| default.to_owned()),
                attributes: message.attributes,
                routing_key: message.routing_key,
                group: message.group,
                topic: None,
                died: None,
            },
        }
    }

    pub(super) fn results(
        &self,
        address: &Address,
        stored: Vec<Stored>,
        verdicts: Vec<Option<Refusal>>,
    ) -> Vec<SendResult> {
        let mut stored = stored.into_iter();
        let status = |verdict: Option<Refusal>| match verdict {
            Some(refusal) => SendStatus::Failed(refusal),
            None => match stored.next() {
                Some(Stored::Done { id, copies, is_duplicate, .. }) => SendStatus::Stored {
                    id: id.to_string(),
                    replicas: i32::try_from(copies).unwrap_or(i32::MAX),
                    is_duplicate,
                },
                Some(Stored::NotStored(why)) => SendStatus::Failed(self.refusal_of(address, why)),
                Some(Stored::Unknown) | None => SendStatus::Unknown(UNKNOWN.to_owned()),
            },
        };
        let results: Vec<SendResult> =
            verdicts.into_iter().map(status).map(|status| SendResult { status }).collect();
        let is = |wanted: fn(&SendStatus) -> bool| results.iter().any(|r| wanted(&r.status));
        let outcome = if is(|status| matches!(status, SendStatus::Stored { .. })) {
            "stored"
        } else if is(|status| matches!(status, SendStatus::Unknown(_))) {
            "unknown"
        } else {
            "failed"
        };
        metrics::counter!("tertulia_sends_total", "outcome" => outcome).increment(1);
        results
    }

    /// What a replica's refusal means to a client.
    pub(super) fn refusal_of(&self, address: &Address, refusal: op::Refusal) -> Refusal {
        match refusal {
            op::Refusal::Sealed => self.refusal_of_sealed(address),
            op::Refusal::DiskFull => {
                Refusal::Overloaded { why: "the disk is full up to its reserve" }
            }
            op::Refusal::Overloaded => Refusal::Overloaded { why: "too many writes are waiting" },
            op::Refusal::OtherContent => Refusal::IdempotencyMismatch,
            op::Refusal::Full => {
                let limit = usize::try_from(self.bytes_max(address)).unwrap_or(0);
                Refusal::Quota { what: "bytes (max_bytes)", limit }
            }
            op::Refusal::TooManyKeys => {
                Refusal::Quota { what: "remembered keys", limit: limits::IDENTITIES_MAX }
            }
            op::Refusal::TooManyMarks => {
                Refusal::Overloaded { why: "too many messages wait with a time or a group" }
            }
            op::Refusal::StaleSet => Refusal::Overloaded { why: "the subscriptions keep changing" },
            op::Refusal::NoReader => Refusal::SubscriptionNotFound,
            op::Refusal::Behind => Refusal::Overloaded { why: "a replica is catching up" },
            op::Refusal::Stopping => Refusal::Overloaded { why: "the node is stopping" },
            op::Refusal::ViewChanged
            | op::Refusal::NotMember
            | op::Refusal::StaleBoot
            | op::Refusal::ClockAhead => {
                tracing::error!(%refusal, "a replica refused an operation of this node");
                Refusal::NotEnoughReplicas { outcome: Outcome::NotStored }
            }
        }
    }

    fn bytes_max(&self, address: &Address) -> i64 {
        let bytes = match address {
            Address::Queue(name) => {
                self.catalog.queue(name).and_then(|record| Some(record.queue()?.config.max_bytes))
            }
            Address::Topic(name) => {
                self.catalog.topic(name).and_then(|record| Some(record.topic()?.config.max_bytes))
            }
            Address::Subscription(_) => None,
        };
        bytes.unwrap_or(0)
    }

    fn refusal_of_sealed(&self, address: &Address) -> Refusal {
        // A deletion began and was refused, or the name is new: another try finds out.
        let changed = Refusal::Overloaded { why: "it has just changed" };
        match address {
            Address::Queue(name) => {
                match self.catalog.queue(name).and_then(|r| r.queue().map(|q| q.ending)) {
                    Some(Ending::Drain) => Refusal::Draining,
                    Some(_) => changed,
                    None => Refusal::QueueNotFound,
                }
            }
            Address::Topic(name) => {
                if self.catalog.topic(name).is_some() {
                    changed
                } else {
                    Refusal::TopicNotFound
                }
            }
            Address::Subscription(_) => Refusal::SubscriptionNotFound,
        }
    }
}

fn check_batch(count: usize) -> Answer<()> {
    if (1..=limits::SEND_BATCH_MAX).contains(&count) {
        return Ok(());
    }
    let message = format!("between 1 and {} messages", limits::SEND_BATCH_MAX);
    Err(Refusal::Invalid(vec![Fault { field: "messages".into(), message, code: "size" }]))
}

/// A queue that remembers no keys refuses them: nobody must believe that a repeat is safe.
fn check_no_keys(messages: &[OutgoingMessage], key: Option<&str>) -> Answer<()> {
    let field = match (key, messages.iter().position(|m| m.dedup_id.is_some())) {
        (Some(_), _) => "header.Idempotency-Key".to_owned(),
        (None, Some(index)) => format!("messages[{index}].dedup_id"),
        (None, None) => return Ok(()),
    };
    let message = "nothing is remembered here: dedup_seconds is 0".to_owned();
    Err(Refusal::Invalid(vec![Fault { field, message, code: "no-dedup" }]))
}

/// Times that the stream's retention has no room for.
fn check_times(messages: &[OutgoingMessage], retention_seconds: i32, now_ms: u64) -> Answer<()> {
    let last_ms = now_ms + u64::try_from(retention_seconds).unwrap_or(0) * 1_000;
    let mut faults = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let delay = match message.due {
            Due::After(seconds) => Some(seconds),
            Due::Default | Due::At(_) => None,
        };
        if matches!(message.due, Due::At(at_ms) if at_ms > last_ms) {
            let field = format!("messages[{index}].deliver_at");
            let message = format!("later than the retention of {retention_seconds} s from now");
            faults.push(Fault { field, message, code: "range" });
        }
        for (name, seconds) in [("delay_seconds", delay), ("ttl_seconds", message.ttl_seconds)] {
            if seconds.is_some_and(|seconds| seconds > retention_seconds) {
                let field = format!("messages[{index}].{name}");
                let message = format!("more than the retention of {retention_seconds} s");
                faults.push(Fault { field, message, code: "range" });
            }
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Refusal::Invalid(faults)) }
}

/// Two messages of one request under one name contradict each other.
fn check_distinct(messages: &[OutgoingMessage]) -> Answer<()> {
    let mut seen = std::collections::BTreeSet::new();
    for (index, message) in messages.iter().enumerate() {
        if let Some(id) = &message.dedup_id
            && !seen.insert(id)
        {
            let field = format!("messages[{index}].dedup_id");
            let message = "each dedup_id at most once in a request".to_owned();
            return Err(Refusal::Invalid(vec![Fault { field, message, code: "repeated" }]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
