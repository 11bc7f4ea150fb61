#![allow(clippy::unwrap_used)]
use super::*;
use crate::broker::testing::{broker, fault, user};
use crate::broker::{Action, QueueChange, ReceiveRequest, ReleaseOutcome, Settlement, Source};

const DAY: i32 = 86_400;

fn message(text: &str) -> OutgoingMessage {
    OutgoingMessage::of(Body::Text(text.to_owned()))
}

async fn send(
    broker: &Broker,
    by: &Caller,
    messages: Vec<OutgoingMessage>,
    key: Option<&str>,
) -> Answer<Vec<SendStatus>> {
    let sent = broker.send(by, "q", messages, Durability::Quorum, key).await?;
    Ok(sent.into_iter().map(|result| result.status).collect())
}

fn stored(status: &SendStatus) -> (&str, bool) {
    match status {
        SendStatus::Stored { id, is_duplicate, .. } => (id, *is_duplicate),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_repeat_under_the_same_key_stores_only_what_is_missing() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    let first = send(&broker, &ana, vec![message("a")], Some("k")).await.unwrap();
    let both = vec![message("a"), message("b")];
    let again = send(&broker, &ana, both, Some("k")).await.unwrap();
    assert_eq!(stored(&first[0]), (stored(&again[0]).0, false));
    assert!(stored(&again[0]).1 && !stored(&again[1]).1);
    let other = send(&broker, &ana, vec![message("c")], Some("k")).await.unwrap();
    assert!(matches!(&other[0], SendStatus::Failed(Refusal::IdempotencyMismatch)), "{other:?}");
    let request = ReceiveRequest { max_messages: 10, ..ReceiveRequest::default() };
    let got = broker.receive(&ana, Source::Queue("q"), request, || ()).await.unwrap();
    assert_eq!(got.len(), 2);
}

#[tokio::test]
async fn a_message_of_its_own_name_needs_no_key() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    let named = || OutgoingMessage { dedup_id: Some("order-1".into()), ..message("a") };
    let first = send(&broker, &ana, vec![named()], Some("one")).await.unwrap();
    let again = send(&broker, &ana, vec![message("x"), named()], None).await.unwrap();
    assert_eq!(stored(&again[1]), (stored(&first[0]).0, true));
    let twice = send(&broker, &ana, vec![named(), named()], None).await.unwrap_err();
    assert_eq!(fault(&twice), "messages[1].dedup_id");
}

#[tokio::test]
async fn a_receive_under_a_key_is_answered_again_while_its_leases_run() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    send(&broker, &ana, vec![message("a"), message("b"), message("c")], None).await.unwrap();
    let receive = |key: Option<&str>| {
        let key = key.map(str::to_owned);
        let request = ReceiveRequest { max_messages: 2, key, ..ReceiveRequest::default() };
        broker.receive(&ana, Source::Queue("q"), request, || ())
    };
    let first = receive(Some("k")).await.unwrap();
    let again = receive(Some("k")).await.unwrap();
    let ids = |got: &[crate::broker::ReceivedMessage]| {
        got.iter().map(|m| (m.id.clone(), m.fence)).collect::<Vec<_>>()
    };
    assert_eq!((first.len(), ids(&first)), (2, ids(&again)), "a lost answer costs no lease");
    assert_eq!(receive(None).await.unwrap().len(), 1, "the others get what is left");
    let request = ReceiveRequest {
        max_messages: 1,
        auto_ack: true,
        key: Some("k".into()),
        ..ReceiveRequest::default()
    };
    let refused = broker.receive(&ana, Source::Queue("q"), request, || ()).await.unwrap_err();
    assert_eq!(fault(&refused), "header.Idempotency-Key");
}

#[tokio::test]
async fn times_beyond_the_retention_are_refused() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    let now_ms = broker.clock.wall_ms();
    for (due, ttl_seconds, field) in [
        (Due::After(15 * DAY), None, "delay_seconds"),
        (Due::At(now_ms + 15 * 86_400_000), None, "deliver_at"),
        (Due::Default, Some(15 * DAY), "ttl_seconds"),
    ] {
        let late = OutgoingMessage { due, ttl_seconds, ..message("a") };
        let refused = send(&broker, &ana, vec![message("b"), late], None).await.unwrap_err();
        assert_eq!(fault(&refused), format!("messages[1].{field}"));
    }
    let fine = OutgoingMessage { due: Due::At(now_ms + 14 * 86_400_000), ..message("a") };
    send(&broker, &ana, vec![fine, message("b")], None).await.unwrap();
    let request = ReceiveRequest { max_messages: 10, ..ReceiveRequest::default() };
    let got = broker.receive(&ana, Source::Queue("q"), request, || ()).await.unwrap();
    assert_eq!(got.len(), 1, "the other one is not due");
    let release = |seconds| {
        let (outcome, delay_seconds) = (ReleaseOutcome::HandedBack, Some(seconds));
        let receipt = got[0].receipt.clone().unwrap();
        Settlement::new(receipt, Action::Release { outcome, delay_seconds })
    };
    let settle = |seconds| broker.settle(&ana, Source::Queue("q"), vec![release(seconds)]);
    assert_eq!(fault(&settle(15 * DAY).await.unwrap_err()), "settlements[0].delay_seconds");
    assert!(settle(14 * DAY).await.is_ok());
}
