//! What of a queue can be set: within which bounds, what it is where nobody says, what goes
//! together, and what is fixed once the queue exists.

use super::settings::{self, Setting, numbers};
use super::{Answer, Difference, Fault, Refusal};
use crate::base::limits;
use crate::base::names::QueueName;
use crate::protocol::record::{Ordering, QueueConfig};

/// Settings of a queue that were given; what is absent is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueChange {
    /// Seconds of a lease where the receiver says nothing: 1 to 43,200.
    pub lease_seconds: Option<i32>,
    /// Bytes of one message: 1 to 16 MiB.
    pub max_message_bytes: Option<i32>,
    /// Copies: 1 to 7. Fixed once the queue exists [F20].
    pub replicas: Option<i32>,
    /// Seconds until a message is dropped: 60 to 315,360,000.
    pub retention_seconds: Option<i32>,
    /// Seconds until a message is due where its sender says nothing: 0 to the retention.
    pub delay_seconds: Option<i32>,
    /// Failures after which a message is dead: 0 (never) to 1,000.
    pub max_failures: Option<i32>,
    /// Seconds of the pause after a first failure: 0 to the longest pause.
    pub backoff_min_seconds: Option<i32>,
    /// Seconds of the longest such pause: 0 to 86,400.
    pub backoff_max_seconds: Option<i32>,
    /// Seconds for which the key of a send is remembered: 0 (keys are refused) to 604,800.
    pub dedup_seconds: Option<i32>,
    /// Messages under lease at once: 1 to 1,000,000.
    pub max_in_flight: Option<i32>,
    /// Bytes of all messages: 0 (no limit) to 2^53 - 1.
    pub max_bytes: Option<i64>,
    /// In which order messages go out. Fixed once the queue exists [F20].
    pub ordering: Option<Ordering>,
    /// The owner's queue that takes the dead letters; empty: none, they stay in place.
    pub dead_letter: Option<String>,
    /// Receives find nothing.
    pub paused: Option<bool>,
}

/// What a queue is that says nothing.
pub const DEFAULTS: QueueConfig = QueueConfig {
    lease_seconds: limits::LEASE_SECONDS_DEFAULT,
    max_message_bytes: limits::MESSAGE_BYTES_DEFAULT,
    replicas: limits::REPLICAS_DEFAULT,
    retention_seconds: limits::RETENTION_SECONDS_DEFAULT,
    delay_seconds: 0,
    max_failures: limits::FAILURES_DEFAULT,
    backoff_min_seconds: 0,
    backoff_max_seconds: limits::BACKOFF_SECONDS_DEFAULT,
    dedup_seconds: limits::DEDUP_SECONDS_DEFAULT,
    max_in_flight: limits::IN_FLIGHT_DEFAULT,
    max_bytes: 0,
    ordering: Ordering::BestEffort,
    dead_letter: None,
    paused: false,
};

impl QueueChange {
    /// The settings that are numbers.
    fn numbers(&self) -> [Setting<QueueConfig>; 11] {
        numbers![
            self,
            lease_seconds: 1 => limits::LEASE_SECONDS_MAX,
            max_message_bytes: 1 => limits::MESSAGE_BYTES_MAX,
            replicas: 1 => limits::REPLICAS_MAX,
            retention_seconds: limits::RETENTION_SECONDS_MIN => limits::RETENTION_SECONDS_MAX,
            delay_seconds: 0 => limits::RETENTION_SECONDS_MAX,
            max_failures: 0 => limits::FAILURES_MAX,
            backoff_min_seconds: 0 => limits::BACKOFF_SECONDS_MAX,
            backoff_max_seconds: 0 => limits::BACKOFF_SECONDS_MAX,
            dedup_seconds: 0 => limits::DEDUP_SECONDS_MAX,
            max_in_flight: 1 => limits::IN_FLIGHT_MAX,
            max_bytes: 0 => limits::STREAM_BYTES_MAX,
        ]
    }

    /// Whether each number is within its bounds.
    ///
    /// # Errors
    /// `Invalid`.
    pub(super) fn check(&self) -> Answer<()> {
        let mut faults = settings::faults(&self.numbers());
        let target = self.dead_letter.as_deref().filter(|name| !name.is_empty());
        if let Some(Err(error)) = target.map(QueueName::parse) {
            faults.push(Fault::new("dead_letter", "name", error.to_string()));
        }
        refuse(faults)
    }

