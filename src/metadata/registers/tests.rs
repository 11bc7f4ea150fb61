#![allow(clippy::unwrap_used)]
use super::*;
use crate::base::ids::{ApiKeyId, SessionId, UserId};
use crate::base::names::{QueueName, SubscriptionName, TopicName, UserName};
use crate::protocol::record::{
    ApiKey, Ending, Filter, Phase, Queue, Session, Start, Subscription, SubscriptionConfig, Target,
    Topic, TopicConfig, User,
};
use crate::store::Row;
use futures_util::future::join_all;
use futures_util::poll;
use std::collections::BTreeMap;

fn open() -> (Store, Arc<Registers>, Arc<Catalog>) {
    let store = crate::store::scratch();
    let (registers, catalog) = Registers::open(store.clone()).unwrap();
    (store, registers, catalog)
}

fn generation(n: u8) -> Generation {
    Generation([n; 16])
}

fn draft(state: State, value: Value) -> Draft {
    Draft { generation: generation(1), state, value }
}

fn user(id: u8, admin: bool) -> Value {
    Value::User(User {
        id: UserId([id; 16]),
        password: "phc".into(),
        password_version: 1,
        admin,
        disabled: false,
        created_ms: 1,
        updated_ms: 1,
        sessions_epoch: 4,
        spared: None,
    })
}

fn queue(owner: u8, created_ms: u64) -> Value {
    Value::Queue(Queue {
        owner: UserId([owner; 16]),
        config: crate::protocol::record::tests::config(1),
        ending: Ending::No,
        data_key: vec![],
        grants: BTreeMap::new(),
        created_ms,
        updated_ms: created_ms,
    })
}

fn topic(owner: u8) -> Value {
    let config = TopicConfig {
        max_message_bytes: 1,
        replicas: 1,
        retention_seconds: 60,
        dedup_seconds: 0,
        max_bytes: 0,
    };
    Value::Topic(Topic {
        owner: UserId([owner; 16]),
        config,
        ending: Ending::No,
        data_key: vec![],
        grants: BTreeMap::new(),
        created_ms: 1,
        updated_ms: 1,
    })
}

fn subscription(topic: u8, owner: u8, queue: Option<u8>, phase: Phase) -> Value {
    let config = SubscriptionConfig {
        lease_seconds: 30,
        max_failures: 10,
        backoff_min_seconds: 0,
        backoff_max_seconds: 600,
        max_in_flight: 1,
        dead_letter: None,
        paused: false,
    };
    let deliver_to = queue.map(|n| Target { name: "orders".into(), generation: generation(n) });
    Value::Subscription(Subscription {
        topic: generation(topic),
        owner: UserId([owner; 16]),
        config,
        filter: Filter::default(),
        start: Start::New,
        deliver_to,
        phase,
        created_ms: 1,
        updated_ms: 1,
    })
}

fn session(id: u8, owner: u8, created_ms: u64, expires_ms: u64) -> Value {
    Value::Session(Session {
        id: SessionId([id; 16]),
        user: UserId([owner; 16]),
        user_name: "x".into(),
        created_ms,
        expires_ms,
        address: String::new(),
        epoch: 4,
        bound: false,
    })
}

fn api_key(owner: u8, expires_ms: Option<u64>) -> Value {
    Value::ApiKey(ApiKey {
        id: ApiKeyId([9; 16]),
        user: UserId([owner; 16]),
        user_name: "x".into(),
        name: "ci".into(),
        created_ms: 1,
        expires_ms,
        scopes: None,
    })
}

fn key(kind: Kind, name: &str) -> RecordKey {
    RecordKey::new(kind, name)
}

async fn put(registers: &Registers, key: &RecordKey, value: Value) -> Arc<Record> {
    let version = registers.catalog().get(key).map_or(0, |record| record.version);
    registers.change(key.clone(), version, draft(State::Live, value)).await.unwrap()
}

