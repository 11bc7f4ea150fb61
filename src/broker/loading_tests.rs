//! Streams that come and go from memory while they are used: in tests only two of them stay.
#![allow(clippy::unwrap_used)]

use super::send::Due;
use super::testing::{broker, broker_and_clock, user};
use super::{
    Body, Broker, Caller, Durability, OutgoingMessage, QueueChange, ReceiveRequest, SendStatus,
    Source,
};
use crate::base::ids::{RequesterId, SubscriptionId};
use crate::base::names::QueueName;
use crate::protocol::op::{LeaseDot, LeaseOp, LeaseVote, Purpose};
use crate::protocol::stream::MessageId;
use crate::store::{RowOp, Table, WriteClass};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const QUEUES: usize = 6;
const ROUNDS: usize = 40;

fn named(n: usize) -> String {
    format!("queue-{n}")
}

async fn send(broker: &Arc<Broker>, by: &Caller, queue: &str, text: String, delay: i32) -> String {
    let due = if delay > 0 { Due::After(delay) } else { Due::Default };
    let message = OutgoingMessage { due, ..OutgoingMessage::of(Body::Text(text)) };
    let sent = broker.send(by, queue, vec![message], Durability::Quorum, None).await.unwrap();
    match &sent[0].status {
        SendStatus::Stored { id, .. } => id.clone(),
        other => panic!("{other:?}"),
    }
}

async fn receive(broker: &Broker, by: &Caller, queue: &str, wait_seconds: i32) -> Vec<String> {
    let request =
        ReceiveRequest { max_messages: 100, auto_ack: true, wait_seconds, ..Default::default() };
    let messages = broker.receive(by, Source::Queue(queue), request, || {}).await.unwrap();
    let text = |body: Body| match body {
        Body::Text(text) => text,
        Body::Binary(_) => panic!("no text"),
    };
    messages.into_iter().map(|message| text(message.body)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_that_are_let_go_while_they_are_used_lose_and_repeat_nothing() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    for n in 0..QUEUES {
        broker.put_queue(&ana, &named(n), QueueChange::default()).await.unwrap();
    }
    let tasks: Vec<_> = (0..QUEUES * 2)
        .map(|task| {
            let (broker, ana) = (broker.clone(), ana.clone());
            tokio::spawn(async move {
                let (mut ids, mut received) = (BTreeSet::new(), Vec::new());
                for round in 0..ROUNDS {
                    let queue = named((task + round) % QUEUES);
                    let text = format!("{task} {round}");
                    ids.insert(send(&broker, &ana, &queue, text, 0).await);
                    if round % 3 == 0 {
                        received.extend(receive(&broker, &ana, &queue, 0).await);
                    }
                }
                (ids, received)
            })
        })
        .collect();
    let mut received = Vec::new();
    for task in tasks {
        let (ids, texts) = task.await.unwrap();
        assert_eq!(ids.len(), ROUNDS, "no two messages of a sender have one name");
        received.extend(texts);
    }
    for n in 0..QUEUES {
        loop {
            let more = receive(&broker, &ana, &named(n), 0).await;
            if more.is_empty() {
                break;
            }
            received.extend(more);
        }
    }
    let all = QUEUES * 2 * ROUNDS;
    assert_eq!(received.iter().collect::<BTreeSet<_>>().len(), all, "every message came");
    assert_eq!(received.len(), all, "and none twice");
}

#[tokio::test]
async fn a_receiver_keeps_its_stream_and_hears_of_what_comes() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    for n in 0..QUEUES {
        broker.put_queue(&ana, &named(n), QueueChange::default()).await.unwrap();
    }
    let waiting = {
        let (broker, ana) = (broker.clone(), ana.clone());
        tokio::spawn(async move { receive(&broker, &ana, &named(0), 20).await })
    };
    while broker.coordinator.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..4 {
        for n in 1..QUEUES {
            send(&broker, &ana, &named(n), "other".to_owned(), 0).await;
        }
    }
    send(&broker, &ana, &named(0), "at last".to_owned(), 0).await;
    assert_eq!(waiting.await.unwrap(), ["at last"]);
}

