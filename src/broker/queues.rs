//! Queues: their names, owners and settings.

use super::changes::Step;
use super::rights::{queue_name, require_scope};
use super::{Answer, Broker, Caller, Difference, Entry, Fault, Page, Refusal, check_if_match};
use crate::base::ids::Generation;
use crate::base::limits::{
    LEASE_SECONDS_DEFAULT, LEASE_SECONDS_MAX, MESSAGE_BYTES_DEFAULT, MESSAGE_BYTES_MAX,
    QUEUES_PER_USER_MAX, REPLICAS_DEFAULT, REPLICAS_MAX,
};
use crate::base::names::QueueName;
use crate::metadata::Draft;
use crate::protocol::record::{
    Ending, Kind, Ordering, Queue, QueueConfig, Record, RecordKey, Right, State, Value,
};
use crate::security::DataKey;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Settings of a queue that were given; what is absent is not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueChange {
    /// Seconds of a lease where the receiver says nothing: 1 to 43,200.
    pub lease_seconds: Option<i32>,
    /// Bytes of one message: 1 to 16 MiB.
    pub max_message_bytes: Option<i32>,
    /// Copies: 1 to 7. Fixed once the queue exists [F20].
    pub replicas: Option<i32>,
}

impl Broker {
    /// Makes a queue of the caller's; or, if it exists and the caller may manage it, compares the
    /// settings that are given. Answers whether it was made.
    ///
    /// # Errors
    /// `Invalid`, `OutOfScope`, `NameTaken`, `ConfigDiffers`, `Draining`, `Quota`, `Overloaded`,
    /// `NotEnoughReplicas`.
    pub async fn put_queue(
        &self,
        by: &Caller,
        name: &str,
        given: QueueChange,
    ) -> Answer<(bool, Entry<Queue>)> {
        let name = queue_name(name)?;
        require_scope(by, Right::Manage)?;
        given.check()?;
        let mut created = false;
        let rule = |latest: Option<&Arc<Record>>| match latest {
            Some(latest) if latest.state != State::Free => {
                created = false;
                self.compare(by, latest, &given)?;
                Ok(Step::Keep(Arc::clone(latest)))
            }
            _ => {
                created = true;
                self.new_queue(by, &given).map(Step::Write)
            }
        };
        let record = self.alter(&queue_key(&name), rule).await?;
        if created && self.catalog.user_by_id(by.user).is_none() {
            // The owner was deleted meanwhile, and could not take along what was not there yet.
            self.delete_owned_queue(&name, &record).await?;
            return Err(Refusal::Unauthenticated);
        }
        if created {
            by.note("create_queue", ("queue", name.as_str()), "");
        }
        Ok((created, entry(&name, record)?))
    }

    /// A queue, for whoever has any right on it.
    ///
    /// # Errors
    /// `Invalid`, `QueueNotFound`, `Forbidden`.
    pub async fn get_queue(&self, by: &Caller, name: &str) -> Answer<Entry<Queue>> {
        let (name, record) = self.queue_named(name)?;
        let entry = entry(&name, record)?;
        if self.rights_on(by, &entry.value).is_empty() {
            return Err(Refusal::Forbidden { needs: "send, receive, browse or manage" });
        }
        Ok(entry)
    }