async fn free(registers: &Registers, key: &RecordKey) -> Arc<Record> {
    let record = registers.catalog().get(key).unwrap();
    let next = draft(State::Free, Value::Nothing);
    registers.change(key.clone(), record.version, next).await.unwrap()
}

#[tokio::test]
async fn of_concurrent_changes_of_one_version_one_wins_and_the_others_see_it_durable() {
    let (store, registers, catalog) = open();
    let key = key(Kind::Queue, "orders");
    let change = |n: u64| {
        let (registers, key) = (Arc::clone(&registers), key.clone());
        async move {
            let answer = registers.change(key.clone(), 0, draft(State::Live, queue(1, n))).await;
            // Whatever the answer, the winner is in the catalog by now.
            (answer, registers.catalog().get(&key).unwrap())
        }
    };
    let answers = join_all((0..8).map(change)).await;
    let won: Vec<_> = answers.iter().filter_map(|(answer, _)| answer.as_ref().ok()).collect();
    assert_eq!(won.len(), 1);
    for (answer, seen) in &answers {
        assert_eq!(seen, won[0]);
        if let Err(refused) = answer {
            assert!(matches!(refused, ChangeError::Conflict(Some(it)) if it == won[0]));
        }
    }
    let row = store.get(Table::Records, &rows::row_key(&key)).unwrap().unwrap();
    assert_eq!(rows::decode(Kind::Queue, &row).unwrap(), **won[0]);
    assert_eq!(catalog.get(&key).unwrap().version, 1);
}

#[tokio::test]
async fn a_change_is_not_seen_before_it_is_durable() {
    let (_store, registers, catalog) = open();
    let key = key(Kind::Queue, "orders");
    let mut changed = catalog.changed();
    changed.mark_unchanged();
    let change = registers.change(key.clone(), 0, draft(State::Live, queue(1, 1)));
    tokio::pin!(change);
    assert!(poll!(&mut change).is_pending());
    assert!(catalog.get(&key).is_none());
    assert!(!changed.has_changed().unwrap());
    let record = change.await.unwrap();
    assert_eq!(catalog.get(&key), Some(record));
    assert!(changed.has_changed().unwrap());
}

#[tokio::test]
async fn a_change_whose_caller_has_gone_is_published_by_the_next_one_and_by_the_worker() {
    for by_worker in [false, true] {
        let (_store, registers, catalog) = open();
        let key = key(Kind::Queue, "orders");
        {
            let change = registers.change(key.clone(), 0, draft(State::Live, queue(1, 7)));
            tokio::pin!(change);
            assert!(poll!(&mut change).is_pending());
        }
        if by_worker {
            registers.publish_accepted().await;
        } else {
            let late = registers.change(key.clone(), 0, draft(State::Live, queue(1, 8))).await;
            assert!(matches!(late, Err(ChangeError::Conflict(Some(it))) if it.version == 1));
        }
        assert_eq!(catalog.get(&key).unwrap().value, queue(1, 7));
        assert!(registers.lock().is_empty());
    }
}

#[tokio::test]
async fn a_stale_or_invented_version_is_a_conflict() {
    let (_store, registers, _catalog) = open();
    let key = key(Kind::User, "ana");
    let next = || draft(State::Live, user(1, false));
    let none = registers.change(key.clone(), 1, next()).await;
    assert!(matches!(none, Err(ChangeError::Conflict(None))));
    registers.change(key.clone(), 0, next()).await.unwrap();
    for stale in [0, 2, 7] {
        let refused = registers.change(key.clone(), stale, next()).await;
        assert!(matches!(refused, Err(ChangeError::Conflict(Some(it))) if it.version == 1));
    }
}

