//! A record: what the cluster agrees on about one named thing. It changes only by
//! compare-and-swap on its version, and spreads by merge: the greater version wins [F8].

use crate::base::ids::{ApiKeyId, Generation, SessionId, UserId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is named. Only appended to: the numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A user, by name.
    User,
    /// A session, by the keyed hash of its token.
    Session,
    /// An API key, by the keyed hash of its secret.
    ApiKey,
    /// A queue, by name.
    Queue,
    /// The cluster's first administrator: one register, so that two nodes make one.
    FirstAdmin,
    /// A topic, by name.
    Topic,
    /// A subscription, by its topic's name, a slash and its own.
    Subscription,
}

/// Names one record: its kind, and the name's bytes (for sessions and API keys: the 32 bytes of
/// the keyed hash; for the first administrator: nothing).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordKey {
    /// The kind.
    pub kind: Kind,
    /// The name.
    pub name: Vec<u8>,
}

impl RecordKey {
    /// The key of a topic's subscription.
    #[must_use]
    pub fn subscription(topic: &str, name: &str) -> Self {
        Self::new(Kind::Subscription, format!("{topic}/{name}"))
    }

    /// A key from its parts.
    #[must_use]
    pub fn new(kind: Kind, name: impl Into<Vec<u8>>) -> Self {
        Self { kind, name: name.into() }
    }
}

/// Where a record stands between creation and deletion [F5].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// In use.
    Live,
    /// Being deleted: any reader completes it.
    Sealed,
    /// The name may be taken again; the version runs on [F8].
    Free,
}

/// One version of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// This creation of the name [R39].
    pub generation: Generation,
    /// Starts at 1 and never restarts, not even by deletion and re-creation [F8].
    pub version: u64,
    /// Live, sealed or free.
    pub state: State,
    /// What it says.
    pub value: Value,
}

impl Record {
    /// The user it describes, if it is in use and describes one.
    #[must_use]
    pub fn user(&self) -> Option<&User> {
        match (self.state, &self.value) {
            (State::Live, Value::User(user)) => Some(user),
            _ => None,
        }
    }

    /// The session it describes, if it is in use and describes one.
    #[must_use]
    pub fn session(&self) -> Option<&Session> {
        match (self.state, &self.value) {
            (State::Live, Value::Session(session)) => Some(session),
            _ => None,
        }
    }

    /// The API key it describes, if it is in use and describes one.
    #[must_use]
    pub fn api_key(&self) -> Option<&ApiKey> {
        match (self.state, &self.value) {
            (State::Live, Value::ApiKey(key)) => Some(key),
            _ => None,
        }
    }

    /// The topic it describes, if it is in use and describes one.
    #[must_use]
    pub fn topic(&self) -> Option<&Topic> {
        match (self.state, &self.value) {
            (State::Live, Value::Topic(topic)) => Some(topic),
            _ => None,
        }
    }

    /// The subscription it describes, if it is in use and describes one.
    #[must_use]
    pub fn subscription(&self) -> Option<&Subscription> {
        match (self.state, &self.value) {
            (State::Live, Value::Subscription(subscription)) => Some(subscription),
            _ => None,
        }
    }

    /// The queue it describes, if it is in use and describes one.
    #[must_use]
    pub fn queue(&self) -> Option<&Queue> {
        match (self.state, &self.value) {
            (State::Live, Value::Queue(queue)) => Some(queue),
            _ => None,
        }
    }
}

/// What a record says, by kind. Only appended to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Nothing: the name is free.
    Nothing,
    /// A user.
    User(User),
    /// A session.
    Session(Session),
    /// An API key.
    ApiKey(ApiKey),
    /// A queue.
    Queue(Queue),
    /// The first administrator.
    FirstAdmin(UserId),
    /// A topic.
    Topic(Topic),
    /// A subscription.
    Subscription(Subscription),
}

/// A user.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Who it is, whatever the name.
    pub id: UserId,
    /// The password's scrypt hash as a PHC string.
    pub password: String,
    /// Rises with each new password, so that a remembered check dies with the old one [F21].
    pub password_version: u64,
    /// May do all that an owner may, and administer users.
    pub admin: bool,
    /// No credential of the user is accepted.
    pub disabled: bool,
    /// Wall time of the creation, in ms.
    pub created_ms: u64,
    /// Wall time of the last change, in ms.
    pub updated_ms: u64,
    /// Rises with each change that ends the user's sessions, in the same version: those that began
    /// before are over whether or not their own records are gone already.
    pub sessions_epoch: u64,
    /// The session of an earlier epoch that goes on: a new password was set by it.
    pub spared: Option<SessionId>,
}

