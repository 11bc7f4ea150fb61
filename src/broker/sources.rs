//! Where messages are received from, and what the rules there are.

use super::{Answer, Broker, Caller, Refusal};
use crate::base::ids::SubscriptionId;
use crate::base::names::{QueueName, TopicName};
use crate::protocol::record::{Phase, Right};
use crate::replication::coordinator::StreamRef;
use crate::replication::rules;

/// What a client names to receive from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// A queue.
    Queue(&'a str),
    /// A subscription.
    Subscription {
        /// Its topic.
        topic: &'a str,
        /// Its name there.
        name: &'a str,
    },
}

/// What a request was addressed to, by its parsed name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A queue.
    Queue(QueueName),
    /// A topic, to publish to.
    Topic(TopicName),
    /// A subscription, by its topic's name, a slash and its own.
    Subscription(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Queue(name) => f.write_str(name.as_str()),
            Self::Topic(name) => f.write_str(name.as_str()),
            Self::Subscription(name) => f.write_str(name),
        }
    }
}

/// A reader as an operation sees it now: rights are checked.
#[derive(Clone)]
pub struct Reading {
    /// Its name.
    pub address: Address,
    /// Its stream.
    pub stream: StreamRef,
    /// Which reader of the stream it is.
    pub reader: SubscriptionId,
    /// Seconds of a lease where the receiver says nothing.
    pub lease_seconds: i32,
    /// Messages under lease at once.
    pub in_flight_max: usize,
    /// How long messages are kept, in ms.
    pub retention_ms: u64,
    /// Failures after which a message is dead; 0: never.
    pub max_failures: i32,
    /// Receives find nothing.
    pub is_paused: bool,
}

impl Broker {
    /// The reader that a client names, if the caller has the right.
    ///
    /// # Errors
    /// `Invalid`, `QueueNotFound`, `Forbidden`.
    pub(crate) fn reading(&self, by: &Caller, source: Source<'_>, right: Right) -> Answer<Reading> {
        match source {
            Source::Queue(name) => self.reading_queue(by, name, right),
            Source::Subscription { topic, name } => self.reading_subscription(by, topic, name),
        }
    }

    /// The right on a subscription is being its creator.
    fn reading_subscription(&self, by: &Caller, topic: &str, name: &str) -> Answer<Reading> {
        let found = self.subscription_named(topic, name)?;
        let subscription = found.record.subscription().ok_or(Refusal::SubscriptionNotFound)?;
        self.require_creator_of(by, subscription)?;
        if subscription.deliver_to.is_some() {
            return Err(Refusal::DeliversToQueue);
        }
        let record = &found.topic;
        let topic = record.topic().ok_or(Refusal::TopicNotFound)?;
        // Suspended, or not yet in the set: nothing is delivered.
        let is_active = subscription.phase == Phase::Active;
        let is_idle = !is_active || self.suspension(topic, subscription).is_some();
        let config = &subscription.config;
        Ok(Reading {
            stream: self.stream_of(record, topic)?,
            address: Address::Subscription(super::objects::name_of(&found.key)),
            reader: SubscriptionId::of(found.record.generation),
            lease_seconds: config.lease_seconds,
            in_flight_max: usize::try_from(config.max_in_flight).unwrap_or(1),
            retention_ms: rules::of_subscription(config, &topic.config).retention_ms,
            max_failures: config.max_failures,
            is_paused: config.paused || is_idle,
        })
    }

    fn reading_queue(&self, by: &Caller, name: &str, right: Right) -> Answer<Reading> {
        let (name, record) = self.queue_for(by, name, right)?;
        let queue = record.queue().ok_or(Refusal::QueueNotFound)?;
        Ok(Reading {
            stream: self.stream_of(&record, queue)?,
            address: Address::Queue(name),
            reader: SubscriptionId::QUEUE,
            lease_seconds: queue.config.lease_seconds,
            in_flight_max: usize::try_from(queue.config.max_in_flight).unwrap_or(1),
            retention_ms: rules::of_queue(&queue.config).retention_ms,
            max_failures: queue.config.max_failures,
            is_paused: queue.config.paused,
        })
    }
}
