//! Topics end to end: publish, filter, receive, links, deaths; and a crash between the two
//! streams of a link.
#![allow(clippy::unwrap_used)]

use super::stats::TopicStats;
use super::testing::{broker, user};
use super::{
    Action, Body, Broker, Caller, Durability, OutgoingMessage, QueueChange, Reason, ReceiveRequest,
    ReceivedMessage, Refusal, ReleaseOutcome, SendStatus, Settlement, Source, SubscriptionChange,
    TopicChange,
};
use crate::protocol::record::Start;
use std::sync::Arc;

fn message(text: &str, routing_key: &str) -> OutgoingMessage {
    let routing_key = Some(routing_key.to_owned());
    OutgoingMessage { routing_key, ..OutgoingMessage::of(Body::Text(text.to_owned())) }
}

async fn publish(broker: &Arc<Broker>, by: &Caller, text: &str, routing_key: &str) -> i32 {
    let messages = vec![message(text, routing_key)];
    let published = broker.publish(by, "news", messages, Durability::Quorum, false, None).await;
    let published = published.unwrap().remove(0);
    assert!(matches!(published.result.status, SendStatus::Stored { .. }));
    published.matched
}

async fn subscribe(broker: &Broker, by: &Caller, name: &str, change: SubscriptionChange) {
    broker.put_subscription(by, "news", name, &change).await.unwrap();
}

fn filter(routing_key: &str) -> SubscriptionChange {
    let filter = crate::protocol::record::Filter {
        routing_key: Some(routing_key.to_owned()),
        ..Default::default()
    };
    SubscriptionChange { filter: Some(filter), ..SubscriptionChange::default() }
}

async fn receive(broker: &Broker, by: &Caller, source: Source<'_>) -> Vec<ReceivedMessage> {
    let request = ReceiveRequest { max_messages: 10, ..ReceiveRequest::default() };
    broker.receive(by, source, request, || {}).await.unwrap()
}

fn texts(messages: &[ReceivedMessage]) -> Vec<String> {
    let text = |message: &ReceivedMessage| match &message.body {
        Body::Text(text) => text.clone(),
        Body::Binary(_) => String::new(),
    };
    messages.iter().map(text).collect()
}

fn sub(name: &str) -> Source<'_> {
    Source::Subscription { topic: "news", name }
}

async fn news(broker: &Broker) -> Caller {
    let ana = user(broker, "ana").await;
    broker.put_topic(&ana, "news", TopicChange::default()).await.unwrap();
    ana
}

#[tokio::test]
async fn g2_a_publish_reaches_every_subscription_that_matches_and_no_other() {
    let broker = broker();
    let ana = news(&broker).await;
    assert_eq!(publish(&broker, &ana, "nobody", "sports.tennis").await, 0);
    subscribe(&broker, &ana, "all", SubscriptionChange::default()).await;
    subscribe(&broker, &ana, "sports", filter("sports.*")).await;
    assert_eq!(publish(&broker, &ana, "one", "sports.tennis").await, 2);
    assert_eq!(publish(&broker, &ana, "two", "weather").await, 1);
    assert_eq!(texts(&receive(&broker, &ana, sub("all")).await), ["one", "two"]);
    let got = receive(&broker, &ana, sub("sports")).await;
    assert_eq!(texts(&got), ["one"]);
    let receipt = got[0].receipt.clone().unwrap();
    let ack = vec![Settlement::new(receipt.clone(), Action::Ack)];
    broker.settle(&ana, sub("sports"), ack.clone()).await.unwrap();
    let other = broker.settle(&ana, sub("all"), ack).await.unwrap();
    assert!(matches!(other[0], super::Verdict::Invalid), "a receipt is of one subscription");
    let eva = user(&broker, "eva").await;
    let request = ReceiveRequest { max_messages: 1, ..ReceiveRequest::default() };
    let refused = broker.receive(&eva, sub("all"), request, || {}).await.unwrap_err();
    assert_eq!(refused, Refusal::NotOwner { what: "subscription" });
}