impl User {
    /// Whether a session is this user's and not ended by a change of the user. A session of a later
    /// epoch than the user's is good: this version of the user is the one that is late.
    #[must_use]
    pub fn keeps(&self, session: &Session) -> bool {
        let goes_on = session.epoch >= self.sessions_epoch || self.spared == Some(session.id);
        session.user == self.id && goes_on
    }
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No password hash in logs.
        f.debug_struct("User").field("id", &self.id).field("admin", &self.admin).finish()
    }
}

/// A session: its token is known to the client alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its public name.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// The user's name when the session began: ids find the record by it.
    pub user_name: String,
    /// Wall time of the login, in ms.
    pub created_ms: u64,
    /// Wall time of its end, in ms.
    pub expires_ms: u64,
    /// The address that logged in.
    pub address: String,
    /// The user's epoch of sessions at the login.
    pub epoch: u64,
    /// It is good from `address` alone.
    pub bound: bool,
}

/// An API key: its secret is known to the client alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its public name.
    pub id: ApiKeyId,
    /// Whose it is.
    pub user: UserId,
    /// The user's name when the key was made.
    pub user_name: String,
    /// What the owner calls it.
    pub name: String,
    /// Wall time of its making, in ms.
    pub created_ms: u64,
    /// Wall time of its end, in ms; `None`: it has none.
    pub expires_ms: Option<u64>,
    /// It gives no other rights than these, and leaves identities alone; `None`: it gives all that
    /// its user has.
    pub scopes: Option<BTreeSet<Right>>,
}

/// A right on an object. Only appended to: the numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Right {
    /// Send into it.
    Send,
    /// Receive from it and settle.
    Receive,
    /// Change its settings.
    Manage,
    /// Look at its messages and take none.
    Browse,
    /// Publish on it.
    Publish,
    /// Subscribe to it.
    Subscribe,
}

impl Right {
    /// All there are, of all kinds of objects.
    pub const ALL: [Self; 6] =
        [Self::Send, Self::Receive, Self::Browse, Self::Publish, Self::Subscribe, Self::Manage];
}

/// Who holds a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grantee {
    /// Every user, written `*`.
    Everyone,
    /// One user, by id.
    User(UserId),
}

/// Rights given to somebody; part of the object's record, changed by its version [R43].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What may be done.
    pub rights: BTreeSet<Right>,
    /// The name of who gave it.
    pub granted_by: String,
    /// Wall time, in ms.
    pub granted_ms: u64,
    /// The grantee's name when it was given (`*` for everyone).
    pub grantee_name: String,
}

/// In which order messages go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ordering {
    /// In dispatch order as far as nothing is released or lapses.
    BestEffort,
    /// One message of a group at a time; a failed one holds its group.
    Group,
}

/// A queue's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueConfig {
    /// Seconds of a lease where the receiver says nothing.
    pub lease_seconds: i32,
    /// Bytes of one message's body, attributes and content type.
    pub max_message_bytes: i32,
    /// Copies wanted; there are as many as the cluster has members, at most this. Fixed for the
    /// generation [F20].
    pub replicas: i32,
    /// Seconds until a message is dropped, from its storing on.
    pub retention_seconds: i32,
    /// Seconds until a message is due where its sender says nothing.
    pub delay_seconds: i32,
    /// Failures after which a message is dead; 0: never.
    pub max_failures: i32,
    /// Seconds until a message is due again after its first failure; twice as long after each
    /// next one.
    pub backoff_min_seconds: i32,
    /// The longest such pause, in seconds.
    pub backoff_max_seconds: i32,
    /// Seconds for which the key of a send is remembered; 0: keys are refused.
    pub dedup_seconds: i32,
    /// Messages under lease at once.
    pub max_in_flight: i32,
    /// Bytes of all messages; 0: no limit.
    pub max_bytes: i64,
    /// Fixed for the generation [F20].
    pub ordering: Ordering,
    /// The queue that takes this one's dead letters; none: they stay in place.
    pub dead_letter: Option<String>,
    /// Receives find nothing.
    pub paused: bool,
}

/// A topic's settings: those of a queue that concern what is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicConfig {
    /// Bytes of one message's body, attributes and content type.
    pub max_message_bytes: i32,
    /// Copies wanted. Fixed for the generation [F20].
    pub replicas: i32,
    /// Seconds until a message is dropped, from its storing on.
    pub retention_seconds: i32,
    /// Seconds for which the key of a publish is remembered; 0: keys are refused.
    pub dedup_seconds: i32,
    /// Bytes of all messages; 0: no limit.
    pub max_bytes: i64,
}

