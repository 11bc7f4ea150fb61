//! Sends, leases and settlements of a queue; the rest is in the rooms beside.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::base::ids::RequesterId;
use crate::base::limits;
use crate::message::envelope::GroupHash;
use crate::protocol::lease::{GrantRow, Hold};
use crate::protocol::op::{
    LeaseDot, LeaseOp, LeaseVote, Purpose, Reasons, SettleAction, SettleItem, SettleOp, SettleVote,
    StoreVote,
};
use bench::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

mod bench;
mod groups;
mod journeys;
mod model;
mod repairs;
mod replicas;
mod times;

#[test]
fn r10_dots_are_dense_and_a_new_boot_mints_under_its_own_number() {
    let mut bench = Bench::new();
    let seqs: Vec<Dot> = (1..=3).map(|n| bench.send(n)).collect();
    assert_eq!(seqs[2], Dot::Minted { node: ME, boot: BOOT, seq: 3 });
    bench.restart(Boot(2), 0);
    assert_eq!(bench.send(4), Dot::Minted { node: ME, boot: Boot(2), seq: 1 });
}

#[test]
fn r17_a_store_from_an_earlier_life_of_its_node_is_refused() {
    let mut bench = Bench::new();
    bench.send(1);
    bench.restart(Boot(2), 0);
    let stale = envelope(Dot::Minted { node: ME, boot: BOOT, seq: 9 }, 5);
    assert_eq!(
        bench.stream.store(&store_op(vec![stale]), BOUNDS, 0, true),
        Err(Refusal::StaleBoot)
    );
}

#[test]
fn r12_a_message_is_in_the_context_exactly_with_its_payload_and_stays_after_it() {
    let mut bench = Bench::new();
    let dot = bench.send(1);
    assert!(bench.meta.context.contains(dot) && bench.messages.len() == 1);
    let items = bench.receive(1, 1_000, 0);
    assert_eq!(bench.settle(items[0], SettleAction::Ack, 1), SettleVote::Counted);
    assert!(bench.meta.context.contains(dot) && bench.is_clean());
    // A late copy of the same Store does not bring it back [H16].
    let again = store_op(vec![envelope(dot, 1)]);
    let (votes, changes) = bench.stream.store(&again, BOUNDS, 0, true).unwrap();
    assert_eq!((votes, changes), (vec![StoreVote::Known], vec![]));
    assert!(bench.receive(1, 1_000, 2).is_empty());
}

#[test]
#[should_panic(expected = "R12")]
fn r12_a_message_the_context_does_not_know_stops_the_load() {
    let mut bench = Bench::new();
    bench.send(1);
    bench.meta = StreamMeta::default();
    bench.restart(Boot(2), 0);
}

#[test]
fn order_is_kept_by_released_failed_and_lapsed_messages() {
    let mut bench = Bench::new();
    let dots: Vec<Dot> = (1..=3).map(|n| bench.send(n)).collect();
    let first = bench.receive(2, 1_000, 0);
    assert_eq!(first.iter().map(|i| i.place.1).collect::<Vec<_>>(), dots[..2]);
    bench.settle(first[1], FAILED, 1);
    let lapsed_at = 1_025;
    let again = bench.receive(9, 1_000, lapsed_at);
    assert_eq!(again.iter().map(|i| i.place.1).collect::<Vec<_>>(), dots);
    let counts: Vec<_> = again.iter().map(|i| (i.receive_count, i.failure_count)).collect();
    assert_eq!(counts, [(2, 1), (2, 1), (1, 0)], "lapse and failure count, each once [F19]");
}

#[test]
fn g5_fences_rise_over_release_lapse_settle_and_restart() {
    let mut bench = Bench::new();
    bench.send(1);
    let mut last = 0;
    for round in 0..6u64 {
        let now = round * 10_000;
        let item = bench.receive(1, 1_000, now)[0];
        assert!(item.counter > last, "round {round}");
        last = item.counter;
        match round % 3 {
            0 => {
                bench.settle(item, BACK, now);
            }
            1 => bench.restart(Boot(2 + round), now + 9_000),
            _ => {}
        }
    }
    let item = bench.receive(1, 1_000, 90_000)[0];
    bench.settle(item, SettleAction::Ack, 90_000);
    assert!(bench.is_clean());
    bench.restart(Boot(50), 90_000);
    bench.send(2);
    assert!(bench.receive(1, 1_000, 90_001)[0].counter > item.counter, "the floor survives [F9]");
}

