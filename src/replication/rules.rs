//! What the settings of a stream mean to the protocol, read from its record.

use crate::base::ids::{Generation, SubscriptionId};
use crate::metadata::Catalog;
use crate::protocol::lease::Rules;
use crate::protocol::record::{Ordering, QueueConfig};
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

/// What the record of a stream says it is, and what bounds it; `None`: no record knows it, or it
/// is being deleted.
pub(super) fn stream(catalog: &Catalog, generation: Generation) -> Option<(StreamKind, Bounds)> {
    let (_, record) = catalog.queue_by_generation(generation)?;
    let bounds = record.queue().map_or(Bounds { dedup_ms: 0, bytes_max: 0 }, |queue| Bounds {
        dedup_ms: ms(queue.config.dedup_seconds),
        bytes_max: u64::try_from(queue.config.max_bytes).unwrap_or(0),
    });
    Some((StreamKind::Queue, bounds))
}

/// What the record of a reader says.
pub(super) fn reader(catalog: &Catalog, generation: Generation, _id: SubscriptionId) -> Rules {
    let queue = catalog.queue_by_generation(generation);
    queue.and_then(|(_, record)| record.queue().map(|q| of_queue(&q.config))).unwrap_or(NONE)
}
