//! Subscriptions.

use super::browse::QueueStats;
use super::objects::present_object;
use super::scalars::Time;
use super::validate::{Bound, Faults, Rule, Validate, bound};
use super::{page, present};
use crate::base::limits;
use crate::broker::{self, Broker, Entry, SubscriptionChange};
use crate::message::envelope::is_attribute_key;
use crate::protocol::record::{self, Subscription};
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A subscription's settings. In requests every field is optional; answers have all that apply.
#[derive(Clone, Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionConfig {
    /// Which messages it wants; all conditions must hold. Fixed once the subscription exists.
    /// Default: all messages.
    #[serde(default, deserialize_with = "present_object", skip_serializing_if = "Option::is_none")]
    pub filter: Option<SubscriptionFilter>,
    /// Where it begins. Fixed once the subscription exists. Default: `new`.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub start: Option<SubscriptionStart>,
    /// The queue that its messages are moved into. Fixed once the subscription exists. Default:
    /// none, they are received from the subscription.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub deliver_to: Option<String>,
    /// Seconds of a lease where the receiver says nothing. Default: 30.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<i32>,
    /// Failures after which a message is dead; 0: never. Default: 10.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_failures: Option<i32>,
    /// Seconds until a message is due again after its first failure; twice as long after each
    /// next one. Default: 0.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub backoff_min_seconds: Option<i32>,
    /// The longest such pause. Default: 600.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub backoff_max_seconds: Option<i32>,
    /// Messages under lease at once. Default: 120000.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<i32>,
    /// The queue of its creator that takes the dead letters; the empty text: none. Default: none,
    /// they stay in place.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<String>,
    /// Receives find nothing, and nothing is moved. Default: false.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
}

impl Validate for SubscriptionConfig {
    const MAY_BE_ABSENT: bool = true;
    const BOUNDS: &'static [Bound] = &[
        bound("deliver_to", Rule::Text(1, 128)),
        bound("lease_seconds", Rule::Number(1, limits::LEASE_SECONDS_MAX as i64)),
        bound("max_failures", Rule::Number(0, limits::FAILURES_MAX as i64)),
        bound("backoff_min_seconds", Rule::Number(0, limits::BACKOFF_SECONDS_MAX as i64)),
        bound("backoff_max_seconds", Rule::Number(0, limits::BACKOFF_SECONDS_MAX as i64)),
        bound("max_in_flight", Rule::Number(1, limits::IN_FLIGHT_MAX as i64)),
        bound("dead_letter", Rule::Text(0, 128)),
    ];

    fn validate(&self, faults: &mut Faults) {
        faults.inside("filter", self.filter.as_ref());
        faults.text::<Self>("deliver_to", self.deliver_to.as_deref());
        faults.number::<Self>("lease_seconds", self.lease_seconds);
        faults.number::<Self>("max_failures", self.max_failures);
        faults.number::<Self>("backoff_min_seconds", self.backoff_min_seconds);
        faults.number::<Self>("backoff_max_seconds", self.backoff_max_seconds);
        faults.number::<Self>("max_in_flight", self.max_in_flight);
        faults.text::<Self>("dead_letter", self.dead_letter.as_deref());
    }
}

/// Which messages a subscription wants: all conditions must hold.
#[derive(Clone, Debug, Object, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionFilter {
    /// Words joined by `.`: `*` stands for exactly one word, `#` for any number. Default: any
    /// routing key, or none.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub routing_key: Option<String>,
    /// Attributes that a message must have, with these values. Default: none.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BTreeMap<String, String>>,
}

impl Validate for SubscriptionFilter {
    const BOUNDS: &'static [Bound] = &[
        bound("routing_key", Rule::Text(1, limits::ROUTING_KEY_CHARS_MAX)),
        bound("attributes", Rule::Map(limits::ATTRIBUTES_MAX, limits::ATTRIBUTE_VALUE_BYTES_MAX)),
    ];

    fn validate(&self, faults: &mut Faults) {
        faults.text::<Self>("routing_key", self.routing_key.as_deref());
        faults.map::<Self>("attributes", self.attributes.as_ref(), is_attribute_key);
    }
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionStart {
    /// With what is published from now on.
    New,
    /// With what is still kept for another subscription.
    Earliest,
}

