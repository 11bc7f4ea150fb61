//! Delays, lives, deaths, keys, purges, groups and readers.
use super::bench::*;
use crate::base::ids::{Generation, UserId};
use crate::crdt::dot::{KeyedId, SendKey};
use crate::message::envelope::{DeathReason, GroupHash, Header, Kept};
use crate::protocol::op::{
    Purpose, ReleaseOutcome, SettleAction, SettleItem, SettleVote, StoreVote,
};
use crate::protocol::stream::*;

#[test]
fn f11_a_delayed_message_is_nobodys_before_its_time_also_over_a_restart() {
    let mut bench = Bench::new();
    bench.send_with(1, 100, |h| h.delay_ms = 1_000);
    assert!(bench.receive(1, 500, 1_099).is_empty());
    assert_eq!(bench.stream.counts(Q).delayed, 1);
    bench.restart(Boot(2), 1_050);
    assert!(bench.receive(1, 500, 1_099).is_empty());
    let place = *bench.messages.keys().next().unwrap();
    let forced = bench.lease(Q, vec![place], Purpose::Deliver, 500, 1_099);
    assert!(forced.is_empty(), "the replica itself refuses: the lease majority is the delay's");
    let item = bench.receive(1, 500, 1_100)[0];
    bench.settle(item, SettleAction::Ack, 1_100);
    assert!(bench.is_clean());
}

#[test]
fn f18_a_message_whose_life_is_over_is_not_delivered_and_dropped_by_the_broker() {
    let mut bench = Bench::new();
    bench.send_with(1, 0, |h| h.ttl_ms = 1_000);
    bench.send_with(2, 0, |h| h.ttl_ms = 1_000);
    let held = bench.receive(1, 5_000, 10)[0];
    assert!(bench.receive(1, 500, 1_000).is_empty(), "the second is over");
    bench.attend(Q, 1_000);
    assert_eq!(bench.stream.count(), 1, "the first is held: its holder may still settle it");
    assert_eq!(bench.settle(held, SettleAction::Ack, 1_200), SettleVote::Counted);
    assert!(bench.is_clean());
}

#[test]
fn a_message_that_fails_too_often_is_dead_and_a_hand_back_is_no_failure() {
    let mut bench = Bench::of(StreamKind::Queue, Rules { max_failures: 2, ..rules() });
    bench.send(1);
    let first = bench.receive(1, 1_000, 0)[0];
    bench.settle(first, BACK, 1);
    let second = bench.receive(1, 1_000, 2)[0];
    bench.settle(second, FAILED, 3);
    let third = bench.receive(1, 1_000, 4)[0];
    assert_eq!(third.failure_count, 1);
    bench.settle(third, FAILED, 5);
    assert!(bench.receive(1, 1_000, 6).is_empty());
    assert_eq!(bench.stream.counts(Q).dead, 1);
    bench.restart(Boot(2), 7);
    assert_eq!(bench.stream.counts(Q).dead, 1);
    let place = bench.stream.dead(Q, None, 9)[0];
    let death = bench.stream.attempt(Q, place.1).unwrap().death.unwrap();
    assert_eq!((death.reason, death.died_ms), (DeathReason::MaxFailures, 5));
}

#[test]
fn f19_lapses_count_and_the_broker_buries_what_lapsed_too_often() {
    let mut bench = Bench::of(StreamKind::Queue, Rules { max_failures: 2, ..rules() });
    bench.send(1);
    bench.receive(1, 1_000, 0);
    bench.receive(1, 1_000, 2_000);
    assert!(bench.receive(1, 1_000, 4_000).is_empty(), "it failed twice");
    assert!(bench.stream.has_doomed(Q));
    bench.attend(Q, 4_000);
    assert_eq!((bench.stream.counts(Q).dead, bench.stream.has_doomed(Q)), (1, false));
    bench.restart(Boot(2), 5_000);
    assert_eq!(bench.stream.counts(Q).dead, 1);
}

