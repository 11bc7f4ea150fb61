//! The end of a lease: acknowledged, extended, released; one by one or many at once.

use super::objects::{present_list, present_objects};
use super::present;
use super::scalars::Time;
use super::validate::{Bound, Faults, Rule, Validate, bound};
use crate::api::problem::Problem;
use crate::base::limits;
use crate::broker::refusal::{Outcome, Refusal};
use crate::broker::{Action, Lease, Reason, Settlement, Verdict};
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Seconds of a lease.
const LEASE_SECONDS: Rule = Rule::Number(1, limits::LEASE_SECONDS_MAX as i64);
/// Seconds for which a message that was given back is not due.
const DELAY_SECONDS: Rule = Rule::Number(0, limits::DELAY_SECONDS_MAX as i64);
/// Characters of a reason.
pub(in crate::api) const REASON: Rule = Rule::Text(0, limits::REASON_CHARS_MAX);
/// Characters of a receipt.
const RECEIPT: Rule = Rule::Text(1, limits::RECEIPT_CHARS_MAX);

/// A longer lease.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseExtension {
    /// Seconds from now until the lease ends.
    pub lease_seconds: i32,
}

impl Validate for LeaseExtension {
    const BOUNDS: &'static [Bound] = &[bound("lease_seconds", LEASE_SECONDS)];

    fn validate(&self, faults: &mut Faults) {
        faults.number::<Self>("lease_seconds", Some(self.lease_seconds));
    }
}

/// A lease, extended.
#[derive(Debug, Object, Serialize)]
pub struct LeaseView {
    /// The receipt: it stays the same.
    pub receipt: String,
    /// When the lease ends, by the node's clock.
    pub lease_expires_at: Time,
    /// The same in milliseconds from the answer.
    pub lease_remaining_ms: i32,
    /// Rises with every lease of the message.
    pub fence: i64,
}

impl LeaseView {
    /// A lease and its receipt.
    #[must_use]
    pub fn new(receipt: String, lease: &Lease) -> Self {
        Self {
            receipt,
            lease_expires_at: Time(lease.expires_ms),
            lease_remaining_ms: lease.remaining_ms,
            fence: lease.fence,
        }
    }
}

/// How a lease was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum ReleaseOutcome {
    /// Nothing was tried: it is ready again, and no failure is counted.
    #[default]
    HandedBack,
    /// It was tried and failed: a failure is counted.
    Failed,
    /// It will never succeed: it is a dead letter at once.
    Poison,
}

/// A lease to give back.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseRequest {
    /// How it went. Default: `handed_back`.
    #[serde(default, deserialize_with = "present")]
    pub outcome: Option<ReleaseOutcome>,
    /// Seconds until it is due again; at most the queue's retention. Default: 0; after `failed`
    /// the queue's back-off.
    #[serde(default, deserialize_with = "present")]
    pub delay_seconds: Option<i32>,
    /// Why, for people: at most 1024 characters. After `failed` and `poison` it is kept, sealed, and
    /// shown as `detail` of the dead letter, if the message dies.
    #[serde(default, deserialize_with = "present")]
    pub reason: Option<String>,
}

impl Validate for ReleaseRequest {
    const MAY_BE_ABSENT: bool = true;
    const BOUNDS: &'static [Bound] =
        &[bound("delay_seconds", DELAY_SECONDS), bound("reason", REASON)];

    fn validate(&self, faults: &mut Faults) {
        faults.number::<Self>("delay_seconds", self.delay_seconds);
        faults.text::<Self>("reason", self.reason.as_deref());
    }
}

/// A release, as the broker is asked for it.
#[must_use]
pub fn release(
    receipt: String,
    outcome: Option<ReleaseOutcome>,
    delay_seconds: Option<i32>,
    reason: Option<String>,
) -> Settlement {
    let outcome = match outcome.unwrap_or_default() {
        ReleaseOutcome::HandedBack => crate::broker::ReleaseOutcome::HandedBack,
        ReleaseOutcome::Failed => crate::broker::ReleaseOutcome::Failed,
        ReleaseOutcome::Poison => crate::broker::ReleaseOutcome::Poison,
    };
    let action = Action::Release { outcome, delay_seconds };
    Settlement { reason: reason.map(Reason), ..Settlement::new(receipt, action) }
}

