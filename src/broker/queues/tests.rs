#![allow(clippy::unwrap_used)]
use super::*;
use crate::broker::etag;
use crate::broker::testing::*;
use futures_util::future::join_all;
use std::collections::BTreeSet;

fn lease(seconds: i32) -> QueueChange {
    QueueChange { lease_seconds: Some(seconds), ..QueueChange::default() }
}

fn bytes(bytes: i32) -> QueueChange {
    QueueChange { max_message_bytes: Some(bytes), ..QueueChange::default() }
}

fn replicas(count: i32) -> QueueChange {
    QueueChange { replicas: Some(count), ..QueueChange::default() }
}

async fn scene() -> (Arc<Broker>, Caller, Caller, Caller) {
    let broker = broker();
    let root = user(&broker, "root").await;
    let ana = user(&broker, "ana").await;
    let eva = user(&broker, "eva").await;
    (broker, root, ana, eva)
}

async fn grant(broker: &Broker, by: &Caller, queue: &str, to: &str, right: Right) {
    broker.put_grant(by, queue, to, BTreeSet::from([right])).await.unwrap();
}

/// Puts the queue's record into another state, as deletions do.
async fn put_state(broker: &Broker, queue: &str, state: State, draining: bool) {
    let key = queue_key(&QueueName::parse(queue).unwrap());
    let latest = broker.catalog.get(&key).unwrap();
    let ending = if draining { Ending::Drain } else { Ending::No };
    let queue = Queue { ending, ..latest.queue().unwrap().clone() };
    let value = if state == State::Free { Value::Nothing } else { Value::Queue(queue) };
    let next = Draft { generation: latest.generation, state, value };
    broker.registers.change(key, latest.version, next).await.unwrap();
}

#[tokio::test]
async fn a_queue_is_made_with_defaults_and_then_matches() {
    let (broker, root, ana, _) = scene().await;
    let (created, made) = broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    assert!(created);
    assert_eq!(made.value.config, DEFAULTS);
    assert_eq!((made.value.owner, made.name.as_str()), (ana.user, "q"));
    assert!(broker.keys.unwrap(made.record.generation, &made.value.data_key).is_some());
    for given in [QueueChange::default(), lease(30), replicas(3), bytes(1 << 20)] {
        for by in [&ana, &root] {
            let (created, entry) = broker.put_queue(by, "q", given.clone()).await.unwrap();
            assert_eq!((created, entry), (false, made.clone()));
        }
    }
    let given = QueueChange { lease_seconds: Some(31), replicas: Some(2), ..bytes(1 << 20) };
    let Err(Refusal::ConfigDiffers(differences)) = broker.put_queue(&ana, "q", given.clone()).await
    else {
        panic!()
    };
    let told: Vec<_> = differences.iter().map(|it| (it.field, &*it.wanted, &*it.actual)).collect();
    assert_eq!(told, [("lease_seconds", "31", "30"), ("replicas", "2", "3")]);
}

#[tokio::test]
async fn settings_have_bounds() {
    let (broker, _, ana, _) = scene().await;
    broker.put_queue(&ana, "there", QueueChange::default()).await.unwrap();
    for (given, field) in [
        (lease(0), "lease_seconds"),
        (lease(43_201), "lease_seconds"),
        (bytes(0), "max_message_bytes"),
        (bytes(16_777_217), "max_message_bytes"),
        (replicas(0), "replicas"),
        (replicas(8), "replicas"),
    ] {
        assert_eq!(fault(&broker.put_queue(&ana, "q", given.clone()).await.unwrap_err()), field);
        let refused = broker.update_queue(&ana, "there", given, None).await.unwrap_err();
        assert_eq!(fault(&refused), field);
    }
    let refused = broker.put_queue(&ana, "no/name", QueueChange::default()).await.unwrap_err();
    assert_eq!(fault(&refused), "path.queue");
}

#[tokio::test]
async fn a_name_belongs_to_one_also_at_once() {
    let (broker, _, ana, eva) = scene().await;
    let puts = [&ana, &eva, &ana, &eva, &ana];
    let puts = puts.map(|by| broker.put_queue(by, "q", QueueChange::default()));
    let answers = join_all(puts).await;
    assert_eq!(answers.iter().filter(|it| matches!(it, Ok((true, _)))).count(), 1);
    let owner = broker.queue_named("q").unwrap().1.queue().unwrap().owner;
    let taken = Refusal::NameTaken { what: "queue" };
    for (answer, by) in answers.iter().zip([&ana, &eva, &ana, &eva, &ana]) {
        match answer {
            Ok(_) => assert_eq!(by.user, owner),
            Err(refused) => assert!(*refused == taken && by.user != owner),
        }
    }
}

