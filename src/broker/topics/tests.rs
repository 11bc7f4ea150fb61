#![allow(clippy::unwrap_used)]
use super::*;
use crate::broker::testing::*;
use crate::broker::{Owned, QueueChange, SubscriptionChange, etag};
use crate::protocol::record::RecordKey;
use futures_util::future::join_all;

fn bytes(max_message_bytes: i32) -> TopicChange {
    TopicChange { max_message_bytes: Some(max_message_bytes), ..TopicChange::default() }
}

async fn scene() -> (Arc<Broker>, Caller, Caller, Caller) {
    let broker = broker();
    let root = user(&broker, "root").await;
    let ana = user(&broker, "ana").await;
    let eva = user(&broker, "eva").await;
    (broker, root, ana, eva)
}

fn key(name: &str) -> RecordKey {
    Topic::key(name).unwrap()
}

/// Leaves the topic sealed, as a crash after the first step of its deletion does.
async fn seal(broker: &Broker, name: &str, ending: Ending) {
    let latest = broker.catalog.get(&key(name)).unwrap();
    let topic = latest.topic().unwrap().clone().with_ending(ending);
    let next =
        Draft { generation: latest.generation, state: State::Sealed, value: Value::Topic(topic) };
    broker.registers.change(key(name), latest.version, next).await.unwrap();
}

#[tokio::test]
async fn a_topic_is_made_with_defaults_and_then_matches() {
    let (broker, root, ana, eva) = scene().await;
    let (created, made) = broker.put_topic(&ana, "news", TopicChange::default()).await.unwrap();
    assert!(created);
    assert_eq!(made.value.config, DEFAULTS);
    assert!(broker.keys.unwrap(made.record.generation, &made.value.data_key).is_some());
    for by in [&ana, &root] {
        let again = broker.put_topic(by, "news", bytes(1 << 20)).await.unwrap();
        assert_eq!(again, (false, made.clone()));
    }
    let given = TopicChange { max_bytes: Some(7), replicas: Some(2), ..bytes(5) };
    let Err(Refusal::ConfigDiffers(told)) = broker.put_topic(&ana, "news", given).await else {
        panic!()
    };
    let told: Vec<_> = told.iter().map(|it| (it.field, &*it.wanted, &*it.actual)).collect();
    assert_eq!(
        told,
        [("max_message_bytes", "5", "1048576"), ("replicas", "2", "3"), ("max_bytes", "7", "0")]
    );
    // No field of it is told to others, and a queue may have the same name.
    let taken = Err(Refusal::NameTaken { what: "topic" });
    assert_eq!(broker.put_topic(&eva, "news", bytes(5)).await, taken);
    broker.put_queue(&eva, "news", QueueChange::default()).await.unwrap();
}

#[tokio::test]
async fn a_name_belongs_to_one_also_at_once() {
    let (broker, _, ana, eva) = scene().await;
    let puts = [&ana, &eva, &ana, &eva].map(|by| broker.put_topic(by, "t", TopicChange::default()));
    let answers = join_all(puts).await;
    assert_eq!(answers.iter().filter(|it| matches!(it, Ok((true, _)))).count(), 1);
}

#[tokio::test]
async fn settings_have_bounds() {
    let (broker, _, ana, _) = scene().await;
    let none = TopicChange::default();
    let retention = |n| TopicChange { retention_seconds: Some(n), ..none };
    let dedup = |n| TopicChange { dedup_seconds: Some(n), ..none };
    let max = |n| TopicChange { max_bytes: Some(n), ..none };
    for (given, field) in [
        (bytes(0), "max_message_bytes"),
        (retention(59), "retention_seconds"),
        (retention(315_360_001), "retention_seconds"),
        (dedup(-1), "dedup_seconds"),
        (dedup(604_801), "dedup_seconds"),
        (max(-1), "max_bytes"),
        (max(1 << 53), "max_bytes"),
        (TopicChange { replicas: Some(8), ..none }, "replicas"),
    ] {
        assert_eq!(fault(&broker.put_topic(&ana, "t", given).await.unwrap_err()), field);
    }
    assert_eq!(fault(&broker.put_topic(&ana, "no/name", none).await.unwrap_err()), "path.topic");
}

