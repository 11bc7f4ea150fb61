//! Links: subscriptions whose consumer is the broker itself [F17].
//!
//! The publisher's coordinator forwards at once, after the durable store; the worker of upkeep
//! redoes what is left. The rights of the subscription's maker are checked at each forward.

use super::Broker;
use super::objects::Object;
use crate::base::ids::{LinkId, SubscriptionId, UserId};
use crate::base::names::QueueName;
use crate::protocol::op;
use crate::protocol::record::{Phase, Queue, Record, RecordKey, State, Topic, Value};
use crate::protocol::stream::MessageId;
use crate::replication::coordinator::StreamRef;
use crate::replication::forwarding::{Link, Tells};
use crate::replication::sending::Stored;
use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};
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
        let links = self.links_of(record, topic);
        let Some(source) = links.first().map(|link| &link.source) else { return };
        let id = |stored: &Stored| match stored {
            Stored::Done { id, .. } => Some(*id),
            _ => None,
        };
        let ids: Vec<MessageId> = stored.iter().filter_map(id).collect();
        let Ok(places) = self.coordinator.places_of(source, &ids).await else { return };
        let forwards = links.iter().map(|link| self.coordinator.forward(link, places.clone()));
        if join_all(forwards).await.into_iter().any(|moved| moved.is_err()) {
            self.coordinator.replica().left_over().note(record.generation);
        }
    }

    /// Moves what waits on the links of a topic. One that meets an obstacle holds up no other; the
    /// first obstacle is answered.
    pub(super) async fn forward_left(
        &self,
        record: &Record,
        topic: &Topic,
    ) -> Result<(), op::Refusal> {
        let links = self.links_of(record, topic);
        let moves = links.iter().map(|link| self.move_all(link));
        join_all(moves).await.into_iter().collect()
    }

    /// Moves what a link may move now, until nothing is left or something is in the way.
    async fn move_all(&self, link: &Link) -> Result<(), op::Refusal> {
        loop {
            let places = self.coordinator.movable(link, CHUNK).await?;
            if places.is_empty() || self.coordinator.forward(&link.anew(), places).await? == 0 {
                return Ok(());
            }
        }
    }

    /// The link by which dead messages of a reader leave for another queue of the same owner.
    fn death_link(
        &self,
        source: StreamRef,
        reader: SubscriptionId,
        (at, owner): (String, UserId),
        target: &str,
    ) -> Option<Link> {
        let name = QueueName::parse(target).ok()?;
        let record = self.catalog.queue(&name)?;
        // Another owner's queue of that name was not meant.
        let queue = record.queue().filter(|queue| queue.owner == owner)?;
        let hash = Sha256::new()
            .chain_update(b"tertulia/1 dead")
            .chain_update(source.generation.0)
            .chain_update(reader.0)
            .chain_update(record.generation.0)
            .finalize();
        let id = LinkId(hash[..16].try_into().expect("16 of 32 bytes"));
        let target = self.stream_of(&record, queue).ok()?;
        Some(Link { id, source, reader, target, tells: Tells::Death(at) })
    }

    /// The links by which a stream's dead messages leave.
    fn death_links(&self, key: &RecordKey, record: &Record, source: &StreamRef) -> Vec<Link> {
        let name = super::objects::name_of(key);
        match &record.value {
            Value::Queue(queue) => {
                let link = queue.config.dead_letter.as_ref().and_then(|target| {
                    let at = (name, queue.owner);
                    self.death_link(source.clone(), SubscriptionId::QUEUE, at, target)
                });
                link.into_iter().collect()
            }
            Value::Topic(_) => {
                let link = |(key, it): &(RecordKey, Arc<Record>)| {
                    let subscription = it.subscription()?;
                    let target = subscription.config.dead_letter.as_ref()?;
                    let at = (super::objects::name_of(key), subscription.owner);
                    self.death_link(source.clone(), SubscriptionId::of(it.generation), at, target)
                };
                self.catalog.subscriptions_of(record.generation).iter().filter_map(link).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Moves dead messages to the queues that were named for them. Whatever is in the way leaves
    /// them dead in place [R33].
    pub(super) async fn move_dead(&self, key: &RecordKey, record: &Record, source: &StreamRef) {
        for link in self.death_links(key, record, source) {
            if let Err(why) = self.move_all(&link).await {
                tracing::debug!(%why, stream = %source.generation, "the dead stay in place");
                metrics::counter!("tertulia_dead_letters_stuck_total").increment(1);
            }
        }
    }

    /// Notes every topic with links: what a crash left between two streams is found.
    pub(super) fn note_links(&self) {
        for (_, record) in self.catalog.linked() {
            if let Some(subscription) = record.subscription() {
                self.coordinator.replica().left_over().note(subscription.topic);
            }
        }
    }

    /// Whether the broker moves messages of a stream by itself: what waited for a right, or for
    /// room, is looked at again from time to time.
    pub(super) fn has_links(&self, record: &Record) -> bool {
        let moves = |(_, it): &(RecordKey, Arc<Record>)| {
            it.subscription().is_some_and(|subscription| {
                subscription.deliver_to.is_some() || subscription.config.dead_letter.is_some()
            })
        };
        match &record.value {
            Value::Queue(queue) => queue.config.dead_letter.is_some(),
            Value::Topic(_) => self.catalog.subscriptions_of(record.generation).iter().any(moves),
            _ => false,
        }
    }
}
