//! Topics: their names, owners and settings.

use super::changes::Step;
use super::objects::{Object, entry, live};
use super::rights::require_scope;
use super::settings::{self, Setting, numbers};
use super::{Answer, Broker, Caller, Entry, Messages, Page, Refusal, check_if_match};
use crate::base::ids::Generation;
use crate::base::limits::{
    DEDUP_SECONDS_MAX, MESSAGE_BYTES_DEFAULT, MESSAGE_BYTES_MAX, REPLICAS_DEFAULT, REPLICAS_MAX,
    RETENTION_SECONDS_MAX, RETENTION_SECONDS_MIN, STREAM_BYTES_MAX, TOPICS_PER_USER_MAX,
};
use crate::metadata::Draft;
use crate::protocol::record::{Ending, Record, Right, State, Topic, TopicConfig, Value};
use crate::security::DataKey;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Settings of a topic that were given; what is absent is not asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    /// Bytes of one message: 1 to 16 MiB.
    pub max_message_bytes: Option<i32>,
    /// Copies: 1 to 7. Fixed once the topic exists [F20].
    pub replicas: Option<i32>,
    /// Seconds that a message is kept: 60 to 315,360,000.
    pub retention_seconds: Option<i32>,
    /// Seconds that the key of a publish is remembered: 0 to 604,800.
    pub dedup_seconds: Option<i32>,
    /// Bytes of all messages; 0: no limit.
    pub max_bytes: Option<i64>,
}

/// What a topic is that says nothing.
pub const DEFAULTS: TopicConfig = TopicConfig {
    max_message_bytes: MESSAGE_BYTES_DEFAULT,
    replicas: REPLICAS_DEFAULT,
    retention_seconds: 1_209_600,
    dedup_seconds: 600,
    max_bytes: 0,
};

impl Broker {
    /// Makes a topic of the caller's; or, if it exists and the caller may manage it, compares the
    /// settings that are given. Answers whether it was made.
    ///
    /// # Errors
    /// `Invalid`, `OutOfScope`, `NameTaken`, `ConfigDiffers`, `Quota`, `Overloaded`,
    /// `NotEnoughReplicas`.
    pub async fn put_topic(
        &self,
        by: &Caller,
        name: &str,
        given: TopicChange,
    ) -> Answer<(bool, Entry<Topic>)> {
        let key = Topic::key(name)?;
        require_scope(by, Right::Manage)?;
        given.check()?;
        let mut created = false;
        let rule = |latest: Option<&Arc<Record>>| match latest {
            Some(latest) if latest.state != State::Free => {
                created = false;
                self.compare_topic(by, latest, &given)?;
                Ok(Step::Keep(Arc::clone(latest)))
            }
            _ => {
                created = true;
                self.new_topic(by, &given).map(Step::Write)
            }
        };
        let record = self.alter(&key, rule).await?;
        if created && self.catalog.user_by_id(by.user).is_none() {
            // The owner was deleted meanwhile, and could not take along what was not there yet.
            self.delete_owned::<Topic>(&key, &record).await?;
            return Err(Refusal::Unauthenticated);
        }
        if created {
            by.note("create_topic", ("topic", name), "");
        }
        Ok((created, entry(&key, record)?))
    }

    /// A topic, for whoever has any right on it.
    ///
    /// # Errors
    /// `Invalid`, `TopicNotFound`, `Forbidden`.
    pub async fn get_topic(&self, by: &Caller, name: &str) -> Answer<Entry<Topic>> {
        let (key, record) = self.object_named::<Topic>(name)?;
        let entry = entry(&key, record)?;
        if self.rights_on(by, &entry.value).is_empty() {
            return Err(Refusal::Forbidden { needs: Topic::ANY_RIGHT });
        }
        Ok(entry)
    }

