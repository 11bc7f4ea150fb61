#![allow(clippy::unwrap_used)]
use super::*;
use crate::broker::sources::Source;
use crate::broker::testing::{TestClock, broker_and_clock, log_in, user};
use crate::broker::{Body, Caller, OutgoingMessage, QueueChange, Settlement};
use crate::protocol::op::ReleaseOutcome;
use std::collections::BTreeSet;

struct World {
    broker: Arc<Broker>,
    clock: Arc<TestClock>,
    ana: Caller,
}

async fn world() -> World {
    let (broker, clock) = broker_and_clock();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    World { broker, clock, ana }
}

impl World {
    async fn send(&self, count: usize) {
        let message = |i: usize| OutgoingMessage::of(Body::Text(i.to_string()));
        let messages = (0..count).map(message).collect();
        self.broker
            .send(&self.ana, "q", messages, crate::broker::Durability::Quorum, None)
            .await
            .unwrap();
    }

    fn consume(&self, by: &Caller, window: Window) -> Consumer {
        let source = SourceName::Queue("q".into());
        let terms = Terms { source, lease_seconds: Some(60), window };
        self.broker.consume(self.broker.standing(by.clone()), terms).unwrap()
    }

    async fn settle(&self, message: &ReceivedMessage, action: Action) {
        let receipt = message.receipt.clone().unwrap();
        let settlement = vec![Settlement::new(receipt, action)];
        self.broker.settle(&self.ana, Source::Queue("q"), settlement).await.unwrap();
    }

    async fn receive(&self, max_messages: i32) -> Vec<ReceivedMessage> {
        let request =
            ReceiveRequest { max_messages, wait_seconds: 10, ..ReceiveRequest::default() };
        self.broker.receive(&self.ana, Source::Queue("q"), request, || {}).await.unwrap()
    }
}

async fn next(consumer: &mut Consumer) -> Result<ReceivedMessage, End> {
    tokio::time::timeout(Duration::from_secs(10), consumer.next()).await.expect("nothing comes")
}

/// Whether the consumer waits: one poll is enough where all is decided in memory.
async fn waits(consumer: &mut Consumer) -> bool {
    tokio::time::timeout(Duration::from_millis(50), consumer.next()).await.is_err()
}

#[tokio::test]
async fn credit_is_spent_by_messages_and_added_by_the_caller() {
    let world = world().await;
    world.send(5).await;
    let mut consumer = world.consume(&world.ana, Window::Credit(2));
    let first = next(&mut consumer).await.unwrap();
    next(&mut consumer).await.unwrap();
    world.settle(&first, Action::Ack).await;
    assert!(waits(&mut consumer).await, "a settled message is no credit");
    assert_eq!(world.receive(10).await.len(), 3, "and the rest is for others");
    consumer.handle().add_credit(1000).unwrap();
    assert!(matches!(consumer.handle().add_credit(1), Err(Refusal::Invalid(_))));
    world.send(1).await;
    assert_eq!(next(&mut consumer).await.unwrap().failure_count, 0);
}

#[tokio::test]
async fn a_full_window_opens_when_a_message_is_settled_or_its_lease_is_over() {
    let world = world().await;
    world.send(4).await;
    let mut consumer = world.consume(&world.ana, Window::Unsettled(2));
    let first = next(&mut consumer).await.unwrap();
    let second = next(&mut consumer).await.unwrap();
    assert!(waits(&mut consumer).await, "two are unsettled");
    world.settle(&second, Action::Extend { lease_seconds: 600 }).await;
    assert!(waits(&mut consumer).await, "an extended lease is none that ended");
    world.settle(&first, Action::Ack).await;
    next(&mut consumer).await.unwrap();
    assert!(waits(&mut consumer).await);
    world.clock.advance_ms(60_000);
    next(&mut consumer).await.unwrap();
    assert_eq!(consumer.handle().unsettled(), 2);
    assert_eq!(world.broker.consumers.lock().len(), 2);
}

#[tokio::test]
async fn an_end_gives_back_what_is_unsettled() {
    let world = world().await;
    world.send(3).await;
    for (farewell, failures) in [(Farewell::HandedBack, 0), (Farewell::Failed, 1)] {
        let mut consumer = world.consume(&world.ana, Window::Credit(3));
        let seen = next(&mut consumer).await.unwrap();
        consumer.end(farewell).await;
        let back = world.receive(10).await;
        assert_eq!(back.len(), 3, "what was leased ahead is back too");
        for message in &back {
            let of_seen = message.id == seen.id;
            let counts = (message.receive_count, message.failure_count);
            assert_eq!(message.failure_count, if of_seen { failures } else { 0 }, "{counts:?}");
            let outcome = ReleaseOutcome::HandedBack;
            world.settle(message, Action::Release { outcome, delay_seconds: None }).await;
        }
        assert!(world.broker.consumers.lock().is_empty());
    }
}

#[tokio::test]
async fn a_dropped_consumer_failed() {
    let world = world().await;
    world.send(1).await;
    let mut consumer = world.consume(&world.ana, Window::Credit(1));
    next(&mut consumer).await.unwrap();
    drop(consumer);
    assert_eq!(world.receive(1).await[0].failure_count, 1);
}

