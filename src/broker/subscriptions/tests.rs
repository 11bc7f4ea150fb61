#![allow(clippy::unwrap_used)]
use super::*;
use crate::broker::testing::*;
use crate::broker::{Messages, Owned, QueueChange, TopicChange, etag};
use std::collections::BTreeMap;

fn none() -> SubscriptionChange {
    SubscriptionChange::default()
}

fn into(queue: &str) -> SubscriptionChange {
    SubscriptionChange { deliver_to: Some(queue.to_owned()), ..none() }
}

fn dead(queue: &str) -> SubscriptionChange {
    SubscriptionChange { dead_letter: Some(queue.to_owned()), ..none() }
}

fn pattern(pattern: &str) -> SubscriptionChange {
    let routing_key = Some(pattern.to_owned());
    SubscriptionChange {
        filter: Some(Filter { routing_key, attributes: BTreeMap::new() }),
        ..none()
    }
}

/// Root administers; ana owns the topic `news` and lets everybody subscribe; eva owns `evas`.
async fn scene() -> (Arc<Broker>, Caller, Caller, Caller) {
    let broker = broker();
    let root = user(&broker, "root").await;
    let ana = user(&broker, "ana").await;
    let eva = user(&broker, "eva").await;
    broker.put_topic(&ana, "news", TopicChange::default()).await.unwrap();
    broker.put_topic_grant(&ana, "news", "*", [Right::Subscribe]).await.unwrap();
    broker.put_queue(&eva, "evas", QueueChange::default()).await.unwrap();
    (broker, root, ana, eva)
}

async fn put(broker: &Broker, by: &Caller, name: &str, given: &SubscriptionChange) -> Arc<Record> {
    let (created, entry) = broker.put_subscription(by, "news", name, given).await.unwrap();
    assert!(created);
    entry.record
}

async fn names(broker: &Broker, by: &Caller) -> String {
    let page = broker.list_subscriptions(by, "news", None, 100).await.unwrap();
    page.items.into_iter().map(|it| it.name).collect::<Vec<_>>().join(" ")
}

fn key(name: &str) -> RecordKey {
    RecordKey::subscription("news", name)
}

fn state(broker: &Broker, name: &str) -> State {
    broker.catalog.get(&key(name)).unwrap().state
}

/// Puts a subscription's record where a crash may leave it.
async fn leave(broker: &Broker, name: &str, state: State, phase: Phase) {
    let latest = broker.catalog.get(&key(name)).unwrap();
    let next = Subscription { phase, ..latest.subscription().unwrap().clone() };
    let next = draft(latest.generation, state, next);
    broker.registers.change(key(name), latest.version, next).await.unwrap();
}

/// Leaves a queue or topic in a state of its deletion, and nothing else done.
async fn abandon(broker: &Broker, key: &RecordKey, state: State) {
    let latest = broker.catalog.get(key).unwrap();
    let value = match &latest.value {
        _ if state == State::Free => Value::Nothing,
        Value::Queue(queue) => Value::Queue(queue.clone().with_ending(Ending::Discard)),
        Value::Topic(topic) => Value::Topic(topic.clone().with_ending(Ending::Discard)),
        other => panic!("{other:?}"),
    };
    let next = Draft { generation: latest.generation, state, value };
    broker.registers.change(key.clone(), latest.version, next).await.unwrap();
}

#[tokio::test]
async fn a_subscription_is_made_active_and_then_matches() {
    let (broker, _, _, eva) = scene().await;
    let made = put(&broker, &eva, "a", &none()).await;
    let subscription = made.subscription().unwrap();
    assert_eq!((subscription.phase, subscription.start), (Phase::Active, Start::New));
    assert_eq!(subscription.config, DEFAULTS);
    let same = SubscriptionChange {
        lease_seconds: Some(30),
        start: Some(Start::New),
        filter: Some(Filter::default()),
        dead_letter: Some(String::new()),
        deliver_to: None,
        ..none()
    };
    for given in [none(), same] {
        let (created, entry) = broker.put_subscription(&eva, "news", "a", &given).await.unwrap();
        assert_eq!((created, entry.record), (false, made.clone()));
    }
    let other = SubscriptionChange {
        paused: Some(true),
        max_failures: Some(1),
        start: Some(Start::Earliest),
        deliver_to: Some("evas".into()),
        dead_letter: Some("evas".into()),
        ..pattern("a.#")
    };
    let refused = broker.put_subscription(&eva, "news", "a", &other).await;
    let Err(Refusal::ConfigDiffers(told)) = refused else { panic!() };
    let fields: Vec<_> = told.iter().map(|it| it.field).collect();
    let wanted = ["filter", "start", "deliver_to", "max_failures", "dead_letter", "paused"];
    assert_eq!(fields, wanted);
}

