//! Settling: receipts are opened without a look-up, and one operation carries them all.

use super::receipts::{Receipt, fingerprint};
use super::receive::clamp;
use super::sources::{Address, Reading, Source};
use super::{Answer, Broker, Caller, Fault, Refusal};
use crate::base::limits;
use crate::message::envelope::Reason;
use crate::protocol::op::{Reasons, ReleaseOutcome, SettleAction, SettleItem};
use crate::protocol::record::Right;
use crate::replication::settling::Settled;
use std::collections::BTreeSet;

/// What to do with one receipt.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The proof of the lease.
    pub receipt: String,
    /// What to do.
    pub action: Action,
    /// Why the message failed, of a release that says so: the detail of its dead letter, if it
    /// dies. Of a hand-back it is not kept: nothing failed.
    pub reason: Option<Reason>,
}

impl Settlement {
    /// What to do with a receipt, without a reason.
    #[must_use]
    pub fn new(receipt: String, action: Action) -> Self {
        Self { receipt, action, reason: None }
    }
}

/// What to do with one leased message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Done with it, for ever.
    Ack,
    /// The lease ends this long from now.
    Extend {
        /// In seconds.
        lease_seconds: i32,
    },
    /// Give it back.
    Release {
        /// What became of it.
        outcome: ReleaseOutcome,
        /// Seconds for which it is not due; none: at once, or the back-off after a failure.
        delay_seconds: Option<i32>,
    },
}

/// An extended lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its end, wall time in ms.
    pub expires_ms: u64,
    /// What is left, in ms.
    pub remaining_ms: i32,
    /// The fence: the same lease, the same number.
    pub fence: i64,
}

/// How the settlement of one receipt ended.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Durable on a majority.
    Done {
        /// The new end of an extended lease.
        lease: Option<Lease>,
    },
    /// The lease is another's by now, or was given back; recorded nowhere.
    Lost,
    /// No receipt of this queue.
    Invalid,
    /// It may or may not be recorded; repeating it is safe.
    Unknown,
    /// Refused before any write.
    Refused(Refusal),
}

impl Broker {
    /// Settles receipts of a queue. One verdict per receipt, in order.
    ///
    /// # Errors
    /// [`Refusal`] when the request as a whole is refused; nothing is recorded then.
    pub async fn settle(
        &self,
        by: &Caller,
        source: Source<'_>,
        settlements: Vec<Settlement>,
    ) -> Answer<Vec<Verdict>> {
        let reading = self.reading(by, source, Right::Receive)?;
        check_batch(&settlements)?;
        check_delays(&settlements, reading.retention_ms)?;
        let began_ms = self.clock.boottime_ms();
        let now_ms = self.clock.wall_ms();
        let opened: Vec<Result<Receipt, Verdict>> =
            settlements.iter().map(|s| self.judge_receipt(&reading, &s.receipt)).collect();
        let (mut in_time, mut late) = (Vec::new(), Vec::new());
        for (i, receipt) in opened.iter().enumerate() {
            if let Ok(receipt) = receipt {
                let item = item_of(receipt, settlements[i].action);
                let group = if receipt.expires_ms > now_ms { &mut in_time } else { &mut late };
                group.push((i, item));
            }
        }
        let mut settled = vec![None; settlements.len()];
        for (group, is_late) in [(in_time, false), (late, true)] {
            let items = group.iter().map(|(_, item)| *item).collect();
            let reasons = self.seal_reasons(&reading, &settlements, &group);
            let (stream, reader) = (&reading.stream, reading.reader);
            let settling = self.coordinator.settle_because(stream, reader, items, is_late, reasons);
            let outcomes = settling.await;
            for ((i, _), outcome) in group.into_iter().zip(outcomes) {
                settled[i] = Some(outcome);
            }
        }
        self.after_settling(&reading.address);
        let elapsed_ms = self.clock.boottime_ms().saturating_sub(began_ms);
        let verdict = |(i, opened): (usize, Result<Receipt, Verdict>)| match opened {
            Err(verdict) => verdict,
            Ok(receipt) => {
                let action = settlements[i].action;
                let outcome = settled[i].unwrap_or(Settled::Unknown);
                count(action, outcome);
                self.tell_consumer(&receipt, action, outcome);
                self.verdict(&reading.address, &receipt, action, outcome, elapsed_ms)
            }
        };
        Ok(opened.into_iter().enumerate().map(verdict).collect())
    }