#[tokio::test]
async fn f8_versions_run_on_through_free_and_over_a_restart() {
    let (store, registers, _) = open();
    let key = key(Kind::User, "ana");
    put(&registers, &key, user(1, false)).await;
    assert_eq!(free(&registers, &key).await.version, 2);
    let (registers, catalog) = Registers::open(store).unwrap();
    assert!(catalog.live(&key).is_none());
    assert_eq!(catalog.get(&key).unwrap().state, State::Free);
    assert_eq!(put(&registers, &key, user(2, false)).await.version, 3);
}

#[tokio::test]
async fn f28_a_freed_session_leaves_no_row() {
    let (store, registers, catalog) = open();
    let session_key = key(Kind::Session, "hash");
    put(&registers, &key(Kind::User, "ana"), user(1, false)).await;
    put(&registers, &session_key, session(1, 1, 5, 10)).await;
    free(&registers, &session_key).await;
    assert!(catalog.get(&session_key).is_none());
    assert!(catalog.sessions_of(UserId([1; 16])).is_empty());
    assert!(catalog.session_by_id(SessionId([1; 16])).is_none());
    assert!(catalog.sweep(u64::MAX).is_empty());
    assert!(store.get(Table::Records, &rows::row_key(&session_key)).unwrap().is_none());
    let again = draft(State::Free, Value::Nothing);
    let again = registers.change(session_key, 1, again).await;
    assert!(matches!(again, Err(ChangeError::Conflict(None))));
}

#[tokio::test]
async fn the_catalog_is_rebuilt_as_it_was() {
    let (store, registers, before) = open();
    put(&registers, &key(Kind::User, "ana"), user(1, true)).await;
    put(&registers, &key(Kind::User, "eva"), user(2, false)).await;
    put(&registers, &key(Kind::Queue, "orders"), queue(1, 1)).await;
    put(&registers, &key(Kind::Session, "s"), session(1, 1, 5, 10)).await;
    put(&registers, &key(Kind::ApiKey, "k"), api_key(1, None)).await;
    let sealed = key(Kind::Queue, "old");
    for (version, state) in [(0, State::Live), (1, State::Sealed)] {
        let next = Draft { generation: generation(2), state, value: queue(1, 1) };
        registers.change(sealed.clone(), version, next).await.unwrap();
    }
    let (_, after) = Registers::open(store).unwrap();
    for catalog in [&*before, &*after] {
        let ana = UserId([1; 16]);
        assert_eq!((catalog.count_users(), catalog.count_admins()), (2, 1));
        assert_eq!(catalog.user_by_id(ana).unwrap().0.as_str(), "ana");
        assert!(catalog.user(&UserName::parse("eva").unwrap()).is_some());
        assert_eq!(catalog.sessions_of(ana).len(), 1);
        assert_eq!(catalog.api_keys_of(ana).len(), 1);
        let owned: Vec<_> = catalog.queues_of(ana).into_iter().map(|(name, _)| name).collect();
        assert_eq!(owned, [QueueName::parse("orders").unwrap()]);
        assert_eq!(catalog.count_queues_of(ana), 1);
        assert_eq!(
            catalog.stream_by_generation(generation(1)).unwrap().0,
            key(Kind::Queue, "orders")
        );
        // Its data has an owner until the name is free.
        assert_eq!(catalog.stream_by_generation(generation(2)).unwrap().0, sealed);
        assert!(catalog.queue(&QueueName::parse("old").unwrap()).is_none());
        assert_eq!(catalog.sealed().len(), 1);
        assert_eq!(catalog.sealed()[0].0, sealed);
        assert_eq!(catalog.sweep(10), [key(Kind::Session, "s")]);
        assert!(catalog.sweep(9).is_empty());
    }
}

#[tokio::test]
async fn a_damaged_row_is_an_error_and_not_absent() {
    let (store, registers, _) = open();
    put(&registers, &key(Kind::Queue, "orders"), queue(1, 1)).await;
    let op = RowOp::Put {
        table: Table::Records,
        key: rows::row_key(&key(Kind::User, "ana")),
        tag: rows::FORMAT,
        bytes: vec![1, 2, 3],
    };
    let admission = store.admit(WriteClass::Growth, 10).unwrap();
    store.submit(admission, vec![op]).await.unwrap();
    let refused = Registers::open(store).err().unwrap();
    assert!(matches!(refused, OpenError::Corrupt { kind: Kind::User }));
    assert!(refused.to_string().contains("User"));
}

