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

/// A queue's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueConfig {
    /// Seconds of a lease where the receiver says nothing.
    pub lease_seconds: i32,
    /// Bytes of one message's body, attributes and content type.
    pub max_message_bytes: i32,
    /// Copies wanted; there are as many as the cluster has members, at most this. Fixed for the
    /// generation [F20].
    pub replicas: i32,
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
