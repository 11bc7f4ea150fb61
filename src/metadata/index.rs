//! The catalog's inside: all records and what finds them fast. Everything here is derived from the
//! records, in one place (`apply`), so that no index can disagree with them.

use crate::base::ids::{Generation, SessionId, UserId};
use crate::base::names::{QueueName, TopicName, UserName};
use crate::crdt::versioned::{Clash, Versioned};
use crate::protocol::record::{Kind, Phase, Record, RecordKey, State, Subscription, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Keys by user, then by wall time of their making: the oldest first.
pub(super) type ByUser = BTreeMap<UserId, BTreeSet<(u64, RecordKey)>>;

/// Records by something that they name.
type By<T> = BTreeMap<T, BTreeSet<RecordKey>>;

#[derive(Default)]
pub(super) struct Index {
    pub(super) records: BTreeMap<RecordKey, Versioned<Arc<Record>>>,
    /// Live users.
    pub(super) users: BTreeMap<UserId, UserName>,
    /// Live users that are administrators and not disabled.
    pub(super) admins: BTreeSet<UserId>,
    /// Live queues and topics, and sealed ones until their name is free: their data still has an
    /// owner.
    pub(super) streams: BTreeMap<Generation, RecordKey>,
    pub(super) owned: BTreeMap<UserId, BTreeSet<QueueName>>,
    pub(super) owned_topics: BTreeMap<UserId, BTreeSet<TopicName>>,
    /// Subscriptions, live and sealed, by their own creation.
    pub(super) readers: BTreeMap<Generation, RecordKey>,
    /// Subscriptions, live and sealed, by the creation of the topic that they read.
    pub(super) subscriptions: By<Generation>,
    /// The same, by the creation of the queue that they deliver into.
    pub(super) links: By<Generation>,
    /// The same, by who made them.
    pub(super) subscribed: By<UserId>,
    /// Live subscriptions that are not yet in the set of their topic.
    pub(super) starting: BTreeSet<RecordKey>,
    /// Live subscriptions whose topic, queue or maker is not there (any more).
    pub(super) strays: BTreeSet<RecordKey>,
    pub(super) sessions: ByUser,
    pub(super) sessions_by_id: BTreeMap<SessionId, RecordKey>,
    pub(super) api_keys: ByUser,
    pub(super) sealed: BTreeSet<RecordKey>,
    /// Sessions and API keys by the wall time of their end, in ms: 0 once their user is gone.
    pub(super) ends: BTreeSet<(u64, RecordKey)>,
}

/// Whether a name of that kind is random and so never taken again: once it is free, forgetting it
/// confuses nothing, and keeping it would be a leak of one row per login [F28].
pub(super) fn is_single_use(kind: Kind) -> bool {
    matches!(kind, Kind::Session | Kind::ApiKey)
}

impl Index {
    /// Joins a record; answers whether it was news.
    pub(super) fn apply(&mut self, key: &RecordKey, record: Arc<Record>) -> Result<bool, Clash> {
        let next = Versioned::new(record.version, Arc::clone(&record));
        let old = match self.records.get_mut(key) {
            Some(held) => {
                let old = Arc::clone(held.value());
                if !held.join(next)? {
                    return Ok(false);
                }
                Some(old)
            }
            None => {
                self.records.insert(key.clone(), next);
                None
            }
        };
        if let Some(old) = &old {
            self.remove(key, old);
        }
        self.add(key, &record);
        if let Some(user) = old.as_deref().and_then(Record::user) {
            self.end_credentials_if_gone(user.id);
        }
        self.judge_dependents(key, old.as_deref(), &record);
        if record.state == State::Free && is_single_use(key.kind) {
            self.records.remove(key);
        }
        Ok(true)
    }

    fn add(&mut self, key: &RecordKey, record: &Record) {
        match record.state {
            State::Live => self.add_live(key, record),
            State::Sealed => {
                self.sealed.insert(key.clone());
                if is_stream(key.kind) {
                    self.streams.insert(record.generation, key.clone());
                }
                if let Value::Subscription(subscription) = &record.value {
                    self.readers.insert(record.generation, key.clone());
                    self.add_subscription(key, subscription);
                }
            }
            State::Free => {}
        }
    }

    fn add_live(&mut self, key: &RecordKey, record: &Record) {
        match &record.value {
            Value::User(user) => {
                if let Some(name) = user_name(key) {
                    self.users.insert(user.id, name);
                }
                if user.admin && !user.disabled {
                    self.admins.insert(user.id);
                }
            }
            Value::Session(session) => {
                insert(&mut self.sessions, session.user, session.created_ms, key);
                self.sessions_by_id.insert(session.id, key.clone());
                let end = self.end_of(session.user, Some(session.expires_ms));
                self.ends.extend(end.map(|end| (end, key.clone())));
            }
            Value::ApiKey(api_key) => {
                insert(&mut self.api_keys, api_key.user, api_key.created_ms, key);
                let end = self.end_of(api_key.user, api_key.expires_ms);
                self.ends.extend(end.map(|end| (end, key.clone())));
            }
            Value::Queue(queue) => {
                self.streams.insert(record.generation, key.clone());
                if let Some(name) = queue_name(key) {
                    self.owned.entry(queue.owner).or_default().insert(name);
                }
            }
            Value::Topic(topic) => {
                self.streams.insert(record.generation, key.clone());
                if let Some(name) = topic_name(key) {
                    self.owned_topics.entry(topic.owner).or_default().insert(name);
                }
            }
            Value::Subscription(subscription) => {
                self.readers.insert(record.generation, key.clone());
                self.add_subscription(key, subscription);
                if subscription.phase == Phase::Starting {
                    self.starting.insert(key.clone());
                }
            }
            Value::Nothing | Value::FirstAdmin(_) => {}
        }
    }

    fn remove(&mut self, key: &RecordKey, record: &Record) {
        self.sealed.remove(key);
        if is_stream(key.kind) {
            self.streams.remove(&record.generation);
        }
        if let Value::Subscription(subscription) = &record.value {
            self.readers.remove(&record.generation);
            self.remove_subscription(key, subscription);
        }
        if record.state != State::Live {
            return;
        }
        match &record.value {
            Value::User(user) => {
                self.users.remove(&user.id);
                self.admins.remove(&user.id);
            }
            Value::Session(session) => {
                remove(&mut self.sessions, session.user, session.created_ms, key);
                self.sessions_by_id.remove(&session.id);
                self.ends.remove(&(session.expires_ms, key.clone()));
                self.ends.remove(&(0, key.clone()));
            }
            Value::ApiKey(api_key) => {
                remove(&mut self.api_keys, api_key.user, api_key.created_ms, key);
                self.ends.remove(&(api_key.expires_ms.unwrap_or(0), key.clone()));
                self.ends.remove(&(0, key.clone()));
            }
            Value::Queue(queue) => {
                if let Some(name) = queue_name(key) {
                    take(&mut self.owned, &queue.owner, &name);
                }
            }
            Value::Topic(topic) => {
                if let Some(name) = topic_name(key) {
                    take(&mut self.owned_topics, &topic.owner, &name);
                }
            }
            Value::Nothing | Value::FirstAdmin(_) | Value::Subscription(_) => {}
        }
    }

    fn add_subscription(&mut self, key: &RecordKey, subscription: &Subscription) {
        self.subscriptions.entry(subscription.topic).or_default().insert(key.clone());
        self.subscribed.entry(subscription.owner).or_default().insert(key.clone());
        if let Some(target) = &subscription.deliver_to {
            self.links.entry(target.generation).or_default().insert(key.clone());
        }
    }

    fn remove_subscription(&mut self, key: &RecordKey, subscription: &Subscription) {
        take(&mut self.subscriptions, &subscription.topic, key);
        take(&mut self.subscribed, &subscription.owner, key);
        if let Some(target) = &subscription.deliver_to {
            take(&mut self.links, &target.generation, key);
        }
        self.starting.remove(key);
        self.strays.remove(key);
    }

    /// A change of a user, a queue or a topic may leave subscriptions without something that they
    /// name, or give it to them: records arrive in any order.
    fn judge_dependents(&mut self, key: &RecordKey, old: Option<&Record>, new: &Record) {
        let mut keys: BTreeSet<RecordKey> = BTreeSet::new();
        for record in old.into_iter().chain([new]) {
            let dependents = match &record.value {
                Value::Queue(_) => self.links.get(&record.generation),
                Value::Topic(_) => self.subscriptions.get(&record.generation),
                Value::User(user) => self.subscribed.get(&user.id),
                _ => None,
            };
            keys.extend(dependents.into_iter().flatten().cloned());
        }
        if key.kind == Kind::Subscription {
            keys.insert(key.clone());
        }
        for key in keys {
            self.judge(key);
        }
    }

    fn judge(&mut self, key: RecordKey) {
        let Some(held) = self.records.get(&key) else { return };
        let stray = held.value().subscription().is_some_and(|it| {
            let target = it.deliver_to.as_ref();
            !self.streams.contains_key(&it.topic)
                || !self.users.contains_key(&it.owner)
                || target.is_some_and(|target| !self.streams.contains_key(&target.generation))
        });
        if stray {
            self.strays.insert(key);
        } else {
            self.strays.remove(&key);
        }
    }

    /// When a credential ends: at once if its user is gone (or never came).
    fn end_of(&self, user: UserId, expires_ms: Option<u64>) -> Option<u64> {
        if self.users.contains_key(&user) { expires_ms } else { Some(0) }
    }

    /// What a crash may have left of a deleted user is swept away like what expired.
    fn end_credentials_if_gone(&mut self, user: UserId) {
        if self.users.contains_key(&user) {
            return;
        }
        let sessions = self.sessions.get(&user).into_iter().flatten();
        let api_keys = self.api_keys.get(&user).into_iter().flatten();
        self.ends.extend(sessions.chain(api_keys).map(|(_, key)| (0, key.clone())));
    }
}

fn insert(index: &mut ByUser, user: UserId, created_ms: u64, key: &RecordKey) {
    index.entry(user).or_default().insert((created_ms, key.clone()));
}

fn remove(index: &mut ByUser, user: UserId, created_ms: u64, key: &RecordKey) {
    if let Some(keys) = index.get_mut(&user) {
        keys.remove(&(created_ms, key.clone()));
        if keys.is_empty() {
            index.remove(&user);
        }
    }
}

fn take<K: Ord, T: Ord>(index: &mut BTreeMap<K, BTreeSet<T>>, by: &K, item: &T) {
    if let Some(items) = index.get_mut(by) {
        items.remove(item);
        if items.is_empty() {
            index.remove(by);
        }
    }
}

/// Whether a record of that kind owns data, keyed by its generation.
fn is_stream(kind: Kind) -> bool {
    matches!(kind, Kind::Queue | Kind::Topic)
}

pub(super) fn user_name(key: &RecordKey) -> Option<UserName> {
    UserName::parse(std::str::from_utf8(&key.name).ok()?).ok()
}

pub(super) fn queue_name(key: &RecordKey) -> Option<QueueName> {
    QueueName::parse(std::str::from_utf8(&key.name).ok()?).ok()
}

pub(super) fn topic_name(key: &RecordKey) -> Option<TopicName> {
    TopicName::parse(std::str::from_utf8(&key.name).ok()?).ok()
}
