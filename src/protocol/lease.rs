//! Leases: the rule by which one replica grants, and the rule by which it lets a holder settle.
//! Pure: the replica's own service clock comes in as a number [F11].

use super::op::{LeaseVote, SettleAction, SettleItem, SettleVote};
use super::stream::Place;
use crate::base::ids::RequesterId;
use crate::base::rules::{Rule, rule_on};
use crate::message::envelope::DeathReason;
use serde::{Deserialize, Serialize};

/// Everything a replica remembers of a message that was leased and is not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Where the message stands.
    pub place: Place,
    /// The highest counter granted for it here. Outlives the lease: fences only rise [R24].
    pub counter: u64,
    /// To whom.
    pub requester: RequesterId,
    /// Leases so far.
    pub receive_count: u32,
    /// Failures so far; a lapse is counted when the next lease begins [F19].
    pub failure_count: u32,
    /// Whether the lease was given back.
    pub hold: Hold,
    /// When and why it died; stays while a dead message is leased.
    pub death: Option<Death>,
    /// How often it was brought back from the dead. Failures count anew each time, so of two
    /// replicas' counts the greater redrive's goes first.
    pub redrives: u32,
}

/// Where an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// Leased until this reading of the service clock, in ms; after it, lapsed.
    Leased {
        /// Service clock, ms.
        until_ms: u64,
    },
    /// Given back; later words of this attempt are refused.
    Released {
        /// Not due before this reading of the service clock, in ms.
        ready_ms: u64,
    },
    /// Leased without end to nobody: dead.
    Dead,
}

/// When and why a message died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Why.
    pub reason: DeathReason,
    /// Wall time at the replica, in ms, for people.
    pub died_ms: u64,
}

/// A durable grant: one row per receive request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRow {
    /// The request's counter.
    pub counter: u64,
    /// The name of the user who asked.
    pub holder: String,
    /// The messages.
    pub attempts: Vec<Attempt>,
}

/// What a reader's settings mean here. They may change at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Failures after which a message is dead; 0: never.
    pub max_failures: u32,
    /// The pause after the first failure, in ms; twice as long after each next one.
    pub backoff_min_ms: u64,
    /// The longest pause, in ms.
    pub backoff_max_ms: u64,
    /// How long a message is kept, in ms.
    pub retention_ms: u64,
    /// One message of a group at a time.
    pub is_grouped: bool,
}

impl Rules {
    /// The pause after the n-th failure of an attempt, in ms: never shorter than the settings
    /// say, and up to a tenth longer, so that what failed together does not come back together.
    /// The same for every replica: the jitter is drawn from the attempt.
    #[must_use]
    pub fn backoff_ms(&self, failures: u32, attempt: &Attempt) -> u64 {
        if self.backoff_min_ms == 0 || failures == 0 {
            return 0;
        }
        let doublings = (failures - 1).min(40);
        let pause = self.backoff_min_ms.saturating_mul(1 << doublings).min(self.backoff_max_ms);
        let (hlc, _) = attempt.place;
        let seed = hlc.wall_ms.wrapping_mul(31).wrapping_add(u64::from(hlc.logical));
        let seed = seed.wrapping_add(attempt.counter).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        pause + pause / 10 * (seed >> 54) / 1_024
    }

    /// Whether so many failures are too many.
    #[must_use]
    pub fn is_too_many(&self, failures: u32) -> bool {
        self.max_failures > 0 && failures >= self.max_failures
    }
}

impl Attempt {
    /// Whether the lease runs.
    #[must_use]
    pub fn is_held(&self, now_ms: u64) -> bool {
        matches!(self.hold, Hold::Leased { until_ms } if until_ms > now_ms)
    }

    /// Whether the lease ended by itself.
    #[must_use]
    pub fn is_lapsed(&self, now_ms: u64) -> bool {
        rule_on(Rule::F19) && matches!(self.hold, Hold::Leased { until_ms } if until_ms <= now_ms)
    }