#[tokio::test]
async fn rights_on_topics_are_denied_unless_given() {
    let (broker, root, ana, eva) = scene().await;
    let (_, made) = broker.put_topic(&ana, "news", TopicChange::default()).await.unwrap();
    let topic = || broker.get_topic(&root, "news");
    for by in [&ana, &root] {
        assert_eq!(broker.rights_on(by, &made.value).len(), 3);
    }
    // Without a grant only the owner publishes.
    assert_eq!(
        broker.require(&eva, &made.value, Right::Publish),
        Err(Refusal::Forbidden { needs: "publish" })
    );
    assert!(matches!(broker.get_topic(&eva, "news").await, Err(Refusal::Forbidden { .. })));
    let rights = [Right::Publish, Right::Subscribe];
    broker.put_topic_grant(&ana, "news", "*", rights).await.unwrap();
    assert_eq!(broker.rights_on(&eva, &topic().await.unwrap().value), rights.into());
    let refused = broker.put_topic_grant(&ana, "news", "eva", [Right::Send]).await.unwrap_err();
    assert_eq!(fault(&refused), "rights[0]");
    let not_owner = Refusal::NotOwner { what: "topic" };
    assert_eq!(broker.list_topic_grants(&eva, "news", None, 10).await, Err(not_owner.clone()));
    assert_eq!(broker.delete_topic(&eva, "news", false, None).await, Err(not_owner));
    broker.delete_topic_grant(&ana, "news", "*").await.unwrap();
    assert!(broker.rights_on(&eva, &topic().await.unwrap().value).is_empty());
    let missing = broker.put_topic_grant(&ana, "x", "eva", [Right::Publish]).await;
    assert_eq!(missing, Err(Refusal::TopicNotFound));
}

#[tokio::test]
async fn a_topic_is_changed_by_who_manages_it_at_the_version_they_saw() {
    let (broker, _, ana, eva) = scene().await;
    let (_, made) = broker.put_topic(&ana, "news", TopicChange::default()).await.unwrap();
    let etag = etag(&made.record);
    let update = |by, change, if_match| broker.update_topic(by, "news", change, if_match);
    let refused = update(&eva, bytes(9), None).await;
    assert_eq!(refused, Err(Refusal::Forbidden { needs: "manage" }));
    let changed = update(&ana, bytes(9), Some(&etag)).await.unwrap();
    assert_eq!(changed.value.config.max_message_bytes, 9);
    assert_eq!(update(&ana, bytes(8), Some(&etag)).await, Err(Refusal::PreconditionFailed));
    let fixed = TopicChange { replicas: Some(2), ..TopicChange::default() };
    assert_eq!(fault(&update(&ana, fixed, None).await.unwrap_err()), "replicas");
    let same = TopicChange { replicas: Some(3), ..bytes(9) };
    assert_eq!(update(&ana, same, None).await.unwrap(), changed);
}

