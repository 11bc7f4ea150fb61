//! What one replica takes in from another, rule by rule.
use super::bench::*;
use crate::base::ids::RequesterId;
use crate::crdt::dot::KeyedId;
use crate::protocol::op::{
    LeaseDot, LeaseOp, LeaseVote, Purpose, Refusal, SettleAction, SettleVote,
};
use crate::protocol::record::Filter;
use crate::protocol::stream::*;

const S: SubscriptionId = SubscriptionId([1; 16]);

fn two(kind: StreamKind, rules: Rules) -> (Bench, Bench) {
    let mut both = [1, 2].map(|n| Bench::at(NodeId(n), kind, rules));
    both.iter_mut().for_each(|bench| bench.stream.share());
    let [a, b] = both;
    (a, b)
}

/// Both have the message, and the first has acknowledged it.
fn one_has_settled() -> (Bench, Bench, Dot) {
    let (mut a, mut b) = two(StreamKind::Queue, rules());
    let dot = a.send(1);
    let (_, changes) = b.stream.store(&store_op(vec![envelope(dot, 1)]), BOUNDS, 0, true).unwrap();
    b.commit(changes);
    let got = a.receive(1, 1_000, 1);
    assert_eq!(a.settle(got[0], SettleAction::Ack, 2), SettleVote::Counted);
    (a, b, dot)
}

#[test]
fn r13_who_cannot_tell_what_it_lacks_gives_no_evidence() {
    let (a, mut b, dot) = one_has_settled();
    let mut told = a.stream.summary(3);
    told.is_suspect = true;
    assert!(b.stream.merge_settled(&told, 3).is_empty());
    assert!(b.stream.is_open(Q, dot), "its row may only be damaged there");
    told.is_suspect = false;
    b.stream.merge_settled(&told, 3);
    assert!(!b.stream.is_open(Q, dot));
}

#[test]
fn r36_of_another_set_of_readers_nothing_is_taken_for_settled() {
    let (a, mut b, dot) = one_has_settled();
    let mut told = a.stream.summary(3);
    told.set.0 = 9;
    assert!(b.stream.merge_settled(&told, 3).is_empty());
    // L1: the same version of another set is another set.
    let mut told = a.stream.summary(3);
    told.set.1 ^= 1;
    assert!(b.stream.merge_settled(&told, 3).is_empty());
    assert!(b.stream.is_open(Q, dot));
}

/// L1: should two sets ever stand under one version, a replica knows messages that its own set
/// never opened. That is no evidence that they are settled, whether they have a key or not.
#[test]
fn r36_two_sets_under_one_version_settle_nothing_for_each_other() {
    const OTHER: SubscriptionId = SubscriptionId([77; 16]);
    let (mut a, mut c) = two(StreamKind::Topic, rules());
    for (bench, id) in [(&mut a, S), (&mut c, OTHER)] {
        let mut set = SubscriptionSet { version: 1, ..SubscriptionSet::default() };
        set.filters.insert(id, Filter::default());
        let changes = bench.stream.put_set(1, &set, &|_| rules(), 0).unwrap();
        bench.commit(changes);
    }
    let minted = a.stream.mint(0);
    let keyed = Dot::Keyed(KeyedId([7; 16]));
    for (n, dot) in [(1, minted), (2, keyed)] {
        let mut sent = (*envelope(dot, n)).clone();
        (sent.header.set_version, sent.header.matched) = (1, vec![S]);
        let op = store_op(vec![Arc::new(sent)]);
        for bench in [&mut a, &mut c] {
            let (_, changes) = bench.stream.store(&op, BOUNDS, 0, true).unwrap();
            bench.commit(changes);
        }
        assert!(a.stream.is_open(S, dot) && c.stream.is_known(dot) && !c.stream.is_present(dot));
    }
    let theirs = c.stream.summary(1);
    assert_ne!(theirs.clone().digest(), a.stream.summary(1).digest());
    assert!(a.stream.merge_settled(&theirs, 1).is_empty());
    assert!(a.stream.is_open(S, minted), "known there, and open for nobody there");
    let facts = c.stream.keyed_facts(7, None, 9, 1);
    assert_eq!(facts.len(), 1);
    assert!(a.stream.merge_keyed(theirs.set, &facts, 1).is_empty());
    assert!(a.stream.is_open(S, keyed), "its key is known there, and it is open for nobody there");
}

