//! Subscriptions: named readers of a topic.
//!
//! A subscription comes into being in three steps, each completed by any reader that meets it: its
//! record says `Starting`, the topic's replicas take it into their set, its record says `Active`.
//! It ends in three: sealed, out of the set, free.

use super::changes::{Step, free_draft};
use super::cursors::{List, page_limit};
use super::objects::{Object, live, name_of};
use super::rights::{queue_name, require_scope};
use super::{
    Answer, Broker, Caller, Difference, Entry, Fault, Page, Refusal, check_if_match, settings,
};
use crate::base::ids::{Generation, SubscriptionId, UserId};
use crate::base::limits::{
    BACKOFF_SECONDS_DEFAULT, FAILURES_DEFAULT, IN_FLIGHT_DEFAULT, LEASE_SECONDS_DEFAULT,
    SUBSCRIPTIONS_PER_TOPIC_MAX,
};
use crate::base::names::{QueueName, SubscriptionName};
use crate::metadata::Draft;
use crate::protocol::record::{
    Ending, Filter, Kind, Phase, Record, RecordKey, Right, Start, State, Subscription,
    SubscriptionConfig, Target, Topic, Value,
};
use std::sync::Arc;

mod change;
mod life;

pub use change::SubscriptionChange;

/// What a subscription is that says nothing.
pub const DEFAULTS: SubscriptionConfig = SubscriptionConfig {
    lease_seconds: LEASE_SECONDS_DEFAULT,
    max_failures: FAILURES_DEFAULT,
    backoff_min_seconds: 0,
    backoff_max_seconds: BACKOFF_SECONDS_DEFAULT,
    max_in_flight: IN_FLIGHT_DEFAULT,
    dead_letter: None,
    paused: false,
};

/// A live subscription, its key, and the topic that it reads.
pub(crate) struct Found {
    /// The topic's record.
    pub(crate) topic: Arc<Record>,
    /// The subscription's key.
    pub(crate) key: RecordKey,
    /// The subscription's record.
    pub(crate) record: Arc<Record>,
}

impl Broker {
    /// Makes a subscription of the caller's; or, if it exists and is the caller's, compares what is
    /// given. Answers whether it was made.
    ///
    /// # Errors
    /// `Invalid`, `OutOfScope`, `TopicNotFound`, `QueueNotFound`, `Forbidden`, `NameTaken`,
    /// `ConfigDiffers`, `Draining`, `Quota`, `Overloaded`, `NotEnoughReplicas`.
    pub async fn put_subscription(
        &self,
        by: &Caller,
        topic: &str,
        name: &str,
        given: &SubscriptionChange,
    ) -> Answer<(bool, Entry<Subscription>)> {
        let topic_key = Topic::key(topic)?;
        let key = RecordKey::subscription(topic, subscription_name(name)?.as_str());
        require_scope(by, Right::Subscribe)?;
        given.check()?;
        let mut created = false;
        let rule = |latest: Option<&Arc<Record>>| {
            let topic_record = self.catalog.live(&topic_key);
            let (topic_record, topic) = live::<Topic>(topic_record.as_ref())?;
            match latest.filter(|latest| reads(latest, topic_record)) {
                Some(latest) => {
                    created = false;
                    self.compare_subscription(by, topic, latest, given)?;
                    Ok(Step::Keep(Arc::clone(latest)))
                }
                None => {
                    created = true;
                    self.new_subscription(by, topic_record, topic, given).map(Step::Write)
                }
            }
        };
        let record = self.alter(&key, rule).await?;
        if created {
            self.require_surroundings(&key, &record).await?;
        }
        let record = self.started(&key, record).await.map_err(|refusal| match refusal {
            // It went before it had begun: with its topic, or by somebody's deletion.
            Refusal::SubscriptionNotFound if self.catalog.live(&topic_key).is_none() => {
                Refusal::TopicNotFound
            }
            Refusal::SubscriptionNotFound => Refusal::Overloaded { why: "it has just changed" },
            other => other,
        })?;
        if created {
            by.note("create_subscription", ("subscription", &name_of(&key)), "");
        }
        Ok((created, entry(name, record)?))
    }

