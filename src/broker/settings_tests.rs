//! What the settings of a queue may be, and what each of them does to its messages.
#![allow(clippy::unwrap_used)]
use super::queue_settings::{DEFAULTS, QueueChange};
use super::testing::*;
use super::*;
use crate::protocol::record::{Ordering, QueueConfig};

const NONE: QueueChange = QueueChange {
    lease_seconds: None,
    max_message_bytes: None,
    replicas: None,
    retention_seconds: None,
    delay_seconds: None,
    max_failures: None,
    backoff_min_seconds: None,
    backoff_max_seconds: None,
    dedup_seconds: None,
    max_in_flight: None,
    max_bytes: None,
    ordering: None,
    dead_letter: None,
    paused: None,
};

/// Every setting at its least, and at its most.
fn ends() -> [QueueChange; 2] {
    let least = QueueChange {
        lease_seconds: Some(1),
        max_message_bytes: Some(1),
        replicas: Some(1),
        retention_seconds: Some(60),
        delay_seconds: Some(0),
        max_failures: Some(0),
        backoff_min_seconds: Some(0),
        backoff_max_seconds: Some(0),
        dedup_seconds: Some(0),
        max_in_flight: Some(1),
        max_bytes: Some(0),
        ordering: Some(Ordering::BestEffort),
        dead_letter: None,
        paused: Some(false),
    };
    let most = QueueChange {
        lease_seconds: Some(43_200),
        max_message_bytes: Some(16_777_216),
        replicas: Some(7),
        retention_seconds: Some(315_360_000),
        delay_seconds: Some(315_360_000),
        max_failures: Some(1_000),
        backoff_min_seconds: Some(86_400),
        backoff_max_seconds: Some(86_400),
        dedup_seconds: Some(604_800),
        max_in_flight: Some(1_000_000),
        max_bytes: Some(9_007_199_254_740_991),
        ordering: Some(Ordering::Group),
        dead_letter: None,
        paused: Some(true),
    };
    [least, most]
}

/// A change that asks for all that a queue is.
fn asked(config: &QueueConfig) -> QueueChange {
    QueueChange {
        lease_seconds: Some(config.lease_seconds),
        max_message_bytes: Some(config.max_message_bytes),
        replicas: Some(config.replicas),
        retention_seconds: Some(config.retention_seconds),
        delay_seconds: Some(config.delay_seconds),
        max_failures: Some(config.max_failures),
        backoff_min_seconds: Some(config.backoff_min_seconds),
        backoff_max_seconds: Some(config.backoff_max_seconds),
        dedup_seconds: Some(config.dedup_seconds),
        max_in_flight: Some(config.max_in_flight),
        max_bytes: Some(config.max_bytes),
        ordering: Some(config.ordering),
        dead_letter: config.dead_letter.clone(),
        paused: Some(config.paused),
    }
}

async fn queue(given: QueueChange) -> (Arc<Broker>, Arc<TestClock>, Caller) {
    let (broker, clock) = broker_and_clock();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", given).await.unwrap();
    (broker, clock, ana)
}

async fn set(broker: &Broker, by: &Caller, change: QueueChange) {
    broker.update_queue(by, "q", change, None).await.unwrap();
}

async fn send_message(broker: &Broker, by: &Caller, message: OutgoingMessage) -> SendStatus {
    let sent = broker.send(by, "q", vec![message], Durability::Quorum, None).await;
    sent.unwrap().remove(0).status
}

async fn send(broker: &Broker, by: &Caller, text: &str) -> SendStatus {
    send_message(broker, by, OutgoingMessage::of(Body::Text(text.to_owned()))).await
}

async fn send_grouped(broker: &Broker, by: &Caller, text: &str, group: &str) {
    let message = OutgoingMessage::of(Body::Text(text.to_owned()));
    let message = OutgoingMessage { group: Some(group.to_owned()), ..message };
    assert!(matches!(send_message(broker, by, message).await, SendStatus::Stored { .. }));
}

async fn try_receive(
    broker: &Broker,
    by: &Caller,
    request: ReceiveRequest,
) -> Answer<Vec<ReceivedMessage>> {
    broker.receive(by, Source::Queue("q"), request, || {}).await
}

async fn receive(broker: &Broker, by: &Caller) -> Vec<ReceivedMessage> {
    let request = ReceiveRequest { max_messages: 10, ..ReceiveRequest::default() };
    try_receive(broker, by, request).await.unwrap()
}

async fn dead(broker: &Broker, by: &Caller) -> Vec<ReceivedMessage> {
    let request = ReceiveRequest { max_messages: 10, from_dead: true, ..ReceiveRequest::default() };
    try_receive(broker, by, request).await.unwrap()
}

