//! Two contents race for one key: a vote is about one of them, never about the name alone.

use super::{LEASE_MS, Three, content, keyed};
use tertulia::protocol::op::{Refusal, SettleAction};
use tertulia::replication::sending::Stored;
use tertulia::replication::settling::Settled;

/// "yes" is acknowledged by nodes 0 and 1, "no" is at node 2 alone.
async fn raced() -> Three {
    let three = Three::start().await;
    three.kill(2);
    let stored = three.send_at(0, keyed("k", "yes"), false).await;
    assert!(matches!(stored, Stored::Done { copies: 2, .. }), "{stored:?}");
    three.revive(2).await;
    three.cut(0, 2);
    three.cut(1, 2);
    assert_eq!(three.send_at(2, keyed("k", "no"), false).await, Stored::Unknown);
    three.revive(2).await;
    three
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r11_the_losing_content_of_a_key_is_never_delivered() {
    let three = raced().await;
    three.kill(0);
    // Node 1 has a message of that name, but not that message: it grants neither.
    let got = three.receive_at(2, 1, LEASE_MS).await.unwrap_or_default();
    assert!(got.is_empty(), "{:?} was never acknowledged", got[0].content);
    three.revive(0).await;
    three.kill(2);
    let got = three.receive_at(0, 1, LEASE_MS).await.unwrap();
    assert_eq!(got[0].content, content("yes"));
    assert_eq!(three.settle(got[0].lease.item(SettleAction::Ack), false).await, Settled::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_a_mismatch_that_a_majority_tells_is_certain_whoever_is_away() {
    let three = Three::start().await;
    three.kill(2);
    let stored = three.send_at(0, keyed("k", "yes"), false).await;
    assert!(matches!(stored, Stored::Done { copies: 2, .. }), "{stored:?}");
    let other = three.send_at(1, keyed("k", "no"), false).await;
    assert_eq!(other, Stored::NotStored(Refusal::OtherContent));
}