#[tokio::test]
async fn lists_show_what_the_caller_may_see() {
    let (broker, root, ana, eva) = scene().await;
    for (by, topic) in [(&ana, "a1"), (&ana, "a2"), (&eva, "b1")] {
        broker.put_topic(by, topic, TopicChange::default()).await.unwrap();
    }
    broker.put_queue(&ana, "a0", QueueChange::default()).await.unwrap();
    broker.put_topic_grant(&ana, "a2", "eva", [Right::Subscribe]).await.unwrap();
    let list = async |by: &Caller, owner: Option<&str>, prefix: &str| {
        let page = broker.list_topics(by, owner, prefix, None, 100).await.unwrap();
        page.items.into_iter().map(|entry| entry.name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list(&root, None, "").await, "a1 a2 b1");
    assert_eq!(list(&eva, None, "").await, "a2 b1");
    assert_eq!(list(&eva, Some("ana"), "").await, "a2");
    assert_eq!(list(&ana, Some("me"), "a2").await, "a2");
    let page = broker.list_topics(&root, None, "", None, 1).await.unwrap();
    let next = broker.list_topics(&root, None, "", page.next.as_deref(), 1).await.unwrap();
    assert_eq!(next.items[0].name, "a2");
    // A cursor of topics is foreign to queues.
    let foreign = broker.list_queues(&root, None, "", page.next.as_deref(), 1).await;
    assert_eq!(fault(&foreign.unwrap_err()), "query.cursor");
}

#[tokio::test]
async fn f5_a_deletion_is_completed_from_wherever_it_stands() {
    let (broker, _, ana, _) = scene().await;
    let given = SubscriptionChange::default();
    for ending in [Ending::Discard, Ending::IfEmpty] {
        broker.put_topic(&ana, "news", TopicChange::default()).await.unwrap();
        for name in ["a", "b"] {
            broker.put_subscription(&ana, "news", name, &given).await.unwrap();
        }
        seal(&broker, "news", ending).await;
        // Its name is taken, and it is not there.
        let taken = Err(Refusal::NameTaken { what: "topic" });
        assert_eq!(broker.put_topic(&ana, "news", TopicChange::default()).await, taken);
        let refused = broker.put_subscription(&ana, "news", "c", &given).await;
        assert_eq!(refused, Err(Refusal::TopicNotFound));
        // The second crash came after some of its subscriptions were freed.
        broker.free(&RecordKey::subscription("news", "a")).await.unwrap();
        broker.finish_deletions().await;
        assert_eq!(broker.catalog.get(&key("news")).unwrap().state, State::Free);
        for name in ["a", "b"] {
            let record = broker.catalog.get(&RecordKey::subscription("news", name)).unwrap();
            assert_eq!(record.state, State::Free);
        }
        assert!(broker.catalog.sealed().is_empty() && broker.catalog.strays().is_empty());
    }
    broker.put_topic(&ana, "news", TopicChange::default()).await.unwrap();
    broker.put_subscription(&ana, "news", "a", &given).await.unwrap();
    broker.delete_topic(&ana, "news", true, None).await.unwrap();
    assert_eq!(broker.get_topic(&ana, "news").await, Err(Refusal::TopicNotFound));
    let (_, again) = broker.put_topic(&ana, "news", TopicChange::default()).await.unwrap();
    assert_eq!(broker.count_subscriptions(&again.record), 0);
}

#[tokio::test]
async fn topics_of_a_user_who_goes() {
    let (broker, root, ana, eva) = scene().await;
    let given = SubscriptionChange::default();
    broker.put_topic(&ana, "news", TopicChange::default()).await.unwrap();
    broker.put_topic_grant(&ana, "news", "*", [Right::Subscribe]).await.unwrap();
    for (by, name) in [(&ana, "anas"), (&eva, "evas")] {
        broker.put_subscription(by, "news", name, &given).await.unwrap();
    }
    let refused = broker.delete_user(&ana, "me", Owned::Refuse, None).await;
    assert_eq!(refused, Err(Refusal::StillOwns { count: 1 }));
    let to_root = Owned::Transfer(root.name.clone());
    broker.delete_user(&ana, "me", to_root, None).await.unwrap();
    assert_eq!(broker.get_topic(&root, "news").await.unwrap().value.owner, root.user);
    // Her subscription went with her, those of others are as they were.
    let page = broker.list_subscriptions(&root, "news", None, 10).await.unwrap();
    assert_eq!(page.items.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["evas"]);
    // One who only subscribed owns nothing.
    broker.delete_user(&eva, "me", Owned::Refuse, None).await.unwrap();
    assert!(broker.list_subscriptions(&root, "news", None, 10).await.unwrap().items.is_empty());
    let leo = user(&broker, "leo").await;
    broker.put_topic(&leo, "leos", TopicChange::default()).await.unwrap();
    broker.put_subscription(&root, "leos", "roots", &given).await.unwrap();
    broker.delete_user(&leo, "me", Owned::Delete, None).await.unwrap();
    assert_eq!(broker.get_topic(&root, "leos").await, Err(Refusal::TopicNotFound));
    assert!(broker.catalog.subscriptions_by(root.user).is_empty());
}
