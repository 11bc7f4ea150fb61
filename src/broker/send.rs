//! Sending: rights and sizes from the catalog, then one store for the whole batch.

use super::{Answer, Broker, Caller, Fault, Outcome, Refusal};
use crate::base::limits;
use crate::message::envelope::{Body, Content};
use crate::protocol::op;
use crate::protocol::record::{Ending, Queue, Right};
use crate::replication::coordinator::{Sender, Stored};
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
    },
    /// It will never be delivered.
    Failed(Refusal),
    /// It may or may not be delivered, once.
    Unknown(String),
}

impl From<OutgoingMessage> for Content {
    fn from(message: OutgoingMessage) -> Self {
        let default = match &message.body {
            Body::Text(_) => TEXT,
            Body::Binary(_) => BYTES,
        };
        let content_type = message.content_type.unwrap_or_else(|| default.to_owned());
        Self { body: message.body, content_type, attributes: message.attributes }
    }
}

impl Broker {
    /// Sends messages into a queue. One result per message, in order.
    ///
    /// # Errors
    /// [`Refusal`] when the request as a whole is refused; nothing is stored then.
    pub async fn send(
        &self,
        by: &Caller,
        queue: &str,
        messages: Vec<OutgoingMessage>,
        durability: Durability,
    ) -> Answer<Vec<SendResult>> {
        let (name, record) = self.queue_for(by, queue, Right::Send)?;
        let value = record.queue().ok_or(Refusal::QueueNotFound)?;
        if value.ending == Ending::Drain {
            return Err(Refusal::Draining);
        }
        check_batch(messages.len())?;
        let stream = self.stream_of(&record, value)?;
        let contents = messages.into_iter().map(Content::from);
        let (fits, verdicts) = sort_out(contents, value);
        let stored = if fits.is_empty() {
            None
        } else {
            let sender = Sender { id: by.user, name: by.name.to_string() };
            let all = durability == Durability::All;
            Some(self.coordinator.store(&stream, &sender, fits, all).await)
        };
        let results = self.results(&name, stored, verdicts);
        let count =
            results.iter().filter(|r| matches!(r.status, SendStatus::Stored { .. })).count();
        metrics::counter!("tertulia_messages_sent_total").increment(count as u64);
        Ok(results)
    }

    fn results(
        &self,
        name: &crate::base::names::QueueName,
        stored: Option<Stored>,
        verdicts: Vec<Option<Refusal>>,
    ) -> Vec<SendResult> {
        let outcome = match &stored {
            Some(Stored::Done { .. }) => "stored",
            Some(Stored::Unknown) => "unknown",
            Some(Stored::NotStored(_)) | None => "failed",
        };
        metrics::counter!("tertulia_sends_total", "outcome" => outcome).increment(1);
        let mut next = 0;
        let mut of_stored = || match &stored {
            Some(Stored::Done { dots, copies }) => {
                let id = dots[next].to_string();
                next += 1;
                SendStatus::Stored { id, replicas: i32::try_from(*copies).unwrap_or(i32::MAX) }
            }
            Some(Stored::NotStored(why)) => SendStatus::Failed(self.refusal_of(name, *why)),
            Some(Stored::Unknown) | None => SendStatus::Unknown(UNKNOWN.to_owned()),
        };
        let status = |verdict: Option<Refusal>| match verdict {
            Some(refusal) => SendStatus::Failed(refusal),
            None => of_stored(),
        };
        verdicts.into_iter().map(status).map(|status| SendResult { status }).collect()
    }

    /// What a replica's refusal means to a client.
    pub(super) fn refusal_of(
        &self,
        name: &crate::base::names::QueueName,
        refusal: op::Refusal,
    ) -> Refusal {
        match refusal {
            op::Refusal::Sealed => {
                let ending = self.catalog.queue(name).and_then(|r| r.queue().map(|q| q.ending));
                match ending {
                    Some(Ending::Drain) => Refusal::Draining,
                    // A deletion began and was refused, or the name is new: another try finds out.
                    Some(_) => Refusal::Overloaded { why: "the queue has just changed" },
                    None => Refusal::QueueNotFound,
                }
            }
            op::Refusal::DiskFull => {
                Refusal::Overloaded { why: "the disk is full up to its reserve" }
            }
            op::Refusal::Overloaded => Refusal::Overloaded { why: "too many writes are waiting" },
            op::Refusal::Stopping => Refusal::Overloaded { why: "the node is stopping" },
            op::Refusal::ViewChanged
            | op::Refusal::OtherContent
            | op::Refusal::StaleBoot
            | op::Refusal::ClockAhead => {
                tracing::error!(%refusal, "a replica refused an operation of this node");
                Refusal::NotEnoughReplicas { outcome: Outcome::NotStored }
            }
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

/// What fits the queue, and per message why it does not.
fn sort_out(
    contents: impl Iterator<Item = Content>,
    queue: &Queue,
) -> (Vec<Content>, Vec<Option<Refusal>>) {
    let limit = queue.config.max_message_bytes;
    let max = usize::try_from(limit).unwrap_or(0);
    let (mut fits, mut verdicts) = (Vec::new(), Vec::new());
    for content in contents {
        if content.size() > max {
            verdicts.push(Some(Refusal::TooLarge { limit }));
        } else {
            verdicts.push(None);
            fits.push(content);
        }
    }
    (fits, verdicts)
}