#[tokio::test]
async fn what_a_subscription_may_be() {
    let (broker, _, ana, eva) = scene().await;
    let number =
        |lease_seconds| SubscriptionChange { lease_seconds: Some(lease_seconds), ..none() };
    let backoff =
        SubscriptionChange { backoff_min_seconds: Some(9), backoff_max_seconds: Some(8), ..none() };
    broker.put_queue(&ana, "anas", QueueChange::default()).await.unwrap();
    for (given, field) in [
        (number(0), "lease_seconds"),
        (SubscriptionChange { max_in_flight: Some(0), ..none() }, "max_in_flight"),
        (SubscriptionChange { max_failures: Some(1_001), ..none() }, "max_failures"),
        (backoff, "backoff_min_seconds"),
        (pattern("a..b"), "filter.routing_key"),
        (into("no/name"), "deliver_to"),
        (into(""), "deliver_to"),
        (dead("no/name"), "dead_letter"),
        (dead("nowhere"), "dead_letter"),
        (dead("anas"), "dead_letter"),
    ] {
        let refused = broker.put_subscription(&eva, "news", "a", &given).await.unwrap_err();
        assert_eq!(fault(&refused), field);
    }
    let put =
        async |topic: &str, name: &str| broker.put_subscription(&eva, topic, name, &none()).await;
    assert_eq!(fault(&put("news", "no/name").await.unwrap_err()), "path.subscription");
    assert_eq!(fault(&put("no/name", "a").await.unwrap_err()), "path.topic");
    assert_eq!(put("x", "a").await, Err(Refusal::TopicNotFound));
    assert_eq!(names(&broker, &ana).await, "");
}

#[tokio::test]
async fn it_takes_subscribe_on_the_topic_and_send_on_the_queue() {
    let (broker, root, ana, eva) = scene().await;
    broker.put_queue(&ana, "anas", QueueChange::default()).await.unwrap();
    let put = async |by: &Caller, given| broker.put_subscription(by, "news", "a", &given).await;
    let needs = |needs| Err(Refusal::Forbidden { needs });
    assert_eq!(put(&eva, into("anas")).await, needs("send"));
    assert_eq!(put(&eva, into("x")).await, Err(Refusal::QueueNotFound));
    broker.delete_topic_grant(&ana, "news", "*").await.unwrap();
    assert_eq!(put(&eva, into("evas")).await, needs("subscribe"));
    broker.put_topic_grant(&ana, "news", "eva", [Right::Subscribe]).await.unwrap();
    broker.delete_queue(&eva, "evas", Messages::Refuse, None).await.unwrap();
    assert_eq!(put(&eva, into("evas")).await, Err(Refusal::QueueNotFound));
    broker.put_grant(&ana, "anas", "eva", [Right::Send]).await.unwrap();
    let (created, made) = put(&eva, into("anas")).await.unwrap();
    assert!(created);
    let queue = broker.get_queue(&ana, "anas").await.unwrap().record;
    assert_eq!(made.value.deliver_to.unwrap().generation, queue.generation);
    assert_eq!(broker.links_into(queue.generation), [("news".to_owned(), "a".to_owned())]);
    // The name is eva's now, whatever others may do with the topic.
    assert_eq!(put(&ana, none()).await, Err(Refusal::NameTaken { what: "subscription" }));
    assert!(!put(&root, none()).await.unwrap().0);
    let leo = user(&broker, "leo").await;
    assert_eq!(put(&leo, none()).await, needs("subscribe"));
}

