//! Groups: whatever happens, one message of a group at a time, in order, and none is stuck.
use super::bench::*;
use crate::message::envelope::GroupHash;
use crate::protocol::op::{Purpose, SettleAction, SettleItem, SettleVote};
use crate::protocol::stream::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Send {
        group: u8,
        delay_ms: u64,
        ttl_ms: u64,
    },
    Receive {
        max: usize,
        duration_ms: u64,
    },
    /// A lease of one message, whichever, as another dispatcher would ask for.
    Grab {
        which: usize,
    },
    Settle {
        which: usize,
        action: u8,
    },
    Redrive,
    Attend,
    Purge {
        share: u64,
    },
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let some = |max: u64| prop_oneof![3 => Just(0), 1 => 1..max];
    prop_oneof![
        6 => (0..3u8, some(500), some(3_000))
            .prop_map(|(group, delay_ms, ttl_ms)| Step::Send { group, delay_ms, ttl_ms }),
        6 => (1..4usize, 1..900u64)
            .prop_map(|(max, duration_ms)| Step::Receive { max, duration_ms }),
        2 => any::<usize>().prop_map(|which| Step::Grab { which }),
        7 => (any::<usize>(), 0..7u8).prop_map(|(which, action)| Step::Settle { which, action }),
        1 => Just(Step::Redrive),
        2 => Just(Step::Attend),
        1 => (2..4u64).prop_map(|share| Step::Purge { share }),
        5 => (1..700u64).prop_map(Step::Wait),
        2 => Just(Step::Restart),
    ]
}

struct Run {
    bench: Bench,
    now: u64,
    boot: u64,
    sent: u64,
    items: Vec<SettleItem>,
}

impl Run {
    fn mates(&self, place: Place) -> Vec<Place> {
        let group = |place: &Place| self.bench.marks.get(&place.1).and_then(|mark| mark.group);
        let Some(of) = group(&place) else { return Vec::new() };
        let mate = |other: &&Place| **other != place && group(other) == Some(of);
        self.bench.messages.keys().filter(mate).copied().collect()
    }

    /// What was just handed out came alone and in its turn.
    fn check(&self, got: &[SettleItem]) {
        for item in got {
            for mate in self.mates(item.place) {
                let standing = self.bench.stream.standing(Q, mate, self.now);
                let attempt = self.bench.stream.attempt(Q, mate.1);
                // Those out of it: settled (a purge leaves rows for a while), and the dead, whose
                // time may be over meanwhile.
                let is_dead = attempt.is_some_and(|attempt| attempt.death.is_some());
                let is_out = standing == Standing::Settled || is_dead;
                assert!(is_out || mate > item.place, "before its turn: {standing:?}");
                assert!(standing != Standing::Leased || is_dead, "two of a group at a time");
            }
        }
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Send { group, delay_ms, ttl_ms } => {
                self.sent += 1;
                self.bench.send_with(self.sent, now, |h| {
                    // The last of them is no group.
                    h.group = (group < 2).then_some(GroupHash([group; 16]));
                    (h.delay_ms, h.ttl_ms) = (delay_ms, ttl_ms);
                });
            }
            Step::Receive { max, duration_ms } => {
                let got = self.bench.receive(max, duration_ms, now);
                self.check(&got);
                self.items.extend(got);
            }
            Step::Grab { which } => {
                let places: Vec<Place> = self.bench.messages.keys().copied().collect();
                if !places.is_empty() {
                    let place = places[which % places.len()];
                    let got = self.bench.lease(Q, vec![place], Purpose::Deliver, 300, now);
                    self.check(&got);
                    self.items.extend(got);
                }
            }
            Step::Settle { which, action } if !self.items.is_empty() => {
                let item = self.items[which % self.items.len()];
                let action = match action {
                    0 | 1 => SettleAction::Ack,
                    2 => SettleAction::Extend { duration_ms: 400 },
                    3 => BACK,
                    4 => SettleAction::Withdraw,
                    5 => SettleAction::Remove,
                    _ => FAILED,
                };
                self.bench.settle(item, action, now);
            }
            Step::Settle { .. } => {}
            Step::Redrive => self.redrive(),
            Step::Attend => self.bench.attend(Q, now),
            Step::Purge { share } => {
                let mut some = crate::crdt::context::DotSet::new();
                for place in self.bench.messages.keys().filter(|p| p.0.wall_ms % share == 0) {
                    some.insert(place.1);
                }
                let (_, changes) = self.bench.stream.purge(1, Q, &some, now).unwrap();
                self.bench.commit(changes);
            }
            Step::Wait(ms) => self.now += ms,
            Step::Restart => {
                self.boot += 1;
                self.bench.restart(Boot(self.boot), now);
            }
        }
    }

    fn redrive(&mut self) {
        self.bench.stream.wake(Q, self.now);
        for place in self.bench.stream.dead(Q, None, usize::MAX) {
            let item = SettleItem {
                place,
                requester: crate::base::ids::RequesterId([0xff; 16]),
                counter: 0,
                receive_count: 0,
                failure_count: 0,
                action: SettleAction::Redrive,
            };
            self.bench.settle(item, SettleAction::Redrive, self.now);
        }
    }

    /// Everything comes out, each group in its order, without a restart.
    fn drain(&mut self) {
        self.now += 10_000;
        let mut rounds = 0;
        while self.bench.stream.count() > 0 {
            rounds += 1;
            assert!(rounds <= self.sent * 4 + 4, "stuck: {:?}", self.bench.messages.keys());
            self.bench.attend(Q, self.now);
            let got = self.bench.receive(usize::MAX, 1_000, self.now);
            self.check(&got);
            if got.is_empty() {
                self.redrive();
            }
            for item in got {
                let vote = self.bench.settle(item, SettleAction::Ack, self.now);
                assert_eq!(vote, SettleVote::Counted);
            }
            self.now += 10;
        }
        self.bench.attend(Q, self.now);
    }
}

proptest! {
    /// At most one message of a group is out at a time, none before its turn, a failed one holds
    /// its group until it is settled or dead, and no group is stuck [F25].
    #[test]
    fn a_group_comes_one_by_one_in_order_and_is_never_stuck(
        max_failures in 0..4u32,
        backoff_min_ms in prop_oneof![Just(0u64), Just(200u64)],
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let rules = Rules {
            is_grouped: true,
            max_failures,
            backoff_min_ms,
            backoff_max_ms: 1_000,
            ..rules()
        };
        let bench = Bench::of(StreamKind::Queue, rules);
        let mut run = Run { bench, now: 0, boot: 1, sent: 0, items: Vec::new() };
        for step in steps {
            run.take(step);
        }
        run.drain();
        prop_assert!(run.bench.is_clean(), "{:?} {:?}", run.bench.attempts, run.bench.grants);
    }
}