#[tokio::test]
async fn a_page_takes_live_records_of_its_kind_and_prefix_in_the_order_of_names() {
    let (_store, registers, catalog) = open();
    for n in 0..600u32 {
        put(&registers, &key(Kind::Queue, &format!("a{n:03}")), queue(1, u64::from(n))).await;
    }
    put(&registers, &key(Kind::Queue, "b"), queue(1, 0)).await;
    put(&registers, &key(Kind::User, "a0"), user(1, false)).await;
    free(&registers, &key(Kind::Queue, "a001")).await;
    let names = |prefix: &str,
                 after: Option<&str>,
                 limit,
                 keep: &dyn Fn(&RecordKey, &Record) -> bool| {
        let after = after.map(str::as_bytes);
        let page = catalog.page(Kind::Queue, prefix.as_bytes(), after, limit, keep);
        page.into_iter().map(|(key, _)| String::from_utf8(key.name).unwrap()).collect::<Vec<_>>()
    };
    let all = |_: &RecordKey, _: &Record| true;
    assert_eq!(names("a", None, 3, &all), ["a000", "a002", "a003"]);
    assert_eq!(names("a", Some("a598"), 3, &all), ["a599"]);
    assert_eq!(names("", Some("a599"), 3, &all), ["b"]);
    assert_eq!(names("b", Some("a"), 3, &all), ["b"]);
    assert!(names("a", Some("b"), 3, &all).is_empty());
    assert!(names("c", None, 3, &all).is_empty());
    assert_eq!(names("", None, 1_000, &all).len(), 600);
    // It goes on through more than one stride, and may ask the catalog meanwhile.
    let late =
        |key: &RecordKey, _: &Record| catalog.live(key).is_some() && key.name >= b"a550".to_vec();
    assert_eq!(names("a", None, 2, &late), ["a550", "a551"]);
}

#[tokio::test]
async fn credentials_of_a_user_that_is_gone_are_swept() {
    let (_store, registers, catalog) = open();
    let (ana, s, k) = (key(Kind::User, "ana"), key(Kind::Session, "s"), key(Kind::ApiKey, "k"));
    put(&registers, &ana, user(1, false)).await;
    put(&registers, &s, session(1, 1, 5, 1_000)).await;
    put(&registers, &k, api_key(1, None)).await;
    put(&registers, &ana, user(1, true)).await;
    assert!(catalog.sweep(10).is_empty());
    free(&registers, &ana).await;
    assert_eq!(catalog.sweep(10), [s.clone(), k]);
    // One that began after its user was gone.
    put(&registers, &key(Kind::Session, "t"), session(2, 1, 5, 1_000)).await;
    assert_eq!(catalog.sweep(10).len(), 3);
    free(&registers, &s).await;
    assert_eq!(catalog.sweep(10).len(), 2);
}

#[tokio::test]
async fn f8_a_clash_keeps_the_first_and_older_versions_change_nothing() {
    let (_store, registers, catalog) = open();
    let key = key(Kind::User, "ana");
    put(&registers, &key, user(1, false)).await;
    let held = put(&registers, &key, user(1, true)).await;
    let record = |version, value| {
        Arc::new(Record { generation: generation(1), version, state: State::Live, value })
    };
    catalog.publish(&key, record(1, user(1, false)));
    catalog.publish(&key, record(2, user(2, false)));
    assert_eq!(catalog.get(&key), Some(held));
    catalog.publish(&key, record(9, user(1, false)));
    assert_eq!(catalog.get(&key).unwrap().version, 9);
    assert_eq!(catalog.count_admins(), 0);
}