    /// Seals why messages failed: nobody below this reads it.
    fn seal_reasons(
        &self,
        reading: &Reading,
        settlements: &[Settlement],
        items: &[(usize, SettleItem)],
    ) -> Reasons {
        let seal = |(i, item): &(usize, SettleItem)| {
            let reason = settlements[*i].reason.as_ref().filter(|reason| !reason.0.is_empty())?;
            let SettleAction::Release { outcome, .. } = item.action else { return None };
            let (dot, coordinator) = (item.place.1, &self.coordinator);
            (outcome != ReleaseOutcome::HandedBack).then(|| {
                let sealed = coordinator.seal_reason(&reading.stream, reading.reader, dot, reason);
                ((dot, item.counter), sealed)
            })
        };
        items.iter().filter_map(seal).collect()
    }

    fn judge_receipt(&self, reading: &Reading, text: &str) -> Result<Receipt, Verdict> {
        let receipt = self.open_receipt(text).ok_or(Verdict::Invalid)?;
        if receipt.generation == reading.stream.generation && receipt.reader == reading.reader {
            return Ok(receipt);
        }
        // Of an earlier creation of this name: its messages are gone. Of another one: no proof.
        let earlier = receipt.address == fingerprint(&reading.address);
        Err(if earlier { Verdict::Lost } else { Verdict::Invalid })
    }

    fn verdict(
        &self,
        address: &Address,
        receipt: &Receipt,
        action: Action,
        outcome: Settled,
        elapsed_ms: u64,
    ) -> Verdict {
        match outcome {
            Settled::Done => {
                let lease = match action {
                    Action::Extend { lease_seconds } => {
                        let duration_ms = u64::try_from(lease_seconds).unwrap_or(0) * 1_000;
                        let remaining_ms = duration_ms.saturating_sub(elapsed_ms);
                        Some(Lease {
                            expires_ms: self.clock.wall_ms() + remaining_ms,
                            remaining_ms: clamp(remaining_ms),
                            fence: i64::try_from(receipt.counter).unwrap_or(i64::MAX),
                        })
                    }
                    Action::Ack | Action::Release { .. } => None,
                };
                Verdict::Done { lease }
            }
            Settled::Lost => Verdict::Lost,
            Settled::Unknown => Verdict::Unknown,
            Settled::Refused(why) => Verdict::Refused(self.refusal_of(address, why)),
        }
    }
}

fn item_of(receipt: &Receipt, action: Action) -> SettleItem {
    let action = match action {
        Action::Ack => SettleAction::Ack,
        Action::Extend { lease_seconds } => {
            SettleAction::Extend { duration_ms: u64::try_from(lease_seconds).unwrap_or(0) * 1_000 }
        }
        Action::Release { outcome, delay_seconds } => {
            let ms = |seconds: i32| u64::try_from(seconds).unwrap_or(0) * 1_000;
            SettleAction::Release { outcome, delay_ms: delay_seconds.map(ms) }
        }
    };
    receipt.item(action)
}

/// Each receipt once: two words about one message in one request contradict each other.
fn check_batch(settlements: &[Settlement]) -> Answer<()> {
    let fault = |message: String, code| {
        let field = "receipts".to_owned();
        Err(Refusal::Invalid(vec![Fault { field, message, code }]))
    };
    if settlements.is_empty() || settlements.len() > limits::SETTLEMENT_BATCH_MAX {
        let max = limits::SETTLEMENT_BATCH_MAX;
        return fault(format!("between 1 and {max} receipts in all lists together"), "size");
    }
    let distinct: BTreeSet<&str> = settlements.iter().map(|s| s.receipt.as_str()).collect();
    if distinct.len() < settlements.len() {
        return fault("each receipt at most once in a request".to_owned(), "repeated");
    }
    Ok(())
}

/// Delays that the queue's retention has no room for. A fault is of `settlements[i]`, which the
/// caller knows by another name.
fn check_delays(settlements: &[Settlement], retention_ms: u64) -> Answer<()> {
    let seconds = i32::try_from(retention_ms / 1_000).unwrap_or(i32::MAX);
    let is_long = |s: &Settlement| matches!(s.action, Action::Release { delay_seconds: Some(delay), .. } if delay > seconds);
    let faults = settlements.iter().enumerate().filter(|(_, s)| is_long(s)).map(|(i, _)| {
        let message = format!("more than the retention of {seconds} s");
        Fault::new(&format!("settlements[{i}].delay_seconds"), "range", message)
    });
    match faults.collect::<Vec<_>>() {
        faults if faults.is_empty() => Ok(()),
        faults => Err(Refusal::Invalid(faults)),
    }
}

fn count(action: Action, outcome: Settled) {
    let action = match action {
        Action::Ack => "ack",
        Action::Extend { .. } => "extend",
        Action::Release { .. } => "release",
    };
    let outcome = match outcome {
        Settled::Done => "done",
        Settled::Lost => "lost",
        Settled::Refused(_) => "refused",
        Settled::Unknown => "unknown",
    };
    metrics::counter!("tertulia_settles_total", "action" => action, "outcome" => outcome)
        .increment(1);
}