#[tokio::test]
async fn the_topics_owner_sees_and_deletes_all_and_others_their_own() {
    let (broker, root, ana, eva) = scene().await;
    let leo = user(&broker, "leo").await;
    put(&broker, &eva, "evas", &none()).await;
    put(&broker, &leo, "leos", &none()).await;
    assert_eq!(names(&broker, &ana).await, "evas leos");
    assert_eq!(names(&broker, &root).await, "evas leos");
    assert_eq!(names(&broker, &eva).await, "evas");
    let not_owner = Refusal::NotOwner { what: "subscription" };
    let get = |by, name| broker.get_subscription(by, "news", name);
    assert_eq!(get(&eva, "leos").await, Err(not_owner.clone()));
    assert_eq!(get(&eva, "nothing").await, Err(Refusal::SubscriptionNotFound));
    assert_eq!(get(&ana, "leos").await.unwrap().value.owner, leo.user);
    let update =
        async |by: &Caller| broker.update_subscription(by, "news", "leos", &none(), None).await;
    assert_eq!(update(&ana).await, Err(not_owner.clone()));
    assert!(update(&leo).await.is_ok());
    let delete = |by, name, etag| broker.delete_subscription(by, "news", name, etag);
    assert_eq!(delete(&eva, "leos", None).await, Err(not_owner));
    assert_eq!(delete(&ana, "leos", Some("stale")).await, Err(Refusal::PreconditionFailed));
    delete(&ana, "leos", None).await.unwrap();
    delete(&eva, "evas", None).await.unwrap();
    assert_eq!(delete(&eva, "evas", None).await, Err(Refusal::SubscriptionNotFound));
    assert_eq!(names(&broker, &ana).await, "");
}

#[tokio::test]
async fn pages_go_on_at_their_cursor() {
    let (broker, _, ana, eva) = scene().await;
    for n in 0..5 {
        put(&broker, &eva, &format!("s{n}"), &none()).await;
    }
    let first = broker.list_subscriptions(&ana, "news", None, 3).await.unwrap();
    let cursor = first.next.as_deref();
    let next = broker.list_subscriptions(&ana, "news", cursor, 3).await.unwrap();
    assert_eq!((next.items[0].name.as_str(), next.items.len()), ("s3", 2));
    assert_eq!(next.next, None);
    broker.put_topic(&ana, "other", TopicChange::default()).await.unwrap();
    let foreign = broker.list_subscriptions(&ana, "other", cursor, 3).await.unwrap_err();
    assert_eq!(fault(&foreign), "query.cursor");
}

#[tokio::test]
async fn some_settings_change_and_others_are_fixed() {
    let (broker, _, _, eva) = scene().await;
    let made = put(&broker, &eva, "a", &pattern("a.*")).await;
    let update = async |change, etag: Option<&str>| {
        broker.update_subscription(&eva, "news", "a", &change, etag).await
    };
    let change = SubscriptionChange { lease_seconds: Some(60), ..dead("evas") };
    let changed = update(change.clone(), Some(&etag(&made))).await.unwrap();
    assert_eq!(changed.value.config.lease_seconds, 60);
    assert_eq!(changed.value.config.dead_letter.as_deref(), Some("evas"));
    assert_eq!(update(dead(""), Some(&etag(&made))).await, Err(Refusal::PreconditionFailed));
    // What is fixed may be given as it is.
    let same = SubscriptionChange { start: Some(Start::New), ..pattern("a.*") };
    assert_eq!(update(same, None).await.unwrap().record, changed.record);
    let earliest = SubscriptionChange { start: Some(Start::Earliest), ..none() };
    for (fixed, field) in
        [(pattern("b"), "filter"), (earliest, "start"), (into("evas"), "deliver_to")]
    {
        let Err(Refusal::Invalid(faults)) = update(fixed, None).await else { panic!("{field}") };
        assert_eq!((faults[0].field.as_str(), faults[0].code), (field, "immutable"));
    }
    assert_eq!(fault(&update(dead("nowhere"), None).await.unwrap_err()), "dead_letter");
    assert_eq!(update(dead(""), None).await.unwrap().value.config.dead_letter, None);
}