    /// Whether what is fixed stays as it is.
    ///
    /// # Errors
    /// `Invalid`.
    pub(super) fn check_fixed(&self, config: &QueueConfig) -> Answer<()> {
        let fixed = [
            ("replicas", self.replicas.is_some_and(|wanted| wanted != config.replicas)),
            ("ordering", self.ordering.is_some_and(|wanted| wanted != config.ordering)),
        ];
        let changed = fixed.into_iter().filter(|(_, is_changed)| *is_changed);
        let message = |name| format!("`{name}` is fixed once the queue exists");
        refuse(changed.map(|(name, _)| Fault::new(name, "immutable", message(name))).collect())
    }

    /// Whether the settings go together as they are after the change. The fault is of a field that
    /// was given: no other can be the reason.
    ///
    /// # Errors
    /// `Invalid`.
    pub(super) fn check_result(&self, config: &QueueConfig) -> Answer<()> {
        let mut faults = Vec::new();
        let (delay, retention) = (config.delay_seconds, config.retention_seconds);
        if delay > retention {
            let is_delay = self.delay_seconds.is_some();
            let field = if is_delay { "delay_seconds" } else { "retention_seconds" };
            let message = format!("a delay of {delay} s exceeds the retention of {retention} s");
            faults.push(Fault::new(field, "range", message));
        }
        let (least, most) = (config.backoff_min_seconds, config.backoff_max_seconds);
        if least > most {
            let is_least = self.backoff_min_seconds.is_some();
            let field = if is_least { "backoff_min_seconds" } else { "backoff_max_seconds" };
            let message = format!("a first pause of {least} s exceeds the longest of {most} s");
            faults.push(Fault::new(field, "range", message));
        }
        refuse(faults)
    }

    /// The settings after the change.
    pub(super) fn over(&self, config: QueueConfig) -> QueueConfig {
        QueueConfig {
            lease_seconds: self.lease_seconds.unwrap_or(config.lease_seconds),
            max_message_bytes: self.max_message_bytes.unwrap_or(config.max_message_bytes),
            replicas: self.replicas.unwrap_or(config.replicas),
            retention_seconds: self.retention_seconds.unwrap_or(config.retention_seconds),
            delay_seconds: self.delay_seconds.unwrap_or(config.delay_seconds),
            max_failures: self.max_failures.unwrap_or(config.max_failures),
            backoff_min_seconds: self.backoff_min_seconds.unwrap_or(config.backoff_min_seconds),
            backoff_max_seconds: self.backoff_max_seconds.unwrap_or(config.backoff_max_seconds),
            dedup_seconds: self.dedup_seconds.unwrap_or(config.dedup_seconds),
            max_in_flight: self.max_in_flight.unwrap_or(config.max_in_flight),
            max_bytes: self.max_bytes.unwrap_or(config.max_bytes),
            ordering: self.ordering.unwrap_or(config.ordering),
            dead_letter: match self.dead_letter.as_deref() {
                None => config.dead_letter,
                Some("") => None,
                Some(name) => Some(name.to_owned()),
            },
            paused: self.paused.unwrap_or(config.paused),
        }
    }

    /// What was given and is not so.
    pub(super) fn differences(&self, config: &QueueConfig) -> Vec<Difference> {
        let numbers = settings::differences(&self.numbers(), config);
        let ordering = self.ordering.map(|wanted| ordering_word(wanted).to_owned());
        let paused = self.paused.map(|wanted| wanted.to_string());
        let others = [
            ("ordering", ordering, ordering_word(config.ordering).to_owned()),
            ("paused", paused, config.paused.to_string()),
            (
                "dead_letter",
                self.dead_letter.clone(),
                config.dead_letter.clone().unwrap_or_default(),
            ),
        ];
        let differing = others.into_iter().filter_map(|(field, wanted, actual)| {
            let wanted = wanted.filter(|wanted| *wanted != actual)?;
            Some(Difference { field, wanted, actual })
        });
        numbers.into_iter().chain(differing).collect()
    }
}

/// An order as clients write it.
fn ordering_word(ordering: Ordering) -> &'static str {
    match ordering {
        Ordering::BestEffort => "best_effort",
        Ordering::Group => "group",
    }
}

fn refuse(faults: Vec<Fault>) -> Answer<()> {
    if faults.is_empty() { Ok(()) } else { Err(Refusal::Invalid(faults)) }
}
