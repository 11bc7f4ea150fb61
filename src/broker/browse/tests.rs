#![allow(clippy::unwrap_used)]
use super::*;
use crate::broker::send::Due;
use crate::broker::testing::{broker, broker_and_clock, fault, user};
use crate::broker::{
    Action, Durability, Messages, OutgoingMessage, QueueChange, Reason, ReceiveRequest,
    ReceivedMessage, ReleaseOutcome, Settlement,
};

const Q: Source<'static> = Source::Queue("q");

async fn send(broker: &Broker, by: &Caller, text: &str, due: Due) {
    let message = OutgoingMessage { due, ..OutgoingMessage::of(Body::Text(text.to_owned())) };
    let sent = broker.send(by, "q", vec![message], Durability::Quorum, None).await.unwrap();
    assert_eq!(sent.len(), 1);
}

async fn receive(broker: &Broker, by: &Caller, max: i32) -> Vec<ReceivedMessage> {
    let request =
        ReceiveRequest { max_messages: max, lease_seconds: Some(60), ..ReceiveRequest::default() };
    broker.receive(by, Q, request, || ()).await.unwrap()
}

async fn release(broker: &Broker, by: &Caller, message: &ReceivedMessage, outcome: ReleaseOutcome) {
    let action = Action::Release { outcome, delay_seconds: None };
    let settlement = Settlement::new(message.receipt.clone().unwrap(), action);
    broker.settle(by, Q, vec![settlement]).await.unwrap();
}

/// What every message says: its text, state and explanation.
async fn all(
    broker: &Broker,
    by: &Caller,
    state: Option<MessageState>,
) -> Vec<(String, MessageState, String)> {
    let page = broker.browse(by, Q, state, None, 100).await.unwrap();
    assert_eq!(page.next, None);
    let told = |m: BrowsedMessage| match m.body {
        Body::Text(text) => (text, m.state, m.explanation),
        Body::Binary(_) => panic!("text was sent"),
    };
    page.items.into_iter().map(told).collect()
}

#[tokio::test]
async fn a_dead_letter_tells_the_last_reason_wherever_it_is_shown() {
    let (broker, _) = broker_and_clock();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    let because = async |message: &ReceivedMessage, outcome, reason: &str| {
        let action = Action::Release { outcome, delay_seconds: None };
        let settlement = Settlement::new(message.receipt.clone().unwrap(), action);
        let reason = Some(Reason(reason.to_owned()));
        broker.settle(&ana, Q, vec![Settlement { reason, ..settlement }]).await.unwrap();
    };
    for text in ["told", "untold"] {
        send(&broker, &ana, text, Due::Default).await;
    }
    let got = receive(&broker, &ana, 2).await;
    because(&got[0], ReleaseOutcome::Failed, "first").await;
    because(&got[1], ReleaseOutcome::Poison, "").await;
    let again = receive(&broker, &ana, 1).await;
    because(&again[0], ReleaseOutcome::Poison, "no such account: ñ").await;
    let detail = |letter: &Option<DeadLetter>| {
        letter.as_ref().unwrap().detail.as_ref().map(|detail| detail.0.clone())
    };
    let told = Some("no such account: ñ".to_owned());
    let page = broker.browse(&ana, Q, Some(MessageState::Dead), None, 100).await.unwrap();
    let shown: Vec<_> = page.items.iter().map(|item| detail(&item.dead_letter)).collect();
    assert_eq!(shown, [told.clone(), None]);
    let one = broker.get_message(&ana, Q, &got[0].id).await.unwrap();
    assert_eq!(detail(&one.dead_letter), told);
    let key = Some("k".to_owned());
    let dead =
        ReceiveRequest { max_messages: 2, from_dead: true, key, ..ReceiveRequest::default() };
    for _ in 0..2 {
        // The second is a repeat of the first.
        let received = broker.receive(&ana, Q, dead.clone(), || ()).await.unwrap();
        let shown: Vec<_> = received.iter().map(|item| detail(&item.dead_letter)).collect();
        assert_eq!(shown, [told.clone(), None]);
    }
    assert!(!format!("{one:?}").contains("account"), "nor does it reach a log");
}

#[tokio::test]
async fn a_browse_tells_what_each_message_waits_for() {
    let (broker, clock) = broker_and_clock();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    for text in ["poison", "leased", "ready"] {
        send(&broker, &ana, text, Due::Default).await;
    }
    send(&broker, &ana, "later", Due::After(300)).await;
    let got = receive(&broker, &ana, 2).await;
    release(&broker, &ana, &got[0], ReleaseOutcome::Poison).await;
    clock.advance_ms(10_500);
    use MessageState::{Dead, Delayed, Leased, Ready};
    let poison = "dead because a consumer called it poison: redrive it, receive it with from=dead, or \
         delete it";
    let expected = [
        ("poison", Dead, poison),
        // A replica holds 60 s for 61.5 s [R20].
        ("leased", Leased, "leased by ana for another 51 s"),
        ("ready", Ready, "ready: waits for a receive"),
        ("later", Delayed, "not due for another 5 minutes"),
    ];
    let expected: Vec<_> =
        expected.map(|(text, state, why)| (text.to_owned(), state, why.to_owned())).into();
    assert_eq!(all(&broker, &ana, None).await, expected);
    for one in expected {
        assert_eq!(all(&broker, &ana, Some(one.1)).await, [one]);
    }
    let page = broker.browse(&ana, Q, Some(Delayed), None, 1).await.unwrap();
    let now_ms = broker.clock.wall_ms();
    assert_eq!(page.items[0].ready_ms.map(|at| at - now_ms), Some(289_500));
    assert!(page.items[0].lease_expires_ms.is_none() && page.items[0].leased_by.is_none());
    let entry = broker.get_queue(&ana, "q").await.unwrap();
    let stats = broker.queue_stats(&entry).await.unwrap();
    assert_eq!((stats.ready, stats.leased, stats.delayed, stats.dead), (1, 1, 1, 1));
    assert_eq!((stats.oldest_age_seconds, stats.replicas.len()), (10, 1));
    assert!(stats.bytes > 0);
}

