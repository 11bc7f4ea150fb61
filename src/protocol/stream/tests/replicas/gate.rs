//! The mutation gate: each rule has a schedule that breaks a law when the rule is taken out.
use super::*;
use crate::base::rules::{Rule, without};
use crate::layout::view::{View, ViewId};
use crate::message::envelope::GroupHash;
use crate::protocol::op::{Closes, Outcome, Seal};
use crate::protocol::quorum::Tally;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What masks say.
const A: u8 = 0b001;
const B: u8 = 0b010;
const C: u8 = 0b100;

type Schedule = (Rule, &'static str, fn());

const SCHEDULES: [Schedule; 20] = [
    (Rule::R12, "h13_a_context_comes_without_its_payload", h13_a_context_comes_without_its_payload),
    (Rule::R13, "h14_a_damaged_replica_gives_evidence", h14_a_damaged_replica_gives_evidence),
    (Rule::R24, "h26_a_slow_request_has_a_low_counter", h26_a_slow_request_has_a_low_counter),
    (Rule::R30, "h35_one_replica_has_it_and_two_refuse", h35_one_replica_has_it_and_two_refuse),
    (Rule::R32, "h38_a_purge_meets_what_is_not_here", h38_a_purge_meets_what_is_not_here),
    (Rule::F1, "h16_a_key_is_forgotten_too_early", h16_a_key_is_forgotten_too_early),
    (Rule::F2, "h40_two_contents_have_one_key", h40_two_contents_have_one_key),
    (Rule::F4, "h06_an_ack_meets_a_lease_in_flight", h06_an_ack_meets_a_lease_in_flight),
    (Rule::F5, "h48_a_send_meets_a_seal", h48_a_send_meets_a_seal),
    (Rule::F10, "h27_a_disowned_grant_is_completed", h27_a_disowned_grant_is_completed),
    (Rule::F19, "h31_its_consumers_die_of_it", h31_its_consumers_die_of_it),
    (Rule::R10, "h12_a_number_is_drawn_twice", h12_a_number_is_drawn_twice),
    (Rule::R11, "h40_a_vote_is_about_another_content", h40_a_vote_is_about_another_content),
    (Rule::R17, "h12_a_store_of_an_earlier_life_is_late", h12_a_store_of_an_earlier_life_is_late),
    (
        Rule::R27,
        "h30_only_one_replica_has_what_is_received",
        h30_only_one_replica_has_what_is_received,
    ),
    (Rule::R28, "h31_nobody_ever_received_it", h31_nobody_ever_received_it),
    (Rule::F9, "h26_a_request_is_made_twice", h26_a_request_is_made_twice),
    (Rule::F11, "h32_one_clock_is_fast", h32_one_clock_is_fast),
    (Rule::F18, "h33_one_drops_what_another_holds", h33_one_drops_what_another_holds),
    (Rule::F25, "h29_the_dispatcher_lacks_the_oldest", h29_the_dispatcher_lacks_the_oldest),
];

/// A receive request whose messages reach replicas one at a time.
#[derive(Clone, Copy)]
struct Slow {
    item: SettleItem,
    votes: usize,
}

impl Cluster {
    /// A message that some replicas have, the first of them its coordinator.
    fn sent(&mut self, at: usize, reach: u8) -> Place {
        let dot = self.replicas[at].stream.mint(0);
        self.store(at, dot, reach);
        self.place(at)
    }

    fn open_at(&self, dot: Dot) -> usize {
        self.replicas.iter().filter(|bench| bench.stream.is_open(Q, dot)).count()
    }

    fn place(&self, at: usize) -> Place {
        *self.replicas[at].messages.keys().next().unwrap()
    }

    fn begin(&mut self, place: Place, counter: u64) -> Slow {
        self.requests += 1;
        let requester = RequesterId((u128::from(self.requests)).to_be_bytes());
        let (receive_count, failure_count, action) = (1, 0, SettleAction::Ack);
        let item = SettleItem { place, requester, counter, receive_count, failure_count, action };
        Slow { item, votes: 0 }
    }

    fn ask(&mut self, slow: &mut Slow, n: usize) {
        self.wake(n);
        let SettleItem { place, requester, counter, .. } = slow.item;
        let op = LeaseOp {
            header: header(1),
            reader: Q,
            requester,
            holder: "bob".into(),
            purpose: Purpose::Deliver,
            counter,
            duration_ms: LEASE_MS,
            dots: vec![LeaseDot { place, envelope: None, content_mac: None, age_ms: 0 }],
            failures: vec![0],
        };
        let vote = self.lease_at(n, &op);
        slow.votes += usize::from(matches!(vote, LeaseVote::Granted { .. }));
        if slow.votes == MAJORITY {
            self.hand_out(slow.item);
        }
    }
}

fn h13_a_context_comes_without_its_payload() {
    let mut cluster = Cluster::new();
    let (_, dot) = cluster.sent(0, A | B);
    let now_ms = cluster.now_ms;
    // C hears what A knows, and crashes before it has the payloads.
    let theirs = cluster.replicas[0].stream.summary(now_ms);
    let changes = cluster.replicas[2].stream.merge_settled(&theirs, now_ms);
    cluster.replicas[2].commit(changes);
    cluster.repair(0, 2);
    cluster.repair(1, 2);
    assert!(cluster.replicas[0].stream.is_open(Q, dot), "G1: {dot} is lost");
    cluster.heal();
}

fn h14_a_damaged_replica_gives_evidence() {
    let mut cluster = Cluster::new();
    let (_, dot) = cluster.sent(0, A | B | C);
    // C's disk loses the row, name and all.
    cluster.replicas[2].messages.clear();
    cluster.take(Step::Restart { at: 2 });
    cluster.replicas[2].stream.is_suspect = true;
    cluster.repair(0, 2);
    cluster.repair(1, 2);
    let is_there = |n: usize| cluster.replicas[n].stream.is_open(Q, dot);
    assert!(is_there(0) && is_there(1), "G1: {dot} is lost");
}

fn h26_a_slow_request_has_a_low_counter() {
    let mut cluster = Cluster::new();
    let place = cluster.sent(0, A | B | C);
    let mut slow = cluster.begin(place, 1);
    let mut quick = cluster.begin(place, 5);
    cluster.ask(&mut quick, 0);
    cluster.ask(&mut quick, 1);
    cluster.now_ms += 2 * LEASE_MS;
    cluster.ask(&mut slow, 0);
    cluster.ask(&mut slow, 1);
}

fn h35_one_replica_has_it_and_two_refuse() {
    let nodes = vec![(1..=3).map(NodeId).collect()];
    let mut tally = Tally::new(View::new(ViewId { version: 1, hash: 0 }, nodes));
    tally.yes(NodeId(1));
    tally.no(NodeId(2));
    tally.no(NodeId(3));
    assert!(tally.outcome() != Some(Outcome::NotStored), "G7: refused for certain, and stored");
}

fn h38_a_purge_meets_what_is_not_here() {
    let mut cluster = Cluster::new();
    let place = cluster.sent(0, A | B);
    cluster.purge(A | B, B | C);
    cluster.lease(0, Purpose::Deliver, place, A | C, 0);
    cluster.heal();
}

fn h16_a_key_is_forgotten_too_early() {
    let mut cluster = Cluster::new();
    cluster.take(Step::Keyed { at: 0, key: 1, reach: A | B | C });
    let place = cluster.place(0);
    cluster.lease(0, Purpose::Deliver, place, A | B, 0);
    cluster.settle(0, 0, A | B);
    cluster.now_ms += 5 * BOUNDS.dedup_ms;
    cluster.retire(0);
    cluster.retire(1);
    cluster.repair(0, 2);
    cluster.lease(2, Purpose::Deliver, place, A | C, 0);
    cluster.heal();
}

fn h40_two_contents_have_one_key() {
    let mut cluster = Cluster::new();
    let dot = Dot::Keyed(KeyedId([7; 16]));
    let mut acknowledged = 0;
    for (content, reach) in [(1, [0, 1]), (2, [1, 2])] {
        let mut header = head(dot, 10);
        header.content_mac = [content; 32];
        let op = store_op(vec![sealed(header)]);
        let mut votes = 0;
        for n in reach {
            let (vote, changes) = cluster.replicas[n].stream.store(&op, BOUNDS, 10, true).unwrap();
            cluster.replicas[n].commit(changes);
            votes += usize::from(vote[0] != StoreVote::OtherContent);
        }
        acknowledged += usize::from(votes >= MAJORITY);
    }
    assert!(acknowledged == 1, "G8: {acknowledged} contents of one key are acknowledged");
}

fn h06_an_ack_meets_a_lease_in_flight() {
    let mut cluster = Cluster::new();
    let place = cluster.sent(0, A | B | C);
    let (mut x, mut y) = (cluster.begin(place, 1), cluster.begin(place, 2));
    cluster.ask(&mut x, 0);
    cluster.ask(&mut x, 2);
    cluster.now_ms += LEASE_MS - 10;
    cluster.ask(&mut y, 1);
    // The ack comes within its lease.
    cluster.settle(0, 0, B | C);
    cluster.now_ms += LEASE_MS / 2;
    cluster.ask(&mut y, 0);
}

fn h48_a_send_meets_a_seal() {
    let mut cluster = Cluster::new();
    for n in [0, 1] {
        let seal = Seal { record_version: 1, closes: Closes::Sends, name: "q".into() };
        let changes = cluster.replicas[n].stream.close(seal);
        cluster.replicas[n].commit(changes);
    }
    let dot = cluster.replicas[2].stream.mint(0);
    cluster.store(2, dot, B | C);
    assert!(!cluster.sent.contains(&dot), "G12: {dot} is acknowledged after the deletion");
}

fn h27_a_disowned_grant_is_completed() {
    let mut cluster = Cluster::new();
    let place = cluster.sent(0, A | B | C);
    let (mut x, mut y) = (cluster.begin(place, 1), cluster.begin(place, 2));
    cluster.ask(&mut x, 0);
    let now_ms = cluster.now_ms;
    for n in [1, 2] {
        let ballot = (x.item.requester, x.item.counter);
        let (_, changes) = cluster.replicas[n].stream.disown(Q, ballot, now_ms);
        cluster.replicas[n].commit(changes);
    }
    let changes = cluster.replicas[0].stream.drop_grant(Q, x.item.requester, now_ms);
    cluster.replicas[0].commit(changes);
    cluster.ask(&mut y, 0);
    cluster.ask(&mut y, 2);
    // The request of X was on its way to B all the time.
    cluster.ask(&mut x, 1);
}

fn h31_its_consumers_die_of_it() {
    let mut cluster = Cluster::new();
    let place = cluster.sent(0, A | B | C);
    for _ in 0..3 {
        cluster.lease(0, Purpose::Deliver, place, A | B | C, 0);
        cluster.now_ms += 2 * LEASE_MS;
    }
    let leases = cluster.won.len();
    assert!(leases == 2, "G14: handed out {leases} times, and may fail twice");
}

fn h12_a_number_is_drawn_twice() {
    let mut cluster = Cluster::new();
    let place = cluster.sent(0, A | B | C);
    cluster.lease(1, Purpose::Deliver, place, B | C, 0);
    cluster.settle(0, 0, B | C);
    // The power of A goes before anything of this is on its disk.
    cluster.replicas[0].messages.clear();
    cluster.replicas[0].meta = StreamMeta::default();
    cluster.take(Step::Restart { at: 0 });
    cluster.sent.clear();
    let dot = cluster.replicas[0].stream.mint(0);
    cluster.store(0, dot, A | B | C);
    assert!(cluster.sent.contains(&dot), "a send is refused");
    cluster.repair(0, 1);
    assert!(cluster.open_at(dot) > 0, "G1: {dot} is lost");
}

fn h12_a_store_of_an_earlier_life_is_late() {
    let mut cluster = Cluster::new();
    let (earlier, dot) = (1, cluster.replicas[0].stream.mint(0));
    let late = envelope(dot, earlier);
    // A comes back without the message, and closes the numbers of its earlier life.
    cluster.take(Step::Restart { at: 0 });
    let news = cluster.replicas[0].stream.mint(0);
    let mut op = store_op(vec![envelope(news, 20)]);
    let life = dot.origin().unwrap().0;
    for n in [1, 2] {
        // The word that they are closed reaches B alone.
        op.closed = if n == 1 { vec![(life, 1)] } else { Vec::new() };
        let (_, changes) = cluster.replicas[n].stream.store(&op, BOUNDS, 10, true).unwrap();
        cluster.replicas[n].commit(changes);
    }
    let mut votes = 0;
    for n in [1, 2] {
        let op = store_op(vec![late.clone()]);
        if let Ok((_, changes)) = cluster.replicas[n].stream.store(&op, BOUNDS, 10, true) {
            cluster.replicas[n].commit(changes);
            votes += 1;
        }
    }
    cluster.repair(2, 1);
    assert!(votes < MAJORITY || cluster.open_at(dot) > 0, "G1: {dot} is lost");
}

fn h40_a_vote_is_about_another_content() {
    let mut cluster = Cluster::new();
    let dot = Dot::Keyed(KeyedId([7; 16]));
    for (n, content) in [(0, 1), (1, 2), (2, 2)] {
        let mut header = head(dot, 10);
        header.content_mac = [content; 32];
        let op = store_op(vec![sealed(header)]);
        let (_, changes) = cluster.replicas[n].stream.store(&op, BOUNDS, 10, true).unwrap();
        cluster.replicas[n].commit(changes);
    }
    cluster.tried.insert(dot);
    // Somebody receives what only A has, and acks it.
    let place = cluster.place(0);
    cluster.lease(0, Purpose::Deliver, place, A | B | C, A | B | C);
    cluster.settle(0, 0, A | B | C);
    assert!(cluster.open_at(dot) >= MAJORITY, "G1: the content of {dot} that was acknowledged");
}

fn h30_only_one_replica_has_what_is_received() {
    let mut cluster = Cluster::new();
    let place = cluster.sent(0, A);
    cluster.lease(0, Purpose::Deliver, place, A | B, 0);
    assert!(cluster.won.len() == 1, "nothing is received");
    // A never comes back.
    let is_there = |n: usize| cluster.replicas[n].stream.is_open(Q, place.1);
    assert!(is_there(1) || is_there(2), "G1: {} was handed out and is lost", place.1);
}

fn h31_nobody_ever_received_it() {
    let mut cluster = Cluster::new();
    let place = cluster.sent(0, A | B | C);
    for _ in 0..2 {
        cluster.lease(0, Purpose::Deliver, place, A, A | B | C);
    }
    cluster.lease(0, Purpose::Deliver, place, A | B | C, 0);
    assert!(cluster.won.len() == 1, "G14: {} died without having been received", place.1);
}

fn h26_a_request_is_made_twice() {
    let mut cluster = Cluster::new();
    let place = cluster.sent(0, A | B | C);
    let mut first = cluster.begin(place, 1);
    cluster.ask(&mut first, 0);
    cluster.ask(&mut first, 1);
    // Its dispatcher has crashed, and another asks for the same request anew.
    let mut again = Slow { votes: 0, ..first };
    again.item.counter = 2;
    cluster.ask(&mut again, 0);
    cluster.ask(&mut again, 1);
}

fn h32_one_clock_is_fast() {
    let mut cluster = Cluster::new();
    let dot = cluster.replicas[0].stream.mint(0);
    let mut header = head(dot, 10);
    header.delay_ms = 5 * LEASE_MS;
    let op = store_op(vec![sealed(header)]);
    for n in 0..3 {
        let (_, changes) = cluster.replicas[n].stream.store(&op, BOUNDS, 10, true).unwrap();
        cluster.replicas[n].commit(changes);
    }
    cluster.tried.insert(dot);
    let place = cluster.place(0);
    let mut slow = cluster.begin(place, 1);
    let now_ms = cluster.now_ms;
    cluster.now_ms += 6 * LEASE_MS;
    cluster.ask(&mut slow, 0);
    cluster.now_ms = now_ms;
    cluster.ask(&mut slow, 1);
    assert!(cluster.won.is_empty(), "G2: {dot} is handed out before it is due");
}

fn h33_one_drops_what_another_holds() {
    let mut cluster = Cluster::new();
    let place = cluster.sent(0, A | B | C);
    cluster.lease(0, Purpose::Deliver, place, A | B | C, 0);
    cluster.lease(1, Purpose::Expire, place, A | B | C, A | B | C);
    let item = cluster.won[0].item;
    let action = SettleAction::Extend { duration_ms: LEASE_MS };
    let held = |n: usize| cluster.settle_at(n, SettleItem { action, ..item });
    let held = (0..3).map(held).filter(|vote| *vote == SettleVote::Counted).count();
    assert!(held >= MAJORITY, "G3: {} is dropped while bob holds it", place.1);
}

fn h29_the_dispatcher_lacks_the_oldest() {
    let mut cluster = Cluster::new();
    for bench in &mut cluster.replicas {
        let rules = Rules { is_grouped: true, ..bench.rules };
        *bench = Bench::at(bench.me, StreamKind::Queue, rules);
        bench.stream.share();
    }
    for (seq, reach) in [(0, A | C), (1, A | B | C)] {
        let dot = cluster.replicas[0].stream.mint(0);
        cluster.tried.insert(dot);
        let mut header = head(dot, 10 + seq);
        header.group = Some(GroupHash([1; 16]));
        let op = store_op(vec![sealed(header)]);
        for n in reached(None, reach) {
            let (_, changes) = cluster.replicas[n].stream.store(&op, BOUNDS, 10, true).unwrap();
            cluster.replicas[n].commit(changes);
        }
    }
    // B lacks the first of the group, and begins with the second.
    let second = cluster.place(1);
    cluster.lease(1, Purpose::Deliver, second, B | C, B | C);
    assert!(cluster.won.is_empty(), "G2: {} overtakes the first of its group", second.1);
}

/// What a schedule objects to.
fn objection(run: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .or(Some("?".into()))
}

#[test]
fn mutants() {
    let (mut tried, mut caught) = (0, 0);
    for rule in Rule::ALL {
        for (_, name, run) in SCHEDULES.iter().filter(|(of, ..)| *of == rule) {
            assert_eq!(objection(run), None, "{name} objects to the rules as they are");
            tried += 1;
            let law = without(rule, || objection(run)).unwrap_or_default();
            // A law of the history, not an assertion or an accident.
            let is_law = law.starts_with('G') && law.contains(": ");
            assert!(is_law, "{name} does not see that {rule:?} is gone: {law:?}");
            println!("{rule:?}: {name}: {law}");
            caught += 1;
        }
    }
    println!("mutants {tried}, caught {caught}");
    assert!(tried == Rule::ALL.len() && caught == tried);
}

#[test]
fn the_table_names_every_rule_and_its_schedule() {
    let table = include_str!("../../../../../tests/README.md");
    let rows: Vec<&str> = table.lines().filter(|line| line.contains("| `h")).collect();
    assert_eq!((rows.len(), SCHEDULES.len()), (Rule::ALL.len(), Rule::ALL.len()));
    for (rule, name, _) in SCHEDULES {
        let (mark, h) =
            (format!("| {rule:?} |"), format!("| H{} |", name[1..3].parse::<u8>().unwrap()));
        let is_row = |row: &&&str| {
            row.starts_with(&mark) && row.contains(&format!("`{name}`")) && row.ends_with(&h)
        };
        assert!(rows.iter().any(|row| is_row(&row)), "no row for {rule:?}, {name}");
        assert!(Rule::ALL.contains(&rule));
    }
}
