//! A delay goes on where it stands when a message is brought to another replica.

use super::{LEASE_MS, Three, content};
use std::time::Duration;
use tertulia::replication::sending::{Outgoing, Stored};

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f11_a_delay_goes_on_where_a_message_is_repaired_late() {
    let three = Three::start().await;
    let delay_ms = 12 * 3_600_000;
    let message = Outgoing { delay_ms, ..Outgoing::plain(content("later")) };
    three.kill(2);
    let stored = three.send_at(0, message, false).await;
    assert!(matches!(stored, Stored::Done { copies: 2, .. }), "{stored:?}");
    three.revive(2).await;
    three.pass(11 * HOUR);
    three.catch_up(2, 0).await;
    three.kill(1);
    three.pass(HOUR / 2);
    assert!(three.receive_at(2, 1, LEASE_MS).await.unwrap().is_empty(), "early is not allowed");
    // One report is trusted but for a fiftieth, by which its clock may be fast.
    three.pass(HOUR);
    let got = three.receive_at(2, 1, LEASE_MS).await.unwrap();
    assert_eq!(got.len(), 1, "two replicas have it, and it is due at both");
}