    /// The topics that the caller has a right on, in the order of names; of one owner (a name or
    /// `me`) if given. An owner that is not there has none.
    ///
    /// # Errors
    /// `Invalid`.
    pub async fn list_topics(
        &self,
        by: &Caller,
        owner: Option<&str>,
        prefix: &str,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<Entry<Topic>>> {
        self.list_objects(by, owner, prefix, cursor, limit)
    }

    /// Changes settings that can be changed.
    ///
    /// # Errors
    /// `Invalid` (also for `replicas` that differ), `TopicNotFound`, `Forbidden`,
    /// `PreconditionFailed`, `Overloaded`, `NotEnoughReplicas`.
    pub async fn update_topic(
        &self,
        by: &Caller,
        name: &str,
        change: TopicChange,
        if_match: Option<&str>,
    ) -> Answer<Entry<Topic>> {
        let key = Topic::key(name)?;
        change.check()?;
        let mut changed = false;
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, topic) = live::<Topic>(latest)?;
            self.require(by, topic, Right::Manage)?;
            check_if_match(if_match, latest)?;
            if change.replicas.is_some_and(|wanted| wanted != topic.config.replicas) {
                let message = "the number of replicas is fixed once the topic exists";
                return Err(Refusal::invalid("replicas", "immutable", message));
            }
            let config = change.over(&topic.config);
            changed = config != topic.config;
            if !changed {
                return Ok(Step::Keep(Arc::clone(latest)));
            }
            Ok(Step::Write(self.changed(latest, Topic { config, ..topic.clone() })))
        };
        let record = self.alter(&key, rule).await?;
        if changed {
            by.note("update_topic", ("topic", name), "");
        }
        entry(&key, record)
    }

    /// Deletes a topic with its subscriptions and what they had not settled; if `only_empty`, then
    /// only if no message is left.
    ///
    /// # Errors
    /// [`Refusal`]; `NotEnoughReplicas` with an unknown outcome: the deletion has begun and will
    /// be completed.
    pub async fn delete_topic(
        &self,
        by: &Caller,
        name: &str,
        only_empty: bool,
        if_match: Option<&str>,
    ) -> Answer<()> {
        let messages = if only_empty { Messages::Refuse } else { Messages::Discard };
        self.delete_object::<Topic>(by, name, messages, if_match).await.map(|_| ())
    }

    /// How many subscriptions a topic has.
    #[must_use]
    pub fn count_subscriptions(&self, topic: &Record) -> usize {
        let all = self.catalog.subscriptions_of(topic.generation);
        all.iter().filter(|(_, record)| record.state == State::Live).count()
    }

    /// Whether a topic that exists is what the caller asks for.
    fn compare_topic(&self, by: &Caller, latest: &Record, given: &TopicChange) -> Answer<()> {
        let taken = Refusal::NameTaken { what: "topic" };
        // A topic that is being deleted is nobody's: its name is taken until it is free.
        let Some(topic) = latest.topic() else { return Err(taken) };
        if !self.rights_on(by, topic).contains(&Right::Manage) {
            return Err(taken);
        }
        match settings::differences(&given.settings(), &topic.config) {
            differences if differences.is_empty() => Ok(()),
            differences => Err(Refusal::ConfigDiffers(differences)),
        }
    }

    fn new_topic(&self, by: &Caller, given: &TopicChange) -> Answer<Draft> {
        if self.catalog.count_topics_of(by.user) >= TOPICS_PER_USER_MAX {
            return Err(Refusal::Quota { what: "topics", limit: TOPICS_PER_USER_MAX });
        }
        let rng = &*self.rng;
        let (generation, now_ms) = (Generation::random(rng), self.clock.wall_ms());
        let topic = Topic {
            owner: by.user,
            config: given.over(&DEFAULTS),
            ending: Ending::No,
            data_key: self.keys.wrap(generation, &DataKey::generate(rng), rng),
            grants: BTreeMap::new(),
            created_ms: now_ms,
            updated_ms: now_ms,
        };
        Ok(Draft { generation, state: State::Live, value: Value::Topic(topic) })
    }
}

impl TopicChange {
    fn settings(&self) -> [Setting<TopicConfig>; 5] {
        numbers![
            self,
            max_message_bytes: 1 => MESSAGE_BYTES_MAX,
            replicas: 1 => REPLICAS_MAX,
            retention_seconds: RETENTION_SECONDS_MIN => RETENTION_SECONDS_MAX,
            dedup_seconds: 0 => DEDUP_SECONDS_MAX,
            max_bytes: 0 => STREAM_BYTES_MAX,
        ]
    }

    fn check(&self) -> Answer<()> {
        settings::check(&self.settings())
    }

    fn over(&self, config: &TopicConfig) -> TopicConfig {
        TopicConfig {
            max_message_bytes: self.max_message_bytes.unwrap_or(config.max_message_bytes),
            replicas: self.replicas.unwrap_or(config.replicas),
            retention_seconds: self.retention_seconds.unwrap_or(config.retention_seconds),
            dedup_seconds: self.dedup_seconds.unwrap_or(config.dedup_seconds),
            max_bytes: self.max_bytes.unwrap_or(config.max_bytes),
        }
    }
}

#[cfg(test)]
mod tests;