async fn settle(broker: &Broker, by: &Caller, message: &ReceivedMessage, action: Action) {
    let receipt = message.receipt.clone().unwrap();
    let settlement = Settlement::new(receipt, action);
    let verdicts = broker.settle(by, Source::Queue("q"), vec![settlement]).await.unwrap();
    assert!(matches!(verdicts[0], Verdict::Done { .. }), "{:?}", verdicts[0]);
}

const FAILED: Action = Action::Release { outcome: ReleaseOutcome::Failed, delay_seconds: None };

fn texts<'a>(messages: &'a [ReceivedMessage]) -> Vec<&'a str> {
    let text = |message: &'a ReceivedMessage| match &message.body {
        Body::Text(text) => &**text,
        Body::Binary(_) => panic!("no text"),
    };
    messages.iter().map(text).collect()
}

#[tokio::test]
async fn every_setting_is_kept_as_given_and_matches_what_it_is() {
    for given in ends() {
        let (broker, _, ana) = queue(given.clone()).await;
        let made = broker.get_queue(&ana, "q").await.unwrap();
        assert_eq!(asked(&made.value.config), given);
        // What an answer shows may be put back.
        assert_eq!(broker.put_queue(&ana, "q", given).await.unwrap(), (false, made));
    }
    assert_eq!(NONE, QueueChange::default());
    assert_eq!(NONE.over(DEFAULTS), DEFAULTS);
}

#[test]
fn each_number_has_a_least_and_a_most() {
    let [least, most] = ends();
    least.check().unwrap();
    most.check().unwrap();
    let less = |n: Option<i32>| n.map(|n| n - 1);
    let more = |n: Option<i32>| n.map(|n| n + 1);
    macro_rules! beyond {
        ($($field:ident),*) => {[$(
            (QueueChange { $field: less(least.$field), ..NONE }, stringify!($field)),
            (QueueChange { $field: more(most.$field), ..NONE }, stringify!($field)),
        )*]};
    }
    let beyond = beyond!(
        lease_seconds,
        max_message_bytes,
        replicas,
        retention_seconds,
        delay_seconds,
        max_failures,
        backoff_min_seconds,
        backoff_max_seconds,
        dedup_seconds,
        max_in_flight
    );
    for (given, field) in beyond {
        assert_eq!(fault(&given.check().unwrap_err()), field, "{given:?}");
    }
    for bytes in [-1, 1 << 53] {
        let given = QueueChange { max_bytes: Some(bytes), ..NONE };
        assert_eq!(fault(&given.check().unwrap_err()), "max_bytes");
    }
}

#[test]
fn what_differs_is_told_field_by_field() {
    let [_, most] = ends();
    let differing = most.differences(&DEFAULTS);
    let told: Vec<_> = differing.iter().map(|it| (it.field, &*it.wanted, &*it.actual)).collect();
    let all = [
        ("lease_seconds", "43200", "30"),
        ("max_message_bytes", "16777216", "1048576"),
        ("replicas", "7", "3"),
        ("retention_seconds", "315360000", "1209600"),
        ("delay_seconds", "315360000", "0"),
        ("max_failures", "1000", "10"),
        ("backoff_min_seconds", "86400", "0"),
        ("backoff_max_seconds", "86400", "600"),
        ("dedup_seconds", "604800", "600"),
        ("max_in_flight", "1000000", "120000"),
        ("max_bytes", "9007199254740991", "0"),
        ("ordering", "group", "best_effort"),
        ("paused", "true", "false"),
    ];
    assert_eq!(told, all);
    assert_eq!(asked(&DEFAULTS).differences(&DEFAULTS), []);
    assert_eq!(NONE.differences(&DEFAULTS), []);
}

#[tokio::test]
async fn settings_that_exclude_each_other_are_refused_as_they_would_be() {
    let (broker, _, ana) = queue(QueueChange {
        delay_seconds: Some(100),
        retention_seconds: Some(1_000),
        backoff_min_seconds: Some(5),
        backoff_max_seconds: Some(50),
        ..NONE
    })
    .await;
    let delay = QueueChange { delay_seconds: Some(1_001), ..NONE };
    let retention = QueueChange { retention_seconds: Some(99), ..NONE };
    let least = QueueChange { backoff_min_seconds: Some(51), ..NONE };
    let most = QueueChange { backoff_max_seconds: Some(4), ..NONE };
    let fields =
        ["delay_seconds", "retention_seconds", "backoff_min_seconds", "backoff_max_seconds"];
    let before = broker.get_queue(&ana, "q").await.unwrap();
    for (change, field) in [delay.clone(), retention, least.clone(), most].into_iter().zip(fields) {
        let refused = broker.update_queue(&ana, "q", change, None).await.unwrap_err();
        assert_eq!(fault(&refused), field);
    }
    assert_eq!(broker.get_queue(&ana, "q").await.unwrap(), before);
    // Each is fine with its counterpart, and at it.
    set(&broker, &ana, QueueChange { retention_seconds: Some(1_001), ..delay }).await;
    set(&broker, &ana, QueueChange { backoff_max_seconds: Some(51), ..least }).await;
    // Who makes a queue is judged against the defaults.
    for (given, field) in [
        (QueueChange { delay_seconds: Some(1_209_601), ..NONE }, "delay_seconds"),
        (QueueChange { backoff_min_seconds: Some(601), ..NONE }, "backoff_min_seconds"),
    ] {
        let refused = broker.put_queue(&ana, "new", given).await.unwrap_err();
        assert_eq!(fault(&refused), field);
    }
    assert_eq!(broker.get_queue(&ana, "new").await, Err(Refusal::QueueNotFound));
}