/// Receipts in one list.
const MAX: usize = limits::SETTLEMENT_BATCH_MAX;

/// Many leases to settle: 1 to 1000 receipts, each once.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettlementRequest {
    /// Receipts to acknowledge.
    #[serde(default, deserialize_with = "present_list::<_, _, MAX>")]
    pub ack: Option<Vec<String>>,
    /// Leases to extend.
    #[serde(default, deserialize_with = "present_objects::<_, _, MAX>")]
    pub extend: Option<Vec<ExtendItem>>,
    /// Leases to give back.
    #[serde(default, deserialize_with = "present_objects::<_, _, MAX>")]
    pub release: Option<Vec<ReleaseItem>>,
}

/// A lease to extend.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtendItem {
    /// Its receipt.
    pub receipt: String,
    /// Seconds from now until the lease ends.
    pub lease_seconds: i32,
}

impl Validate for ExtendItem {
    const BOUNDS: &'static [Bound] =
        &[bound("receipt", RECEIPT), bound("lease_seconds", LEASE_SECONDS)];

    fn validate(&self, faults: &mut Faults) {
        faults.text::<Self>("receipt", Some(&self.receipt));
        faults.number::<Self>("lease_seconds", Some(self.lease_seconds));
    }
}

/// A lease to give back.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseItem {
    /// Its receipt.
    pub receipt: String,
    /// How it went. Default: `handed_back`.
    #[serde(default, deserialize_with = "present")]
    pub outcome: Option<ReleaseOutcome>,
    /// Seconds until it is due again; at most the queue's retention. Default: 0; after `failed`
    /// the queue's back-off.
    #[serde(default, deserialize_with = "present")]
    pub delay_seconds: Option<i32>,
    /// Why, for people: at most 1024 characters. After `failed` and `poison` it is kept, sealed, and
    /// shown as `detail` of the dead letter, if the message dies.
    #[serde(default, deserialize_with = "present")]
    pub reason: Option<String>,
}

impl Validate for ReleaseItem {
    const BOUNDS: &'static [Bound] = &[
        bound("receipt", RECEIPT),
        bound("delay_seconds", DELAY_SECONDS),
        bound("reason", REASON),
    ];

    fn validate(&self, faults: &mut Faults) {
        faults.text::<Self>("receipt", Some(&self.receipt));
        faults.number::<Self>("delay_seconds", self.delay_seconds);
        faults.text::<Self>("reason", self.reason.as_deref());
    }
}

const BATCH: Rule = Rule::Items(0, limits::SETTLEMENT_BATCH_MAX);

impl Validate for SettlementRequest {
    const MAY_BE_ABSENT: bool = true;
    const BOUNDS: &'static [Bound] =
        &[bound("ack", BATCH), bound("extend", BATCH), bound("release", BATCH)];

    fn validate(&self, faults: &mut Faults) {
        let count = self.receipts().count();
        if !(1..=limits::SETTLEMENT_BATCH_MAX).contains(&count) {
            let message = format!("1 to {} receipts in all", limits::SETTLEMENT_BATCH_MAX);
            let field = if self.ack.is_some() || count == 0 { "ack" } else { "extend" };
            return faults.add(field, message, "length");
        }
        for (index, receipt) in self.ack.iter().flatten().enumerate() {
            if !(1..=limits::RECEIPT_CHARS_MAX).contains(&receipt.len()) {
                let message = format!("1 to {} characters", limits::RECEIPT_CHARS_MAX);
                faults.add(&format!("ack[{index}]"), message, "length");
            }
        }
        faults.each("extend", self.extend.as_deref().unwrap_or_default());
        faults.each("release", self.release.as_deref().unwrap_or_default());
        if self.receipts().map(|(_, _, r)| r).collect::<BTreeSet<_>>().len() < count {
            let mut seen = BTreeSet::new();
            if let Some((list, index, _)) = self.receipts().find(|(_, _, r)| !seen.insert(*r)) {
                faults.add(&format!("{}[{index}]", list.word()), "each receipt once", "repeated");
            }
        }
    }
}