#[tokio::test]
async fn a_queue_of_others_is_taken_unless_one_manages_it() {
    let (broker, _, ana, eva) = scene().await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    let put = |given| broker.put_queue(&eva, "q", given);
    let taken = Refusal::NameTaken { what: "queue" };
    assert_eq!(put(QueueChange::default()).await, Err(taken.clone()));
    grant(&broker, &ana, "q", "eva", Right::Receive).await;
    // No field of it is told.
    assert_eq!(put(lease(7)).await, Err(taken));
    grant(&broker, &ana, "q", "eva", Right::Manage).await;
    assert!(!put(QueueChange::default()).await.unwrap().0);
    assert!(matches!(put(lease(7)).await, Err(Refusal::ConfigDiffers(_))));
}

#[tokio::test]
async fn a_queue_on_its_way_out_keeps_its_name_until_it_is_free() {
    let (broker, root, ana, eva) = scene().await;
    let (_, first) = broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    let put = |by| broker.put_queue(by, "q", QueueChange::default());
    let taken = Refusal::NameTaken { what: "queue" };
    put_state(&broker, "q", State::Live, true).await;
    assert_eq!(put(&ana).await, Err(Refusal::Draining));
    assert_eq!(put(&eva).await, Err(taken.clone()));
    put_state(&broker, "q", State::Sealed, true).await;
    for by in [&ana, &eva, &root] {
        assert_eq!(put(by).await, Err(taken.clone()));
        assert_eq!(broker.get_queue(by, "q").await, Err(Refusal::QueueNotFound));
    }
    let key = queue_key(&QueueName::parse("q").unwrap());
    assert!(broker.free(&key).await.unwrap());
    let (created, second) = put(&eva).await.unwrap();
    assert!(created);
    assert_ne!(second.record.generation, first.record.generation);
    assert!(second.record.version > first.record.version);
    assert_ne!(etag(&second.record), etag(&first.record));
}

#[tokio::test]
async fn any_right_lets_see_and_none_does_not() {
    let (broker, root, ana, eva) = scene().await;
    broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    assert!(broker.get_queue(&root, "q").await.is_ok());
    let refused = broker.get_queue(&eva, "q").await;
    assert!(matches!(refused, Err(Refusal::Forbidden { .. })));
    for right in <Queue as crate::broker::objects::Object>::RIGHTS.iter().copied() {
        grant(&broker, &ana, "q", "eva", right).await;
        assert_eq!(broker.get_queue(&eva, "q").await.unwrap().name, "q");
    }
    assert_eq!(broker.get_queue(&eva, "x").await, Err(Refusal::QueueNotFound));
    assert_eq!(fault(&broker.get_queue(&eva, "no/name").await.unwrap_err()), "path.queue");
}

#[tokio::test]
async fn settings_change_by_who_manages_and_replicas_do_not() {
    let (broker, _, ana, eva) = scene().await;
    let (_, made) = broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    let update = |by, change| broker.update_queue(by, "q", change, None);
    let forbidden = Err(Refusal::Forbidden { needs: "manage" });
    assert_eq!(update(&eva, lease(60)).await, forbidden);
    grant(&broker, &ana, "q", "eva", Right::Manage).await;
    let changed = update(&eva, lease(60)).await.unwrap().value;
    assert_eq!((changed.config.lease_seconds, changed.owner), (60, ana.user));
    assert_eq!(changed.config.max_message_bytes, made.value.config.max_message_bytes);
    let refused = update(&ana, replicas(1)).await;
    assert!(matches!(&refused, Err(Refusal::Invalid(it))
        if it[0].field == "replicas" && it[0].code == "immutable"));
    let before = broker.get_queue(&ana, "q").await.unwrap();
    assert_eq!(update(&ana, replicas(3)).await.unwrap(), before);
    let missing = broker.update_queue(&ana, "x", lease(60), None).await;
    assert_eq!(missing, Err(Refusal::QueueNotFound));
}

#[tokio::test]
async fn without_if_match_the_last_writer_wins_per_field() {
    let (broker, _, ana, _) = scene().await;
    let (_, made) = broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
    let changes = [lease(60), bytes(2_000)].map(|it| broker.update_queue(&ana, "q", it, None));
    for answer in join_all(changes).await {
        answer.unwrap();
    }
    let config = broker.get_queue(&ana, "q").await.unwrap().value.config;
    assert_eq!((config.lease_seconds, config.max_message_bytes), (60, 2_000));
    let old = etag(&made.record);
    let failed = broker.update_queue(&ana, "q", lease(5), Some(&old)).await;
    assert_eq!(failed, Err(Refusal::PreconditionFailed));
    let now = etag(&broker.get_queue(&ana, "q").await.unwrap().record);
    let both = [5, 6].map(|n| broker.update_queue(&ana, "q", lease(n), Some(&now)));
    let answers = join_all(both).await;
    assert_eq!(answers.iter().filter(|it| it.is_ok()).count(), 1);
    assert!(answers.contains(&Err(Refusal::PreconditionFailed)));
}