#[tokio::test]
async fn what_nobody_wants_is_refused_where_a_route_is_required() {
    let broker = broker();
    let ana = news(&broker).await;
    subscribe(&broker, &ana, "sports", filter("sports.#")).await;
    let messages = vec![message("a", "weather"), message("b", "sports")];
    let published = broker.publish(&ana, "news", messages, Durability::Quorum, true, None).await;
    let published = published.unwrap();
    assert!(matches!(published[0].result.status, SendStatus::Failed(Refusal::Unroutable)));
    assert_eq!((published[0].matched, published[1].matched), (0, 1));
    assert_eq!(texts(&receive(&broker, &ana, sub("sports")).await), ["b"]);
}

#[tokio::test]
async fn a_late_subscription_starts_new_or_with_what_is_kept_for_another() {
    let broker = broker();
    let ana = news(&broker).await;
    subscribe(&broker, &ana, "first", SubscriptionChange::default()).await;
    publish(&broker, &ana, "old", "sports").await;
    publish(&broker, &ana, "other", "weather").await;
    subscribe(&broker, &ana, "new", SubscriptionChange::default()).await;
    let earliest = SubscriptionChange { start: Some(Start::Earliest), ..filter("sports") };
    subscribe(&broker, &ana, "early", earliest).await;
    publish(&broker, &ana, "young", "sports").await;
    assert_eq!(texts(&receive(&broker, &ana, sub("new")).await), ["young"]);
    assert_eq!(texts(&receive(&broker, &ana, sub("early")).await), ["old", "young"]);
    assert_eq!(receive(&broker, &ana, sub("first")).await.len(), 3);
}

#[tokio::test]
async fn g15_a_link_puts_exactly_one_copy_into_its_queue_however_often_it_is_forwarded() {
    let broker = broker();
    let ana = news(&broker).await;
    broker.put_queue(&ana, "inbox", QueueChange::default()).await.unwrap();
    let into = SubscriptionChange { deliver_to: Some("inbox".into()), ..filter("sports.#") };
    subscribe(&broker, &ana, "link", into).await;
    assert_eq!(publish(&broker, &ana, "goal", "sports.football").await, 1);
    assert_eq!(publish(&broker, &ana, "rain", "weather").await, 0);
    let got = receive(&broker, &ana, Source::Queue("inbox")).await;
    assert_eq!(texts(&got), ["goal"]);
    assert_eq!((got[0].topic.as_deref(), got[0].sender.as_str()), (Some("news"), "ana"));
    let receipt = got[0].receipt.clone().unwrap();
    let ack = vec![Settlement::new(receipt, Action::Ack)];
    broker.settle(&ana, Source::Queue("inbox"), ack).await.unwrap();
    let request = ReceiveRequest { max_messages: 1, ..ReceiveRequest::default() };
    let refused = broker.receive(&ana, sub("link"), request, || {}).await.unwrap_err();
    assert_eq!(refused, Refusal::DeliversToQueue);
    // Nothing waits in the topic, and a second look moves nothing.
    let record = broker.catalog.topic(&crate::base::names::TopicName::parse("news").unwrap());
    let record = record.unwrap();
    broker.forward_left(&record, record.topic().unwrap()).await.unwrap();
    assert!(receive(&broker, &ana, Source::Queue("inbox")).await.is_empty());
}

#[tokio::test]
async fn g14_the_dead_leave_for_the_queue_that_was_named_or_stay() {
    let broker = broker();
    let ana = news(&broker).await;
    broker.put_queue(&ana, "graves", QueueChange::default()).await.unwrap();
    let mortal = SubscriptionChange {
        max_failures: Some(1),
        dead_letter: Some("graves".into()),
        ..SubscriptionChange::default()
    };
    subscribe(&broker, &ana, "mortal", mortal).await;
    publish(&broker, &ana, "ill", "x").await;
    let got = receive(&broker, &ana, sub("mortal")).await;
    let action = Action::Release { outcome: ReleaseOutcome::Failed, delay_seconds: None };
    let receipt = got[0].receipt.clone().unwrap();
    let reason = Some(Reason("too ill".to_owned()));
    let settlement = Settlement { reason: reason.clone(), ..Settlement::new(receipt, action) };
    broker.settle(&ana, sub("mortal"), vec![settlement]).await.unwrap();
    let name = crate::base::names::TopicName::parse("news").unwrap();
    let record = broker.catalog.topic(&name).unwrap();
    let key = crate::protocol::record::RecordKey::new(
        crate::protocol::record::Kind::Topic,
        name.as_str(),
    );
    let stream = broker.stream_of(&record, record.topic().unwrap()).unwrap();
    for _ in 0..2 {
        broker.move_dead(&key, &record, &stream).await;
    }
    let got = receive(&broker, &ana, Source::Queue("graves")).await;
    assert_eq!(texts(&got), ["ill"]);
    let died = got[0].dead_letter.clone().unwrap();
    assert_eq!((died.queue.as_str(), died.detail), ("news/mortal", reason));
    assert!(receive(&broker, &ana, sub("mortal")).await.is_empty());
}

