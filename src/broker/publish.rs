//! Publishing: like sending, into a topic; and what subscribing means to its messages.

use super::objects::Object;
use super::send::{Durability, Intake, OutgoingMessage, SendResult, SendStatus};
use super::{Address, Answer, Broker, Caller, Outcome, Refusal};
use crate::base::ids::SubscriptionId;
use crate::base::names::TopicName;
use crate::message::envelope::Content;
use crate::protocol::filter::matches;
use crate::protocol::op;
use crate::protocol::record::{Record, Right, Start, State, Topic, Value};
use crate::replication::coordinator::StreamRef;
use crate::replication::sending::{Outgoing, Sender, Stored};
use std::sync::Arc;

/// How the publish of one message ended.
#[derive(Clone, Debug)]
pub struct PublishResult {
    /// As for a send.
    pub result: SendResult,
    /// Subscriptions that get it.
    pub matched: i32,
}

impl Broker {
    /// Publishes messages to a topic: each reaches every subscription that matches, or none. One
    /// result per message, in order. With `require_route` a message that no subscription wants is
    /// refused.
    ///
    /// # Errors
    /// [`Refusal`] when the request as a whole is refused; nothing is stored then.
    pub async fn publish(
        self: &Arc<Self>,
        by: &Caller,
        topic: &str,
        messages: Vec<OutgoingMessage>,
        durability: Durability,
        require_route: bool,
        key: Option<&str>,
    ) -> Answer<Vec<PublishResult>> {
        let (_, record) = self.object_named::<Topic>(topic)?;
        let value = record.topic().ok_or(Refusal::TopicNotFound)?;
        self.require(by, value, Right::Publish)?;
        let name = TopicName::parse(topic).map_err(|_| Refusal::TopicNotFound)?;
        let intake = Intake {
            address: Address::Topic(name),
            generation: record.generation,
            message_bytes_max: value.config.max_message_bytes,
            delay_seconds: 0,
            retention_seconds: value.config.retention_seconds,
            dedup_seconds: value.config.dedup_seconds,
        };
        let stream = self.stream_of(&record, value)?;
        let (mut fits, mut verdicts) = self.take_in(by, &intake, messages, key)?;
        if require_route {
            self.refuse_unroutable(&stream, &intake, &mut fits, &mut verdicts).await?;
        }
        let stored = if fits.is_empty() {
            Vec::new()
        } else {
            let sender = Sender { id: by.user, name: by.name.to_string() };
            let all = durability == Durability::All;
            self.coordinator.store(&stream, &sender, fits, all).await
        };
        self.forward_published(&record, value, &stored).await;
        // What was refused before the store has no outcome of it.
        let mut of_stored = stored.iter().map(matched_by);
        let matched: Vec<i32> = verdicts
            .iter()
            .map(|verdict| if verdict.is_none() { of_stored.next().unwrap_or(0) } else { 0 })
            .collect();
        let results = self.results(&intake.address, stored, verdicts);
        let count =
            results.iter().filter(|r| matches!(r.status, SendStatus::Stored { .. })).count();
        metrics::counter!("tertulia_messages_published_total").increment(count as u64);
        let published = |(result, matched)| PublishResult { result, matched };
        Ok(results.into_iter().zip(matched).map(published).collect())
    }

    /// Takes out what no subscription wants now.
    async fn refuse_unroutable(
        &self,
        stream: &StreamRef,
        intake: &Intake,
        fits: &mut Vec<Outgoing>,
        verdicts: &mut [Option<Refusal>],
    ) -> Answer<()> {
        let set = self.coordinator.set_of(stream).await;
        let set = set.map_err(|why| self.refusal_of(&intake.address, why))?;
        let wanted: Vec<bool> =
            fits.iter().map(|message| !set.matched(&message.content).is_empty()).collect();
        let mut each = wanted.iter();
        for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
            if each.next() == Some(&false) {
                *verdict = Some(Refusal::Unroutable);
            }
        }
        let mut each = wanted.iter();
        fits.retain(|_| each.next() == Some(&true));
        Ok(())
    }

    /// A subscription's topic, as operations on its messages see it; `None` when the topic is gone
    /// or being deleted.
    pub(super) fn topic_of(&self, subscription: &Record) -> Option<(Arc<Record>, StreamRef)> {
        let Value::Subscription(value) = &subscription.value else { return None };
        let (_, record) = self.catalog.stream_by_generation(value.topic)?;
        let topic = Topic::of(&record.value).filter(|_| record.state == State::Live)?;
        let stream = self.stream_of(&record, topic).ok()?;
        Some((record, stream))
    }

    /// A new subscription becomes a reader: it gets what is published from now on and, if it asks
    /// for it, what is still kept for others. Safe to repeat until it is active.
    pub(super) async fn begin_reading(&self, starting: &Record) -> Answer<()> {
        let Value::Subscription(value) = &starting.value else { return Ok(()) };
        let (_, stream) = self.topic_of(starting).ok_or(Refusal::TopicNotFound)?;
        let id = SubscriptionId::of(starting.generation);
        let joined = self.coordinator.join_set(&stream, id, &value.filter).await;
        joined.map_err(|why| self.refusal_of_set(why))?;
        if value.start == Start::Earliest {
            let wants = |content: &Content| {
                matches(&value.filter, content.routing_key.as_deref(), &content.attributes)
            };
            let adopted = self.coordinator.adopt_kept(&stream, id, &wants).await;
            adopted.map_err(|why| self.refusal_of_set(why))?;
        }
        Ok(())
    }

    /// A subscription that ends reads no more. Where its topic is gone, its messages are too.
    pub(super) async fn end_reading(&self, sealed: &Record) -> Answer<()> {
        let Some((_, stream)) = self.topic_of(sealed) else { return Ok(()) };
        let id = SubscriptionId::of(sealed.generation);
        match self.coordinator.leave_set(&stream, id).await {
            Ok(()) | Err(op::Refusal::Sealed) => Ok(()),
            Err(why) => Err(self.refusal_of_set(why)),
        }
    }

    pub(super) fn refusal_of_set(&self, why: op::Refusal) -> Refusal {
        match why {
            op::Refusal::Sealed => Refusal::TopicNotFound,
            op::Refusal::DiskFull | op::Refusal::Overloaded | op::Refusal::Stopping => {
                Refusal::Overloaded { why: "the topic takes no change at the moment" }
            }
            _ => Refusal::NotEnoughReplicas { outcome: Outcome::Unknown },
        }
    }
}

fn matched_by(stored: &Stored) -> i32 {
    match stored {
        Stored::Done { matched, .. } => i32::try_from(*matched).unwrap_or(i32::MAX),
        Stored::NotStored(_) | Stored::Unknown => 0,
    }
}