#[test]
fn the_dead_are_leased_on_demand_and_dead_again_unless_acknowledged_or_redriven() {
    let mut bench = Bench::of(StreamKind::Queue, Rules { max_failures: 9, ..rules() });
    bench.send(1);
    let item = bench.receive(1, 1_000, 0)[0];
    let poison = SettleAction::Release { outcome: ReleaseOutcome::Poison, delay_ms: None };
    assert_eq!(bench.settle(item, poison, 1), SettleVote::Counted);
    assert_eq!(bench.settle(item, poison, 1), SettleVote::Counted, "repeated");
    assert_eq!(bench.settle(item, SettleAction::Ack, 1), SettleVote::Lost);
    let dead = bench.stream.dead(Q, None, 9);
    for (end, now) in [(BACK, 10), (FAILED, 20), (SettleAction::Withdraw, 30)] {
        let item = bench.lease(Q, dead.clone(), Purpose::DeliverDead, 1_000, now)[0];
        assert_eq!((bench.stream.counts(Q).dead, bench.stream.counts(Q).leased), (0, 1));
        bench.settle(item, end, now + 1);
        assert_eq!(bench.stream.counts(Q).dead, 1, "{end:?}");
    }
    bench.lease(Q, dead.clone(), Purpose::DeliverDead, 1_000, 100);
    bench.restart(Boot(2), 500);
    bench.stream.wake(Q, 5_000);
    assert_eq!(bench.stream.counts(Q).dead, 1, "the lease lapsed");
    let redrive = SettleItem { action: SettleAction::Redrive, ..item };
    assert_eq!(bench.settle(redrive, SettleAction::Redrive, 5_001), SettleVote::Counted);
    let back = bench.receive(1, 1_000, 5_002)[0];
    assert_eq!(back.failure_count, 0, "failures count anew");
    assert!(back.counter > item.counter);
    bench.settle(back, SettleAction::Ack, 5_003);
    assert!(bench.is_clean());
}

#[test]
fn the_last_reason_stays_with_a_message_until_it_is_settled_or_redriven() {
    let mut bench = Bench::of(StreamKind::Queue, Rules { max_failures: 2, ..rules() });
    let dot = bench.send(1);
    let said = |bench: &Bench| bench.reasons.get(&(Q, dot)).map(|it| it.to_vec());
    let because = |item, action| SettleItem { action, ..item };
    let first = bench.receive(1, 1_000, 0)[0];
    bench.settle_because(Q, because(first, BACK), Some(b"tired"), 1);
    assert_eq!(said(&bench), None, "nothing failed");
    let second = bench.receive(1, 1_000, 2)[0];
    bench.settle_because(Q, because(second, FAILED), Some(b"one"), 3);
    bench.settle_because(Q, because(second, FAILED), Some(b"again"), 3);
    assert_eq!(said(&bench).as_deref(), Some(&b"one"[..]), "a repeat says nothing new");
    bench.restart(Boot(2), 4);
    assert!(bench.stream.has_reason(Q, dot));
    bench.receive(1, 1_000, 5);
    bench.attend(Q, 5_000);
    assert_eq!((bench.stream.counts(Q).dead, bench.stream.has_reason(Q, dot)), (1, true));
    let dead = bench.stream.dead(Q, None, 9);
    let looked = bench.lease(Q, dead, Purpose::DeliverDead, 1_000, 5_001)[0];
    bench.settle_because(Q, because(looked, FAILED), Some(b"late"), 5_002);
    assert_eq!(said(&bench).as_deref(), Some(&b"one"[..]), "it died of that");
    bench.settle(looked, SettleAction::Redrive, 5_003);
    assert_eq!((said(&bench), bench.stream.has_reason(Q, dot)), (None, false));
    let third = bench.receive(1, 1_000, 5_004)[0];
    let poison = SettleAction::Release { outcome: ReleaseOutcome::Poison, delay_ms: None };
    bench.settle_because(Q, because(third, poison), Some(b"two"), 5_005);
    assert_eq!(said(&bench).as_deref(), Some(&b"two"[..]));
    bench.settle(third, SettleAction::Remove, 5_006);
    assert!(bench.is_clean());

    let dot = bench.send(2);
    let item = bench.receive(1, 1_000, 6_000)[0];
    bench.settle_because(Q, because(item, FAILED), Some(b"three"), 6_001);
    let seen = bench.stream.seen();
    let (_, changes) = bench.stream.purge(1, Q, &seen, 6_002).unwrap();
    bench.commit(changes);
    assert!(bench.reasons.is_empty() && !bench.stream.has_reason(Q, dot));
}