#[tokio::test]
async fn a_creator_who_loses_a_right_has_it_suspended() {
    let (broker, root, ana, eva) = scene().await;
    broker.put_queue(&ana, "anas", QueueChange::default()).await.unwrap();
    broker.put_grant(&ana, "anas", "eva", [Right::Send]).await.unwrap();
    let made = put(&broker, &eva, "a", &into("anas")).await;
    let why = || broker.suspension_in("news", made.subscription().unwrap());
    assert_eq!(why(), None);
    broker.delete_grant(&ana, "anas", "eva").await.unwrap();
    assert!(why().unwrap().contains("`send`"));
    broker.put_grant(&ana, "anas", "eva", [Right::Send]).await.unwrap();
    broker.delete_topic_grant(&ana, "news", "*").await.unwrap();
    assert!(why().unwrap().contains("`subscribe`"));
    broker.put_topic_grant(&ana, "news", "*", [Right::Subscribe]).await.unwrap();
    assert_eq!(why(), None);
    let disable = crate::broker::UserPatch { disabled: Some(true), ..Default::default() };
    broker.update_user(&root, "eva", disable, None).await.unwrap();
    assert!(why().unwrap().contains("`subscribe`"));
}

#[tokio::test]
async fn a_topic_has_at_most_1000_subscriptions() {
    let (broker, _, _, eva) = scene().await;
    let made = put(&broker, &eva, "s", &none()).await;
    for n in 1..SUBSCRIPTIONS_PER_TOPIC_MAX {
        let subscription = made.subscription().unwrap().clone();
        let next = draft(Generation::random(&*broker.rng), State::Live, subscription);
        broker.registers.change(key(&format!("x{n}")), 0, next).await.unwrap();
    }
    let limit = SUBSCRIPTIONS_PER_TOPIC_MAX;
    let refused = broker.put_subscription(&eva, "news", "more", &none()).await;
    assert_eq!(refused, Err(Refusal::Quota { what: "subscriptions of one topic", limit }));
    broker.put_subscription(&eva, "news", "s", &none()).await.unwrap();
    broker.delete_subscription(&eva, "news", "s", None).await.unwrap();
    put(&broker, &eva, "more", &none()).await;
}

#[tokio::test]
async fn whoever_meets_a_starting_subscription_completes_it() {
    let (broker, _, ana, eva) = scene().await;
    put(&broker, &eva, "a", &none()).await;
    let phase = || broker.catalog.get(&key("a")).unwrap().subscription().unwrap().phase;
    for reader in 0..4 {
        leave(&broker, "a", State::Live, Phase::Starting).await;
        assert_eq!(broker.catalog.starting().len(), 1);
        match reader {
            0 => drop(broker.get_subscription(&ana, "news", "a").await.unwrap()),
            1 => drop(broker.put_subscription(&eva, "news", "a", &none()).await.unwrap()),
            2 => {
                drop(broker.update_subscription(&eva, "news", "a", &none(), None).await.unwrap());
            }
            _ => broker.finish_deletions().await,
        }
        assert_eq!(phase(), Phase::Active, "reader {reader}");
        assert!(broker.catalog.starting().is_empty());
    }
}

#[tokio::test]
async fn the_worker_completes_a_subscriptions_deletion() {
    let (broker, _, _, eva) = scene().await;
    for phase in [Phase::Starting, Phase::Active] {
        put(&broker, &eva, "a", &none()).await;
        leave(&broker, "a", State::Sealed, phase).await;
        let gone = broker.get_subscription(&eva, "news", "a").await;
        assert_eq!(gone, Err(Refusal::SubscriptionNotFound));
        let refused = broker.put_subscription(&eva, "news", "a", &none()).await;
        assert_eq!(refused, Err(Refusal::NameTaken { what: "subscription" }));
        broker.finish_deletions().await;
        assert_eq!(state(&broker, "a"), State::Free);
    }
}