    /// A subscription, for its creator and the topic's owner.
    ///
    /// # Errors
    /// `Invalid`, `OutOfScope`, `TopicNotFound`, `SubscriptionNotFound`, `NotOwner`, `Overloaded`,
    /// `NotEnoughReplicas`.
    pub async fn get_subscription(
        &self,
        by: &Caller,
        topic: &str,
        name: &str,
    ) -> Answer<Entry<Subscription>> {
        let found = self.subscription_named(topic, name)?;
        self.require_seen(by, &found)?;
        entry(name, self.started(&found.key, found.record).await?)
    }

    /// The subscriptions of a topic that the caller may see, in the order of names: all for the
    /// topic's owner, else the caller's own.
    ///
    /// # Errors
    /// `Invalid`, `TopicNotFound`.
    pub async fn list_subscriptions(
        &self,
        by: &Caller,
        topic: &str,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<Entry<Subscription>>> {
        let limit = page_limit(limit)?;
        let (_, topic_record) = self.object_named::<Topic>(topic)?;
        let parts: [&[u8]; 2] = [b"subscriptions", &topic_record.generation.0];
        let list = List::new(&parts);
        let after = list.after(&self.keys, cursor)?;
        let mut found = Vec::new();
        for (key, record) in self.catalog.subscriptions_of(topic_record.generation) {
            let name = name_of(&key).split_off(topic.len() + 1);
            let read = Found { topic: Arc::clone(&topic_record), key, record };
            let wanted = after.as_ref().is_none_or(|after| name.as_bytes() > after.as_slice())
                && read.record.state == State::Live
                && self.require_seen(by, &read).is_ok();
            if wanted {
                found.push(entry(&name, read.record)?);
            }
            if found.len() > limit {
                break;
            }
        }
        let name = |entry: &Entry<Subscription>| entry.name.clone().into_bytes();
        Ok(list.page(&self.keys, found, limit, name))
    }

    /// Changes settings that can be changed. Only the creator does.
    ///
    /// # Errors
    /// `Invalid` (also for what is fixed and differs), `OutOfScope`, `TopicNotFound`,
    /// `SubscriptionNotFound`, `NotOwner`, `PreconditionFailed`, `Overloaded`, `NotEnoughReplicas`.
    pub async fn update_subscription(
        &self,
        by: &Caller,
        topic: &str,
        name: &str,
        change: &SubscriptionChange,
        if_match: Option<&str>,
    ) -> Answer<Entry<Subscription>> {
        change.check()?;
        let found = self.subscription_named(topic, name)?;
        self.require_creator(by, &found.record)?;
        let generation = self.started(&found.key, found.record).await?.generation;
        let mut changed = false;
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, subscription) = live_subscription(latest, generation)?;
            self.require_creator(by, latest)?;
            check_if_match(if_match, latest)?;
            change.check_fixed(subscription)?;
            let config = change.over(&subscription.config)?;
            changed = config != subscription.config;
            if !changed {
                return Ok(Step::Keep(Arc::clone(latest)));
            }
            if config.dead_letter != subscription.config.dead_letter {
                self.require_dead_letter(subscription.owner, config.dead_letter.as_deref())?;
            }
            let updated_ms = self.clock.wall_ms();
            let next = Subscription { config, updated_ms, ..subscription.clone() };
            Ok(Step::Write(draft(latest.generation, State::Live, next)))
        };
        let record = self.alter(&found.key, rule).await?;
        if changed {
            by.note("update_subscription", ("subscription", &name_of(&found.key)), "");
            let reader = SubscriptionId::of(record.generation);
            self.look_again(found.topic.generation, reader).await;
        }
        entry(name, record)
    }

    /// Deletes a subscription: what it had not settled is gone for it only.
    ///
    /// # Errors
    /// `Invalid`, `OutOfScope`, `TopicNotFound`, `SubscriptionNotFound`, `NotOwner`,
    /// `PreconditionFailed`, `Overloaded`; `NotEnoughReplicas` with an unknown outcome: the
    /// deletion has begun and will be completed.
    pub async fn delete_subscription(
        &self,
        by: &Caller,
        topic: &str,
        name: &str,
        if_match: Option<&str>,
    ) -> Answer<()> {
        let found = self.subscription_named(topic, name)?;
        self.require_seen(by, &found)?;
        let generation = found.record.generation;
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, subscription) = live_subscription(latest, generation)?;
            check_if_match(if_match, latest)?;
            Ok(Step::Write(draft(generation, State::Sealed, subscription.clone())))
        };
        let sealed = self.alter(&found.key, rule).await?;
        self.stop_reading(&found.key, &sealed).await?;
        by.note("delete_subscription", ("subscription", &name_of(&found.key)), "");
        Ok(())
    }

    /// Why nothing is delivered for a subscription now, in words; `None`: it is active. Judged by
    /// the present rights of its creator, whatever they were when it was made.
    #[must_use]
    pub fn suspension(&self, topic: &Topic, subscription: &Subscription) -> Option<&'static str> {
        if !self.rights_of(subscription.owner, topic).contains(&Right::Subscribe) {
            return Some("its creator lacks the right `subscribe` on the topic");
        }
        let target = subscription.deliver_to.as_ref()?;
        let Some((_, record)) = self.catalog.stream_by_generation(target.generation) else {
            return Some("the queue that it delivers into is gone");
        };
        let Some(queue) = record.queue() else {
            return Some("the queue that it delivers into is being deleted");
        };
        let may_send = self.rights_of(subscription.owner, queue).contains(&Right::Send);
        (!may_send).then_some("its creator lacks the right `send` on the queue")
    }

    /// The same for a view, which has the topic's name only.
    #[must_use]
    pub fn suspension_in(&self, topic: &str, subscription: &Subscription) -> Option<&'static str> {
        let record = Topic::key(topic).ok().and_then(|key| self.catalog.live(&key))?;
        self.suspension(record.topic()?, subscription)
    }

    /// The live subscriptions that deliver into a queue: their topics' names and their own.
    #[must_use]
    pub fn links_into(&self, queue: Generation) -> Vec<(String, String)> {
        let live = |(key, record): (RecordKey, Arc<Record>)| {
            record.subscription()?;
            let (topic, name) = name_of(&key).split_once('/').map(owned)?;
            Some((topic, name))
        };
        self.catalog.links_into(queue).into_iter().filter_map(live).collect()
    }

    /// The live subscription of these names in the path.
    pub(crate) fn subscription_named(&self, topic: &str, name: &str) -> Answer<Found> {
        let (_, topic_record) = self.object_named::<Topic>(topic)?;
        let key = RecordKey::subscription(topic, subscription_name(name)?.as_str());
        let record = self.catalog.live(&key).filter(|it| reads(it, &topic_record));
        let record = record.ok_or(Refusal::SubscriptionNotFound)?;
        Ok(Found { topic: topic_record, key, record })
    }

    /// Whether a subscription that exists is what the caller asks for.
    fn compare_subscription(
        &self,
        by: &Caller,
        topic: &Topic,
        latest: &Record,
        given: &SubscriptionChange,
    ) -> Answer<()> {
        let taken = Refusal::NameTaken { what: "subscription" };
        let Some(subscription) = latest.subscription() else { return Err(taken) };
        if !self.may_act_for(by, subscription.owner) {
            self.require(by, topic, Right::Subscribe)?;
            return Err(taken);
        }
        match given.differences(subscription) {
            differences if differences.is_empty() => Ok(()),
            differences => Err(Refusal::ConfigDiffers(differences)),
        }
    }

    fn new_subscription(
        &self,
        by: &Caller,
        topic_record: &Record,
        topic: &Topic,
        given: &SubscriptionChange,
    ) -> Answer<Draft> {
        self.require(by, topic, Right::Subscribe)?;
        let deliver_to = match &given.deliver_to {
            Some(name) => Some(self.target(by, name)?),
            None => None,
        };
        let config = given.over(&DEFAULTS)?;
        self.require_dead_letter(by.user, config.dead_letter.as_deref())?;
        let count = self.catalog.count_subscriptions_of(topic_record.generation);
        if count >= SUBSCRIPTIONS_PER_TOPIC_MAX {
            let limit = SUBSCRIPTIONS_PER_TOPIC_MAX;
            return Err(Refusal::Quota { what: "subscriptions of one topic", limit });
        }
        let now_ms = self.clock.wall_ms();
        let subscription = Subscription {
            topic: topic_record.generation,
            owner: by.user,
            config,
            filter: given.filter.clone().unwrap_or_default(),
            start: given.start.unwrap_or(Start::New),
            deliver_to,
            phase: Phase::Starting,
            created_ms: now_ms,
            updated_ms: now_ms,
        };
        Ok(draft(Generation::random(&*self.rng), State::Live, subscription))
    }

    /// The queue that a new subscription delivers into: this creation of its name, and no later
    /// one [F17].
    fn target(&self, by: &Caller, name: &str) -> Answer<Target> {
        let record = self.catalog.queue(&queue_name(name)?).ok_or(Refusal::QueueNotFound)?;
        let queue = record.queue().ok_or(Refusal::QueueNotFound)?;
        self.require(by, queue, Right::Send)?;
        if queue.ending != Ending::No {
            return Err(Refusal::Draining);
        }
        Ok(Target { name: name.to_owned(), generation: record.generation })
    }

    /// Dead letters go into a queue of the creator's own.
    fn require_dead_letter(&self, owner: UserId, name: Option<&str>) -> Answer<()> {
        let Some(name) = name else { return Ok(()) };
        let record = QueueName::parse(name).ok().and_then(|name| self.catalog.queue(&name));
        let queue = record.as_ref().and_then(|record| record.queue());
        if queue.is_some_and(|queue| queue.owner == owner) {
            return Ok(());
        }
        let message = "it must name a queue that the subscription's creator owns";
        Err(Refusal::invalid("dead_letter", "unknown", message))
    }

    /// The creator sees and deletes its own, the topic's owner all. Which of the two the caller
    /// is decides what a scope of its API key must cover.
    fn require_seen(&self, by: &Caller, found: &Found) -> Answer<()> {
        let subscription = found.record.subscription().ok_or(Refusal::SubscriptionNotFound)?;
        let topic = found.topic.topic().ok_or(Refusal::TopicNotFound)?;
        if self.may_act_for(by, topic.owner) && require_scope(by, Right::Manage).is_ok() {
            return Ok(());
        }
        self.require_creator_of(by, subscription)
    }

    fn require_creator(&self, by: &Caller, record: &Record) -> Answer<()> {
        let subscription = record.subscription().ok_or(Refusal::SubscriptionNotFound)?;
        self.require_creator_of(by, subscription)
    }

    pub(super) fn require_creator_of(
        &self,
        by: &Caller,
        subscription: &Subscription,
    ) -> Answer<()> {
        require_scope(by, Right::Subscribe)?;
        if self.may_act_for(by, subscription.owner) {
            return Ok(());
        }
        Err(Refusal::NotOwner { what: "subscription" })
    }
}