/// A topic: a stream with any number of readers.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Who may delete it.
    pub owner: UserId,
    /// Its settings.
    pub config: TopicConfig,
    /// Whether and how it ends; topics do not drain.
    pub ending: Ending,
    /// The key of its messages, wrapped by the store key.
    pub data_key: Vec<u8>,
    /// Who else may do what.
    pub grants: BTreeMap<Grantee, Grant>,
    /// Wall time of the creation, in ms.
    pub created_ms: u64,
    /// Wall time of the last change, in ms.
    pub updated_ms: u64,
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No key, not even a wrapped one, in logs.
        f.debug_struct("Topic").field("owner", &self.owner).field("config", &self.config).finish()
    }
}

/// Which messages a subscription wants: all conditions must hold. Fixed for the generation of the
/// subscription [F17].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Words joined by `.`; `*` stands for one word, `#` for any number. None: every key.
    pub routing_key: Option<String>,
    /// Attributes that a message must have, with these values.
    pub attributes: BTreeMap<String, String>,
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// With what is published from now on.
    New,
    /// With what is still kept for another subscription.
    Earliest,
}

/// The queue into which the broker moves what a subscription matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// The creation of that name that was meant: another one gets nothing [F17].
    pub generation: Generation,
}

/// How far a subscription has come into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Named, and not yet in the set of its topic: any reader completes it.
    Starting,
    /// In the set.
    Active,
}

/// A subscription's settings that can be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionConfig {
    /// Seconds of a lease where the receiver says nothing.
    pub lease_seconds: i32,
    /// Failures after which a message is dead; 0: never.
    pub max_failures: i32,
    /// Seconds until a message is due again after its first failure.
    pub backoff_min_seconds: i32,
    /// The longest such pause, in seconds.
    pub backoff_max_seconds: i32,
    /// Messages under lease at once.
    pub max_in_flight: i32,
    /// The queue of the creator that takes the dead letters; none: they stay in place.
    pub dead_letter: Option<String>,
    /// Receives find nothing, and links move nothing.
    pub paused: bool,
}

/// A subscription: a named reader of a topic. The generation of its record is its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// The creation of the topic that it reads; of another one it is not there.
    pub topic: Generation,
    /// Who made it: the only one who receives from it.
    pub owner: UserId,
    /// Its settings.
    pub config: SubscriptionConfig,
    /// What it wants.
    pub filter: Filter,
    /// Where it begins.
    pub start: Start,
    /// Where the broker moves its messages; none: they are received from the subscription.
    pub deliver_to: Option<Target>,
    /// How far it has come.
    pub phase: Phase,
    /// Wall time of the creation, in ms.
    pub created_ms: u64,
    /// Wall time of the last change, in ms.
    pub updated_ms: u64,
}

/// Whether and how a queue ends. In a sealed record it tells any reader how to complete the
/// deletion [F5].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// It does not.
    No,
    /// Sends are refused; it is deleted when its last message is settled.
    Drain,
    /// It is deleted if no message is left, else it lives on.
    IfEmpty,
    /// It is deleted with all its messages.
    Discard,
}

/// A queue.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Who may delete it.
    pub owner: UserId,
    /// Its settings.
    pub config: QueueConfig,
    /// Whether and how it ends.
    pub ending: Ending,
    /// The key of its messages, wrapped by the store key.
    pub data_key: Vec<u8>,
    /// Who else may do what.
    pub grants: BTreeMap<Grantee, Grant>,
    /// Wall time of the creation, in ms.
    pub created_ms: u64,
    /// Wall time of the last change, in ms.
    pub updated_ms: u64,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No key, not even a wrapped one, in logs.
        f.debug_struct("Queue").field("owner", &self.owner).field("config", &self.config).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A queue's settings, for tests.
    pub(crate) fn config(replicas: i32) -> QueueConfig {
        QueueConfig {
            lease_seconds: 30,
            max_message_bytes: 1_024,
            replicas,
            retention_seconds: 1_209_600,
            delay_seconds: 0,
            max_failures: 10,
            backoff_min_seconds: 0,
            backoff_max_seconds: 600,
            dedup_seconds: 600,
            max_in_flight: 120_000,
            max_bytes: 0,
            ordering: Ordering::BestEffort,
            dead_letter: None,
            paused: false,
        }
    }
}
