//! Greetings as both ends see them.

#![allow(clippy::unwrap_used)]
use super::*;
use tokio::io::duplex;

const HERE: Myself = Myself { cluster: [7; 32], node: NodeId(1), boot: Boot(3) };
const THERE: Myself = Myself { cluster: [7; 32], node: NodeId(2), boot: Boot(4) };

async fn meet(
    here: Myself,
    there: Myself,
    is: NodeId,
    shown: Option<NodeId>,
) -> (Result<Greeting, Unwelcome>, Result<Greeting, Unwelcome>) {
    let (mut a, mut b) = duplex(4_096);
    tokio::join!(here.greet(&mut a, Class::Repair, is), there.welcome(&mut b, shown))
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    let (seen, welcome) = meet(HERE, THERE, NodeId(2), Some(NodeId(1))).await;
    assert_eq!(seen.unwrap(), THERE.greeting(Class::Repair));
    assert_eq!(welcome.unwrap(), HERE.greeting(Class::Repair));
}

#[tokio::test]
async fn another_cluster_is_refused_at_both_ends() {
    let (seen, welcome) = meet(HERE, Myself { cluster: [8; 32], ..THERE }, NodeId(2), None).await;
    assert!(matches!(seen, Err(Unwelcome::Cluster)));
    assert!(matches!(welcome, Err(Unwelcome::Cluster)));
}

#[tokio::test]
async fn whoever_is_not_whom_its_certificate_shows_is_refused() {
    let (_, welcome) = meet(HERE, THERE, NodeId(2), Some(NodeId(9))).await;
    let wrong = Unwelcome::Identity { said: NodeId(1), is: NodeId(9) };
    assert_eq!(welcome.unwrap_err().to_string(), wrong.to_string());
    let (seen, _) = meet(HERE, THERE, NodeId(9), Some(NodeId(1))).await;
    assert!(matches!(seen, Err(Unwelcome::Identity { said: NodeId(2), .. })));
    let (_, welcome) = meet(Myself { node: NodeId(2), ..HERE }, THERE, NodeId(2), None).await;
    assert!(matches!(welcome, Err(Unwelcome::Own)));
}

#[tokio::test]
async fn other_protocols_and_noise_are_refused() {
    let (mut a, mut b) = duplex(4_096);
    let newer = Greeting { oldest: 2, newest: 5, ..HERE.greeting(Class::Data) };
    a.write_all(&encode(&newer)).await.unwrap();
    let refused = THERE.welcome(&mut b, None).await;
    assert!(matches!(refused, Err(Unwelcome::Protocol { oldest: 2, newest: 5 })));
    let huge = [&MAGIC[..], &[0xff; 4]].concat();
    for noise in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), huge] {
        let (mut a, mut b) = duplex(4_096);
        a.write_all(&noise).await.unwrap();
        assert!(matches!(THERE.welcome(&mut b, None).await, Err(Unwelcome::Garbled)));
    }
}

#[tokio::test]
async fn a_silent_far_end_is_given_up() {
    let ((mut a, _far), (mut b, _near)) = (duplex(4_096), duplex(4_096));
    let began = tokio::time::Instant::now();
    let greet = HERE.greet(&mut a, Class::Data, NodeId(2));
    let (seen, welcome) = tokio::join!(greet, THERE.welcome(&mut b, None));
    assert!(matches!((seen, welcome), (Err(Unwelcome::Slow), Err(Unwelcome::Slow))));
    assert!(began.elapsed() >= limits::PEER_GREETING_TIME);
}

#[test]
fn golden_bytes_of_a_greeting_and_room_for_more() {
    let bytes = encode(&HERE.greeting(Class::Data));
    let golden = [&b"TTLA"[..], &[0, 0, 0, 37, 1, 1], &[7; 32], &[1, 3, 1]].concat();
    assert_eq!(bytes, golden);
}

#[tokio::test]
async fn what_a_later_release_appends_is_skipped() {
    let (mut a, mut b) = duplex(4_096);
    let mut bytes = encode(&HERE.greeting(Class::Data));
    bytes.extend([9; 5]);
    bytes[7] += 5;
    a.write_all(&bytes).await.unwrap();
    assert_eq!(THERE.welcome(&mut b, None).await.unwrap(), HERE.greeting(Class::Data));
}