fn owned((topic, name): (&str, &str)) -> (String, String) {
    (topic.to_owned(), name.to_owned())
}

/// Whether a record, live or sealed, is a subscription of that creation of the topic.
fn reads(record: &Record, topic: &Record) -> bool {
    matches!(&record.value, Value::Subscription(it) if it.topic == topic.generation)
}

fn draft(generation: Generation, state: State, subscription: Subscription) -> Draft {
    Draft { generation, state, value: Value::Subscription(subscription) }
}

/// The live subscription of one creation of the name.
fn live_subscription(
    latest: Option<&Arc<Record>>,
    generation: Generation,
) -> Answer<(&Arc<Record>, &Subscription)> {
    let latest = latest.filter(|it| it.generation == generation);
    let latest = latest.ok_or(Refusal::SubscriptionNotFound)?;
    Ok((latest, latest.subscription().ok_or(Refusal::SubscriptionNotFound)?))
}

/// A subscription's name from the path.
fn subscription_name(name: &str) -> Answer<SubscriptionName> {
    SubscriptionName::parse(name)
        .map_err(|e| Refusal::invalid("path.subscription", "name", e.to_string()))
}

fn entry(name: &str, record: Arc<Record>) -> Answer<Entry<Subscription>> {
    let value = record.subscription().ok_or(Refusal::SubscriptionNotFound)?.clone();
    Ok(Entry { name: name.to_owned(), record, value })
}

#[cfg(test)]
mod tests;
