//! The stream against a model of it that is too simple to be wrong: a list of messages, each with
//! all that is known of it, searched from one end to the other.
use super::bench::*;
use crate::protocol::op::{Purpose, ReleaseOutcome, SettleAction, SettleItem, SettleVote};
use crate::protocol::stream::*;
use proptest::prelude::*;

const RULES: Rules = Rules {
    max_failures: 3,
    backoff_min_ms: 400,
    backoff_max_ms: 1_000,
    retention_ms: u64::MAX,
    is_grouped: false,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Until(u64),
    FreeFrom(u64),
    Dead,
}

/// The last lease of a message and what became of it.
#[derive(Clone, Copy, Debug)]
struct Last {
    by: SettleItem,
    receives: u32,
    failures: u32,
    held: Held,
    died: bool,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    place: Place,
    ready_ms: u64,
    ends_ms: u64,
    settled: bool,
    last: Option<Last>,
}

/// The pause after a failure, by the attempt alone: `backoff` proves what that is.
fn pause_ms(failures: u32, by: &SettleItem) -> u64 {
    let attempt = Attempt {
        place: by.place,
        counter: by.counter,
        requester: by.requester,
        receive_count: 0,
        failure_count: 0,
        hold: crate::protocol::lease::Hold::Dead,
        death: None,
        redrives: 0,
    };
    RULES.backoff_ms(failures, &attempt)
}

impl Last {
    fn lapsed(&self, now: u64) -> u32 {
        u32::from(matches!(self.held, Held::Until(until) if until <= now))
    }
}

impl Message {
    fn standing(&self, now: u64) -> Standing {
        if self.settled {
            return Standing::Settled;
        }
        let mut due = self.ready_ms;
        if let Some(last) = &self.last {
            due = due.max(match last.held {
                Held::Until(until) if until > now => return Standing::Leased,
                Held::Until(until) => until + pause_ms(last.failures + 1, &last.by),
                Held::FreeFrom(at) => at,
                Held::Dead => u64::MAX,
            });
        }
        let last = self.last.as_ref();
        if self.ends_ms != 0 && self.ends_ms <= now {
            Standing::Expired
        } else if last.is_some_and(|last| last.died) {
            Standing::Dead
        } else if last.is_some_and(|last| last.failures + last.lapsed(now) >= RULES.max_failures) {
            Standing::Failed
        } else if due > now {
            Standing::Delayed
        } else {
            Standing::Ready
        }
    }

    fn grant(&mut self, item: SettleItem, duration_ms: u64, now: u64) {
        let (receives, failures, died) = self.last.map_or((0, 0, false), |last| {
            (last.receives, last.failures + last.lapsed(now), last.died)
        });
        let held = Held::Until(now + duration_ms + duration_ms / 40);
        self.last = Some(Last { by: item, receives: receives + 1, failures, held, died });
    }