#[test]
fn h21_a_restart_forgets_no_lease_and_counts_its_remainder() {
    let mut bench = Bench::new();
    bench.send(1);
    let item = bench.receive(1, 10_000, 100)[0];
    bench.restart(Boot(2), 5_000);
    assert!(bench.receive(1, 1_000, 5_000).is_empty());
    assert_eq!(bench.stream.in_flight(Q), 1);
    assert_eq!(bench.stream.next_wake_ms(), Some(100 + 10_250));
    let again = bench.receive(1, 1_000, 10_350)[0];
    assert!(again.counter > item.counter);
    assert_eq!(bench.settle(item, SettleAction::Ack, 10_400), SettleVote::Lost);
    assert_eq!(bench.settle(again, SettleAction::Ack, 10_500), SettleVote::Counted);
}

#[test]
fn an_extended_lease_outlives_its_first_end_also_over_a_restart() {
    let mut bench = Bench::new();
    bench.send(1);
    bench.send(2);
    let items = bench.receive(2, 1_000, 0);
    let longer = SettleAction::Extend { duration_ms: 60_000 };
    assert_eq!(bench.settle(items[0], longer, 500), SettleVote::Counted);
    bench.restart(Boot(2), 2_000);
    let lapsed = bench.receive(9, 1_000, 2_000);
    assert_eq!(lapsed.iter().map(|i| i.place.1).collect::<Vec<_>>(), [items[1].place.1]);
    assert_eq!(bench.settle(items[0], SettleAction::Ack, 3_000), SettleVote::Counted);
    assert_eq!(bench.settle(lapsed[0], SettleAction::Ack, 3_000), SettleVote::Counted);
    assert!(bench.is_clean(), "{:?} {:?}", bench.grants, bench.attempts);
}

#[test]
fn a_withdrawn_grant_leaves_no_trace_in_the_counts() {
    let mut bench = Bench::new();
    bench.send(1);
    let item = bench.receive(1, 1_000, 0)[0];
    assert_eq!(bench.settle(item, SettleAction::Withdraw, 1), SettleVote::Counted);
    let again = bench.receive(1, 1_000, 2)[0];
    assert_eq!((again.receive_count, again.failure_count), (1, 0));
    assert!(again.counter > item.counter);
}

#[test]
fn r27_a_replica_without_the_payload_asks_for_it() {
    let mut bench = Bench::new();
    let dot = Dot::Minted { node: NodeId(2), boot: Boot(1), seq: 1 };
    let message = envelope(dot, 3);
    let place = (message.header.hlc, dot);
    let mut op = LeaseOp {
        header: header(1),
        reader: Q,
        requester: RequesterId([9; 16]),
        holder: "bob".into(),
        purpose: Purpose::Deliver,
        counter: 1,
        duration_ms: 1_000,
        dots: vec![LeaseDot { place, envelope: None, age_ms: 0, content_mac: None }],
        failures: Vec::new(),
    };
    assert_eq!(bench.stream.lease(&op, 0, 0).unwrap().0, [LeaseVote::NeedsPayload]);
    op.dots[0].envelope = Some(message);
    let (votes, changes) = bench.stream.lease(&op, 0, 0).unwrap();
    assert_eq!(votes, [LeaseVote::Granted { receive_count: 1, failure_count: 0 }]);
    bench.commit(changes);
    assert_eq!((bench.messages.len(), bench.grants.len()), (1, 1), "payload and grant together");
}