#[tokio::test]
async fn what_is_leased_ahead_and_not_fetched_goes_to_others() {
    let world = world().await;
    world.send(3).await;
    let mut consumer = world.consume(&world.ana, Window::Unsettled(3));
    next(&mut consumer).await.unwrap();
    world.clock.advance_ms(limits::CONSUMER_AHEAD_MS_MAX);
    let others = world.receive(10).await;
    assert_eq!(others.len(), 2);
    assert!(others.iter().all(|m| (m.receive_count, m.failure_count) == (1, 0)));
    assert_eq!(consumer.handle().unsettled(), 1);
}

#[tokio::test]
async fn a_message_that_was_not_sent_is_taken_back() {
    let world = world().await;
    world.send(1).await;
    let mut consumer = world.consume(&world.ana, Window::Credit(1));
    let message = next(&mut consumer).await.unwrap();
    consumer.take_back(&message);
    let again = world.receive(1).await;
    assert_eq!((again[0].receive_count, again[0].failure_count), (1, 0));
}

#[tokio::test]
async fn r45_rights_are_checked_at_each_delivery() {
    let world = world().await;
    let eva = user(&world.broker, "eva").await;
    let grant = BTreeSet::from([Right::Receive]);
    world.broker.put_grant(&world.ana, "q", "eva", grant).await.unwrap();
    world.send(3).await;
    let mut consumer = world.consume(&eva, Window::Credit(3));
    next(&mut consumer).await.unwrap();
    world.broker.delete_grant(&world.ana, "q", "eva").await.unwrap();
    let forbidden = End::Refused(Refusal::Forbidden { needs: "receive" });
    assert_eq!(next(&mut consumer).await.unwrap_err(), forbidden);
    consumer.end(Farewell::Failed).await;
    let failures: i32 = world.receive(10).await.iter().map(|m| m.failure_count).sum();
    assert_eq!(failures, 1, "who lost its right gives back all the same");
}

#[tokio::test]
async fn r45_a_session_that_ends_ends_its_consumers_while_they_wait() {
    let world = world().await;
    let session = log_in(&world.broker, "ana").await;
    let mut consumer = world.consume(&session, Window::Credit(3));
    assert!(waits(&mut consumer).await);
    world.broker.log_out_current(&session).await.unwrap();
    let unauthenticated = End::Refused(Refusal::Unauthenticated);
    assert_eq!(next(&mut consumer).await.unwrap_err(), unauthenticated);
}

#[tokio::test]
async fn a_new_password_ends_what_the_old_one_opened() {
    let world = world().await;
    let standing = world.broker.standing(world.ana.clone());
    assert!(world.broker.stands(&standing));
    let patch = crate::broker::UserPatch {
        password: Some("another horse".into()),
        current_password: Some(crate::broker::testing::PASSWORD.into()),
        ..Default::default()
    };
    world.broker.update_user(&world.ana, "ana", patch, None).await.unwrap();
    assert!(!world.broker.stands(&standing));
}

#[tokio::test]
async fn a_stop_ends_it() {
    let world = world().await;
    let mut consumer = world.consume(&world.ana, Window::Credit(3));
    assert!(waits(&mut consumer).await);
    world.broker.stopping.cancel();
    assert_eq!(next(&mut consumer).await.unwrap_err(), End::Stopping);
}

#[tokio::test]
async fn a_subscription_is_consumed_and_given_back_and_paused() {
    use crate::broker::{SubscriptionChange, TopicChange};
    let World { broker, clock, ana } = world().await;
    let change = |paused| SubscriptionChange { paused: Some(paused), ..Default::default() };
    broker.put_topic(&ana, "t", TopicChange::default()).await.unwrap();
    broker.put_subscription(&ana, "t", "s", &change(false)).await.unwrap();
    let messages = ["1", "2"].map(|text| OutgoingMessage::of(Body::Text(text.into()))).into();
    let durability = crate::broker::Durability::Quorum;
    broker.publish(&ana, "t", messages, durability, true, None).await.unwrap();
    let source = SourceName::Subscription { topic: "t".into(), name: "s".into() };
    let window = Window::Credit(2);
    let terms = Terms { source: source.clone(), lease_seconds: Some(60), window };
    let mut consumer = broker.consume(broker.standing(ana.clone()), terms).unwrap();
    let first = next(&mut consumer).await.unwrap();
    let receipt = first.receipt.unwrap();
    assert_eq!(broker.source_of_receipt(&receipt), Ok(source.clone()));
    broker.update_subscription(&ana, "t", "s", &change(true), None).await.unwrap();
    assert!(waits(&mut consumer).await, "what is leased ahead stays here");
    broker.update_subscription(&ana, "t", "s", &change(false), None).await.unwrap();
    let second = next(&mut consumer).await.unwrap();
    let settlement = Settlement::new(receipt, Action::Ack);
    broker.settle(&ana, source.as_source(), vec![settlement]).await.unwrap();
    assert_eq!(consumer.handle().unsettled(), 1);
    consumer.end(Farewell::Failed).await;
    let request = ReceiveRequest { max_messages: 10, ..ReceiveRequest::default() };
    clock.advance_ms(1);
    let back = broker.receive(&ana, source.as_source(), request, || {}).await.unwrap();
    let back: Vec<_> = back.into_iter().map(|m| (m.id, m.failure_count)).collect();
    assert_eq!(back, [(second.id, 1)]);
}