impl SettlementRequest {
    /// All receipts: acks, then extends, then releases, each with its place.
    fn receipts(&self) -> impl Iterator<Item = (SettlementAction, usize, &str)> {
        let acks = self.ack.iter().flatten().enumerate();
        let extends = self.extend.iter().flatten().enumerate();
        let releases = self.release.iter().flatten().enumerate();
        acks.map(|(i, receipt)| (SettlementAction::Ack, i, receipt.as_str()))
            .chain(extends.map(|(i, item)| (SettlementAction::Extend, i, item.receipt.as_str())))
            .chain(releases.map(|(i, item)| (SettlementAction::Release, i, item.receipt.as_str())))
    }

    /// The places of the verdicts to come, and what to ask of the broker, in the same order.
    #[must_use]
    pub fn split(self) -> (Vec<Place>, Vec<Settlement>) {
        let places = self
            .receipts()
            .map(|(action, index, receipt)| Place { action, index, receipt: receipt.to_owned() })
            .collect();
        let acks = self.ack.into_iter().flatten();
        let acks = acks.map(|receipt| Settlement::new(receipt, Action::Ack));
        let extends = self.extend.into_iter().flatten();
        let extends = extends.map(|item| {
            Settlement::new(item.receipt, Action::Extend { lease_seconds: item.lease_seconds })
        });
        let releases = self.release.into_iter().flatten();
        let releases = releases
            .map(|item| release(item.receipt, item.outcome, item.delay_seconds, item.reason));
        (places, acks.chain(extends).chain(releases).collect())
    }
}

/// Which receipt of a request a verdict is about.
pub struct Place {
    /// The list.
    pub action: SettlementAction,
    /// The place in it.
    pub index: usize,
    /// The receipt.
    pub receipt: String,
}

/// What was asked for a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum SettlementAction {
    /// Acknowledge it.
    Ack,
    /// Extend its lease.
    Extend,
    /// Give it back.
    Release,
}

impl SettlementAction {
    /// The list's name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Extend => "extend",
            Self::Release => "release",
        }
    }
}

/// The verdicts on all receipts.
#[derive(Debug, Object, Serialize)]
pub struct SettlementResponse {
    /// One per receipt: acks, then extends, then releases, each in request order.
    pub results: Vec<SettlementResult>,
    /// How many are not `done`.
    pub failed_count: i32,
}

/// The verdict on one receipt.
#[derive(Debug, Object, Serialize)]
pub struct SettlementResult {
    /// What was asked.
    pub action: SettlementAction,
    /// Its place in that list, from 0.
    pub index: i32,
    /// The receipt.
    pub receipt: String,
    /// `done`; `lost`: the lease has ended; `invalid`: no receipt of this queue; `unknown`: no
    /// majority confirmed it in time, repeat it; `refused`: see `code`. More may come.
    pub status: String,
    /// When an extended lease ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_expires_at: Option<Time>,
    /// The same in milliseconds from the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_remaining_ms: Option<i32>,
    /// Why it is not done: a problem's code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A verdict as its word, with the lease when it is done and the problem when it is not.
///
/// # Errors
/// The word and the problem of a verdict that is not `done`.
pub fn judge(verdict: Verdict) -> Result<Option<Lease>, (&'static str, Problem)> {
    match verdict {
        Verdict::Done { lease } => Ok(lease),
        Verdict::Lost => Err(("lost", Refusal::LeaseLost.into())),
        Verdict::Invalid => Err(("invalid", Refusal::ReceiptInvalid.into())),
        Verdict::Unknown => Err(("unknown", Problem::not_enough_replicas(Some(Outcome::Unknown)))),
        Verdict::Refused(refusal) => Err(("refused", refusal.into())),
    }
}

impl SettlementResult {
    /// The verdict on the receipt at a place, and the problem when it is not done.
    #[must_use]
    pub fn new(place: Place, verdict: Verdict) -> (Self, Option<Problem>) {
        let (status, lease, problem) = match judge(verdict) {
            Ok(lease) => ("done", lease, None),
            Err((word, problem)) => (word, None, Some(problem)),
        };
        let result = Self {
            action: place.action,
            index: i32::try_from(place.index).unwrap_or(i32::MAX),
            receipt: place.receipt,
            status: status.to_owned(),
            lease_expires_at: lease.as_ref().map(|lease| Time(lease.expires_ms)),
            lease_remaining_ms: lease.as_ref().map(|lease| lease.remaining_ms),
            code: problem.as_ref().map(|problem| problem.code.clone()),
            detail: problem.as_ref().map(|problem| problem.detail.clone()),
        };
        (result, problem)
    }
}