#[tokio::test]
async fn ordering_and_replicas_are_fixed_and_the_rest_is_not() {
    let (broker, _, ana) = queue(NONE).await;
    let fixed = QueueChange {
        ordering: Some(Ordering::Group),
        replicas: Some(1),
        paused: Some(true),
        ..NONE
    };
    let Err(Refusal::Invalid(faults)) = broker.update_queue(&ana, "q", fixed, None).await else {
        panic!()
    };
    let told: Vec<_> = faults.iter().map(|it| (&*it.field, it.code)).collect();
    assert_eq!(told, [("replicas", "immutable"), ("ordering", "immutable")]);
    let [_, most] = ends();
    let rest = QueueChange { ordering: Some(Ordering::BestEffort), replicas: Some(3), ..most };
    let changed = broker.update_queue(&ana, "q", rest.clone(), None).await.unwrap();
    assert_eq!(asked(&changed.value.config), rest);
    // What is absent stays.
    set(&broker, &ana, QueueChange { paused: Some(false), ..NONE }).await;
    let config = broker.get_queue(&ana, "q").await.unwrap().value.config;
    assert_eq!(asked(&config), QueueChange { paused: Some(false), ..rest });
}

#[tokio::test]
async fn a_delay_holds_every_message_back() {
    let (broker, clock, ana) = queue(QueueChange { delay_seconds: Some(60), ..NONE }).await;
    send(&broker, &ana, "later").await;
    clock.advance_ms(59_000);
    assert!(receive(&broker, &ana).await.is_empty());
    clock.advance_ms(1_100);
    assert_eq!(texts(&receive(&broker, &ana).await), ["later"]);
}

#[tokio::test]
async fn what_is_older_than_the_retention_is_not_handed_out() {
    let (broker, clock, ana) = queue(QueueChange { retention_seconds: Some(60), ..NONE }).await;
    send(&broker, &ana, "old").await;
    clock.advance_ms(30_000);
    send(&broker, &ana, "young").await;
    clock.advance_ms(31_000);
    assert_eq!(texts(&receive(&broker, &ana).await), ["young"]);
}

#[tokio::test]
async fn a_paused_queue_takes_and_gives_nothing() {
    let (broker, _, ana) = queue(QueueChange { paused: Some(true), ..NONE }).await;
    assert!(matches!(send(&broker, &ana, "in").await, SendStatus::Stored { .. }));
    assert!(receive(&broker, &ana).await.is_empty());
    set(&broker, &ana, QueueChange { paused: Some(false), ..NONE }).await;
    let got = receive(&broker, &ana).await;
    assert_eq!(texts(&got), ["in"]);
    set(&broker, &ana, QueueChange { paused: Some(true), ..NONE }).await;
    // What is out may be settled.
    settle(&broker, &ana, &got[0], Action::Ack).await;
}

#[tokio::test]
async fn above_max_bytes_a_send_is_refused_until_there_is_room() {
    let (broker, _, ana) = queue(QueueChange { max_bytes: Some(2_000), ..NONE }).await;
    let text = "a".repeat(1_000);
    assert!(matches!(send(&broker, &ana, &text).await, SendStatus::Stored { .. }));
    let full = Refusal::Quota { what: "bytes (max_bytes)", limit: 2_000 };
    assert!(matches!(send(&broker, &ana, &text).await, SendStatus::Failed(it) if it == full));
    let got = receive(&broker, &ana).await;
    settle(&broker, &ana, &got[0], Action::Ack).await;
    assert!(matches!(send(&broker, &ana, &text).await, SendStatus::Stored { .. }));
    set(&broker, &ana, QueueChange { max_bytes: Some(0), ..NONE }).await;
    assert!(matches!(send(&broker, &ana, &text).await, SendStatus::Stored { .. }));
}