#[test]
fn f5_a_seal_closes_and_a_greater_live_version_lifts_it() {
    let mut bench = Bench::new();
    bench.send(1);
    let seal = |record_version, closes| Seal { record_version, closes, name: "q".into() };
    let changes = bench.stream.close(seal(4, Closes::Sends));
    bench.commit(changes);
    assert_eq!(bench.stream.may_store(4), Err(Refusal::Sealed));
    assert!(!bench.receive(1, 1_000, 0).is_empty(), "a drain goes on receiving");
    assert_eq!(bench.stream.close(seal(3, Closes::All)), [], "an older seal is void");
    bench.stream.close(seal(6, Closes::All));
    let op = SettleOp {
        header: header(6),
        reader: Q,
        check_only: false,
        items: vec![],
        reasons: Reasons::new(),
    };
    assert_eq!(bench.stream.settle(&op, 0, 0), Err(Refusal::Sealed));
    assert_eq!(bench.stream.may_store(7), Ok(()));
}

#[test]
fn a_long_queue_keeps_its_head_in_memory_and_reads_the_rest_in_order() {
    let mut bench = Bench::new();
    let total = limits::WINDOW_MESSAGES_MAX as u64 + 10;
    for n in 0..total {
        bench.send(n);
    }
    let after = bench.stream.unread_after(Q).expect("the rest is on disk");
    let head = bench.stream.pick(Q, usize::MAX, 0);
    assert_eq!(head.len(), limits::WINDOW_MESSAGES_MAX);
    let rest: Vec<Place> = bench.messages.keys().copied().filter(|p| *p > after).collect();
    bench.stream.refill(Q, &rest, None, 0);
    assert_eq!(bench.stream.pick(Q, usize::MAX, 0).len(), 10);
    assert_eq!(bench.stream.unread_after(Q), None);
    for (place, payload) in head {
        bench.stream.unpick(Q, place, payload, 0);
    }
    assert_eq!(bench.receive(1, 1_000, 0)[0].place.0.wall_ms, 0, "put back at its place [F34]");
}