#[test]
fn r9_what_ends_something_may_use_the_reserve() {
    let record = |state, value| Record { generation: generation(1), version: 1, state, value };
    let live = |value| record(State::Live, value);
    let class = |next: &Record| class_of(None, next);
    assert_eq!(class(&live(user(1, true))), WriteClass::Growth);
    assert_eq!(class(&live(session(1, 1, 1, 1))), WriteClass::Growth);
    assert_eq!(class(&live(queue(1, 1))), WriteClass::Growth);
    assert_eq!(class(&record(State::Free, Value::Nothing)), WriteClass::Reserve);
    assert_eq!(class(&record(State::Sealed, queue(1, 1))), WriteClass::Reserve);
    let Value::User(mut disabled) = user(1, true) else { unreachable!() };
    disabled.disabled = true;
    assert_eq!(class(&live(Value::User(disabled))), WriteClass::Reserve);
    let Value::Queue(mut draining) = queue(1, 1) else { unreachable!() };
    draining.ending = Ending::Drain;
    assert_eq!(class(&live(Value::Queue(draining))), WriteClass::Reserve);
    let Value::Queue(mut granted) = queue(1, 1) else { unreachable!() };
    let grant = crate::protocol::record::Grant {
        rights: Default::default(),
        granted_by: String::new(),
        granted_ms: 0,
        grantee_name: String::new(),
    };
    granted.grants.insert(crate::protocol::record::Grantee::Everyone, grant);
    let granted = live(Value::Queue(granted));
    assert_eq!(class_of(Some(&granted), &live(queue(1, 1))), WriteClass::Reserve);
    assert_eq!(class_of(Some(&granted), &granted), WriteClass::Growth);
    let row = Row { tag: rows::FORMAT, bytes: rows::encode(&granted).into() };
    assert_eq!(rows::decode(Kind::Queue, &row).unwrap(), granted);
}

/// The next version of a record, of a creation of its own.
async fn step(registers: &Registers, key: &RecordKey, n: u8, state: State, value: Value) {
    let version = registers.catalog().get(key).map_or(0, |record| record.version);
    let next = Draft { generation: generation(n), state, value };
    registers.change(key.clone(), version, next).await.unwrap();
}

fn names(records: &[(RecordKey, Arc<Record>)]) -> Vec<&str> {
    records.iter().map(|(key, _)| std::str::from_utf8(&key.name).unwrap()).collect()
}

#[tokio::test]
async fn subscriptions_are_found_by_what_they_name() {
    let (store, registers, before) = open();
    let live = State::Live;
    let sub = |name| RecordKey::subscription("news", name);
    step(&registers, &key(Kind::User, "ana"), 1, live, user(1, false)).await;
    step(&registers, &key(Kind::Topic, "news"), 2, live, topic(1)).await;
    step(&registers, &key(Kind::Queue, "orders"), 3, live, queue(1, 1)).await;
    step(&registers, &sub("a"), 4, live, subscription(2, 1, None, Phase::Active)).await;
    step(&registers, &sub("b"), 5, live, subscription(2, 1, Some(3), Phase::Starting)).await;
    step(&registers, &sub("c"), 6, State::Sealed, subscription(2, 1, Some(3), Phase::Active)).await;
    step(&registers, &sub("old"), 7, live, subscription(9, 1, None, Phase::Active)).await;
    let (_, after) = Registers::open(store).unwrap();
    for catalog in [&*before, &*after] {
        let (ana, news) = (UserId([1; 16]), TopicName::parse("news").unwrap());
        let found = |name| catalog.subscription(&news, &SubscriptionName::parse(name).unwrap());
        assert_eq!(catalog.topics_of(ana)[0].0, news);
        assert_eq!((catalog.count_topics_of(ana), catalog.count_queues_of(ana)), (1, 1));
        assert_eq!(
            catalog.stream_by_generation(generation(2)).unwrap().0,
            key(Kind::Topic, "news")
        );
        assert!(found("a").is_some() && found("b").is_some());
        // One is being deleted, the other is of an earlier creation of the topic.
        assert!(found("c").is_none() && found("old").is_none());
        let of_topic = catalog.subscriptions_of(generation(2));
        assert_eq!(names(&of_topic), ["news/a", "news/b", "news/c"]);
        assert_eq!(catalog.count_subscriptions_of(generation(2)), 3);
        assert_eq!(names(&catalog.links_into(generation(3))), ["news/b", "news/c"]);
        assert_eq!(catalog.subscriptions_by(ana).len(), 4);
        assert_eq!(names(&catalog.starting()), ["news/b"]);
        assert_eq!(names(&catalog.sealed()), ["news/c"]);
        assert_eq!(names(&catalog.strays()), ["news/old"]);
    }
    step(&registers, &sub("b"), 5, live, subscription(2, 1, Some(3), Phase::Active)).await;
    step(&registers, &sub("c"), 6, State::Free, Value::Nothing).await;
    assert!(before.starting().is_empty());
    assert_eq!(names(&before.links_into(generation(3))), ["news/b"]);
    assert_eq!(before.count_subscriptions_of(generation(2)), 2);
}