#[test]
fn two_who_want_the_dead_do_not_pick_the_same_one() {
    let mut bench = Bench::new();
    let poison = SettleAction::Release { outcome: ReleaseOutcome::Poison, delay_ms: None };
    for n in 1..=3 {
        bench.send(n);
        let item = bench.receive(1, 1_000, 0)[0];
        bench.settle(item, poison, 0);
    }
    let all = bench.stream.dead(Q, None, 9);
    let places = |picked: Vec<Picked>| picked.into_iter().map(|(place, _)| place).collect();
    let first: Vec<Place> = places(bench.stream.pick_dead(Q, 2));
    let second: Vec<Place> = places(bench.stream.pick_dead(Q, 2));
    assert_eq!((&first[..], &second[..]), (&all[..2], &all[2..]));
    assert_eq!(bench.stream.counts(Q).dead, 3, "they are still there");
    bench.stream.unpick(Q, first[0], None, 0);
    assert_eq!(places(bench.stream.pick_dead(Q, 9)) as Vec<Place>, first[..1]);
    // Leased and given back, it is free for the next.
    let item = bench.lease(Q, vec![first[1]], Purpose::DeliverDead, 1_000, 1)[0];
    assert!(bench.stream.pick_dead(Q, 9).is_empty());
    bench.settle(item, BACK, 2);
    assert_eq!(places(bench.stream.pick_dead(Q, 9)) as Vec<Place>, first[1..]);
}

#[test]
fn a_pause_after_a_failure_grows_and_a_given_delay_goes_before_it() {
    let rules = Rules { backoff_min_ms: 1_000, backoff_max_ms: 60_000, ..rules() };
    let mut bench = Bench::of(StreamKind::Queue, rules);
    bench.send(1);
    let first = bench.receive(1, 500, 0)[0];
    bench.settle(first, FAILED, 0);
    assert!(bench.receive(1, 500, 999).is_empty());
    let second = bench.receive(1, 500, 1_101)[0];
    bench.settle(second, FAILED, 2_000);
    assert!(bench.receive(1, 500, 3_999).is_empty());
    let third = bench.receive(1, 500, 4_201)[0];
    let soon = SettleAction::Release { outcome: ReleaseOutcome::Failed, delay_ms: Some(5) };
    bench.settle(third, soon, 5_000);
    assert!(bench.receive(1, 500, 5_004).is_empty());
    assert_eq!(bench.receive(1, 500, 5_005).len(), 1);
}

#[test]
fn g8_a_repeat_under_the_same_key_adds_nothing_and_another_content_is_refused() {
    let mut bench = Bench::new();
    let keyed = Dot::keyed(Generation([0; 16]), UserId([0; 16]), SendKey::Dedup("a"));
    let dot = bench.send_with(1, 0, |h| h.dot = keyed);
    let again = |bench: &mut Bench, wall_ms, mac, now_ms| {
        let header = Header { content_mac: [mac; 32], ..head(keyed, wall_ms) };
        let op = store_op(vec![sealed(header)]);
        let (votes, changes) = bench.stream.store(&op, BOUNDS, now_ms, true).unwrap();
        bench.commit(changes);
        votes[0]
    };
    assert_eq!(again(&mut bench, 2, 0, 10), StoreVote::Known, "a fresh seal, the same message");
    assert_eq!(again(&mut bench, 3, 1, 10), StoreVote::OtherContent);
    bench.restart(Boot(2), 10);
    assert_eq!(again(&mut bench, 4, 0, 20), StoreVote::Known);
    let item = bench.receive(1, 1_000, 20)[0];
    assert_eq!(item.place.1, dot);
    bench.settle(item, SettleAction::Ack, 30);
    assert_eq!(again(&mut bench, 5, 0, 40), StoreVote::Known, "settled, and remembered");
    assert_eq!(again(&mut bench, 6, 0, 1_001), StoreVote::Known, "forgotten after this look");
    assert!(bench.identities.is_empty());
    assert_eq!(again(&mut bench, 7, 0, 1_002), StoreVote::Stored, "its window is over");
}