#[tokio::test]
async fn lists_show_what_the_caller_may_see() {
    let (broker, root, ana, eva) = scene().await;
    for (by, queue) in [(&ana, "a1"), (&ana, "a2"), (&eva, "b1"), (&root, "c1"), (&ana, "a3")] {
        broker.put_queue(by, queue, QueueChange::default()).await.unwrap();
    }
    grant(&broker, &root, "c1", "*", Right::Send).await;
    grant(&broker, &ana, "a2", "eva", Right::Receive).await;
    let list = async |by: &Caller, owner: Option<&str>, prefix: &str| {
        let page = broker.list_queues(by, owner, prefix, None, 100).await.unwrap();
        page.items.into_iter().map(|entry| entry.name).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list(&root, None, "").await, "a1 a2 a3 b1 c1");
    assert_eq!(list(&ana, None, "").await, "a1 a2 a3 c1");
    assert_eq!(list(&eva, None, "").await, "a2 b1 c1");
    assert_eq!(list(&eva, None, "a").await, "a2");
    assert_eq!(list(&eva, Some("me"), "").await, "b1");
    assert_eq!(list(&eva, Some("ana"), "").await, "a2");
    assert_eq!(list(&eva, Some("nobody"), "").await, "");
    assert_eq!(list(&root, Some("ana"), "a3").await, "a3");
    let refused = broker.list_queues(&eva, Some("no name"), "", None, 100).await.unwrap_err();
    assert_eq!(fault(&refused), "query.owner");
}

#[tokio::test]
async fn lists_go_on_at_their_cursor_alone() {
    let (broker, root, ana, _) = scene().await;
    for n in 0..7 {
        broker.put_queue(&ana, &format!("q{n}"), QueueChange::default()).await.unwrap();
    }
    for owner in [None, Some("ana"), Some("me")] {
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let page = broker.list_queues(&ana, owner, "q", cursor.as_deref(), 3).await.unwrap();
            seen.extend(page.items.into_iter().map(|entry| entry.name));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, (0..7).map(|n| format!("q{n}")).collect::<Vec<_>>());
    }
    let page = broker.list_queues(&ana, Some("me"), "q", None, 3).await.unwrap();
    let cursor = page.next.as_deref();
    for (by, owner, prefix) in [(&ana, None, "q"), (&ana, Some("me"), ""), (&root, Some("me"), "q")]
    {
        let refused = broker.list_queues(by, owner, prefix, cursor, 3).await.unwrap_err();
        assert_eq!(fault(&refused), "query.cursor");
    }
    // It outlives changes: the queue it stands behind may go.
    broker.free(&queue_key(&QueueName::parse("q2").unwrap())).await.unwrap();
    let next = broker.list_queues(&ana, Some("me"), "q", cursor, 3).await.unwrap();
    assert_eq!(next.items[0].name, "q3");
}

#[tokio::test]
async fn a_user_has_at_most_10000_queues() {
    let (broker, _, ana, eva) = scene().await;
    let given = QueueChange::default();
    let (_, made) = broker.put_queue(&ana, "q", given.clone()).await.unwrap();
    let queues = (1..QUEUES_PER_USER_MAX).map(|n| {
        let generation = Generation::random(&*broker.rng);
        let value = Value::Queue(made.value.clone());
        let next = Draft { generation, state: State::Live, value };
        broker.registers.change(RecordKey::new(Kind::Queue, format!("x{n}")), 0, next)
    });
    for change in queues {
        change.await.unwrap();
    }
    let limit = QUEUES_PER_USER_MAX;
    let refused = broker.put_queue(&ana, "more", given.clone()).await;
    assert_eq!(refused, Err(Refusal::Quota { what: "queues", limit }));
    assert!(broker.put_queue(&ana, "q", given.clone()).await.is_ok());
    broker.put_queue(&eva, "more", given).await.unwrap();
    let to = crate::broker::Owned::Transfer(ana.name.clone());
    let refused = broker.delete_user(&eva, "me", to, None).await;
    assert_eq!(refused, Err(Refusal::Quota { what: "queues", limit }));
}

#[tokio::test]
async fn a_queue_of_an_owner_who_is_gone_is_not_made() {
    let (broker, _, ana, _) = scene().await;
    broker.delete_user(&ana, "me", crate::broker::Owned::Refuse, None).await.unwrap();
    let refused = broker.put_queue(&ana, "q", QueueChange::default()).await;
    assert_eq!(refused, Err(Refusal::Unauthenticated));
    let key = queue_key(&QueueName::parse("q").unwrap());
    assert!(broker.catalog.live(&key).is_none());
}