#[test]
fn f23_a_replica_takes_nothing_that_was_matched_on_a_newer_set() {
    let (mut a, mut b) = two(StreamKind::Topic, rules());
    let mut set = SubscriptionSet { version: 1, ..SubscriptionSet::default() };
    set.filters.insert(S, Filter::default());
    let changes = a.stream.put_set(1, &set, &|_| rules(), 0).unwrap();
    a.commit(changes);
    let dot = a.send_with(1, 0, |header| (header.set_version, header.matched) = (1, vec![S]));
    let kept = crate::message::envelope::Kept::from_bytes(a.messages.values().next().unwrap());
    let envelope = kept.unwrap().envelope;
    let op = store_op(vec![envelope.clone()]);
    assert_eq!(b.stream.store(&op, BOUNDS, 0, true).unwrap_err(), Refusal::Behind);
    let repaired = [Repaired { envelope, open: vec![S], age_ms: 0 }];
    assert!(b.stream.merge_messages(&repaired, 0).is_empty() && !b.stream.is_known(dot));
    // With the set it takes it, and the reader gets it.
    let changes = b.stream.merge_set(&set, &|_| rules(), 0);
    b.commit(changes);
    let changes = b.stream.merge_messages(&repaired, 0);
    b.commit(changes);
    assert_eq!(b.receive_by(S, 9, 1_000, 1).len(), 1);
    // An ack of what never came would speak for every reader: it takes no side.
    let (mut c, _) = two(StreamKind::Topic, rules());
    let changes = c.stream.merge_set(&set, &|_| rules(), 0);
    c.commit(changes);
    let got = a.receive_by(S, 9, 1_000, 1);
    assert_eq!(c.settle_by(S, got[0], SettleAction::Ack, 2), SettleVote::Lacking);
    assert!(!c.stream.is_known(dot));
}

#[test]
fn a_purge_of_what_a_topics_replica_lacks_waits_for_it() {
    let (mut a, _) = two(StreamKind::Topic, rules());
    let mut set = SubscriptionSet { version: 1, ..SubscriptionSet::default() };
    set.filters.insert(S, Filter::default());
    let changes = a.stream.merge_set(&set, &|_| rules(), 0);
    a.commit(changes);
    let missing = Dot::Minted { node: NodeId(2), boot: BOOT, seq: 1 };
    let purged = a.stream.purge(1, S, &DotSet::from_iter([missing]), 0);
    assert_eq!(purged.unwrap_err(), Refusal::Behind);
}

#[test]
fn a_filled_hole_goes_back_to_its_place() {
    let (mut a, _) = two(StreamKind::Queue, rules());
    let dot = a.send(1);
    let place = *a.messages.keys().next().unwrap();
    assert_eq!(a.stream.pick(Q, 1, 0).len(), 1, "whoever opens it finds the hole");
    assert!(a.stream.note_hole(place));
    assert!(a.receive(1, 1_000, 1).is_empty());
    let repaired = [Repaired { envelope: envelope(dot, 1), open: vec![Q], age_ms: 0 }];
    let changes = a.stream.merge_messages(&repaired, 2);
    a.commit(changes);
    assert_eq!((a.stream.count_holes(), a.receive(1, 1_000, 3).len()), (0, 1));
}

#[test]
fn what_is_purged_during_a_sweep_is_for_the_next_one() {
    let mut a = Bench::new();
    let dots = [a.send(1), a.send(2)];
    let places: Vec<Place> = a.messages.keys().copied().collect();
    let purge = |a: &mut Bench, dot: Dot| {
        let (_, changes) = a.stream.purge(1, Q, &DotSet::from_iter([dot]), 0).unwrap();
        a.commit(changes);
    };
    purge(&mut a, dots[1]);
    let all = a.stream.to_sweep(Q);
    // The sweep has come by the first one when that is purged, too.
    purge(&mut a, dots[0]);
    let mut changes = a.stream.sweep(Q, &places[1..]);
    changes.extend(a.stream.swept(Q, &all));
    a.commit(changes);
    assert_eq!(a.stream.unswept(), [Q]);
    a.restart(Boot(2), 1);
    assert_eq!(a.stream.count(), 0, "what was purged stays purged");
}

