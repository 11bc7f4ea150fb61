//! A replica that was away long takes in much, and is in nobody's way meanwhile.

use super::{Three, keyed};

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