    /// Failures, a lapse included [F19].
    #[must_use]
    pub fn failures(&self, now_ms: u64) -> u32 {
        self.failure_count + u32::from(self.is_lapsed(now_ms))
    }

    /// Whether it is dead: dead messages that were leased are dead again afterwards.
    #[must_use]
    pub fn is_dead(&self, now_ms: u64) -> bool {
        self.death.is_some() && !self.is_held(now_ms)
    }

    /// From when on it is due, on the service clock, in ms.
    #[must_use]
    pub fn due_ms(&self, rules: &Rules) -> u64 {
        match self.hold {
            Hold::Leased { until_ms } => {
                until_ms.saturating_add(rules.backoff_ms(self.failure_count + 1, self))
            }
            Hold::Released { ready_ms } => ready_ms,
            Hold::Dead => u64::MAX,
        }
    }
}

/// May this requester have the message? `last` is what the replica remembers of it.
#[must_use]
pub fn judge_lease(
    last: Option<&Attempt>,
    floor: u64,
    requester: RequesterId,
    counter: u64,
    now_ms: u64,
) -> LeaseVote {
    let (mut receive_count, mut failure_count) = (0, 0);
    let mut above = floor;
    if let Some(last) = last {
        // The very same ballot again is answered as before: its first answer may be lost.
        if last.requester == requester && last.counter == counter {
            return match last.hold {
                Hold::Leased { .. } => LeaseVote::Granted {
                    receive_count: last.receive_count,
                    failure_count: last.failure_count,
                },
                Hold::Released { .. } | Hold::Dead => LeaseVote::LowBallot { above: last.counter },
            };
        }
        let is_own = last.requester == requester && !rule_on(Rule::F9);
        if last.is_held(now_ms) && !is_own {
            return LeaseVote::Held;
        }
        receive_count = last.receive_count;
        failure_count = last.failure_count + u32::from(last.is_lapsed(now_ms));
        above = above.max(last.counter);
    }
    if rule_on(Rule::R24) && counter <= above {
        return LeaseVote::LowBallot { above };
    }
    LeaseVote::Granted { receive_count: receive_count + 1, failure_count }
}

