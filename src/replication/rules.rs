//! What the settings of a stream mean to the protocol, read from its record.

use crate::base::ids::{Generation, SubscriptionId};
use crate::base::limits;
use crate::metadata::Catalog;
use crate::protocol::lease::Rules;
use crate::protocol::record::{Ordering, QueueConfig, SubscriptionConfig, TopicConfig, Value};
use crate::protocol::stream::{Bounds, StreamKind};

/// Rules of a reader of which no record tells: nothing dies, nothing ends.
const NONE: Rules = Rules {
    max_failures: 0,
    backoff_min_ms: 0,
    backoff_max_ms: 0,
    retention_ms: u64::MAX,
    is_grouped: false,
};

fn ms(seconds: i32) -> u64 {
    u64::try_from(seconds).unwrap_or(0) * 1_000
}

/// What a queue's settings mean.
#[must_use]
pub fn of_queue(config: &QueueConfig) -> Rules {
    Rules {
        max_failures: u32::try_from(config.max_failures).unwrap_or(0),
        backoff_min_ms: ms(config.backoff_min_seconds),
        backoff_max_ms: ms(config.backoff_max_seconds),
        retention_ms: ms(config.retention_seconds),
        is_grouped: config.ordering == Ordering::Group,
    }
}

/// What a subscription's settings mean, with those of its topic.
#[must_use]
pub fn of_subscription(config: &SubscriptionConfig, topic: &TopicConfig) -> Rules {
    Rules {
        max_failures: u32::try_from(config.max_failures).unwrap_or(0),
        backoff_min_ms: ms(config.backoff_min_seconds),
        backoff_max_ms: ms(config.backoff_max_seconds),
        retention_ms: ms(topic.retention_seconds),
        is_grouped: false,
    }
}

fn bounds(dedup_seconds: i32, max_bytes: i64) -> Bounds {
    Bounds {
        dedup_ms: ms(dedup_seconds),
        bytes_max: u64::try_from(max_bytes).unwrap_or(0),
        keys_max: limits::IDENTITIES_MAX,
    }
}

/// What the record of a stream says it is, and what bounds it; `None`: no record knows it.
pub(super) fn stream(catalog: &Catalog, generation: Generation) -> Option<(StreamKind, Bounds)> {
    let (_, record) = catalog.stream_by_generation(generation)?;
    match &record.value {
        Value::Queue(queue) => {
            let config = &queue.config;
            Some((StreamKind::Queue, bounds(config.dedup_seconds, config.max_bytes)))
        }
        Value::Topic(topic) => {
            let config = &topic.config;
            Some((StreamKind::Topic, bounds(config.dedup_seconds, config.max_bytes)))
        }
        _ => None,
    }
}

/// How many copies the record of a stream asks for; `None`: no record knows it.
pub(super) fn replicas(catalog: &Catalog, generation: Generation) -> Option<usize> {
    let (_, record) = catalog.stream_by_generation(generation)?;
    let wanted = match &record.value {
        Value::Queue(queue) => queue.config.replicas,
        Value::Topic(topic) => topic.config.replicas,
        _ => return None,
    };
    Some(usize::try_from(wanted).unwrap_or(1).max(1))
}

/// What the record of a reader says.
pub(super) fn reader(catalog: &Catalog, generation: Generation, id: SubscriptionId) -> Rules {
    let Some((_, stream)) = catalog.stream_by_generation(generation) else { return NONE };
    match &stream.value {
        Value::Queue(queue) => of_queue(&queue.config),
        Value::Topic(topic) => {
            let found = catalog.subscription_by_generation(Generation(id.0));
            match found.as_ref().map(|(_, record)| &record.value) {
                Some(Value::Subscription(it)) => of_subscription(&it.config, &topic.config),
                _ => NONE,
            }
        }
        _ => NONE,
    }
}