#[tokio::test]
async fn a_subscription_strays_when_what_it_names_is_gone_in_whatever_order() {
    let (_store, registers, catalog) = open();
    let live = State::Live;
    let (user_key, topic_key) = (key(Kind::User, "ana"), key(Kind::Topic, "news"));
    let queue_key = key(Kind::Queue, "orders");
    let sub = RecordKey::subscription("news", "a");
    let strays = || catalog.strays().len();
    step(&registers, &sub, 4, live, subscription(2, 1, Some(3), Phase::Active)).await;
    assert_eq!(strays(), 1);
    step(&registers, &user_key, 1, live, user(1, false)).await;
    step(&registers, &topic_key, 2, live, topic(1)).await;
    assert_eq!(strays(), 1);
    step(&registers, &queue_key, 3, live, queue(1, 1)).await;
    assert_eq!(strays(), 0);
    // While they are being deleted their own deletion takes it along.
    for (key, n, value) in [(&topic_key, 2, topic(1)), (&queue_key, 3, queue(1, 1))] {
        step(&registers, key, n, State::Sealed, value.clone()).await;
        assert_eq!(strays(), 0);
        step(&registers, key, n, State::Free, Value::Nothing).await;
        assert_eq!(strays(), 1);
        // The same name is another thing now.
        step(&registers, key, n + 10, live, value.clone()).await;
        assert_eq!(strays(), 1);
        step(&registers, key, n + 10, State::Free, Value::Nothing).await;
        step(&registers, key, n, live, value).await;
        assert_eq!(strays(), 0);
    }
    step(&registers, &user_key, 1, State::Free, Value::Nothing).await;
    assert_eq!(strays(), 1);
    step(&registers, &sub, 4, State::Sealed, subscription(2, 1, Some(3), Phase::Active)).await;
    assert_eq!(strays(), 0);
}

#[tokio::test]
async fn f8_of_what_others_decided_the_greater_version_stays_durably() {
    let (store, registers, catalog) = open();
    let of = |version, admin| {
        let (generation, state, value) = (generation(1), State::Live, user(1, admin));
        Arc::new(Record { generation, version, state, value })
    };
    let ana = key(Kind::User, "ana");
    registers.learn(ana.clone(), of(5, true)).await.unwrap();
    registers.learn(ana.clone(), of(4, false)).await.unwrap();
    assert_eq!(catalog.get(&ana), Some(of(5, true)));
    let (_, reopened) = Registers::open(store).unwrap();
    assert_eq!(reopened.get(&ana), Some(of(5, true)));
    // A change here goes on from what was learnt.
    let record = registers.change(ana, 5, draft(State::Live, user(1, false))).await.unwrap();
    assert_eq!(record.version, 6);
}
