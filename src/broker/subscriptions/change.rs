//! Settings of a subscription that were given: their bounds, and what is fixed.

use super::*;
use crate::base::limits::{BACKOFF_SECONDS_MAX, FAILURES_MAX, IN_FLIGHT_MAX, LEASE_SECONDS_MAX};
use crate::broker::settings::{Setting, numbers};

/// Settings of a subscription that were given; what is absent is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionChange {
    /// Seconds of a lease where the receiver says nothing: 1 to 43,200.
    pub lease_seconds: Option<i32>,
    /// Failures after which a message is dead: 0 (never) to 1,000.
    pub max_failures: Option<i32>,
    /// Seconds until a message is due again after its first failure: 0 to 86,400.
    pub backoff_min_seconds: Option<i32>,
    /// The longest such pause: 0 to 86,400 seconds.
    pub backoff_max_seconds: Option<i32>,
    /// Messages under lease at once: 1 to 1,000,000.
    pub max_in_flight: Option<i32>,
    /// The creator's queue that takes the dead letters; empty: none, they stay in place.
    pub dead_letter: Option<String>,
    /// Receives find nothing, and links move nothing.
    pub paused: Option<bool>,
    /// What it wants. Fixed.
    pub filter: Option<Filter>,
    /// Where it begins. Fixed.
    pub start: Option<Start>,
    /// The queue that it delivers into. Fixed.
    pub deliver_to: Option<String>,
}

impl SubscriptionChange {
    fn settings(&self) -> [Setting<SubscriptionConfig>; 5] {
        numbers![
            self,
            lease_seconds: 1 => LEASE_SECONDS_MAX,
            max_failures: 0 => FAILURES_MAX,
            backoff_min_seconds: 0 => BACKOFF_SECONDS_MAX,
            backoff_max_seconds: 0 => BACKOFF_SECONDS_MAX,
            max_in_flight: 1 => IN_FLIGHT_MAX,
        ]
    }

    pub(super) fn check(&self) -> Answer<()> {
        settings::check(&self.settings())?;
        let mut faults = Vec::new();
        if let Some(Err(error)) = self.filter.as_ref().map(Filter::check) {
            faults.push(Fault::new(
                &format!("filter.{}", error.field()),
                "filter",
                error.to_string(),
            ));
        }
        let queues =
            [("dead_letter", &self.dead_letter, true), ("deliver_to", &self.deliver_to, false)];
        for (field, name, may_be_empty) in queues {
            let Some(name) = name.as_deref().filter(|it| !(may_be_empty && it.is_empty())) else {
                continue;
            };
            if let Err(error) = QueueName::parse(name) {
                faults.push(Fault::new(field, "name", error.to_string()));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Refusal::Invalid(faults)) }
    }

    /// The settings as they would be.
    pub(super) fn over(&self, config: &SubscriptionConfig) -> Answer<SubscriptionConfig> {
        let dead_letter = match self.dead_letter.as_deref() {
            None => config.dead_letter.clone(),
            Some("") => None,
            Some(name) => Some(name.to_owned()),
        };
        let next = SubscriptionConfig {
            lease_seconds: self.lease_seconds.unwrap_or(config.lease_seconds),
            max_failures: self.max_failures.unwrap_or(config.max_failures),
            backoff_min_seconds: self.backoff_min_seconds.unwrap_or(config.backoff_min_seconds),
            backoff_max_seconds: self.backoff_max_seconds.unwrap_or(config.backoff_max_seconds),
            max_in_flight: self.max_in_flight.unwrap_or(config.max_in_flight),
            dead_letter,
            paused: self.paused.unwrap_or(config.paused),
        };
        if next.backoff_min_seconds > next.backoff_max_seconds {
            let message = "the shortest pause is longer than the longest";
            return Err(Refusal::invalid("backoff_min_seconds", "range", message));
        }
        Ok(next)
    }

    /// Refuses what is fixed and would change.
    pub(super) fn check_fixed(&self, subscription: &Subscription) -> Answer<()> {
        match self.fixed_differences(subscription).first() {
            Some(Difference { field, .. }) => {
                let message = format!("`{field}` is fixed once the subscription exists");
                Err(Refusal::invalid(field, "immutable", message))
            }
            None => Ok(()),
        }
    }

    /// What is given and is otherwise.
    pub(super) fn differences(&self, subscription: &Subscription) -> Vec<Difference> {
        let config = &subscription.config;
        let mut found = self.fixed_differences(subscription);
        found.extend(settings::differences(&self.settings(), config));
        let actual = config.dead_letter.as_deref().unwrap_or_default();
        found.extend(differing("dead_letter", self.dead_letter.as_deref(), actual));
        let paused = self.paused.map(|it| it.to_string());
        found.extend(differing("paused", paused.as_deref(), &config.paused.to_string()));
        found
    }

    fn fixed_differences(&self, subscription: &Subscription) -> Vec<Difference> {
        let filter = self.filter.as_ref().map(filter_text);
        let start = self.start.map(start_text);
        let target = subscription.deliver_to.as_ref().map(|it| it.name.as_str());
        let fields = [
            differing("filter", filter.as_deref(), &filter_text(&subscription.filter)),
            differing("start", start, start_text(subscription.start)),
            differing("deliver_to", self.deliver_to.as_deref(), target.unwrap_or_default()),
        ];
        fields.into_iter().flatten().collect()
    }
}

fn differing(field: &'static str, wanted: Option<&str>, actual: &str) -> Option<Difference> {
    let wanted = wanted.filter(|wanted| *wanted != actual)?;
    Some(Difference { field, wanted: wanted.to_owned(), actual: actual.to_owned() })
}

fn start_text(start: Start) -> &'static str {
    match start {
        Start::New => "new",
        Start::Earliest => "earliest",
    }
}

/// A filter in one line; equal filters have equal ones.
fn filter_text(filter: &Filter) -> String {
    format!("routing_key {:?}, attributes {:?}", filter.routing_key, filter.attributes)
}