#[test]
fn r32_a_purge_takes_exactly_what_was_seen_whoever_holds_it() {
    let mut bench = Bench::new();
    let old: Vec<Dot> = (1..=5).map(|n| bench.send(n)).collect();
    let held = bench.receive(2, 60_000, 0);
    bench.settle(held[1], FAILED, 0);
    let seen = bench.stream.seen();
    let new = bench.send(6);
    let (count, changes) = bench.stream.purge(1, Q, &seen, 0).unwrap();
    bench.commit(changes);
    assert_eq!(count, 5);
    assert_eq!((bench.stream.count(), bench.stream.counts(Q).leased), (1, 0));
    // A crash before the rows are removed brings nothing back.
    bench.restart(Boot(2), 1);
    assert_eq!((bench.stream.count(), bench.messages.len()), (1, 6));
    bench.attend(Q, 1);
    assert_eq!(bench.messages.len(), 1);
    assert!(bench.stream.unswept().is_empty() && bench.attempts.is_empty());
    assert!(old.iter().all(|dot| bench.meta.context.contains(*dot)), "the tombstone stays [R12]");
    assert_eq!(bench.settle(held[0], SettleAction::Ack, 2), SettleVote::Counted, "204 as ever");
    let left = bench.receive(9, 1_000, 2);
    assert_eq!(left.iter().map(|i| i.place.1).collect::<Vec<_>>(), [new]);
    bench.settle(left[0], SettleAction::Ack, 3);
    assert!(bench.is_clean(), "{:?}", bench.grants);
}

#[test]
fn f25_one_message_of_a_group_at_a_time_in_order_and_a_failed_one_holds_its_group() {
    let mut bench =
        Bench::of(StreamKind::Queue, Rules { is_grouped: true, max_failures: 2, ..rules() });
    let a = |h: &mut Header| h.group = Some(GroupHash([1; 16]));
    let b = |h: &mut Header| h.group = Some(GroupHash([2; 16]));
    let dots = [
        bench.send_with(1, 0, a),
        bench.send_with(2, 0, a),
        bench.send_with(3, 0, b),
        bench.send(4),
    ];
    let got = bench.receive(9, 1_000, 0);
    let of = |items: &[SettleItem]| items.iter().map(|i| i.place.1).collect::<Vec<_>>();
    assert_eq!(of(&got), [dots[0], dots[2], dots[3]], "the second of the first group waits");
    let second = *bench.messages.keys().nth(1).unwrap();
    assert!(bench.lease(Q, vec![second], Purpose::Deliver, 1_000, 0).is_empty());
    bench.settle(got[0], FAILED, 1);
    bench.restart(Boot(2), 2);
    let again = bench.receive(9, 1_000, 3);
    assert_eq!(of(&again), [dots[0]], "it holds its group");
    bench.settle(again[0], FAILED, 4);
    assert_eq!(of(&bench.receive(9, 1_000, 5)), [dots[1]], "the dead hold nobody back");
}

#[test]
fn a_topic_keeps_a_message_until_every_matched_reader_is_done_with_it() {
    let mut bench = Bench::of(StreamKind::Topic, rules());
    let (x, y) = (SubscriptionId([1; 16]), SubscriptionId([2; 16]));
    bench.send(1);
    assert!(bench.messages.is_empty(), "a topic without subscriptions keeps nothing");
    let set = |version, ids: &[SubscriptionId]| SubscriptionSet {
        version,
        filters: ids.iter().map(|id| (*id, Filter::default())).collect(),
    };
    let all = rules();
    let put = |bench: &mut Bench, set: SubscriptionSet| {
        let changes = bench.stream.put_set(1, &set, &|_| all, 0)?;
        bench.commit(changes);
        Ok(())
    };
    put(&mut bench, set(1, &[x, y])).unwrap();
    let stale = store_op(vec![envelope(bench.stream.mint(0), 2)]);
    let refused = bench.stream.store(&stale, BOUNDS, 0, true);
    assert_eq!(refused, Err(Refusal::StaleSet), "filters were evaluated on an older set [R36]");
    let to = |ids: &'static [SubscriptionId]| {
        move |h: &mut Header| {
            h.set_version = 1;
            h.matched = ids.to_vec();
        }
    };
    const X: SubscriptionId = SubscriptionId([1; 16]);
    const Y: SubscriptionId = SubscriptionId([2; 16]);
    bench.send_with(2, 0, to(&[X, Y]));
    bench.send_with(3, 0, to(&[Y]));
    let got = bench.receive_by(x, 9, 1_000, 0);
    assert_eq!(got.len(), 1);
    bench.settle_by(x, got[0], SettleAction::Ack, 1);
    assert_eq!(bench.messages.len(), 2, "the other one is not done with it");
    bench.restart(Boot(2), 2);
    assert!(bench.receive_by(x, 9, 1_000, 3).is_empty());
    let got = bench.receive_by(y, 9, 1_000, 3);
    assert_eq!(got.len(), 2);
    bench.settle_by(y, got[0], SettleAction::Ack, 4);
    assert_eq!(bench.messages.len(), 1);
    assert_eq!(put(&mut bench, set(3, &[x])), Err(Refusal::StaleSet), "one version at a time");
    put(&mut bench, set(2, &[x])).unwrap();
    bench.attend(y, 5);
    assert!(bench.is_clean() && !bench.stream.has_reader(y), "who left keeps nothing");
}

