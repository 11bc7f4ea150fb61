//! Layer 7: the product's rules: who may do what, and what it means.
//!
//! Knows: users, sessions, API keys, queues, grants, rights, limits. Decides from the catalog's
//! snapshot, changes by compare-and-swap on registers, and writes to the log target `audit`.
//! Must not know: HTTP, JSON, disks, the network; how a record becomes durable.
//! Way in: `api`, with a `Caller` that `authenticate_…` answered. Way out: `metadata`, `security`,
//! `replication`.

pub mod api_keys;
mod audit;
mod basic_cache;
pub mod browse;
mod changes;
pub mod consumers;
mod cursors;
pub mod deletions;
mod first_admin;
pub mod grants;
mod links;
#[cfg(test)]
mod loading_tests;
pub mod objects;
mod ownership;
pub mod publish;
#[cfg(test)]
mod publish_tests;
mod queue_settings;
pub mod queues;
mod rates;
pub mod receipts;
pub mod receive;
pub mod refusal;
pub mod rights;
pub mod send;
pub mod sessions;
mod settings;
#[cfg(test)]
mod settings_tests;
pub mod settle;
pub mod sources;
pub mod standing;
pub mod stats;
pub mod subscriptions;
#[cfg(test)]
pub(crate) mod testing;
pub mod topics;
mod upkeep;
pub mod users;

pub use crate::message::envelope::{Body, DeathReason, Reason};
pub use crate::protocol::op::ReleaseOutcome;
pub use consumers::{Consumer, End, Farewell, SourceName, Window};
pub use deletions::{Deleted, Messages};
pub use publish::PublishResult;
pub use queues::QueueChange;
pub use receive::{DeadLetter, ReceiveRequest, ReceivedMessage};
pub use refusal::{Difference, Fault, Outcome, Refusal};
pub use send::{Durability, OutgoingMessage, SendResult, SendStatus};
pub use sessions::{NewSession, Terms};
pub use settle::{Action, Lease, Settlement, Verdict};
pub use sources::{Address, Source};
pub use subscriptions::SubscriptionChange;
pub use topics::TopicChange;
pub use users::{Owned, UserPatch};

use crate::base::ids::{ApiKeyId, Generation, SessionId, UserId};
use crate::base::limits;
use crate::base::names::UserName;
use crate::base::seams::{Clock, Rng};
use crate::metadata::{Catalog, ChangeError, Registers};
use crate::protocol::record::{Record, RecordKey, Right};
use crate::replication::coordinator::{Coordinator, StreamRef};
use crate::security::{Keys, Passwords, ReceiptSealer};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use basic_cache::BasicCache;
use objects::Object;
use rates::Rates;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What an operation of the broker answers.
pub type Answer<T> = Result<T, Refusal>;

/// Settings that the rules depend on.
#[derive(Clone, Debug)]
pub struct BrokerSettings {
    /// Anybody may register; else administrators alone make users.
    pub registration_open: bool,
    /// `auth.admin_username` names an administrator, so the first user does not become one.
    pub admin_configured: bool,
}

/// What a broker is made of.
pub struct BrokerParts {
    /// The registers; their catalog comes along.
    pub registers: Arc<Registers>,
    /// The cluster's keys.
    pub keys: Arc<Keys>,
    /// Hashes passwords, at a cost that is set.
    pub passwords: Passwords,
    /// The machine's clocks.
    pub clock: Arc<dyn Clock>,
    /// Entropy.
    pub rng: Arc<dyn Rng>,
    /// The coordinator of streams.
    pub coordinator: Arc<Coordinator>,
    /// Seals receipts.
    pub receipts: ReceiptSealer,
    /// Cancelled when the node stops: waits end early.
    pub stopping: CancellationToken,
    /// Settings.
    pub settings: BrokerSettings,
}

/// The product's rules. Cheap to share by `Arc`.
pub struct Broker {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) registers: Arc<Registers>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) passwords: Passwords,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Arc<dyn Rng>,
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) settings: BrokerSettings,
    receipts: ReceiptSealer,
    stopping: CancellationToken,
    /// Rings when the worker of deletions has something to do.
    deletions: Notify,
    /// Streams whose data is to be dropped: their delete record is positive.
    dropped: Mutex<BTreeSet<Generation>>,
    basic: BasicCache,
    /// Who is told when a pushed message is settled.
    consumers: consumers::Told,
    /// Failed logins, by user name, existing or not.
    failures: Rates<UserName>,
    /// Passwords checked, by address.
    logins: Rates<IpAddr>,
    /// Registrations, by address.
    registrations: Rates<IpAddr>,
    /// Held while the number of administrators may fall or rise from nothing: two who remove each
    /// other at once must not both find the other one left.
    admins: tokio::sync::Mutex<()>,
}

impl Broker {
    /// Puts a broker together.
    #[must_use]
    pub fn new(parts: BrokerParts) -> Self {
        let basic = BasicCache::new(&*parts.rng);
        Self {
            catalog: Arc::clone(parts.registers.catalog()),
            registers: parts.registers,
            keys: parts.keys,
            passwords: parts.passwords,
            clock: parts.clock,
            rng: parts.rng,
            coordinator: parts.coordinator,
            settings: parts.settings,
            receipts: parts.receipts,
            stopping: parts.stopping,
            deletions: Notify::new(),
            dropped: Mutex::default(),
            basic,
            consumers: consumers::Told::default(),
            failures: Rates::new(limits::FAILED_LOGINS_PER_MINUTE),
            logins: Rates::new(limits::LOGINS_PER_MINUTE),
            registrations: Rates::new(limits::REGISTRATIONS_PER_MINUTE),
            admins: tokio::sync::Mutex::new(()),
        }
    }

