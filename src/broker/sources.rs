//! Where messages are received from, and what the rules there are.

use super::{Answer, Broker, Caller, Refusal};
use crate::base::ids::SubscriptionId;
use crate::base::names::QueueName;
use crate::protocol::record::Right;
use crate::replication::coordinator::StreamRef;
use crate::replication::rules;

/// What a client names to receive from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// A queue.
    Queue(&'a str),
}

/// What a request was addressed to, by its parsed name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A queue.
    Queue(QueueName),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Queue(name) => f.write_str(name.as_str()),
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
        }
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