    /// What a word of a holder does; whether it is counted.
    fn hear(&mut self, item: &SettleItem, action: SettleAction, now: u64) -> bool {
        if matches!(action, SettleAction::Ack | SettleAction::Remove) && self.settled {
            return true;
        }
        if self.settled {
            return false;
        }
        if action == SettleAction::Remove {
            self.settled = true;
            return true;
        }
        let standing = self.standing(now);
        let died = self.last.is_some_and(|last| last.died);
        let Some(last) = &mut self.last else { return false };
        if action == SettleAction::Redrive {
            let is_dead = died && standing != Standing::Leased;
            if is_dead {
                (last.held, last.died, last.failures) = (Held::FreeFrom(now), false, 0);
            }
            return is_dead;
        }
        if (last.by.requester, last.by.counter) != (item.requester, item.counter) {
            return false;
        }
        let Held::Until(_) = last.held else {
            return matches!(action, SettleAction::Release { .. } | SettleAction::Withdraw);
        };
        let free = |died: bool, at: u64| if died { Held::Dead } else { Held::FreeFrom(at) };
        match action {
            SettleAction::Ack => self.settled = true,
            SettleAction::Extend { duration_ms } => {
                last.held = Held::Until(now + duration_ms + duration_ms / 40);
            }
            SettleAction::Withdraw => {
                last.receives -= 1;
                last.held = free(last.died, now);
            }
            SettleAction::Release { outcome, delay_ms } => {
                let failed = outcome != ReleaseOutcome::HandedBack;
                last.failures = item.failure_count + u32::from(failed);
                last.died |= outcome == ReleaseOutcome::Poison
                    || (failed && last.failures >= RULES.max_failures);
                let back_off = if outcome == ReleaseOutcome::Failed {
                    pause_ms(last.failures, &last.by)
                } else {
                    0
                };
                last.held = free(last.died, now + delay_ms.unwrap_or(back_off));
            }
            SettleAction::Remove | SettleAction::Redrive => unreachable!("answered above"),
        }
        true
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send { delay_ms: u64, ttl_ms: u64 },
    Receive { max: usize, duration_ms: u64 },
    ReceiveDead { max: usize },
    Settle { which: usize, action: SettleAction },
    Forced { which: usize, action: SettleAction },
    Attend,
    Purge,
    Wait(u64),
    Restart,
}

fn action() -> impl Strategy<Value = SettleAction> {
    use ReleaseOutcome::{Failed, HandedBack, Poison};
    let outcome = prop_oneof![3 => Just(Failed), 1 => Just(HandedBack), 1 => Just(Poison)];
    let delay = prop_oneof![3 => Just(None), 1 => (0..900u64).prop_map(Some)];
    prop_oneof![
        3 => Just(SettleAction::Ack),
        2 => (1..900u64).prop_map(|duration_ms| SettleAction::Extend { duration_ms }),
        5 => (outcome, delay)
            .prop_map(|(outcome, delay_ms)| SettleAction::Release { outcome, delay_ms }),
        1 => Just(SettleAction::Withdraw),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let some = |max: u64| prop_oneof![2 => Just(0), 1 => 1..max];
    let forced = prop_oneof![1 => Just(SettleAction::Remove), 3 => Just(SettleAction::Redrive)];
    prop_oneof![
        4 => (some(900), some(4_000)).prop_map(|(delay_ms, ttl_ms)| Step::Send { delay_ms, ttl_ms }),
        5 => (1..4usize, 1..900u64)
            .prop_map(|(max, duration_ms)| Step::Receive { max, duration_ms }),
        1 => (1..3usize).prop_map(|max| Step::ReceiveDead { max }),
        6 => (any::<usize>(), action()).prop_map(|(which, action)| Step::Settle { which, action }),
        2 => (any::<usize>(), forced).prop_map(|(which, action)| Step::Forced { which, action }),
        2 => Just(Step::Attend),
        6 => (1..700u64).prop_map(Step::Wait),
        2 => Just(Step::Restart),
    ]
}

struct Pair {
    bench: Bench,
    model: Vec<Message>,
    items: Vec<SettleItem>,
    now: u64,
    boot: u64,
}

impl Pair {
    fn in_model(&mut self, place: Place) -> &mut Message {
        self.model.iter_mut().find(|m| m.place == place).unwrap()
    }

    fn places(&self, wanted: Standing) -> Vec<Place> {
        let stands = |m: &&Message| m.standing(self.now) == wanted;
        self.model.iter().filter(stands).map(|m| m.place).collect()
    }

    fn granted(&mut self, items: Vec<SettleItem>, duration_ms: u64) {
        let now = self.now;
        for item in items {
            let message = self.in_model(item.place);
            message.grant(item, duration_ms, now);
            let last = message.last.unwrap();
            assert_eq!((item.receive_count, item.failure_count), (last.receives, last.failures));
            self.items.push(item);
        }
    }

    fn take(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Send { delay_ms, ttl_ms } => {
                let wall = self.model.len() as u64 + 1;
                let dot = self.bench.send_with(wall, now, |h| {
                    (h.delay_ms, h.ttl_ms) = (delay_ms, ttl_ms);
                });
                let place = (Hlc { wall_ms: wall, logical: 0, node: ME }, dot);
                let at = |after: u64| if after == 0 { 0 } else { now + after };
                let (ready_ms, ends_ms) = (at(delay_ms), at(ttl_ms));
                let new = Message { place, ready_ms, ends_ms, settled: false, last: None };
                self.model.push(new);
            }
            Step::Receive { max, duration_ms } => {
                let mut expected = self.places(Standing::Ready);
                expected.truncate(max);
                let items = self.bench.receive(max, duration_ms, now);
                assert_eq!(items.iter().map(|item| item.place).collect::<Vec<_>>(), expected);
                self.granted(items, duration_ms);
            }
            Step::ReceiveDead { max } => {
                self.bench.stream.wake(Q, now);
                let dead = self.bench.stream.dead(Q, None, usize::MAX);
                assert_eq!(dead, self.places(Standing::Dead));
                let some = dead.into_iter().take(max).collect();
                let items = self.bench.lease(Q, some, Purpose::DeliverDead, 300, now);
                self.granted(items, 300);
            }
            Step::Settle { which, action } if !self.items.is_empty() => {
                let item = self.items[which % self.items.len()];
                let counted = self.in_model(item.place).hear(&item, action, now);
                let vote = self.bench.settle(item, action, now);
                assert_eq!(vote == SettleVote::Counted, counted, "{action:?}");
            }
            Step::Forced { which, action } if !self.items.is_empty() => {
                let requester = crate::base::ids::RequesterId([0xff; 16]);
                let of = self.items[which % self.items.len()];
                let item = SettleItem { requester, counter: 0, ..of };
                let counted = self.in_model(item.place).hear(&item, action, now);
                let vote = self.bench.settle(item, action, now);
                assert_eq!(vote == SettleVote::Counted, counted, "{action:?}");
            }
            Step::Settle { .. } | Step::Forced { .. } => {}
            Step::Attend => {
                self.bench.attend(Q, now);
                for message in &mut self.model {
                    match message.standing(now) {
                        Standing::Expired => message.settled = true,
                        Standing::Failed => {
                            let last = message.last.as_mut().unwrap();
                            last.failures += last.lapsed(now);
                            // The broker took it over: its holder's words come too late.
                            last.by.counter = u64::MAX;
                            (last.held, last.died) = (Held::Dead, true);
                        }
                        _ => {}
                    }
                }
            }
            Step::Purge => {
                let seen = self.bench.stream.seen();
                let (_, changes) = self.bench.stream.purge(1, Q, &seen, now).unwrap();
                self.bench.commit(changes);
                self.model.iter_mut().for_each(|message| message.settled = true);
            }
            Step::Wait(ms) => self.now += ms,
            Step::Restart => {
                self.boot += 1;
                self.bench.restart(Boot(self.boot), now);
            }
        }
    }

    /// Every message stands alike in both, and so they are counted.
    fn compare(&mut self) {
        let now = self.now;
        self.bench.stream.wake(Q, now);
        let mut counts = Counts::default();
        for message in &self.model {
            let standing = message.standing(now);
            let (place, dot) = (message.place, message.place.1);
            assert_eq!(self.bench.stream.standing(Q, place, now), standing, "{message:?}");
            let attempt = self.bench.stream.attempt(Q, dot);
            let known = attempt.map(|a| (a.receive_count, a.failure_count, a.death.is_some()));
            let last = message.last.filter(|_| !message.settled);
            assert_eq!(known, last.map(|last| (last.receives, last.failures, last.died)));
            match standing {
                Standing::Ready => counts.ready += 1,
                Standing::Leased => counts.leased += 1,
                Standing::Delayed => counts.delayed += 1,
                Standing::Dead => counts.dead += 1,
                _ => {}
            }
        }
        counts.bytes = self.bench.stream.counts(Q).bytes;
        assert_eq!(self.bench.stream.counts(Q), counts);
    }
}

proptest! {
    /// Leases with deaths, delays and lives, over restarts: the stream and the model of it tell
    /// the same of every message at every time.
    #[test]
    fn a_stream_is_what_its_model_says(
        mut steps in prop::collection::vec(step(), 1..150),
        purge_at in prop::option::of(0..150usize),
    ) {
        if let Some(at) = purge_at.filter(|at| *at < steps.len()) {
            steps.insert(at, Step::Purge);
        }
        let bench = Bench::of(StreamKind::Queue, RULES);
        let mut pair = Pair { bench, model: Vec::new(), items: Vec::new(), now: 0, boot: 1 };
        for step in steps {
            pair.take(step);
            pair.compare();
        }
    }

    /// The pause between failures: twice as long each time up to its longest, up to a tenth longer
    /// by jitter and never shorter; nobody gets the message before it is over; handing it back is
    /// no failure.
    #[test]
    fn backoff_grows_to_its_longest_and_holds_the_message_back(
        min_ms in 1..5_000u64,
        max_ms in 1..200_000u64,
        ends in prop::collection::vec((0..4u8, 1..900u64), 1..14),
    ) {
        let rules = Rules { backoff_min_ms: min_ms, backoff_max_ms: max_ms, ..rules() };
        let mut bench = Bench::of(StreamKind::Queue, rules);
        bench.send(1);
        let (mut now, mut failures, mut pause, mut boot) = (0u64, 0u32, 0u64, 1);
        for (end, held) in ends {
            let got = bench.receive(1, held, now);
            prop_assert_eq!(got.len(), 1, "it is due");
            prop_assert_eq!(got[0].failure_count, failures);
            // Given back at once; failed at once; lapsed; lapsed over a restart.
            let mut from = now;
            match end {
                0 => {
                    bench.settle(got[0], BACK, now);
                    continue;
                }
                1 => drop(bench.settle(got[0], FAILED, now)),
                _ => from = now + held_ms(held),
            }
            failures += 1;
            let least = min_ms.saturating_mul(1 << (failures - 1)).min(max_ms);
            prop_assert!(least >= pause, "it never shrinks");
            pause = least;
            if end == 3 {
                boot += 1;
                bench.restart(Boot(boot), from);
            }
            let dot = got[0].place.1;
            bench.stream.wake(Q, from);
            let due = bench.stream.due_ms(Q, dot);
            prop_assert!((from + least..=from + least + least / 10).contains(&due));
            prop_assert!(bench.receive(1, 1, due - 1).is_empty(), "before its time");
            let forced = bench.lease(Q, vec![got[0].place], Purpose::Deliver, 1, due - 1);
            prop_assert!(forced.is_empty(), "the replica itself refuses");
            now = due;
        }
    }
}
