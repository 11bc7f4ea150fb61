//! The real coordinator with three replicas, each on a real store, joined by the real RPC over an
//! in-memory network: one dead → stored; two dead → the outcome is unknown and says so; a replica
//! that answers late is not counted twice.
#![allow(clippy::unwrap_used)]

#[path = "three_in_process/catching_up.rs"]
mod catching_up;
mod common;
#[path = "three_in_process/contents.rs"]
mod contents;
#[path = "three_in_process/membership.rs"]
mod membership;
#[path = "three_in_process/times.rs"]
mod times;

use common::three::{Three, content};
use std::time::Duration;
use tertulia::base::ids::{Generation, UserId};
use tertulia::crdt::dot::{Dot, SendKey};
use tertulia::protocol::op::{LeaseVote, SettleAction};
use tertulia::protocol::stream::{MessageId, Place};
use tertulia::replication::dispatcher::ReceiveError;
use tertulia::replication::sending::Outgoing;
use tertulia::replication::sending::Stored;
use tertulia::replication::settling::Settled;

const LEASE_MS: u64 = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_all_three_alive_a_send_is_on_a_majority_and_with_all_on_three() {
    let three = Three::start().await;
    let stored = three.send("one", false).await;
    assert!(matches!(&stored, Stored::Done { copies, .. } if *copies >= 2), "{stored:?}");
    let stored = three.send("two", true).await;
    assert!(matches!(&stored, Stored::Done { copies: 3, .. }), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g19_one_dead_everything_works() {
    let three = Three::start().await;
    three.kill(2);
    assert!(matches!(three.send("one", false).await, Stored::Done { copies: 2, .. }));
    let got = three.receive(10, LEASE_MS).await.unwrap();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].content, content("one"));
    let ack = got[0].lease.item(SettleAction::Ack);
    assert_eq!(three.settle(ack, false).await, Settled::Done);
    assert!(three.receive(10, LEASE_MS).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_two_dead_a_send_is_unknown_because_one_replica_has_it() {
    let three = Three::start().await;
    three.kill(1);
    three.kill(2);
    assert_eq!(three.send("one", false).await, Stored::Unknown);
    // It is in one replica, and nobody gets it: a lease needs a majority.
    assert_eq!(three.receive(10, LEASE_MS).await.err(), Some(ReceiveError::NoQuorum));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r30_two_dead_an_ack_is_unknown_and_counts_when_repeated() {
    let three = Three::start().await;
    three.send("one", true).await;
    let got = three.receive(1, LEASE_MS).await.unwrap();
    three.kill(1);
    three.kill(2);
    let ack = got[0].lease.item(SettleAction::Ack);
    assert_eq!(three.settle(ack, false).await, Settled::Unknown);
    three.revive(1).await;
    assert_eq!(three.settle(ack, false).await, Settled::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r18_a_late_or_doubled_answer_is_not_counted_twice() {
    let three = Three::start().await;
    three.kill(2);
    // Node 1 answers as two nodes would: its one answer, twice, and late.
    three.double_answers(1);
    three.hold(1);
    let held = three.clone();
    let send = tokio::spawn(async move { held.send("one", false).await });
    three.asked(1).await;
    assert!(!send.is_finished(), "one replica is no majority");
    three.let_go(1);
    assert!(matches!(send.await.unwrap(), Stored::Done { copies: 2, .. }));

    three.kill(1);
    let one = three.send("two", false).await;
    assert_eq!(one, Stored::Unknown, "the local vote counts once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r27_a_replica_that_missed_a_message_gets_it_with_the_lease() {
    let three = Three::start().await;
    three.kill(1);
    assert!(matches!(three.send("one", false).await, Stored::Done { copies: 2, .. }));
    three.revive(1).await;
    three.kill(2);
    let got = three.receive(1, LEASE_MS).await.unwrap();
    assert_eq!(got.len(), 1, "node 1 was given the payload and granted");
    assert_eq!(three.count(1).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g3_a_lease_lost_to_a_minority_is_given_back() {
    let three = Three::start().await;
    three.send("one", true).await;
    three.kill(1);
    three.kill(2);
    assert_eq!(three.receive(1, LEASE_MS).await.err(), Some(ReceiveError::NoQuorum));
    three.revive(1).await;
    // The partial grant was released: nobody has to wait for its minute to end [R25].
    let got = three.received_within(Duration::from_secs(20), 1, LEASE_MS).await;
    assert_eq!(got[0].lease.receive_count, 1, "nobody had it before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_a_late_ack_against_another_lease_is_lost_and_recorded_nowhere() {
    let three = Three::start().await;
    three.send("one", true).await;
    let first = three.receive(1, 2_000).await.unwrap();
    let second = three.received_within(Duration::from_secs(20), 1, LEASE_MS).await;
    let late = first[0].lease.item(SettleAction::Ack);
    assert_eq!(three.settle(late, true).await, Settled::Lost);
    for node in 0..3 {
        assert_eq!(three.count(node).await, 1, "node {node} stored a refused ack");
    }
    let ack = second[0].lease.item(SettleAction::Ack);
    assert_eq!(three.settle(ack, false).await, Settled::Done);
}

fn keyed(key: &str, text: &str) -> Outgoing {
    let dot = Dot::keyed(Generation([3; 16]), UserId([1; 16]), SendKey::Dedup(key));
    Outgoing { named: Some(dot), ..Outgoing::plain(content(text)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_a_replica_that_was_away_takes_in_messages_and_settlements() {
    let three = Three::start().await;
    three.kill(2);
    for text in ["one", "two", "three"] {
        three.send(text, false).await;
    }
    three.send_at(1, keyed("k", "four"), false).await;
    let got = three.receive(2, LEASE_MS).await.unwrap();
    let ack = got[0].lease.item(SettleAction::Ack);
    assert_eq!(three.settle(ack, false).await, Settled::Done);
    three.revive(2).await;
    assert_eq!(three.count(2).await, 0);
    three.catch_up(2, 0).await;
    assert_eq!(three.count(2).await, 3, "three are open, one is settled");
    // Its vote counts at once, and what was acknowledged never comes back.
    three.kill(0);
    let rest = three.receive_at(2, 10, LEASE_MS).await.unwrap();
    let texts: Vec<_> = rest.iter().map(|delivery| delivery.content.clone()).collect();
    assert_eq!(texts, [content("three"), content("four")], "two is leased at node 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_compare_agree_in_the_end() {
    let three = Three::start().await;
    three.start_repair();
    three.cut(0, 2);
    for n in 0..50 {
        three.send(&format!("a{n}"), false).await;
        three.send_at(2, keyed(&format!("k{}", n % 20), &format!("b{}", n % 20)), false).await;
    }
    let got = three.receive(30, LEASE_MS).await.unwrap();
    for delivery in &got[..20] {
        let ack = delivery.lease.item(SettleAction::Ack);
        assert_eq!(three.settle(ack, false).await, Settled::Done);
    }
    three.revive(0).await;
    three.revive(2).await;
    let agree = async {
        loop {
            let digests = three.digests().await;
            if digests.iter().all(|digest| *digest == digests[0]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), agree).await.expect("all three agree");
    for node in 0..3 {
        assert_eq!(three.count(node).await, 50, "node {node}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r26_empty_means_that_a_majority_has_nothing() {
    let three = Three::start().await;
    three.cut(0, 1);
    three.cut(0, 2);
    let stored = three.send_at(1, Outgoing::plain(content("one")), false).await;
    assert!(matches!(stored, Stored::Done { copies: 2, .. }));
    assert_eq!(
        three.receive(1, LEASE_MS).await.err(),
        Some(ReceiveError::NoQuorum),
        "node 0 alone cannot say that there is nothing"
    );
    three.revive(0).await;
    let got = three.receive(1, LEASE_MS).await.unwrap();
    assert_eq!(got.len(), 1, "it asked before it answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f23_an_ack_of_a_keyed_message_that_never_came_is_not_counted() {
    let three = Three::start().await;
    three.kill(2);
    three.send_at(0, keyed("k", "one"), false).await;
    let got = three.receive(1, LEASE_MS).await.unwrap();
    three.revive(2).await;
    three.kill(1);
    let ack = got[0].lease.item(SettleAction::Ack);
    assert_eq!(three.settle(ack, false).await, Settled::Unknown, "node 2 could not remember it");
    three.catch_up(2, 0).await;
    assert_eq!(three.settle(ack, false).await, Settled::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_answers_send_receive_extend_and_ack_on_different_nodes() {
    let five = Three::of(5).await;
    let (replicas, others) = five.sides();
    assert_eq!((replicas.len(), others.len()), (3, 2));
    // Two nodes that hold nothing take requests as well as any.
    let (a, b) = (others[0], others[1]);
    let Stored::Done { id, copies, .. } =
        five.send_at(a, Outgoing::plain(content("one")), true).await
    else {
        panic!("it is stored");
    };
    assert_eq!(copies, 3);
    assert_eq!(five.find_at(b, id).await.unwrap().content, content("one"));
    let got = five.receive_at(b, 1, LEASE_MS).await.unwrap();
    assert_eq!(got[0].content, content("one"));
    assert!(five.receive_at(replicas[2], 1, LEASE_MS).await.unwrap().is_empty(), "it is leased");
    let longer = got[0].lease.item(SettleAction::Extend { duration_ms: 2 * LEASE_MS });
    assert_eq!(five.settle_at(replicas[1], longer, false).await, Settled::Done);
    let ack = got[0].lease.item(SettleAction::Ack);
    assert_eq!(five.settle_at(a, ack, false).await, Settled::Done);
    assert!(five.receive_at(b, 1, LEASE_MS).await.unwrap().is_empty());
    assert!(five.find_at(a, id).await.is_none());
    assert_eq!(five.count(a).await, 0, "a gateway keeps nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_hears_of_a_message_and_removes_it() {
    let five = Three::of(5).await;
    let (replicas, others) = five.sides();
    let listening = five.listening_at(others[0]).await;
    let news = listening.bell().notified();
    let stored = five.send_at(replicas[1], Outgoing::plain(content("one")), false).await;
    let Stored::Done { id, .. } = stored else { panic!("it is stored") };
    tokio::time::timeout(Duration::from_secs(20), news).await.expect("the bell rings");
    assert_eq!(five.remove_at(others[1], id).await, Settled::Done);
    assert!(five.receive_at(others[0], 1, LEASE_MS).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_when_the_dispatcher_is_gone_the_next_one_carries_on() {
    let three = Three::start().await;
    let (replicas, _) = three.sides();
    for text in ["one", "two"] {
        three.send_at(replicas[2], Outgoing::plain(content(text)), true).await;
    }
    assert_eq!(three.receive_at(replicas[2], 1, LEASE_MS).await.unwrap().len(), 1);
    three.kill(replicas[0]);
    let got = three.receive_at(replicas[2], 2, LEASE_MS).await.unwrap();
    assert_eq!(got.len(), 1, "one is leased, wherever that was decided");
    assert_eq!(got[0].content, content("two"));
}

fn place_of(stored: &Stored) -> Place {
    match stored {
        Stored::Done { id: MessageId::At(place), .. } => *place,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_a_grant_that_nobody_holds_is_dropped_after_the_others_refused_its_ballot() {
    let three = Three::start().await;
    let (replicas, _) = three.sides();
    let first = replicas[0];
    let place = place_of(&three.send("one", true).await);
    let granted = three.lease_only_at(first, place, 12 * 3_600_000).await;
    assert!(matches!(granted, LeaseVote::Granted { .. }));
    // The dispatcher itself thinks that the message is out, for twelve hours.
    assert!(three.receive_at(first, 1, LEASE_MS).await.unwrap().is_empty());
    three.check_grants(first).await;
    // The dead requester's ballot comes late, and wins nothing any more.
    let late = three.lease_only_at(replicas[1], place, LEASE_MS).await;
    assert!(matches!(late, LeaseVote::LowBallot { .. }), "{late:?}");
    assert_eq!(three.receive_at(first, 1, LEASE_MS).await.unwrap().len(), 1);
    // A lease that a majority holds is nobody's orphan, at whichever replica it is checked.
    for node in &replicas {
        three.check_grants(*node).await;
    }
    assert!(three.receive_at(first, 1, LEASE_MS).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f10_without_an_answer_of_enough_others_a_grant_stays() {
    let three = Three::start().await;
    let (replicas, _) = three.sides();
    let place = place_of(&three.send("one", true).await);
    three.lease_only_at(replicas[0], place, LEASE_MS).await;
    three.kill(replicas[2]);
    three.check_grants(replicas[0]).await;
    // The second holder may be the one that does not answer.
    assert!(three.receive_at(replicas[0], 1, LEASE_MS).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r13_a_hole_asks_for_its_payload_and_is_never_taken_for_settled() {
    let three = Three::start().await;
    let (replicas, _) = three.sides();
    let place = place_of(&three.send("one", true).await);
    let (a, b, c) = (replicas[0], replicas[1], replicas[2]);
    assert!(three.note_hole(c, place).await);
    // It gives no evidence: the others keep what it cannot show.
    three.catch_up(a, c as u64).await;
    assert_eq!((three.count(a).await, three.holes(c).await), (1, 1));
    // It grants only with the payload in hand [R27].
    three.kill(b);
    assert_eq!(three.receive_at(a, 1, LEASE_MS).await.unwrap().len(), 1);
    assert_eq!(three.holes(c).await, 0, "the lease brought the payload");
    three.revive(b).await;
    assert!(three.note_hole(b, place).await);
    three.catch_up(b, c as u64).await;
    assert_eq!(three.holes(b).await, 0, "a comparison does, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r20_a_lease_that_ran_out_on_its_way_to_the_door_is_nobodys() {
    let five = Three::of(5).await;
    let (replicas, others) = five.sides();
    let (dispatcher, door) = (replicas[0], others[0]);
    five.send_at(replicas[1], Outgoing::plain(content("one")), true).await;
    five.hold_between(door, dispatcher);
    let (at, lease_ms) = (five.clone(), 500);
    let received = tokio::spawn(async move { at.receive_at(door, 1, lease_ms).await });
    five.asked_between(door, dispatcher).await;
    tokio::time::sleep(Duration::from_millis(lease_ms)).await;
    five.let_go_between(door, dispatcher);
    assert!(received.await.unwrap().unwrap().is_empty(), "its holder could not count on it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_who_answers_in_the_place_of_a_member_has_no_vote() {
    let three = Three::start().await;
    three.replace(1);
    three.kill(2);
    assert_eq!(three.send("one", false).await, Stored::Unknown, "node 0 is alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_key_is_forgotten_only_when_no_replica_has_its_message_open() {
    let three = Three::remembering(3, 0).await;
    let message = keyed("k", "one");
    let dot = message.named.unwrap();
    three.send_at(0, message, true).await;
    let got = three.receive_at(0, 1, LEASE_MS).await.unwrap();
    three.kill(2);
    let ack = got[0].lease.item(SettleAction::Ack);
    assert_eq!(three.settle(ack, false).await, Settled::Done);
    three.retire(0).await;
    assert!(three.remembers(0, dot).await, "nobody knows what node 2 has");
    three.revive(2).await;
    three.retire(0).await;
    assert!(three.remembers(0, dot).await, "node 2 missed the ack");
    // What it has does not come back to those that are done with it.
    three.catch_up(0, 2).await;
    assert_eq!(three.count(0).await, 0);
    three.catch_up(2, 0).await;
    for node in 0..3 {
        three.retire(node).await;
        assert!(!three.remembers(node, dot).await, "node {node}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r25_leases_whose_answer_never_reached_the_door_are_withdrawn() {
    let five = Three::of(5).await;
    let (replicas, others) = five.sides();
    let (dispatcher, door) = (replicas[0], others[0]);
    five.send_at(replicas[1], Outgoing::plain(content("one")), true).await;
    five.lose_answers_between(door, dispatcher);
    // Twelve hours, in which nobody would get it.
    let mut first = five.receive_at(door, 1, 12 * 3_600_000).await.unwrap();
    five.asked_between(door, dispatcher).await;
    let next = async {
        loop {
            // The door may find it free itself, at the next dispatcher.
            if let Some(got) = first.pop() {
                return got;
            }
            let got = five.receive_at(others[1], 1, LEASE_MS).await.unwrap();
            if let Some(got) = got.into_iter().next() {
                return got;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let got = tokio::time::timeout(Duration::from_secs(20), next).await.expect("it is free again");
    assert_eq!(got.lease.failure_count, 0, "nobody failed");
    assert_eq!(got.lease.receive_count, 1, "nobody had it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f26_a_keyed_receive_repeated_at_another_dispatcher_gets_what_the_dead_one_won() {
    let three = Three::start().await;
    let (replicas, _) = three.sides();
    let (a, b, c) = (replicas[0], replicas[1], replicas[2]);
    // Of the first message, B knows nothing at all; nor of its lease.
    three.cut(a, b);
    three.cut(c, b);
    three.send_at(a, Outgoing::plain(content("one")), false).await;
    let first = three.receive_keyed_at(a, 1, LEASE_MS).await.unwrap();
    assert_eq!(first[0].content, content("one"));
    three.revive(b).await;
    three.kill(a);
    three.send_at(b, Outgoing::plain(content("two")), false).await;
    let again = three.receive_keyed_at(b, 1, LEASE_MS).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].content, content("one"), "not another message beside the hidden one");
    assert_eq!(again[0].lease.counter, first[0].lease.counter, "the very same lease");
    let ack = first[0].lease.item(SettleAction::Ack);
    assert_eq!(three.settle_at(b, ack, false).await, Settled::Done);
}