#[test]
fn a_late_reader_adopts_what_is_kept_for_another() {
    let mut bench = Bench::of(StreamKind::Topic, rules());
    let (x, y) = (SubscriptionId([1; 16]), SubscriptionId([2; 16]));
    let mut set = SubscriptionSet::default();
    for (version, id) in [(1, x), (2, y)] {
        set.version = version;
        set.filters.insert(id, Filter::default());
        let changes = bench.stream.put_set(1, &set, &|_| rules(), 0).unwrap();
        bench.commit(changes);
        if version == 1 {
            bench.send_with(1, 0, |h| {
                h.set_version = 1;
                h.matched = vec![x];
            });
        }
    }
    let places: Vec<Place> = bench.messages.keys().copied().collect();
    for _ in 0..2 {
        let changes = bench.stream.adopt(1, y, &places, 0).unwrap();
        bench.commit(changes);
    }
    for id in [x, y] {
        let got = bench.receive_by(id, 9, 1_000, 1);
        assert_eq!(got.len(), 1);
        bench.settle_by(id, got[0], SettleAction::Ack, 2);
    }
    assert!(bench.is_clean());
}

#[test]
fn a_message_id_survives_its_text() {
    let hlc = Hlc { wall_ms: 1_780_000_000_000, logical: 3, node: ME };
    let minted = Dot::Minted { node: ME, boot: BOOT, seq: 9 };
    let keyed = Dot::Keyed(KeyedId([7; 16]));
    for dot in [minted, keyed, minted.copied_by(crate::base::ids::LinkId([5; 16]), 1)] {
        let id = MessageId::of((hlc, dot));
        assert_eq!(MessageId::parse(&id.to_string()), Some(id));
        assert!(id.to_string().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
    }
    assert_eq!(MessageId::parse("AA"), None);
    let kept = Kept { received_ms: 1, envelope: envelope(minted, 1) };
    assert_eq!(kept.ends_ms(10), 11);
}

#[test]
fn f1_a_full_table_refuses_and_takes_again_when_its_windows_are_over() {
    let mut bench = Bench::new();
    let bounds = Bounds { keys_max: 2, ..BOUNDS };
    let send = |bench: &mut Bench, id: &str, now_ms| {
        let dot = Dot::keyed(Generation([0; 16]), UserId([0; 16]), SendKey::Dedup(id));
        let op = store_op(vec![envelope(dot, now_ms)]);
        let (_, changes) = bench.stream.store(&op, bounds, now_ms, true)?;
        bench.commit(changes);
        Ok(())
    };
    send(&mut bench, "a", 0).unwrap();
    send(&mut bench, "b", 1).unwrap();
    assert_eq!(send(&mut bench, "c", 2), Err(Refusal::TooManyKeys));
    for item in bench.receive(2, 1_000, 3) {
        bench.settle(item, SettleAction::Ack, 3);
    }
    assert_eq!(send(&mut bench, "c", 999), Err(Refusal::TooManyKeys), "both windows run");
    // Nothing but keyed sends comes: they themselves make the room.
    send(&mut bench, "c", 1_000).unwrap();
    assert_eq!(bench.identities.len(), 2);
}

#[test]
fn what_failed_too_often_by_an_earlier_setting_lives_on_under_a_milder_one() {
    let mut bench = Bench::of(StreamKind::Queue, Rules { max_failures: 1, ..rules() });
    bench.send(1);
    bench.receive(1, 1_000, 0);
    assert!(bench.receive(1, 1_000, 2_000).is_empty() && bench.stream.has_doomed(Q));
    bench.stream.govern(Q, rules());
    let doomed = bench.stream.doomed(Q, 9, 2_000);
    assert_eq!(doomed.len(), 1);
    bench.stream.reconsider(Q, &[doomed[0].0], 2_000);
    assert_eq!(bench.receive(1, 1_000, 2_001).len(), 1);
    assert!(!bench.stream.has_doomed(Q));
}