#[tokio::test]
async fn a_topic_counts_each_message_once_and_a_subscription_its_own() {
    let broker = broker();
    let ana = news(&broker).await;
    subscribe(&broker, &ana, "all", SubscriptionChange::default()).await;
    subscribe(&broker, &ana, "sports", filter("sports.*")).await;
    let of_topic = async || {
        let entry = broker.get_topic(&ana, "news").await.unwrap();
        broker.topic_stats(&entry).await.unwrap()
    };
    let of = async |name: &str| {
        let entry = broker.get_subscription(&ana, "news", name).await.unwrap();
        let stats = broker.subscription_stats(&entry).await.unwrap();
        assert_eq!((stats.replicas.len(), stats.receivers_waiting), (1, 0));
        (stats.ready, stats.leased, stats.dead, stats.bytes)
    };
    let empty = TopicStats { messages: 0, bytes: 0, approximate: false };
    assert_eq!(of_topic().await, empty);
    publish(&broker, &ana, "one", "sports.tennis").await;
    publish(&broker, &ana, "two", "sports.golf").await;
    publish(&broker, &ana, "rain", "weather").await;
    let kept = of_topic().await;
    assert_eq!((kept.messages, kept.approximate), (3, false));
    let (ready, _, _, bytes) = of("all").await;
    assert_eq!((ready, bytes), (3, kept.bytes), "all of them are its own");
    let got = receive(&broker, &ana, sub("sports")).await;
    let action = Action::Release { outcome: ReleaseOutcome::Poison, delay_seconds: None };
    let poison = Settlement::new(got[0].receipt.clone().unwrap(), action);
    broker.settle(&ana, sub("sports"), vec![poison]).await.unwrap();
    let (ready, leased, dead, bytes) = of("sports").await;
    assert_eq!((ready, leased, dead), (0, 1, 1));
    assert!(0 < bytes && bytes < kept.bytes);
    broker.purge(&ana, sub("all")).await.unwrap();
    assert_eq!(of("all").await, (0, 0, 0, 0));
    assert!(of_topic().await.approximate, "the rows are still being removed");
    let name = crate::base::names::TopicName::parse("news").unwrap();
    let record = broker.catalog.topic(&name).unwrap();
    let stream = broker.stream_of(&record, record.topic().unwrap()).unwrap();
    let reader = crate::base::ids::SubscriptionId::of(record.generation);
    broker.coordinator.attend(&stream, reader).await.unwrap();
    let left = of_topic().await;
    assert_eq!((left.messages, left.approximate), (2, false), "the other one holds two");
    assert!(left.bytes < kept.bytes);
}