    /// The queues that the caller has a right on, in the order of names; of one owner (a name or
    /// `me`) if given. An owner that is not there has none.
    ///
    /// # Errors
    /// `Invalid`.
    pub async fn list_queues(
        &self,
        by: &Caller,
        owner: Option<&str>,
        prefix: &str,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<Entry<Queue>>> {
        self.list_objects(by, owner, prefix, cursor, limit)
    }

    /// Changes settings that can be changed.
    ///
    /// # Errors
    /// `Invalid` (also for `replicas` that differ), `QueueNotFound`, `Forbidden`,
    /// `PreconditionFailed`, `Overloaded`, `NotEnoughReplicas`.
    pub async fn update_queue(
        &self,
        by: &Caller,
        name: &str,
        change: QueueChange,
        if_match: Option<&str>,
    ) -> Answer<Entry<Queue>> {
        let name = queue_name(name)?;
        change.check()?;
        let mut changed = false;
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, queue) = live_queue(latest)?;
            self.require(by, queue, Right::Manage)?;
            check_if_match(if_match, latest)?;
            if change.replicas.is_some_and(|wanted| wanted != queue.config.replicas) {
                let message = "the number of replicas is fixed once the queue exists";
                return Err(Refusal::invalid("replicas", "immutable", message));
            }
            let config = change.over(queue.config.clone());
            changed = config != queue.config;
            if !changed {
                return Ok(Step::Keep(Arc::clone(latest)));
            }
            let next = Queue { config, ..queue.clone() };
            Ok(Step::Write(self.changed_queue(latest, next)))
        };
        let record = self.alter(&queue_key(&name), rule).await?;
        if changed {
            by.note("update_queue", ("queue", name.as_str()), "");
        }
        entry(&name, record)
    }

    /// The next version of a live queue.
    pub(super) fn changed_queue(&self, latest: &Record, next: Queue) -> Draft {
        let next = Queue { updated_ms: self.clock.wall_ms(), ..next };
        let generation = latest.generation;
        Draft { generation, state: State::Live, value: Value::Queue(next) }
    }

    /// Whether a queue that exists is what the caller asks for.
    fn compare(&self, by: &Caller, latest: &Record, given: &QueueChange) -> Answer<()> {
        let taken = Refusal::NameTaken { what: "queue" };
        // A queue that is being deleted is nobody's: its name is taken until it is free.
        let Some(queue) = latest.queue() else { return Err(taken) };
        if !self.rights_on(by, queue).contains(&Right::Manage) {
            return Err(taken);
        }
        if queue.ending != Ending::No {
            return Err(Refusal::Draining);
        }
        match given.differences(&queue.config) {
            differences if differences.is_empty() => Ok(()),
            differences => Err(Refusal::ConfigDiffers(differences)),
        }
    }

    fn new_queue(&self, by: &Caller, given: &QueueChange) -> Answer<Draft> {
        if self.catalog.count_queues_of(by.user) >= QUEUES_PER_USER_MAX {
            return Err(Refusal::Quota { what: "queues", limit: QUEUES_PER_USER_MAX });
        }
        let rng = &*self.rng;
        let (generation, now_ms) = (Generation::random(rng), self.clock.wall_ms());
        let queue = Queue {
            owner: by.user,
            config: given.over(DEFAULTS),
            ending: Ending::No,
            data_key: self.keys.wrap(generation, &DataKey::generate(rng), rng),
            grants: BTreeMap::new(),
            created_ms: now_ms,
            updated_ms: now_ms,
        };
        Ok(Draft { generation, state: State::Live, value: Value::Queue(queue) })
    }
}

/// What a queue is that says nothing.
pub const DEFAULTS: QueueConfig = QueueConfig {
    lease_seconds: LEASE_SECONDS_DEFAULT,
    max_message_bytes: MESSAGE_BYTES_DEFAULT,
    replicas: REPLICAS_DEFAULT,
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
};

/// One setting: what is given, the most there may be (the least is 1), and where it is.
struct Setting {
    name: &'static str,
    given: Option<i32>,
    most: i32,
    of: fn(&QueueConfig) -> i32,
}

impl QueueChange {
    fn settings(&self) -> [Setting; 3] {
        [
            Setting {
                name: "lease_seconds",
                given: self.lease_seconds,
                most: LEASE_SECONDS_MAX,
                of: |config| config.lease_seconds,
            },
            Setting {
                name: "max_message_bytes",
                given: self.max_message_bytes,
                most: MESSAGE_BYTES_MAX,
                of: |config| config.max_message_bytes,
            },
            Setting {
                name: "replicas",
                given: self.replicas,
                most: REPLICAS_MAX,
                of: |config| config.replicas,
            },
        ]
    }

    fn check(&self) -> Answer<()> {
        let faults =
            self.settings().into_iter().filter_map(|Setting { name, given, most, .. }| {
                let given = given.filter(|given| !(1..=most).contains(given))?;
                Some(Fault::new(name, "range", format!("{given} is not within 1 to {most}")))
            });
        match faults.collect::<Vec<_>>() {
            faults if faults.is_empty() => Ok(()),
            faults => Err(Refusal::Invalid(faults)),
        }
    }

    fn over(&self, config: QueueConfig) -> QueueConfig {
        QueueConfig {
            lease_seconds: self.lease_seconds.unwrap_or(config.lease_seconds),
            max_message_bytes: self.max_message_bytes.unwrap_or(config.max_message_bytes),
            replicas: self.replicas.unwrap_or(config.replicas),
            ..config
        }
    }

    fn differences(&self, config: &QueueConfig) -> Vec<Difference> {
        let differing =
            self.settings().into_iter().filter_map(|Setting { name, given, of, .. }| {
                let (wanted, actual) = (given?, of(config));
                let told = |value: i32| value.to_string();
                (wanted != actual).then(|| Difference {
                    field: name,
                    wanted: told(wanted),
                    actual: told(actual),
                })
            });
        differing.collect()
    }
}

/// The key of a queue's record.
pub(crate) fn queue_key(name: &QueueName) -> RecordKey {
    RecordKey::new(Kind::Queue, name.as_str())
}

pub(super) fn live_queue(latest: Option<&Arc<Record>>) -> Answer<(&Arc<Record>, &Queue)> {
    let latest = latest.ok_or(Refusal::QueueNotFound)?;
    Ok((latest, latest.queue().ok_or(Refusal::QueueNotFound)?))
}

fn entry(name: &QueueName, record: Arc<Record>) -> Answer<Entry<Queue>> {
    let value = record.queue().ok_or(Refusal::QueueNotFound)?.clone();
    Ok(Entry { name: name.to_string(), record, value })
}

#[cfg(test)]
mod tests;