#[test]
fn who_missed_a_failure_learns_of_it_and_buries_the_message() {
    let rules = Rules { max_failures: 1, ..rules() };
    let (mut a, mut b) = two(StreamKind::Queue, rules);
    let dot = a.send(1);
    let (_, changes) = b.stream.store(&store_op(vec![envelope(dot, 1)]), BOUNDS, 0, true).unwrap();
    b.commit(changes);
    // Its lease lapses at one replica alone.
    a.receive(1, 1_000, 0);
    a.stream.wake(Q, 2_000);
    let ask = |purpose, counter, failures| LeaseOp {
        header: header(1),
        reader: Q,
        requester: RequesterId([8; 16]),
        holder: "bob".into(),
        purpose,
        counter,
        duration_ms: 1_000,
        dots: vec![LeaseDot {
            place: (head(dot, 1).hlc, dot),
            envelope: None,
            age_ms: 0,
            content_mac: None,
        }],
        failures,
    };
    let (votes, _) = a.stream.lease(&ask(Purpose::Deliver, 5, vec![]), 2_000, 0).unwrap();
    assert_eq!(votes, [LeaseVote::Exhausted { failures: 1 }]);
    // The one that missed it has just granted; told so, it knows after it gives the lease back.
    let got = b.receive(1, 1_000, 2_000);
    b.stream.raise_failures(Q, dot, 1);
    b.settle(got[0], SettleAction::Withdraw, 2_001);
    assert_eq!(b.stream.doomed(Q, 9, 2_001).len(), 1);
    // And who has not heard of it yet believes who asks to bury.
    let (mut c, _) = two(StreamKind::Queue, rules);
    let (_, changes) = c.stream.store(&store_op(vec![envelope(dot, 1)]), BOUNDS, 0, true).unwrap();
    c.commit(changes);
    let (votes, _) = c.stream.lease(&ask(Purpose::Bury, 5, vec![0]), 2_000, 0).unwrap();
    assert_eq!(votes, [LeaseVote::NotFit]);
    let (votes, _) = c.stream.lease(&ask(Purpose::Bury, 6, vec![1]), 2_000, 0).unwrap();
    assert_eq!(votes, [LeaseVote::Granted { receive_count: 0, failure_count: 1 }]);
}

/// Found by the simulation: a send and its repeat through a node whose wall clock is years ahead
/// have stamps that are far apart, and are one message all the same.
#[test]
fn f1_f11_what_is_the_same_message_is_not_a_matter_of_wall_clocks() {
    const YEARS_MS: u64 = 100_000_000_000;
    let (mut a, mut b) = two(StreamKind::Queue, rules());
    for bench in [&mut a, &mut b] {
        bench.stream.remember_for(BOUNDS.dedup_ms);
    }
    let dot = Dot::Keyed(KeyedId([7; 16]));
    for (bench, wall_ms) in [(&mut a, 1), (&mut b, YEARS_MS)] {
        let op = store_op(vec![envelope(dot, wall_ms)]);
        let (_, changes) = bench.stream.store(&op, BOUNDS, 0, true).unwrap();
        bench.commit(changes);
    }
    let got = a.receive(1, 1_000, 1);
    assert_eq!(a.settle(got[0], SettleAction::Ack, 2), SettleVote::Counted);
    let (set, facts) = (a.stream.summary(3).set, a.stream.keyed_facts(7, None, 9, 3));
    b.stream.merge_keyed(set, &facts, 3);
    assert!(!b.stream.is_open(Q, dot), "it was acknowledged");
    // When its window is over at who tells of it, a send far later is a new one.
    let (mut c, _) = two(StreamKind::Queue, rules());
    c.stream.remember_for(BOUNDS.dedup_ms);
    let op = store_op(vec![envelope(dot, YEARS_MS)]);
    c.stream.store(&op, BOUNDS, 0, true).unwrap();
    let over = a.stream.keyed_facts(7, None, 9, BOUNDS.dedup_ms + 3);
    c.stream.merge_keyed(set, &over, 3);
    assert!(c.stream.is_open(Q, dot), "it is another message");
}