    /// Whether nobody has registered yet.
    #[must_use]
    pub fn has_no_users(&self) -> bool {
        self.catalog.count_users() == 0
    }

    /// The stream of a queue or a topic, as operations see it.
    fn stream_of<T: Object>(&self, record: &Record, object: &T) -> Answer<StreamRef> {
        let replicas = usize::try_from(object.replicas()).unwrap_or(1);
        let (generation, version) = (record.generation, record.version);
        let stream = self.coordinator.stream(generation, version, object.data_key(), replicas);
        stream.ok_or_else(|| {
            tracing::error!(stream = %generation, kind = T::WORD, "a data key does not unwrap");
            Refusal::Internal
        })
    }
}

/// What a failed change of a record means to a client.
fn refusal_of_change(error: &ChangeError) -> Refusal {
    match error {
        ChangeError::Conflict(_) => Refusal::PreconditionFailed,
        ChangeError::NotStored(why) => Refusal::Overloaded { why },
        ChangeError::Unknown => Refusal::NotEnoughReplicas { outcome: Outcome::Unknown },
    }
}

/// Who asks: a user that was authenticated.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is.
    pub user: UserId,
    /// The user's name.
    pub name: UserName,
    /// Whether it was an administrator when it was authenticated.
    pub admin: bool,
    /// How it was authenticated.
    pub credential: Credential,
    /// Where its request comes from.
    pub origin: Origin,
}

impl Caller {
    /// All that the caller's credential lets it do; `None`: it is not limited.
    #[must_use]
    pub fn scopes(&self) -> Option<&BTreeSet<Right>> {
        match &self.credential {
            Credential::ApiKey { scopes, .. } => scopes.as_ref(),
            Credential::Session { .. } | Credential::Password => None,
        }
    }
}

/// Where a request comes from: for limits and for the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client's address.
    pub address: IpAddr,
    /// What the request is called in answers and in the log.
    pub request_id: Arc<str>,
}

impl From<IpAddr> for Origin {
    /// A call from within, that has no request.
    fn from(address: IpAddr) -> Self {
        Self { address, request_id: "-".into() }
    }
}

/// What a caller was authenticated by.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A session's token.
    Session {
        /// Its public name.
        id: SessionId,
        /// Its record.
        key: RecordKey,
    },
    /// An API key.
    ApiKey {
        /// Its public name.
        id: ApiKeyId,
        /// All that it lets its user do; `None`: it is not limited.
        scopes: Option<BTreeSet<Right>>,
    },
    /// Name and password, with the request.
    Password,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Its items, in order.
    pub items: Vec<T>,
    /// Where the next page begins; absent on the last.
    pub next: Option<String>,
}

/// A named thing and the version of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// Its name.
    pub name: String,
    /// Its record, for the etag.
    pub record: Arc<Record>,
    /// What it is.
    pub value: T,
}

/// A record's etag: 22 characters of `[A-Za-z0-9_-]` that change with every version, and with
/// every creation of the name. A hash, so that it tells nothing else.
#[must_use]
pub fn etag(record: &Record) -> String {
    let hash = Sha256::new()
        .chain_update(record.generation.0)
        .chain_update(record.version.to_le_bytes())
        .finalize();
    URL_SAFE_NO_PAD.encode(&hash[..16])
}

/// Checks `If-Match` (without its quotes; `*` fits all).
pub(crate) fn check_if_match(if_match: Option<&str>, record: &Record) -> Answer<()> {
    match if_match {
        Some(wanted) if wanted != "*" && wanted != etag(record) => Err(Refusal::PreconditionFailed),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::Generation;
    use crate::protocol::record::{State, Value};
    use proptest::prelude::*;

    fn record(generation: [u8; 16], version: u64) -> Record {
        let generation = Generation(generation);
        Record { generation, version, state: State::Live, value: Value::Nothing }
    }

    proptest! {
        #[test]
        fn an_etag_names_one_version_of_one_creation(
            (one, other) in any::<([u8; 16], [u8; 16])>(), version in 0u64..u64::MAX,
        ) {
            let text = etag(&record(one, version));
            prop_assert_eq!(text.len(), 22);
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
            prop_assert_eq!(&text, &etag(&record(one, version)));
            prop_assert_ne!(&text, &etag(&record(one, version + 1)));
            prop_assert!(one == other || text != etag(&record(other, version)));
            prop_assert_eq!(check_if_match(Some(&text), &record(one, version)), Ok(()));
            let next = check_if_match(Some(&text), &record(one, version + 1));
            prop_assert_eq!(next, Err(Refusal::PreconditionFailed));
        }
    }

    #[test]
    fn no_if_match_and_a_star_fit_all() {
        assert_eq!(check_if_match(None, &record([1; 16], 1)), Ok(()));
        assert_eq!(check_if_match(Some("*"), &record([1; 16], 1)), Ok(()));
        assert_eq!(check_if_match(Some(""), &record([1; 16], 1)), Err(Refusal::PreconditionFailed));
    }
}
