//! Only the replicas of a stream have a say about it.

use super::common::three::{Three, content};
use tertulia::base::ids::{Boot, NodeId};
use tertulia::crdt::dot::Dot;
use tertulia::protocol::op::{Answer, Refusal, StoreVote};
use tertulia::replication::repair::RepairAnswer;
use tertulia::replication::sending::{Outgoing, Stored};

const NOT_MEMBER: Answer = Answer::Refused(Refusal::NotMember);

fn minted_by(node: usize) -> Dot {
    Dot::Minted { node: NodeId(node as u64), boot: Boot(1), seq: 7 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r1_f15_who_is_no_replica_of_a_stream_neither_votes_nor_gives_evidence() {
    let five = Three::of(5).await;
    let (replicas, rest) = five.sides();
    let (replica, gateway) = (replicas[0], rest[0]);
    let stored = five.send_at(replica, Outgoing::plain(content("one")), true).await;
    assert!(matches!(stored, Stored::Done { copies: 3, .. }), "{stored:?}");
    assert_eq!(five.census_at(gateway).await, NOT_MEMBER);
    assert_eq!(five.store_only_at(gateway, minted_by(replica)).await, NOT_MEMBER);
    assert_eq!(five.count(gateway).await, 0);
    // Its empty context would say that what a replica holds open is settled.
    let told = five.evidence_of(replica, gateway).await;
    let is_none = |answer: &RepairAnswer| match answer {
        RepairAnswer::Differ(streams) => streams.is_empty(),
        answer => matches!(answer, RepairAnswer::Refused),
    };
    assert!(told.iter().all(is_none), "{told:?}");
    let told = five.evidence_of(replica, replicas[1]).await;
    assert!(!told.iter().any(is_none), "a replica answers: {told:?}");
    assert_eq!(five.census_at(replicas[1]).await, Answer::Counted(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r17_a_name_that_no_replica_of_the_stream_can_have_drawn_is_refused() {
    let five = Three::of(5).await;
    let (replicas, rest) = five.sides();
    assert_eq!(five.store_only_at(replicas[0], minted_by(rest[0])).await, NOT_MEMBER);
    // Nor by a node of which no layout tells: a member whose folder was wiped.
    assert_eq!(five.store_only_at(replicas[0], minted_by(99)).await, NOT_MEMBER);
    assert_eq!(five.count(replicas[0]).await, 0);
    let known = five.store_only_at(replicas[0], minted_by(replicas[1])).await;
    assert_eq!(known, Answer::Stored(vec![StoreVote::Stored]));
}
