//! Links: subscriptions whose consumer is the broker itself [F17].
//!
//! The publisher's coordinator forwards at once, after the durable store; the worker of upkeep
//! redoes what is left. The rights of the subscription's maker are checked at each forward.

use super::Broker;
use super::objects::Object;
use crate::base::ids::{LinkId, SubscriptionId};
use crate::protocol::op;
use crate::protocol::record::{Phase, Queue, Record, RecordKey, State, Topic};
use crate::protocol::stream::{MessageId, Place};
use crate::replication::forwarding::{Link, Tells};
use crate::replication::sending::Stored;
use futures_util::future::join_all;
use std::sync::Arc;

/// Messages moved in one go.
const CHUNK: usize = 100;

impl Broker {
    /// The link of a subscription that delivers into a queue, if it may deliver now.
    fn link_of(&self, topic: (&Record, &Topic), key: &RecordKey, record: &Record) -> Option<Link> {
        let subscription = record.subscription()?;
        let target = subscription.deliver_to.as_ref()?;
        let is_idle = subscription.phase != Phase::Active
            || subscription.config.paused
            || self.suspension(topic.1, subscription).is_some();
        if is_idle {
            return None;
        }
        let (_, queue_record) = self.catalog.stream_by_generation(target.generation)?;
        let queue = Queue::of(&queue_record.value).filter(|_| queue_record.state == State::Live)?;
        let name = super::objects::name_of(key);
        let (topic_name, _) = name.split_once('/')?;
        Some(Link {
            id: LinkId(record.generation.0),
            source: self.stream_of(topic.0, topic.1).ok()?,
            reader: SubscriptionId::of(record.generation),
            target: self.stream_of(&queue_record, queue).ok()?,
            tells: Tells::Topic(topic_name.to_owned()),
        })
    }

    fn links_of(&self, record: &Record, topic: &Topic) -> Vec<Link> {
        let subscriptions = self.catalog.subscriptions_of(record.generation);
        let link = |(key, it): &(RecordKey, Arc<Record>)| self.link_of((record, topic), key, it);
        subscriptions.iter().filter_map(link).collect()
    }

    /// Forwards what was just published along all links of its topic. What meets an obstacle is
    /// left to the worker.
    pub(super) async fn forward_published(
        &self,
        record: &Record,
        topic: &Topic,
        stored: &[Stored],
    ) {
        let place = |stored: &Stored| match stored {
            Stored::Done { id: MessageId::At(place), .. } => Some(*place),
            _ => None,
        };
        let places: Vec<Place> = stored.iter().filter_map(place).collect();
        let links = self.links_of(record, topic);
        if links.is_empty() {
            return;
        }
        let is_keyed = places.len() < stored.len();
        let forwards = links.iter().map(|link| self.coordinator.forward(link, places.clone()));
        let failed = join_all(forwards).await.into_iter().any(|moved| moved.is_err());
        if failed || is_keyed {
            self.coordinator.replica().left_over().note(record.generation);
        }
    }

    /// Moves what waits on the links of a topic.
    pub(super) async fn forward_left(
        &self,
        record: &Record,
        topic: &Topic,
    ) -> Result<(), op::Refusal> {
        for link in self.links_of(record, topic) {
            loop {
                let places = self.coordinator.movable(&link, CHUNK).await?;
                if places.is_empty() || self.coordinator.forward(&link, places).await? == 0 {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Notes every topic with links: what a crash left between two streams is found.
    pub(super) fn note_links(&self) {
        for (_, record) in self.catalog.linked() {
            if let Some(subscription) = record.subscription() {
                self.coordinator.replica().left_over().note(subscription.topic);
            }
        }
    }
}