#[tokio::test]
async fn what_was_delayed_and_let_go_comes_when_it_is_due() {
    let (broker, clock) = broker_and_clock();
    let ana = user(&broker, "ana").await;
    for n in 0..QUEUES {
        broker.put_queue(&ana, &named(n), QueueChange::default()).await.unwrap();
    }
    send(&broker, &ana, &named(0), "later".to_owned(), 60).await;
    for _ in 0..4 {
        for n in 1..QUEUES {
            send(&broker, &ana, &named(n), "other".to_owned(), 0).await;
        }
    }
    let record = broker.catalog.queue(&QueueName::parse(&named(0)).unwrap()).unwrap();
    let replica = broker.coordinator.replica().clone();
    assert_eq!(replica.count_loaded(record.generation), None, "it was let go");
    clock.advance_ms(61_000);
    let lapses = tokio::spawn(replica.lapses().clone().run());
    let news = replica.left_over().news.notified();
    tokio::time::timeout(Duration::from_secs(20), news).await.expect("the broker is told");
    assert!(replica.left_over().take().contains(&record.generation), "the broker looks at it");
    lapses.abort();
    assert_eq!(receive(&broker, &ana, &named(0), 0).await, ["later"]);
}

#[tokio::test]
async fn r6_what_was_decided_and_let_go_is_on_the_disk_before_the_disk_is_asked() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    let mut generations = Vec::new();
    for n in 0..QUEUES {
        broker.put_queue(&ana, &named(n), QueueChange::default()).await.unwrap();
        let name = QueueName::parse(&named(n)).unwrap();
        generations.push(broker.catalog.queue(&name).unwrap().generation);
    }
    let id = send(&broker, &ana, &named(0), "leased".to_owned(), 0).await;
    let Some(MessageId::At(place)) = MessageId::parse(&id) else { panic!("{id}") };
    let record = broker.catalog.queue(&QueueName::parse(&named(0)).unwrap()).unwrap();
    let stream = broker.live_stream(&record).unwrap();
    let replica = broker.coordinator.replica().clone();
    // The disk is busy for a while.
    let row = |n: u8| RowOp::Put {
        table: Table::Messages,
        key: vec![n],
        tag: 1,
        bytes: vec![n; 1 << 20],
    };
    let admission = replica.store().admit(WriteClass::Growth, 12 << 20).unwrap();
    drop(replica.store().submit(admission, (0..12).map(row).collect()));
    let mut op = LeaseOp {
        header: stream.header(),
        reader: SubscriptionId::QUEUE,
        requester: RequesterId([1; 16]),
        holder: "ana".to_owned(),
        purpose: Purpose::Deliver,
        counter: 0,
        duration_ms: 60_000,
        dots: vec![LeaseDot { place, envelope: None, age_ms: 0, content_mac: None }],
        failures: Vec::new(),
    };
    let cell = replica.cell(stream.generation).await.unwrap();
    // Nobody waits for it: its request was given up.
    let (ticket, votes) = replica.lease(&cell, &mut op).unwrap();
    drop((ticket, cell));
    assert!(matches!(votes[0], LeaseVote::Granted { .. }));
    // The slots of others are made at once, whatever their loads wait for.
    for _ in 0..4 {
        for other in &generations[1..] {
            let load = Box::pin(replica.cell(*other));
            let _ = tokio::time::timeout(Duration::ZERO, load).await;
        }
    }
    assert_eq!(replica.count_loaded(stream.generation), None, "it was let go");
    let cell = replica.cell(stream.generation).await.unwrap();
    assert_eq!(cell.decide(|state| state.in_flight(SubscriptionId::QUEUE)), 1, "still leased");
}
