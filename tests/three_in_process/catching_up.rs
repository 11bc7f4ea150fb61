//! A replica that was away long takes in much, and is in nobody's way meanwhile.

use super::{Three, content, keyed};
use std::time::Duration;
use tertulia::replication::sending::{Outgoing, Stored};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_keyed_messages_are_asked_for_in_bounded_parts() {
    const MESSAGES: usize = 5_000;
    let three = Three::start().await;
    three.kill(2);
    for chunk in 0..MESSAGES / 100 {
        let message = |n: usize| keyed(&format!("k{}", chunk * 100 + n), "x");
        three.send_all_at(0, (0..100).map(message).collect()).await;
    }
    three.revive(2).await;
    three.catch_up(2, 0).await;
    assert_eq!(three.count(2).await, MESSAGES as u64);
    // 2,048 names of 16 bytes, and which stream.
    let longest = three.longest_question(2, 0);
    assert!(longest <= 2_048 * 16 + 64, "a question of {longest} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_answer_holds_up_no_comparison_with_the_others() {
    let three = Three::start().await;
    three.cut(0, 1);
    three.hold_between(0, 2);
    three.start_repair();
    let stored = three.send_at(1, Outgoing::plain(content("one")), false).await;
    assert!(matches!(stored, Stored::Done { copies: 2, .. }), "{stored:?}");
    three.compared_between(0, 2).await;
    // Node 2 owes an answer until the end; node 1 is there again.
    three.revive(0).await;
    let taken_in = async {
        while three.count(0).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), taken_in).await.expect("node 1 has it");
}