/// May this holder settle, extend or release the message? `present`: it is here and unsettled.
#[must_use]
pub fn judge_settle(
    last: Option<&Attempt>,
    present: bool,
    settled: bool,
    item: &SettleItem,
    now_ms: u64,
) -> SettleVote {
    let ack = matches!(item.action, SettleAction::Ack | SettleAction::Remove);
    if settled {
        // Whoever settled it: it will never be delivered again, so the word is kept.
        return if ack { SettleVote::Counted } else { SettleVote::Lost };
    }
    match item.action {
        // A deletion or a link asks nobody [R32].
        SettleAction::Remove => return SettleVote::Counted,
        SettleAction::Redrive => {
            let dead = present && last.is_some_and(|last| last.is_dead(now_ms));
            return if dead { SettleVote::Counted } else { SettleVote::Lost };
        }
        _ => {}
    }
    let Some(last) = last else {
        // This replica took no part in the grant. An ack is evidence by itself [R12]; a lease
        // needs the payload [R27].
        return if ack || present { SettleVote::Counted } else { SettleVote::Lost };
    };
    let same = last.requester == item.requester && last.counter == item.counter;
    let may = if same {
        match (last.hold, item.action) {
            (Hold::Leased { .. }, _) => true,
            // The same release again is answered as before; anything else of it comes too late.
            (
                Hold::Released { .. } | Hold::Dead,
                SettleAction::Release { .. } | SettleAction::Withdraw,
            ) => true,
            (Hold::Released { .. } | Hold::Dead, _) => false,
        }
    } else {
        // A later lease has begun, or another's runs: refused and not stored [F4].
        !rule_on(Rule::F4) || last.counter < item.counter && !last.is_held(now_ms)
    };
    if may { SettleVote::Counted } else { SettleVote::Lost }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hlc::Hlc;
    use crate::base::ids::{Boot, NodeId};
    use crate::crdt::dot::Dot;
    use crate::protocol::op::ReleaseOutcome;

    const X: RequesterId = RequesterId([1; 16]);
    const Y: RequesterId = RequesterId([2; 16]);

    fn place() -> Place {
        let dot = Dot::Minted { node: NodeId(1), boot: Boot(1), seq: 1 };
        (Hlc { wall_ms: 1, logical: 0, node: NodeId(1) }, dot)
    }

    fn attempt(requester: RequesterId, counter: u64, hold: Hold) -> Attempt {
        let (receive_count, failure_count) = (3, 1);
        Attempt {
            place: place(),
            counter,
            requester,
            receive_count,
            failure_count,
            hold,
            death: None,
            redrives: 0,
        }
    }

    fn item(requester: RequesterId, counter: u64, action: SettleAction) -> SettleItem {
        let (receive_count, failure_count) = (1, 0);
        SettleItem { place: place(), requester, counter, receive_count, failure_count, action }
    }

    #[test]
    fn g3_a_running_lease_excludes_every_other_requester() {
        let held = attempt(X, 5, Hold::Leased { until_ms: 100 });
        assert_eq!(judge_lease(Some(&held), 0, Y, 6, 99), LeaseVote::Held);
        let granted = LeaseVote::Granted { receive_count: 4, failure_count: 2 };
        assert_eq!(judge_lease(Some(&held), 0, Y, 6, 100), granted, "a lapse counts [F19]");
    }

    #[test]
    fn r24_a_counter_must_rise_above_the_stored_one_and_the_floor() {
        let released = attempt(X, 5, Hold::Released { ready_ms: 0 });
        assert_eq!(judge_lease(Some(&released), 0, Y, 5, 0), LeaseVote::LowBallot { above: 5 });
        assert_eq!(judge_lease(Some(&released), 9, Y, 8, 0), LeaseVote::LowBallot { above: 9 });
        assert_eq!(judge_lease(None, 9, Y, 9, 0), LeaseVote::LowBallot { above: 9 });
        let granted = LeaseVote::Granted { receive_count: 4, failure_count: 1 };
        assert_eq!(judge_lease(Some(&released), 0, Y, 6, 0), granted, "a hand-back is no failure");
    }

    #[test]
    fn the_very_same_ballot_is_answered_as_before() {
        let held = attempt(X, 5, Hold::Leased { until_ms: 100 });
        let again = LeaseVote::Granted { receive_count: 3, failure_count: 1 };
        assert_eq!(judge_lease(Some(&held), 5, X, 5, 50), again);
    }

    #[test]
    fn f9_a_node_is_no_requester_a_second_request_does_not_grant_over_the_first() {
        let held = attempt(X, 5, Hold::Leased { until_ms: 100 });
        assert_eq!(judge_lease(Some(&held), 0, Y, 7, 10), LeaseVote::Held);
    }

    #[test]
    fn f4_an_ack_against_a_foreign_lease_is_refused() {
        let foreign = attempt(Y, 6, Hold::Leased { until_ms: 100 });
        let ack = item(X, 5, SettleAction::Ack);
        assert_eq!(judge_settle(Some(&foreign), true, false, &ack, 50), SettleVote::Lost);
        assert_eq!(judge_settle(Some(&foreign), true, false, &ack, 200), SettleVote::Lost);
        // A replica with a stale grant of another's, lapsed, does not stand in the way.
        let older = attempt(Y, 4, Hold::Leased { until_ms: 100 });
        assert_eq!(judge_settle(Some(&older), true, false, &ack, 50), SettleVote::Lost);
        assert_eq!(judge_settle(Some(&older), true, false, &ack, 100), SettleVote::Counted);
    }

    #[test]
    fn g4_a_late_ack_counts_unless_another_lease_has_begun() {
        let lapsed = attempt(X, 5, Hold::Leased { until_ms: 100 });
        let ack = item(X, 5, SettleAction::Ack);
        assert_eq!(judge_settle(Some(&lapsed), true, false, &ack, 500), SettleVote::Counted);
        assert_eq!(judge_settle(None, false, true, &ack, 500), SettleVote::Counted, "repeated");
    }

    #[test]
    fn r23_words_after_a_release_are_refused_the_same_release_is_not() {
        let released = attempt(X, 5, Hold::Released { ready_ms: 0 });
        let of = |action| judge_settle(Some(&released), true, false, &item(X, 5, action), 0);
        assert_eq!(of(SettleAction::Ack), SettleVote::Lost);
        assert_eq!(of(SettleAction::Extend { duration_ms: 9 }), SettleVote::Lost);
        assert_eq!(
            of(SettleAction::Release { outcome: ReleaseOutcome::Failed, delay_ms: None }),
            SettleVote::Counted
        );
        let lower = item(X, 4, SettleAction::Ack);
        assert_eq!(judge_settle(Some(&released), true, false, &lower, 0), SettleVote::Lost);
    }

    #[test]
    fn a_settled_message_is_neither_extended_nor_released() {
        for action in [
            SettleAction::Extend { duration_ms: 1 },
            SettleAction::Release { outcome: ReleaseOutcome::Failed, delay_ms: None },
        ] {
            assert_eq!(judge_settle(None, false, true, &item(X, 5, action), 0), SettleVote::Lost);
        }
    }

    #[test]
    fn a_pause_doubles_up_to_its_end_and_is_never_shorter_than_said() {
        let rules = Rules {
            max_failures: 3,
            backoff_min_ms: 1_000,
            backoff_max_ms: 5_000,
            retention_ms: u64::MAX,
            is_grouped: false,
        };
        let of = |n| rules.backoff_ms(n, &attempt(X, u64::from(n), Hold::Dead));
        assert_eq!(of(0), 0);
        for (failures, pause) in [(1, 1_000), (2, 2_000), (3, 4_000), (4, 5_000), (900, 5_000)] {
            assert!((pause..=pause + pause / 10).contains(&of(failures)), "{failures}");
        }
        let none = Rules { backoff_min_ms: 0, ..rules };
        assert_eq!(none.backoff_ms(5, &attempt(X, 1, Hold::Dead)), 0);
        assert!(!rules.is_too_many(2) && rules.is_too_many(3));
        assert!(!Rules { max_failures: 0, ..rules }.is_too_many(1_000));
    }

    #[test]
    fn f19_a_lapse_is_a_failure_and_pauses_like_one() {
        let rules = Rules {
            max_failures: 0,
            backoff_min_ms: 1_000,
            backoff_max_ms: 1_000,
            retention_ms: u64::MAX,
            is_grouped: false,
        };
        let lapsed = attempt(X, 5, Hold::Leased { until_ms: 100 });
        assert_eq!((lapsed.failures(99), lapsed.failures(100)), (1, 2));
        assert!(lapsed.due_ms(&rules) >= 1_100);
    }

    #[test]
    fn only_the_dead_are_redriven_and_a_removal_asks_nobody() {
        let dead = Attempt {
            death: Some(Death { reason: DeathReason::Poison, died_ms: 1 }),
            ..attempt(X, 5, Hold::Dead)
        };
        let redrive = item(Y, 0, SettleAction::Redrive);
        let of = |last: &Attempt, now| judge_settle(Some(last), true, false, &redrive, now);
        assert_eq!(of(&dead, 0), SettleVote::Counted);
        let leased = Attempt { hold: Hold::Leased { until_ms: 9 }, ..dead };
        assert_eq!((of(&leased, 8), of(&leased, 9)), (SettleVote::Lost, SettleVote::Counted));
        let held = attempt(X, 5, Hold::Leased { until_ms: 9 });
        assert_eq!(of(&held, 10), SettleVote::Lost);
        let remove = item(Y, 0, SettleAction::Remove);
        assert_eq!(judge_settle(Some(&held), true, false, &remove, 0), SettleVote::Counted);
    }
}
