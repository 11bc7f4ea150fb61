//! Leases: the rule by which one replica grants, and the rule by which it lets a holder settle.
//! Pure: the replica's own service clock comes in as a number [F11].

use super::op::{LeaseVote, SettleAction, SettleItem, SettleVote};
use super::stream::Place;
use crate::base::ids::RequesterId;
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
    Released,
}

/// A durable grant: one row per receive request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantRow {
    /// The request's counter.
    pub counter: u64,
    /// The messages.
    pub attempts: Vec<Attempt>,
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
        matches!(self.hold, Hold::Leased { until_ms } if until_ms <= now_ms)
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
                Hold::Released => LeaseVote::LowBallot { above: last.counter },
            };
        }
        if last.is_held(now_ms) {
            return LeaseVote::Held;
        }
        receive_count = last.receive_count;
        failure_count = last.failure_count + u32::from(last.is_lapsed(now_ms));
        above = above.max(last.counter);
    }
    if counter <= above {
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
    let ack = item.action == SettleAction::Ack;
    if settled {
        // Whoever settled it: it will never be delivered again, so the word is kept.
        return if ack { SettleVote::Counted } else { SettleVote::Lost };
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
            (Hold::Released, SettleAction::Release { .. } | SettleAction::Withdraw) => true,
            (Hold::Released, _) => false,
        }
    } else {
        // A later lease has begun, or another's runs: refused and not stored [F4].
        last.counter < item.counter && !last.is_held(now_ms)
    };
    if may { SettleVote::Counted } else { SettleVote::Lost }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hlc::Hlc;
    use crate::base::ids::{Boot, NodeId};
    use crate::crdt::dot::Dot;

    const X: RequesterId = RequesterId([1; 16]);
    const Y: RequesterId = RequesterId([2; 16]);

    fn place() -> Place {
        let dot = Dot::Minted { node: NodeId(1), boot: Boot(1), seq: 1 };
        (Hlc { wall_ms: 1, logical: 0, node: NodeId(1) }, dot)
    }

    fn attempt(requester: RequesterId, counter: u64, hold: Hold) -> Attempt {
        Attempt { place: place(), counter, requester, receive_count: 3, failure_count: 1, hold }
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
        let released = attempt(X, 5, Hold::Released);
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
        let released = attempt(X, 5, Hold::Released);
        let of = |action| judge_settle(Some(&released), true, false, &item(X, 5, action), 0);
        assert_eq!(of(SettleAction::Ack), SettleVote::Lost);
        assert_eq!(of(SettleAction::Extend { duration_ms: 9 }), SettleVote::Lost);
        assert_eq!(of(SettleAction::Release { failed: true }), SettleVote::Counted);
        let lower = item(X, 4, SettleAction::Ack);
        assert_eq!(judge_settle(Some(&released), true, false, &lower, 0), SettleVote::Lost);
    }

    #[test]
    fn a_settled_message_is_neither_extended_nor_released() {
        for action in
            [SettleAction::Extend { duration_ms: 1 }, SettleAction::Release { failed: true }]
        {
            assert_eq!(judge_settle(None, false, true, &item(X, 5, action), 0), SettleVote::Lost);
        }
    }
}