#[tokio::test]
async fn max_in_flight_bounds_what_is_leased_at_once() {
    let (broker, _, ana) = queue(QueueChange { max_in_flight: Some(2), ..NONE }).await;
    for text in ["a", "b", "c"] {
        send(&broker, &ana, text).await;
    }
    let got = receive(&broker, &ana).await;
    assert_eq!(texts(&got), ["a", "b"]);
    let request = ReceiveRequest { max_messages: 1, ..ReceiveRequest::default() };
    let refused = try_receive(&broker, &ana, request).await.unwrap_err();
    assert_eq!(refused, Refusal::InFlightLimit);
    settle(&broker, &ana, &got[0], Action::Ack).await;
    assert_eq!(texts(&receive(&broker, &ana).await), ["c"]);
}

#[tokio::test]
async fn with_ordering_by_group_one_message_of_a_group_is_out() {
    for (ordering, first) in
        [(Ordering::Group, vec!["a1", "b1"]), (Ordering::BestEffort, vec!["a1", "a2", "b1"])]
    {
        let (broker, _, ana) = queue(QueueChange { ordering: Some(ordering), ..NONE }).await;
        for (text, group) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
            send_grouped(&broker, &ana, text, group).await;
        }
        let got = receive(&broker, &ana).await;
        assert_eq!(texts(&got), first);
        assert!(receive(&broker, &ana).await.is_empty());
        settle(&broker, &ana, &got[0], Action::Ack).await;
        let next: &[&str] = if ordering == Ordering::Group { &["a2"] } else { &[] };
        assert_eq!(texts(&receive(&broker, &ana).await), next);
    }
}

#[tokio::test]
async fn failures_are_followed_by_pauses_and_the_last_one_by_death() {
    let given = QueueChange {
        max_failures: Some(2),
        backoff_min_seconds: Some(100),
        backoff_max_seconds: Some(100),
        ..NONE
    };
    let (broker, clock, ana) = queue(given).await;
    send(&broker, &ana, "bad").await;
    let got = receive(&broker, &ana).await;
    settle(&broker, &ana, &got[0], FAILED).await;
    assert!(receive(&broker, &ana).await.is_empty(), "the pause has just begun");
    // Jitter may take from the pause, and add to it nothing that twice its length does not cover.
    clock.advance_ms(200_000);
    let again = receive(&broker, &ana).await;
    assert_eq!(again[0].failure_count, 1);
    assert!(dead(&broker, &ana).await.is_empty());
    settle(&broker, &ana, &again[0], FAILED).await;
    clock.advance_ms(200_000);
    assert!(receive(&broker, &ana).await.is_empty());
    assert_eq!(texts(&dead(&broker, &ana).await), ["bad"]);
}

#[tokio::test]
async fn a_queue_without_dedup_refuses_keys() {
    let (broker, _, ana) = queue(QueueChange { dedup_seconds: Some(0), ..NONE }).await;
    let send = async || {
        let message = OutgoingMessage::of(Body::Text("once".to_owned()));
        broker.send(&ana, "q", vec![message], Durability::Quorum, Some("k")).await
    };
    assert_eq!(fault(&send().await.map(drop).unwrap_err()), "header.Idempotency-Key");
    set(&broker, &ana, QueueChange { dedup_seconds: Some(60), ..NONE }).await;
    send().await.unwrap();
    let repeated = send().await.unwrap().remove(0).status;
    assert!(matches!(repeated, SendStatus::Stored { is_duplicate: true, .. }));
}

#[tokio::test]
async fn who_waits_at_a_paused_queue_gets_its_messages_when_it_goes_on() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange { paused: Some(true), ..NONE }).await.unwrap();
    let message = || OutgoingMessage::of(Body::Text("hello".to_owned()));
    let messages = vec![message(), message()];
    broker.send(&ana, "q", messages, Durability::Quorum, None).await.unwrap();
    let mut waits = Vec::new();
    for _ in 0..2 {
        let (idle, idles) = tokio::sync::oneshot::channel();
        let (broker, ana, mut idle) = (broker.clone(), ana.clone(), Some(idle));
        waits.push(tokio::spawn(async move {
            let wait = ReceiveRequest { max_messages: 1, wait_seconds: 30, ..Default::default() };
            let tell = || {
                if let Some(idle) = idle.take() {
                    let _ = idle.send(());
                }
            };
            broker.receive(&ana, Source::Queue("q"), wait, tell).await
        }));
        idles.await.unwrap();
    }
    let resume = QueueChange { paused: Some(false), ..NONE };
    broker.update_queue(&ana, "q", resume, None).await.unwrap();
    for wait in waits {
        let got = tokio::time::timeout(std::time::Duration::from_secs(10), wait).await;
        assert_eq!(got.expect("nobody woke it").unwrap().unwrap().len(), 1);
    }
}
