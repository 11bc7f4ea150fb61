//! How many messages there are: of a queue, of a subscription, of a topic.

use super::browse::whole;
use super::sources::Address;
use super::{Answer, Broker, Entry, Refusal};
use crate::base::ids::SubscriptionId;
use crate::base::names::QueueName;
use crate::protocol::record::{Queue, Subscription, Topic};
use crate::replication::coordinator::StreamRef;
use crate::replication::inspecting::Stats;

/// How many messages of a queue, or of a subscription, are in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Receivers that wait at this node.
    pub receivers_waiting: i32,
    /// The nodes that keep a copy.
    pub replicas: Vec<String>,
}

/// What a topic keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicStats {
    /// Messages that some subscription has not settled.
    pub messages: i64,
    /// Bytes of all of them, as kept.
    pub bytes: i64,
    /// A purge is still being carried out: some of these are gone already.
    pub approximate: bool,
}

impl Broker {
    /// Counts the messages of a queue that the caller was given.
    ///
    /// # Errors
    /// `QueueNotFound`, `Overloaded`.
    pub async fn queue_stats(&self, entry: &Entry<Queue>) -> Answer<QueueStats> {
        let stream = self.stream_of(&entry.record, &entry.value)?;
        let counting = self.coordinator.stats(&stream, SubscriptionId::QUEUE);
        match (counting.await, QueueName::parse(&entry.name)) {
            (Ok(stats), _) => Ok(shown(&stats, &stream)),
            (Err(why), Ok(name)) => Err(self.refusal_of(&Address::Queue(name), why)),
            (Err(_), Err(_)) => Err(Refusal::QueueNotFound),
        }
    }

    /// Counts the messages of a subscription that the caller was given.
    ///
    /// # Errors
    /// `TopicNotFound`, `Overloaded`.
    pub async fn subscription_stats(&self, entry: &Entry<Subscription>) -> Answer<QueueStats> {
        let (_, stream) = self.topic_of(&entry.record).ok_or(Refusal::TopicNotFound)?;
        let reader = SubscriptionId::of(entry.record.generation);
        let counting = self.coordinator.stats(&stream, reader);
        let stats = counting.await.map_err(|why| self.refusal_of_set(why))?;
        Ok(shown(&stats, &stream))
    }

    /// Counts what a topic that the caller was given keeps, each message once.
    ///
    /// # Errors
    /// `TopicNotFound`, `Overloaded`.
    pub async fn topic_stats(&self, entry: &Entry<Topic>) -> Answer<TopicStats> {
        let stream = self.stream_of(&entry.record, &entry.value)?;
        let kept = self.coordinator.kept(&stream).await;
        let kept = kept.map_err(|why| self.refusal_of_set(why))?;
        let approximate = kept.is_being_purged;
        Ok(TopicStats { messages: whole(kept.messages), bytes: whole(kept.bytes), approximate })
    }
}

fn shown(stats: &Stats, stream: &StreamRef) -> QueueStats {
    QueueStats {
        ready: whole(stats.ready),
        leased: whole(stats.leased),
        delayed: whole(stats.delayed),
        dead: whole(stats.dead),
        bytes: whole(stats.bytes),
        oldest_age_seconds: whole(stats.oldest_age_ms / 1_000),
        receivers_waiting: i32::try_from(stats.waiting).unwrap_or(i32::MAX),
        replicas: stream.view.replicas().iter().map(ToString::to_string).collect(),
    }
}
