//! This node's full copy of the decided records. Reads are local and never wait [G10].

use super::index::{ByUser, Index};
use crate::base::ids::{Generation, SessionId, UserId};
use crate::base::limits::SWEEP_BATCH_MAX;
use crate::base::names::{QueueName, SubscriptionName, TopicName, UserName};
use crate::protocol::record::{Kind, Record, RecordKey, State};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::watch;

/// Records looked at by `page` under one hold of the lock.
const PAGE_STRIDE: usize = 256;

/// The decided records and their indexes. Written by `Registers` alone.
pub struct Catalog {
    index: RwLock<Index>,
    changed: watch::Sender<u64>,
}

impl Catalog {
    pub(super) fn new() -> Self {
        Self { index: RwLock::default(), changed: watch::Sender::new(0) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a decided record: the greater version stays, whatever the order of arrival [F8].
    pub(super) fn publish(&self, key: &RecordKey, record: Arc<Record>) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let applied = index.apply(key, record);
        drop(index);
        match applied {
            Ok(true) => self.changed.send_modify(|count| *count += 1),
            Ok(false) => {}
            Err(clash) => {
                metrics::counter!("tertulia_record_clashes_total").increment(1);
                tracing::error!(kind = ?key.kind, %clash, "a record was decided twice [F8]");
            }
        }
    }

    /// The record of a name, in whatever state. A free session or API key is forgotten, as its
    /// name never comes back.
    #[must_use]
    pub fn get(&self, key: &RecordKey) -> Option<Arc<Record>> {
        self.read().records.get(key).map(|held| Arc::clone(held.value()))
    }

    /// The record of a name that is in use.
    #[must_use]
    pub fn live(&self, key: &RecordKey) -> Option<Arc<Record>> {
        self.get(key).filter(|record| record.state == State::Live)
    }

    /// A live user, by name.
    #[must_use]
    pub fn user(&self, name: &UserName) -> Option<Arc<Record>> {
        self.live(&RecordKey::new(Kind::User, name.as_str()))
    }

    /// A live user, by id.
    #[must_use]
    pub fn user_by_id(&self, id: UserId) -> Option<(UserName, Arc<Record>)> {
        let index = self.read();
        let name = index.users.get(&id)?;
        let key = RecordKey::new(Kind::User, name.as_str());
        let record = index.records.get(&key)?;
        Some((name.clone(), Arc::clone(record.value())))
    }

    /// A live queue, by name.
    #[must_use]
    pub fn queue(&self, name: &QueueName) -> Option<Arc<Record>> {
        self.live(&RecordKey::new(Kind::Queue, name.as_str()))
    }

    /// A live topic, by name.
    #[must_use]
    pub fn topic(&self, name: &TopicName) -> Option<Arc<Record>> {
        self.live(&RecordKey::new(Kind::Topic, name.as_str()))
    }

    /// A live subscription of a live topic, by their names: one of an earlier creation of the topic
    /// is not there.
    #[must_use]
    pub fn subscription(&self, topic: &TopicName, name: &SubscriptionName) -> Option<Arc<Record>> {
        let topic_record = self.topic(topic)?;
        let record = self.live(&RecordKey::subscription(topic.as_str(), name.as_str()))?;
        (record.subscription()?.topic == topic_record.generation).then_some(record)
    }

    /// A queue or a topic by the generation that its data is keyed by: live, or sealed and not yet
    /// free.
    #[must_use]
    pub fn stream_by_generation(&self, generation: Generation) -> Option<(RecordKey, Arc<Record>)> {
        let index = self.read();
        let key = index.streams.get(&generation)?;
        Some((key.clone(), Arc::clone(index.records.get(key)?.value())))
    }

    /// Every record, in whatever state.
    #[must_use]
    pub fn all(&self) -> Vec<(RecordKey, Arc<Record>)> {
        let index = self.read();
        let held = index.records.iter();
        held.map(|(key, held)| (key.clone(), Arc::clone(held.value()))).collect()
    }

    /// All queues and topics that have data, live and sealed.
    #[must_use]
    pub fn streams(&self) -> Vec<Generation> {
        self.read().streams.keys().copied().collect()
    }

    /// A subscription by its own creation, live or sealed.
    #[must_use]
    pub fn subscription_by_generation(
        &self,
        generation: Generation,
    ) -> Option<(RecordKey, Arc<Record>)> {
        let index = self.read();
        let key = index.readers.get(&generation)?;
        Some((key.clone(), Arc::clone(index.records.get(key)?.value())))
    }

    /// The subscriptions of one creation of a topic, live and sealed, in the order of names; at
    /// most a little over 1,000.
    #[must_use]
    pub fn subscriptions_of(&self, topic: Generation) -> Vec<(RecordKey, Arc<Record>)> {
        let index = self.read();
        records_of(&index, index.subscriptions.get(&topic))
    }

    /// How many subscriptions one creation of a topic has, sealed ones counted.
    #[must_use]
    pub fn count_subscriptions_of(&self, topic: Generation) -> usize {
        self.read().subscriptions.get(&topic).map_or(0, BTreeSet::len)
    }

    /// The subscriptions that deliver into any queue, live and sealed.
    #[must_use]
    pub fn linked(&self) -> Vec<(RecordKey, Arc<Record>)> {
        let index = self.read();
        index.links.values().flat_map(|keys| records_of(&index, Some(keys))).collect()
    }

    /// The subscriptions that deliver into one creation of a queue, live and sealed.
    #[must_use]
    pub fn links_into(&self, queue: Generation) -> Vec<(RecordKey, Arc<Record>)> {
        let index = self.read();
        records_of(&index, index.links.get(&queue))
    }

    /// The subscriptions that a user made, live and sealed.
    #[must_use]
    pub fn subscriptions_by(&self, user: UserId) -> Vec<(RecordKey, Arc<Record>)> {
        let index = self.read();
        records_of(&index, index.subscribed.get(&user))
    }

    /// The live subscriptions that are not yet in the set of their topic.
    #[must_use]
    pub fn starting(&self) -> Vec<(RecordKey, Arc<Record>)> {
        let index = self.read();
        records_of(&index, Some(&index.starting))
    }

    /// Up to 500 live subscriptions whose topic, queue or maker is gone.
    #[must_use]
    pub fn strays(&self) -> Vec<(RecordKey, Arc<Record>)> {
        let index = self.read();
        let record_of =
            |key: &RecordKey| Some((key.clone(), Arc::clone(index.records.get(key)?.value())));
        index.strays.iter().take(SWEEP_BATCH_MAX).filter_map(record_of).collect()
    }

    /// Up to `limit` live records of a kind whose names begin with `prefix` and lie after `after`,
    /// in the order of names, of those that `keep` accepts. The lock is not held while it decides,
    /// so it may read the catalog itself.
    #[must_use]
    pub fn page(
        &self,
        kind: Kind,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        keep: &dyn Fn(&RecordKey, &Record) -> bool,
    ) -> Vec<(RecordKey, Arc<Record>)> {
        let mut kept = Vec::new();
        let mut from = match after {
            Some(after) if after >= prefix => Bound::Excluded(RecordKey::new(kind, after)),
            _ => Bound::Included(RecordKey::new(kind, prefix)),
        };
        while kept.len() < limit {
            let stride = self.stride(from, prefix);
            let Some((last, _)) = stride.last() else { break };
            from = Bound::Excluded(last.clone());
            let room = limit - kept.len();
            let wanted = |(key, record): &(RecordKey, Arc<Record>)| {
                record.state == State::Live && keep(key, record)
            };
            kept.extend(stride.into_iter().filter(wanted).take(room));
        }
        kept
    }

    fn stride(&self, from: Bound<RecordKey>, prefix: &[u8]) -> Vec<(RecordKey, Arc<Record>)> {
        let (Bound::Included(first) | Bound::Excluded(first)) = &from else { return Vec::new() };
        let kind = first.kind;
        let index = self.read();
        index
            .records
            .range((from, Bound::Unbounded))
            .take_while(|(key, _)| key.kind == kind && key.name.starts_with(prefix))
            .take(PAGE_STRIDE)
            .map(|(key, held)| (key.clone(), Arc::clone(held.value())))
            .collect()
    }

    /// A user's sessions, the oldest first; at most a little over 100.
    #[must_use]
    pub fn sessions_of(&self, user: UserId) -> Vec<(RecordKey, Arc<Record>)> {
        let index = self.read();
        of_user(&index, &index.sessions, user)
    }

    /// A session by its public name.
    #[must_use]
    pub fn session_by_id(&self, id: SessionId) -> Option<(RecordKey, Arc<Record>)> {
        let index = self.read();
        let key = index.sessions_by_id.get(&id)?;
        Some((key.clone(), Arc::clone(index.records.get(key)?.value())))
    }

    /// A user's API keys, the oldest first.
    #[must_use]
    pub fn api_keys_of(&self, user: UserId) -> Vec<(RecordKey, Arc<Record>)> {
        let index = self.read();
        of_user(&index, &index.api_keys, user)
    }

    /// The live queues that a user owns, in the order of names.
    #[must_use]
    pub fn queues_of(&self, user: UserId) -> Vec<(QueueName, Arc<Record>)> {
        let index = self.read();
        let names = index.owned.get(&user).into_iter().flatten();
        let record_of = |name: &QueueName| {
            let held = index.records.get(&RecordKey::new(Kind::Queue, name.as_str()))?;
            Some((name.clone(), Arc::clone(held.value())))
        };
        names.filter_map(record_of).collect()
    }

    /// How many live queues a user owns.
    #[must_use]
    pub fn count_queues_of(&self, user: UserId) -> usize {
        self.read().owned.get(&user).map_or(0, BTreeSet::len)
    }

    /// The live topics that a user owns, in the order of names.
    #[must_use]
    pub fn topics_of(&self, user: UserId) -> Vec<(TopicName, Arc<Record>)> {
        let index = self.read();
        let names = index.owned_topics.get(&user).into_iter().flatten();
        let record_of = |name: &TopicName| {
            let held = index.records.get(&RecordKey::new(Kind::Topic, name.as_str()))?;
            Some((name.clone(), Arc::clone(held.value())))
        };
        names.filter_map(record_of).collect()
    }

    /// How many live topics a user owns.
    #[must_use]
    pub fn count_topics_of(&self, user: UserId) -> usize {
        self.read().owned_topics.get(&user).map_or(0, BTreeSet::len)
    }

    /// How many live users there are.
    #[must_use]
    pub fn count_users(&self) -> usize {
        self.read().users.len()
    }

    /// How many live users are administrators and not disabled.
    #[must_use]
    pub fn count_admins(&self) -> usize {
        self.read().admins.len()
    }

    /// The records that are being deleted.
    #[must_use]
    pub fn sealed(&self) -> Vec<(RecordKey, Arc<Record>)> {
        let index = self.read();
        records_of(&index, Some(&index.sealed))
    }

    /// Up to 500 sessions and API keys that ended by wall time `now_ms`, or whose user is gone.
    #[must_use]
    pub fn sweep(&self, now_ms: u64) -> Vec<RecordKey> {
        let index = self.read();
        let ended = index.ends.iter().take_while(|(end, _)| *end <= now_ms);
        ended.take(SWEEP_BATCH_MAX).map(|(_, key)| key.clone()).collect()
    }

    /// Counts published changes: wakes whoever depends on records.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn of_user(index: &Index, keys: &ByUser, user: UserId) -> Vec<(RecordKey, Arc<Record>)> {
    let keys = keys.get(&user).into_iter().flatten();
    let record_of = |(_, key): &(u64, RecordKey)| {
        Some((key.clone(), Arc::clone(index.records.get(key)?.value())))
    };
    keys.filter_map(record_of).collect()
}

fn records_of(index: &Index, keys: Option<&BTreeSet<RecordKey>>) -> Vec<(RecordKey, Arc<Record>)> {
    let record_of =
        |key: &RecordKey| Some((key.clone(), Arc::clone(index.records.get(key)?.value())));
    keys.into_iter().flatten().filter_map(record_of).collect()
}
