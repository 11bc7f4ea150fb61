//! Delay, ttl and retention of what was stored elsewhere before it came here.
use super::bench::*;
use crate::message::envelope::{Header, Kept};
use crate::protocol::op::{LeaseDot, LeaseOp, LeaseVote, Purpose};
use crate::protocol::stream::*;

const HOUR_MS: u64 = 3_600_000;
const NOW_MS: u64 = 100 * HOUR_MS;
const DOT: Dot = Dot::Minted { node: NodeId(2), boot: BOOT, seq: 1 };

/// A replica that a message was brought to, of that age.
fn brought(age_ms: u64, edit: impl FnOnce(&mut Header)) -> (Bench, Place) {
    let mut bench = Bench::new();
    let mut header = head(DOT, 1);
    edit(&mut header);
    let place = (header.hlc, DOT);
    let repaired = [Repaired { envelope: sealed(header), open: vec![Q], age_ms }];
    let changes = bench.stream.merge_messages(&repaired, NOW_MS);
    bench.commit(changes);
    (bench, place)
}

#[test]
fn f11_of_one_report_a_fiftieth_and_a_second_do_not_count_for_a_delay() {
    let (mut bench, place) = brought(10 * HOUR_MS, |header| header.delay_ms = 12 * HOUR_MS);
    let due_ms = NOW_MS + 2 * HOUR_MS + HOUR_MS / 5 + 1_000;
    let mut standing = |now_ms| {
        bench.stream.wake(Q, now_ms);
        bench.stream.standing(Q, place, now_ms)
    };
    assert_eq!(standing(due_ms - 1), Standing::Delayed);
    assert_eq!(standing(due_ms), Standing::Ready);
    // A report of less than a second is none.
    let (bench, place) = brought(900, |header| header.delay_ms = 1_000);
    assert_eq!(bench.stream.standing(Q, place, NOW_MS + 999), Standing::Delayed);
}

#[test]
fn r22_ttl_and_retention_go_on_in_full_over_a_restart() {
    let (mut bench, place) = brought(10 * HOUR_MS, |header| header.ttl_ms = 12 * HOUR_MS);
    let end_ms = NOW_MS + 2 * HOUR_MS;
    assert_eq!(bench.stream.standing(Q, place, end_ms - 1), Standing::Ready);
    assert_eq!(bench.stream.standing(Q, place, end_ms), Standing::Expired);
    bench.restart(Boot(2), NOW_MS);
    assert_eq!(bench.stream.standing(Q, place, end_ms), Standing::Expired);
    let kept = Kept::from_bytes(&bench.messages[&place]).unwrap();
    assert_eq!(kept.ends_ms(20 * HOUR_MS), end_ms);
    // What is over is over, however young this replica's clock is.
    let (bench, place) = brought(NOW_MS * 2, |header| header.ttl_ms = HOUR_MS);
    assert_eq!(bench.stream.standing(Q, place, NOW_MS), Standing::Expired);
}

#[test]
fn r22_the_payload_of_a_lease_brings_its_age_along() {
    let mut bench = Bench::new();
    let header = Header { delay_ms: HOUR_MS, ..head(DOT, 1) };
    let (place, envelope) = ((header.hlc, DOT), Some(sealed(header)));
    let dot = |age_ms| LeaseDot { place, envelope, age_ms, content_mac: None };
    let op = LeaseOp {
        header: super::bench::header(1),
        reader: Q,
        requester: crate::base::ids::RequesterId([1; 16]),
        holder: "bob".into(),
        purpose: Purpose::Deliver,
        counter: 1,
        duration_ms: 1_000,
        dots: vec![dot(2 * HOUR_MS)],
        failures: vec![0],
    };
    let (votes, _) = bench.stream.lease(&op, NOW_MS, NOW_MS).unwrap();
    assert!(matches!(votes[0], LeaseVote::Granted { .. }), "{votes:?}");
}