#[tokio::test]
async fn pages_follow_each_other_and_keep_to_their_list() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    for n in 0..5 {
        send(&broker, &ana, &n.to_string(), Due::Default).await;
    }
    let (mut cursor, mut ids) = (None, Vec::new());
    for size in [2, 2, 1] {
        let page = broker.browse(&ana, Q, None, cursor.as_deref(), 2).await.unwrap();
        assert_eq!(page.items.len(), size);
        ids.extend(page.items.into_iter().map(|m| m.id));
        let ready = Some(MessageState::Ready);
        if let Some(foreign) = &page.next {
            let refused = broker.browse(&ana, Q, ready, Some(foreign), 2).await.unwrap_err();
            assert_eq!(fault(&refused), "query.cursor");
        }
        cursor = page.next;
    }
    assert_eq!(cursor, None);
    let sent: Vec<_> = receive(&broker, &ana, 10).await.into_iter().map(|m| m.id).collect();
    assert_eq!(ids, sent, "in dispatch order, each once");
}

#[tokio::test]
async fn one_message_is_found_and_taken_out_by_its_id() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    send(&broker, &ana, "later", Due::After(60)).await;
    let id = broker.browse(&ana, Q, None, None, 1).await.unwrap().items.remove(0).id;
    let found = broker.get_message(&ana, Q, &id).await.unwrap();
    assert_eq!((found.body, found.sender.as_str()), (Body::Text("later".into()), "ana"));
    for no_id in ["", "AAAA", &id[1..], &format!("{id}A")] {
        let nothing = Refusal::MessageNotFound;
        assert_eq!(broker.get_message(&ana, Q, no_id).await.unwrap_err(), nothing, "{no_id}");
        assert_eq!(broker.delete_message(&ana, Q, no_id).await.unwrap_err(), nothing);
    }
    for _ in 0..2 {
        broker.delete_message(&ana, Q, &id).await.unwrap();
        let gone = broker.get_message(&ana, Q, &id).await.unwrap_err();
        assert_eq!(gone, Refusal::MessageNotFound);
    }
}

#[tokio::test]
async fn a_purge_takes_leased_delayed_and_dead_ones_and_nothing_sent_later() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    for text in ["dead", "leased", "ready"] {
        send(&broker, &ana, text, Due::Default).await;
    }
    send(&broker, &ana, "later", Due::After(60)).await;
    let got = receive(&broker, &ana, 2).await;
    release(&broker, &ana, &got[0], ReleaseOutcome::Poison).await;
    assert_eq!(broker.purge(&ana, Q).await, Ok(4));
    assert_eq!(all(&broker, &ana, None).await, []);
    send(&broker, &ana, "after", Due::Default).await;
    assert_eq!(receive(&broker, &ana, 10).await.len(), 1);
}

#[tokio::test]
async fn the_last_message_taken_out_of_a_draining_queue_ends_it() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    for purge in [true, false] {
        broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
        send(&broker, &ana, "last", Due::Default).await;
        let id = broker.browse(&ana, Q, None, None, 1).await.unwrap().items.remove(0).id;
        broker.delete_queue(&ana, "q", Messages::Drain, None).await.unwrap();
        let rings = broker.deletions.notified();
        if purge {
            assert_eq!(broker.purge(&ana, Q).await, Ok(1));
        } else {
            broker.delete_message(&ana, Q, &id).await.unwrap();
        }
        let time = std::time::Duration::from_secs(10);
        tokio::time::timeout(time, rings).await.expect("nobody told the worker");
        broker.delete_queue(&ana, "q", Messages::Discard, None).await.unwrap();
    }
}

#[tokio::test]
async fn dead_letters_are_driven_back_the_oldest_first() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    for text in ["a", "b", "c"] {
        send(&broker, &ana, text, Due::Default).await;
    }
    for message in receive(&broker, &ana, 3).await {
        release(&broker, &ana, &message, ReleaseOutcome::Poison).await;
    }
    assert!(receive(&broker, &ana, 3).await.is_empty());
    assert_eq!(broker.redrive(&ana, Q, 2).await, Ok(Redriven { moved: 2, remaining: 1 }));
    let got = receive(&broker, &ana, 3).await;
    let bodies: Vec<_> = got.iter().map(|m| m.body.clone()).collect();
    assert_eq!(bodies, ["a", "b"].map(|text| Body::Text(text.into())));
    assert!(got.iter().all(|m| m.failure_count == 0 && m.dead_letter.is_none()));
    assert_eq!(broker.redrive(&ana, Q, 1_000).await, Ok(Redriven { moved: 1, remaining: 0 }));
    assert_eq!(broker.redrive(&ana, Q, 1_000).await, Ok(Redriven { moved: 0, remaining: 0 }));
}

#[test]
fn spans_are_rounded_up_to_what_people_say() {
    for (ms, words) in [
        (0, "0 s"),
        (1, "1 s"),
        (119_000, "119 s"),
        (119_001, "2 minutes"),
        (7_200_000, "2 hours"),
        (172_800_000, "2 days"),
    ] {
        assert_eq!(span(ms), words, "{ms}");
    }
}