#[test]
fn what_comes_while_the_disk_is_read_on_is_not_skipped() {
    let mut bench = Bench::new();
    for n in 0..limits::WINDOW_MESSAGES_MAX as u64 + 10 {
        bench.send(2 * n);
    }
    let after = bench.stream.unread_after(Q).expect("the rest is on disk");
    let head = bench.stream.pick(Q, usize::MAX, 0);
    bench.stream.set_reading(Q, true);
    let read: Vec<Place> = bench.messages.keys().copied().filter(|p| *p > after).collect();
    // Repair brings one into the middle of what has been read, and one behind it.
    let (early, late) = (after.0.wall_ms + 3, after.0.wall_ms + 1_001);
    bench.send(early);
    bench.send(late);
    bench.stream.refill(Q, &read[..5], Some(read[4]), 0);
    let walls = |picked: Vec<Picked>| picked.iter().map(|(place, _)| place.0.wall_ms).collect();
    let got: Vec<u64> = walls(bench.stream.pick(Q, usize::MAX, 0));
    assert_eq!(got.len(), 6);
    assert!(got.contains(&early) && !got.contains(&late), "the other is still to be read");
    assert_eq!(bench.stream.unread_after(Q), Some(read[4]));
    // Nobody reads any more: nothing is kept of what comes.
    bench.stream.set_reading(Q, false);
    for (place, payload) in head {
        bench.stream.unpick(Q, place, payload, 0);
    }
    assert!(!bench.receive(1, 1_000, 0).is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    Send,
    Receive { max: usize, duration_ms: u64 },
    Settle { which: usize, action: u8 },
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Send),
        3 => (1..4usize, 1..3_000u64).prop_map(|(max, duration_ms)| Step::Receive { max, duration_ms }),
        5 => (any::<usize>(), 0..5u8).prop_map(|(which, action)| Step::Settle { which, action }),
        2 => (1..4_000u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// Whatever happens on one replica: leases exclude each other [G3], acknowledged messages
    /// never come back [G4], fences rise [G5], nothing unacknowledged is lost [G1], and no row
    /// outlives its message.
    #[test]
    fn one_replica_keeps_its_promises(steps in prop::collection::vec(step(), 1..120)) {
        let mut bench = Bench::new();
        let (mut now, mut wall, mut boot) = (0u64, 0u64, 1u64);
        let mut unsettled: BTreeSet<Dot> = BTreeSet::new();
        let mut acked: BTreeSet<Dot> = BTreeSet::new();
        let mut fences: BTreeMap<Dot, u64> = BTreeMap::new();
        // What each holder believes: until when its lease runs.
        let mut leases: Vec<(SettleItem, u64, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Send => { wall += 1; unsettled.insert(bench.send(wall)); }
                Step::Wait(ms) => now += ms,
                Step::Restart => { boot += 1; bench.restart(Boot(boot), now); }
                Step::Receive { max, duration_ms } => {
                    for item in bench.receive(max, duration_ms, now) {
                        let dot = item.place.1;
                        prop_assert!(!acked.contains(&dot), "delivered after its ack");
                        let fence = fences.entry(dot).or_default();
                        prop_assert!(item.counter > *fence, "the fence fell");
                        *fence = item.counter;
                        let held = leases.iter().any(|(other, until, open)| {
                            *open && other.place == item.place && *until > now
                        });
                        prop_assert!(!held, "two holders");
                        leases.push((item, now + duration_ms, true));
                    }
                }
                Step::Settle { which, action } if !leases.is_empty() => {
                    let which = which % leases.len();
                    let (item, until, open) = leases[which];
                    let action = match action {
                        0 | 1 => SettleAction::Ack,
                        2 => SettleAction::Extend { duration_ms: 500 },
                        3 => FAILED,
                        _ => BACK,
                    };
                    let vote = bench.settle(item, action, now);
                    let running = open && until > now && !acked.contains(&item.place.1);
                    prop_assert!(!running || vote == SettleVote::Counted, "a holder was refused");
                    if vote == SettleVote::Counted {
                        match action {
                            SettleAction::Ack => {
                                unsettled.remove(&item.place.1);
                                acked.insert(item.place.1);
                                leases[which].2 = false;
                            }
                            SettleAction::Extend { duration_ms } => leases[which].1 = now + duration_ms,
                            _ => leases[which].2 = false,
                        }
                    }
                }
                Step::Settle { .. } => {}
            }
            prop_assert_eq!(bench.stream.count(), unsettled.len() as u64);
            prop_assert_eq!(bench.messages.len(), unsettled.len());
        }
        now += 100_000;
        for item in bench.receive(usize::MAX, 1_000, now) {
            prop_assert!(unsettled.remove(&item.place.1));
            prop_assert_eq!(bench.settle(item, SettleAction::Ack, now), SettleVote::Counted);
        }
        prop_assert!(unsettled.is_empty(), "lost: {:?}", unsettled);
        prop_assert!(bench.is_clean(), "{:?} {:?}", bench.attempts, bench.grants);
    }
}

#[test]
fn the_rows_of_leases_have_golden_bytes() {
    let place =
        (Hlc { wall_ms: 1, logical: 2, node: ME }, Dot::Minted { node: ME, boot: BOOT, seq: 3 });
    let attempt = Attempt {
        place,
        counter: 4,
        requester: RequesterId([5; 16]),
        receive_count: 6,
        failure_count: 7,
        hold: Hold::Leased { until_ms: 8 },
        death: None,
        redrives: 9,
    };
    let mut bytes = vec![1, 2, 1, 0, 1, 1, 3, 4];
    bytes.extend([5; 16]);
    bytes.extend([6, 7, 0, 8, 0, 9]);
    assert_eq!(postcard::to_stdvec(&attempt).unwrap(), bytes);
    let row = GrantRow { counter: 4, holder: "b".into(), attempts: vec![attempt] };
    assert_eq!(postcard::to_stdvec(&row).unwrap(), [&[4, 1, b'b', 1], &bytes[..]].concat());
    assert_eq!(postcard::to_stdvec(&StreamMeta::default()).unwrap(), [0, 0, 0]);
    assert_eq!(postcard::to_stdvec(&ReaderMeta::default()).unwrap(), [0, 0, 0]);
    let mark = Mark { hlc: place.0, ready_ms: 1, ends_ms: 2, group: Some(GroupHash([3; 16])) };
    let bytes = [&[1, 2, 1, 1, 2, 1], &[3; 16][..]].concat();
    assert_eq!(postcard::to_stdvec(&mark).unwrap(), bytes);
}