#[tokio::test]
async fn r33_a_queue_sends_its_dead_on_and_no_two_queues_send_them_round() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    let into = |name: &str| QueueChange {
        max_failures: Some(1),
        dead_letter: Some(name.to_owned()),
        ..QueueChange::default()
    };
    broker.put_queue(&ana, "graves", QueueChange::default()).await.unwrap();
    broker.put_queue(&ana, "work", into("graves")).await.unwrap();
    let round = broker.update_queue(&ana, "graves", into("work"), None).await.unwrap_err();
    assert!(matches!(round, Refusal::Invalid(faults) if faults[0].field == "dead_letter"));
    assert!(broker.put_queue(&ana, "self", into("self")).await.is_err());
    assert!(broker.put_queue(&ana, "lost", into("nowhere")).await.is_err());
    let message = vec![OutgoingMessage::of(Body::Text("ill".into()))];
    broker.send(&ana, "work", message, Durability::Quorum, None).await.unwrap();
    let got = receive(&broker, &ana, Source::Queue("work")).await;
    let action = Action::Release { outcome: ReleaseOutcome::Failed, delay_seconds: None };
    let receipt = got[0].receipt.clone().unwrap();
    broker
        .settle(&ana, Source::Queue("work"), vec![Settlement::new(receipt, action)])
        .await
        .unwrap();
    let name = crate::base::names::QueueName::parse("work").unwrap();
    let record = broker.catalog.queue(&name).unwrap();
    let key = super::queues::queue_key(&name);
    let stream = broker.stream_of(&record, record.queue().unwrap()).unwrap();
    broker.move_dead(&key, &record, &stream).await;
    let got = receive(&broker, &ana, Source::Queue("graves")).await;
    assert_eq!(texts(&got), ["ill"]);
    assert_eq!(got[0].dead_letter.clone().unwrap().queue, "work");
    let none = QueueChange { dead_letter: Some(String::new()), ..QueueChange::default() };
    let entry = broker.update_queue(&ana, "work", none, None).await.unwrap();
    assert_eq!(entry.value.config.dead_letter, None);
}

#[tokio::test]
async fn each_result_tells_its_own_matches_also_behind_one_that_was_refused() {
    let broker = broker();
    let ana = news(&broker).await;
    subscribe(&broker, &ana, "all", SubscriptionChange::default()).await;
    let named =
        |text: &str| OutgoingMessage { dedup_id: Some("one".into()), ..message(text, "sports") };
    let publish = |messages| {
        let (broker, ana) = (broker.clone(), ana.clone());
        async move {
            broker.publish(&ana, "news", messages, Durability::Quorum, false, None).await.unwrap()
        }
    };
    publish(vec![named("first")]).await;
    let published = publish(vec![named("another"), message("new", "sports")]).await;
    let mismatch = &published[0].result.status;
    assert!(matches!(mismatch, SendStatus::Failed(Refusal::IdempotencyMismatch)));
    assert_eq!((published[0].matched, published[1].matched), (0, 1));
}

#[tokio::test]
async fn a_keyed_publish_is_in_its_linked_queue_when_it_is_answered() {
    let broker = broker();
    let ana = news(&broker).await;
    broker.put_queue(&ana, "inbox", QueueChange::default()).await.unwrap();
    let into = SubscriptionChange { deliver_to: Some("inbox".into()), ..Default::default() };
    subscribe(&broker, &ana, "link", into).await;
    for _ in 0..2 {
        let messages = vec![message("once", "x")];
        let by_key =
            broker.publish(&ana, "news", messages, Durability::Quorum, false, Some("key")).await;
        by_key.unwrap();
    }
    assert_eq!(texts(&receive(&broker, &ana, Source::Queue("inbox")).await), ["once"]);
}

#[tokio::test]
async fn r45_a_link_waits_without_its_right_and_goes_on_with_it() {
    let broker = broker();
    let ana = news(&broker).await;
    let eva = user(&broker, "eva").await;
    broker.put_queue(&ana, "inbox", QueueChange::default()).await.unwrap();
    broker
        .put_topic_grant(&ana, "news", "eva", [crate::protocol::record::Right::Subscribe])
        .await
        .unwrap();
    broker.put_grant(&ana, "inbox", "eva", [crate::protocol::record::Right::Send]).await.unwrap();
    let into = SubscriptionChange { deliver_to: Some("inbox".into()), ..Default::default() };
    subscribe(&broker, &eva, "link", into).await;
    broker.delete_grant(&ana, "inbox", "eva").await.unwrap();
    assert_eq!(publish(&broker, &ana, "waits", "x").await, 1);
    assert!(receive(&broker, &ana, Source::Queue("inbox")).await.is_empty());
    broker.put_grant(&ana, "inbox", "eva", [crate::protocol::record::Right::Send]).await.unwrap();
    // What the worker does: topics come after queues.
    let topics = broker.look_at_heads(None).await;
    broker.look_at_heads(topics).await;
    for stream in broker.coordinator.replica().left_over().take() {
        broker.attend(stream).await.unwrap();
    }
    assert_eq!(texts(&receive(&broker, &ana, Source::Queue("inbox")).await), ["waits"]);
}