impl From<SubscriptionFilter> for record::Filter {
    fn from(filter: SubscriptionFilter) -> Self {
        let attributes = filter.attributes.unwrap_or_default();
        Self { routing_key: filter.routing_key, attributes }
    }
}

impl From<record::Filter> for SubscriptionFilter {
    fn from(filter: record::Filter) -> Self {
        let attributes = (!filter.attributes.is_empty()).then_some(filter.attributes);
        Self { routing_key: filter.routing_key, attributes }
    }
}

impl From<SubscriptionConfig> for SubscriptionChange {
    fn from(config: SubscriptionConfig) -> Self {
        Self {
            lease_seconds: config.lease_seconds,
            max_failures: config.max_failures,
            backoff_min_seconds: config.backoff_min_seconds,
            backoff_max_seconds: config.backoff_max_seconds,
            max_in_flight: config.max_in_flight,
            dead_letter: config.dead_letter,
            paused: config.paused,
            filter: config.filter.map(Into::into),
            start: config.start.map(|start| match start {
                SubscriptionStart::New => record::Start::New,
                SubscriptionStart::Earliest => record::Start::Earliest,
            }),
            deliver_to: config.deliver_to,
        }
    }
}

impl From<Subscription> for SubscriptionConfig {
    fn from(subscription: Subscription) -> Self {
        let config = subscription.config;
        Self {
            filter: Some(subscription.filter.into()),
            start: Some(match subscription.start {
                record::Start::New => SubscriptionStart::New,
                record::Start::Earliest => SubscriptionStart::Earliest,
            }),
            deliver_to: subscription.deliver_to.map(|target| target.name),
            lease_seconds: Some(config.lease_seconds),
            max_failures: Some(config.max_failures),
            backoff_min_seconds: Some(config.backoff_min_seconds),
            backoff_max_seconds: Some(config.backoff_max_seconds),
            max_in_flight: Some(config.max_in_flight),
            dead_letter: config.dead_letter,
            paused: Some(config.paused),
        }
    }
}

/// A subscription.
#[derive(Debug, Object, Serialize)]
pub struct SubscriptionView {
    /// The topic that it reads.
    pub topic: String,
    /// The name, unique among those of its topic.
    pub name: String,
    /// Who made it: the only one who receives from it.
    pub owner: String,
    /// `active`, or `suspended`: its creator lacks a right now, and nothing is delivered. More may
    /// come.
    pub status: String,
    /// What is missing where it is not active, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_detail: Option<String>,
    /// When it was created.
    pub created_at: Time,
    /// When its settings last changed.
    pub updated_at: Time,
    /// Names this version of the subscription, for `If-Match`.
    pub etag: String,
    /// Its settings, every field present that applies: may be sent back as they are.
    pub config: SubscriptionConfig,
    /// How many messages wait for it; only where one subscription is looked at, not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<QueueStats>,
}

impl SubscriptionView {
    /// A subscription of that topic.
    #[must_use]
    pub fn new(broker: &Broker, topic: &str, entry: Entry<Subscription>) -> Self {
        let subscription = entry.value;
        let suspension = broker.suspension_in(topic, &subscription);
        Self {
            topic: topic.to_owned(),
            name: entry.name,
            // A creator who is gone has no name any more, while the subscription is being deleted.
            owner: broker.user_name(subscription.owner).unwrap_or_default(),
            status: if suspension.is_some() { "suspended" } else { "active" }.to_owned(),
            status_detail: suspension.map(str::to_owned),
            created_at: Time(subscription.created_ms),
            updated_at: Time(subscription.updated_ms),
            etag: broker::etag(&entry.record),
            config: subscription.into(),
            stats: None,
        }
    }
}

page!(
    /// Subscriptions, by name.
    SubscriptionPage of SubscriptionView
);
