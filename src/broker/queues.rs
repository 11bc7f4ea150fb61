//! Queues: their names, owners and settings.

use super::changes::Step;
pub use super::queue_settings::{DEFAULTS, QueueChange};
use super::rights::{queue_name, require_scope};
use super::{Answer, Broker, Caller, Entry, Page, Refusal, check_if_match};
use crate::base::ids::{Generation, SubscriptionId, UserId};
use crate::base::limits::{LINK_HOPS_MAX, QUEUES_PER_USER_MAX};
use crate::base::names::QueueName;
use crate::metadata::Draft;
use crate::protocol::record::{Ending, Kind, Queue, Record, RecordKey, Right, State, Value};
use crate::replication::stream_cell::Side;
use crate::security::DataKey;
use std::collections::BTreeMap;
use std::sync::Arc;

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
                self.require_grave(&name, by.user, given.dead_letter.as_deref())?;
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
    /// `Invalid` (also for `ordering` and `replicas` that differ), `QueueNotFound`, `Forbidden`,
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
            change.check_fixed(&queue.config)?;
            let config = change.over(queue.config.clone());
            change.check_result(&config)?;
            self.require_grave(&name, queue.owner, change.dead_letter.as_deref())?;
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
            self.look_again(record.generation, SubscriptionId::QUEUE).await;
        }
        entry(&name, record)
    }

    /// Whether a queue may take the dead letters of another: it is the same owner's, and none of
    /// those behind it leads back.
    fn require_grave(&self, of: &QueueName, owner: UserId, target: Option<&str>) -> Answer<()> {
        let Some(target) = target.filter(|name| !name.is_empty()) else { return Ok(()) };
        let refuse = |message: &str| Err(Refusal::invalid("dead_letter", "unfit", message));
        let mut next = Some(target.to_owned());
        for hop in 0..=LINK_HOPS_MAX {
            let Some(name) = next else { return Ok(()) };
            if name == of.as_str() {
                return refuse("dead letters would come back to this queue");
            }
            let record = QueueName::parse(&name).ok().and_then(|name| self.catalog.queue(&name));
            let queue = record.as_ref().and_then(|record| record.queue());
            if hop == 0 && queue.is_none_or(|queue| queue.owner != owner) {
                return refuse("it must name a queue of the same owner");
            }
            next = queue.and_then(|queue| queue.config.dead_letter.clone());
        }
        refuse("dead letters would go on from queue to queue too often")
    }

    /// Other settings may free what waited: whoever waits at this node looks again, and so does
    /// the worker.
    pub(super) async fn look_again(&self, stream: Generation, reader: SubscriptionId) {
        // At a stream that cannot be read nobody waits.
        if let Ok(cell) = self.coordinator.replica().cell(stream).await {
            cell.ring(reader, Side::Ready, usize::MAX);
            cell.note_left_over();
        }
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
        let config = given.over(DEFAULTS);
        given.check_result(&config)?;
        let rng = &*self.rng;
        let (generation, now_ms) = (Generation::random(rng), self.clock.wall_ms());
        let queue = Queue {
            owner: by.user,
            config,
            ending: Ending::No,
            data_key: self.keys.wrap(generation, &DataKey::generate(rng), rng),
            grants: BTreeMap::new(),
            created_ms: now_ms,
            updated_ms: now_ms,
        };
        Ok(Draft { generation, state: State::Live, value: Value::Queue(queue) })
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