#[tokio::test]
async fn a_queue_takes_along_what_delivers_into_it() {
    let (broker, _, _, eva) = scene().await;
    let queue_key = RecordKey::new(Kind::Queue, "evas");
    // How far a deletion came before the crash, and whether somebody deletes or the worker mends.
    for step in 0..3 {
        put(&broker, &eva, "link", &into("evas")).await;
        put(&broker, &eva, "other", &none()).await;
        match step {
            0 => {
                broker.delete_queue(&eva, "evas", Messages::Discard, None).await.unwrap();
                // At once, without the worker.
                assert_eq!(state(&broker, "link"), State::Free);
            }
            1 => abandon(&broker, &queue_key, State::Sealed).await,
            // Written by somebody who had read the queue just before.
            _ => abandon(&broker, &queue_key, State::Free).await,
        }
        broker.finish_deletions().await;
        assert_eq!(broker.catalog.get(&queue_key).unwrap().state, State::Free);
        assert_eq!(state(&broker, "link"), State::Free, "step {step}");
        assert_eq!(state(&broker, "other"), State::Live);
        broker.delete_subscription(&eva, "news", "other", None).await.unwrap();
        broker.put_queue(&eva, "evas", QueueChange::default()).await.unwrap();
    }
}

#[tokio::test]
async fn f17_a_topic_made_again_starts_with_no_subscriptions() {
    let (broker, _, ana, eva) = scene().await;
    let topic_key = RecordKey::new(Kind::Topic, "news");
    let old = put(&broker, &eva, "a", &none()).await;
    put(&broker, &eva, "b", &none()).await;
    // A subscription was written by somebody who had read the topic just before it went.
    abandon(&broker, &topic_key, State::Free).await;
    let (_, again) = broker.put_topic(&ana, "news", TopicChange::default()).await.unwrap();
    broker.put_topic_grant(&ana, "news", "*", [Right::Subscribe]).await.unwrap();
    assert_eq!(names(&broker, &ana).await, "");
    assert_eq!(broker.count_subscriptions(&again.record), 0);
    let gone = broker.get_subscription(&eva, "news", "a").await;
    assert_eq!(gone, Err(Refusal::SubscriptionNotFound));
    // The name is free for a new one, which no clearing away of the old one touches.
    let new = put(&broker, &eva, "a", &none()).await;
    assert_ne!(new.generation, old.generation);
    broker.end_subscription(&key("a"), &old).await.unwrap();
    broker.finish_deletions().await;
    assert_eq!((state(&broker, "a"), state(&broker, "b")), (State::Live, State::Free));
    assert_eq!(names(&broker, &ana).await, "a");
}

#[tokio::test]
async fn what_a_user_made_goes_with_the_user() {
    let (broker, root, ana, eva) = scene().await;
    put(&broker, &eva, "a", &none()).await;
    broker.delete_user(&eva, "me", Owned::Delete, None).await.unwrap();
    assert_eq!(state(&broker, "a"), State::Free);
    // A crash came between the user's record and the subscription's.
    let leo = user(&broker, "leo").await;
    put(&broker, &leo, "b", &none()).await;
    broker.free(&RecordKey::new(Kind::User, "leo")).await.unwrap();
    assert_eq!(names(&broker, &ana).await, "b");
    broker.finish_deletions().await;
    assert_eq!((state(&broker, "b"), names(&broker, &root).await.as_str()), (State::Free, ""));
    let refused = broker.put_subscription(&leo, "news", "c", &none()).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn a_topic_and_its_subscriptions_may_go_at_once() {
    let (broker, _, ana, eva) = scene().await;
    put(&broker, &eva, "a", &none()).await;
    let link = into("evas");
    let (deleted, put, unsubscribed) = tokio::join!(
        broker.delete_topic(&ana, "news", false, None),
        broker.put_subscription(&eva, "news", "b", &link),
        broker.delete_subscription(&eva, "news", "a", None),
    );
    deleted.unwrap();
    assert!(unsubscribed.is_ok() || unsubscribed == Err(Refusal::TopicNotFound));
    // Between the seal of the data and the end of the name a repeat finds out.
    assert!(
        matches!(put, Ok(_) | Err(Refusal::TopicNotFound | Refusal::Overloaded { .. })),
        "{put:?}"
    );
    broker.finish_deletions().await;
    assert!(broker.catalog.subscriptions_by(eva.user).is_empty());
}
