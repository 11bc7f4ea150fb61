#![allow(clippy::unwrap_used)]
use super::*;
use crate::broker::testing::*;
use crate::broker::{BrokerSettings, QueueChange, etag};
use futures_util::future::join_all;

fn password(new: &str, current: Option<&str>) -> UserPatch {
    UserPatch {
        password: Some(new.into()),
        current_password: current.map(str::to_owned),
        ..UserPatch::default()
    }
}

fn admin(yes: bool) -> UserPatch {
    UserPatch { admin: Some(yes), ..UserPatch::default() }
}

fn disabled(yes: bool) -> UserPatch {
    UserPatch { disabled: Some(yes), ..UserPatch::default() }
}

async fn update(broker: &Broker, by: &Caller, name: &str, patch: UserPatch) -> Answer<Entry<User>> {
    broker.update_user(by, name, patch, None).await
}

const FORBIDDEN: Refusal = Refusal::Forbidden { needs: "admin" };
const LAST: Refusal = Refusal::Forbidden { needs: "another administrator" };

#[tokio::test]
async fn the_first_user_administers_and_the_second_does_not() {
    let broker = broker();
    assert!(user(&broker, "root").await.admin);
    assert!(!user(&broker, "ana").await.admin);
    let first = broker.catalog.get(&RecordKey::new(Kind::FirstAdmin, Vec::new())).unwrap();
    let root = broker.catalog.user(&UserName::parse("root").unwrap()).unwrap();
    assert_eq!(first.value, Value::FirstAdmin(root.user().unwrap().id));
}

#[tokio::test]
async fn of_users_who_come_first_at_once_one_administers() {
    let broker = broker();
    let made = join_all((0..8).map(|n| {
        let broker = &broker;
        async move { user(broker, &format!("u{n}")).await }
    }))
    .await;
    assert_eq!(broker.catalog.count_admins(), 1);
    // Each answer is as of its time; nobody is told to administer who does not.
    assert!(made.iter().filter(|caller| caller.admin).count() <= 1);
}

#[tokio::test]
async fn a_crown_that_a_crash_left_unfinished_is_finished() {
    let broker = broker();
    let name = UserName::parse("ana").unwrap();
    broker.create_user(&name, PASSWORD, false).await.unwrap();
    let ana = broker.catalog.user(&name).unwrap().user().unwrap().id;
    let key = RecordKey::new(Kind::FirstAdmin, Vec::new());
    broker.create(&key, Value::FirstAdmin(ana)).await.unwrap();
    assert!(!user(&broker, "eva").await.admin);
    assert!(broker.catalog.user(&name).unwrap().user().unwrap().admin);
}

#[tokio::test]
async fn the_oldest_user_whom_a_crash_left_uncrowned_is_crowned_by_the_sweep() {
    let (broker, clock) =
        broker_with(BrokerSettings { registration_open: true, admin_configured: false });
    for name in ["zoe", "ana"] {
        broker.create_user(&UserName::parse(name).unwrap(), PASSWORD, false).await.unwrap();
        clock.advance_ms(1);
    }
    assert_eq!(broker.catalog.count_admins(), 0);
    broker.sweep().await.unwrap();
    let zoe = broker.catalog.user(&UserName::parse("zoe").unwrap()).unwrap();
    assert!(zoe.user().unwrap().admin);
    assert_eq!(broker.catalog.count_admins(), 1);
}

#[tokio::test]
async fn with_a_configured_administrator_the_first_user_is_none() {
    let settings = BrokerSettings { registration_open: true, admin_configured: true };
    let (broker, _) = broker_with(settings);
    assert!(!user(&broker, "ana").await.admin);
    let entry = |name: &str| broker.catalog.user(&UserName::parse(name).unwrap()).unwrap();
    // Whoever took the name is not crowned by it.
    let stranger = broker.ensure_admin("ana", "not her password").await;
    assert_eq!(stranger, Err(Refusal::NameTaken { what: "user" }));
    assert!(!entry("ana").user().unwrap().admin);
    for _ in 0..2 {
        broker.ensure_admin("root", PASSWORD).await.unwrap();
        broker.ensure_admin("ana", PASSWORD).await.unwrap();
    }
    assert!(entry("root").user().unwrap().admin && entry("ana").user().unwrap().admin);
    assert_eq!((entry("root").version, entry("ana").version), (1, 2));
    log_in(&broker, "ana").await;
    assert_eq!(fault(&broker.ensure_admin("me", PASSWORD).await.unwrap_err()), "username");
    assert_eq!(fault(&broker.ensure_admin("new", "short").await.unwrap_err()), "password");
}

#[tokio::test]
async fn what_a_user_may_be_called_and_a_password_may_be() {
    let broker = broker();
    let long = "é".repeat(129);
    for (name, password, field) in [
        ("me", PASSWORD, "username"),
        ("", PASSWORD, "username"),
        ("a b", PASSWORD, "username"),
        ("ana", "1234567", "password"),
        ("ana", long.as_str(), "password"),
        ("anaanaana", "anaanaana", "password"),
    ] {
        let refused = broker.register(None, HERE, name, password).await.unwrap_err();
        assert_eq!(fault(&refused), field, "{name} {password}");
    }
    let both = broker.register(None, HERE, "me", "short").await.unwrap_err();
    assert!(matches!(both, Refusal::Invalid(faults) if faults.len() == 2));
    assert_eq!(broker.passwords.hashes(), 0);
    broker.register(None, HERE, "ana", &"é".repeat(128)).await.unwrap();
    broker.register(None, HERE, "eva", "ñandúñan").await.unwrap();
}

#[tokio::test]
async fn a_name_is_taken_once_also_at_once() {
    let broker = broker();
    let tries = (0..6).map(|_| broker.register(None, HERE, "ana", PASSWORD));
    let answers = join_all(tries).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let taken = Refusal::NameTaken { what: "user" };
    assert!(answers.iter().all(|it| it.as_ref().err().is_none_or(|e| *e == taken)));
    let hashes = broker.passwords.hashes();
    assert_eq!(broker.register(None, HERE, "ana", PASSWORD).await, Err(taken));
    assert_eq!(broker.passwords.hashes(), hashes);
}

#[tokio::test]
async fn closed_registration_is_for_administrators() {
    let settings = BrokerSettings { registration_open: false, admin_configured: true };
    let (broker, _) = broker_with(settings);
    broker.ensure_admin("root", PASSWORD).await.unwrap();
    let closed = Err(Refusal::RegistrationClosed);
    assert_eq!(broker.register(None, HERE, "ana", PASSWORD).await, closed);
    assert_eq!(broker.register(None, HERE, "me", "x").await, closed);
    let root = log_in(&broker, "root").await;
    broker.register(Some(&root), HERE, "ana", PASSWORD).await.unwrap();
    let ana = log_in(&broker, "ana").await;
    assert_eq!(broker.register(Some(&ana), HERE, "eva", PASSWORD).await, closed);
}

#[tokio::test]
async fn an_address_registers_100_users_a_minute() {
    let (broker, clock) = broker_and_clock();
    for n in 0..100 {
        user(&broker, &format!("u{n}")).await;
    }
    let refused = broker.register(None, HERE, "more", PASSWORD).await;
    assert_eq!(refused, Err(Refusal::RateLimited { retry_after_seconds: 60 }));
    broker.register(None, THERE, "there", PASSWORD).await.unwrap();
    let root = broker.authenticate_basic("u0", PASSWORD, HERE).await.unwrap();
    broker.register(Some(&root), HERE, "by-admin", PASSWORD).await.unwrap();
    clock.advance_ms(60_000);
    user(&broker, "more").await;
}

#[tokio::test]
async fn others_users_are_forbidden_whether_they_exist_or_not() {
    let broker = broker();
    let root = user(&broker, "root").await;
    let ana = user(&broker, "ana").await;
    for name in ["root", "nobody"] {
        assert_eq!(broker.get_user(&ana, name).await, Err(FORBIDDEN));
        let refused = update(&broker, &ana, name, password("x", None)).await;
        assert_eq!(refused, Err(FORBIDDEN));
        assert_eq!(broker.delete_user(&ana, name, Owned::Refuse, None).await, Err(FORBIDDEN));
    }
    assert_eq!(broker.get_user(&ana, "me").await.unwrap().name, "ana");
    assert_eq!(broker.get_user(&ana, "ana").await.unwrap().name, "ana");
    assert_eq!(broker.get_user(&root, "ana").await.unwrap().name, "ana");
    assert_eq!(broker.get_user(&root, "nobody").await, Err(Refusal::UserNotFound));
    assert_eq!(fault(&broker.get_user(&root, "no name").await.unwrap_err()), "path.username");
    assert_eq!(broker.list_users(&ana, "", None, 10).await, Err(FORBIDDEN));
    for patch in [admin(true), disabled(false), admin(false)] {
        assert_eq!(update(&broker, &ana, "me", patch).await, Err(FORBIDDEN));
    }
}

#[tokio::test]
async fn users_are_listed_by_prefix_and_page() {
    let broker = broker();
    let root = user(&broker, "root").await;
    for name in ["u3", "u1", "u2"] {
        user(&broker, name).await;
    }
    let names = |page: &Page<Entry<User>>| {
        page.items.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>()
    };
    let all = broker.list_users(&root, "", None, 500).await.unwrap();
    assert_eq!(
        (names(&all), &all.next),
        (["root", "u1", "u2", "u3"].map(String::from).into(), &None)
    );
    let first = broker.list_users(&root, "u", None, 2).await.unwrap();
    assert_eq!(names(&first), ["u1", "u2"]);
    user(&broker, "u20").await;
    let next = broker.list_users(&root, "u", first.next.as_deref(), 2).await.unwrap();
    assert_eq!((names(&next), &next.next), (vec!["u20".to_owned(), "u3".to_owned()], &None));
    let foreign = broker.list_users(&root, "", first.next.as_deref(), 2).await.unwrap_err();
    assert_eq!(fault(&foreign), "query.cursor");
    assert_eq!(fault(&broker.list_users(&root, "", None, 0).await.unwrap_err()), "query.limit");
}

#[tokio::test]
async fn the_own_password_needs_the_current_one() {
    let broker = broker();
    user(&broker, "root").await;
    let ana = user(&broker, "ana").await;
    let missing = update(&broker, &ana, "me", password("another one", None)).await.unwrap_err();
    assert_eq!(fault(&missing), "current_password");
    let wrong = password("another one", Some("not my password"));
    let wrong = update(&broker, &ana, "me", wrong).await.unwrap_err();
    assert!(matches!(&wrong, Refusal::Invalid(it)
        if it[0].field == "current_password" && it[0].code == "wrong"));
    let unfit = update(&broker, &ana, "me", password("short", Some(PASSWORD))).await.unwrap_err();
    assert_eq!(fault(&unfit), "password");
    update(&broker, &ana, "me", password("another one", Some(PASSWORD))).await.unwrap();
    assert_eq!(
        broker.authenticate_basic("ana", PASSWORD, HERE).await.err(),
        Some(Refusal::BadCredentials)
    );
    broker.authenticate_basic("ana", "another one", HERE).await.unwrap();
}

#[tokio::test]
async fn wrong_current_passwords_count_as_failed_logins() {
    let broker = broker();
    let ana = user(&broker, "ana").await;
    let guess = || password("another one", Some("a wrong guess"));
    for _ in 0..10 {
        assert!(matches!(update(&broker, &ana, "me", guess()).await, Err(Refusal::Invalid(_))));
    }
    let refused = update(&broker, &ana, "me", guess()).await;
    assert!(matches!(refused, Err(Refusal::RateLimited { .. })));
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions() {
    let broker = broker();
    let root = user(&broker, "root").await;
    user(&broker, "ana").await;
    let (here, other) = (log_in(&broker, "ana").await, log_in(&broker, "ana").await);
    update(&broker, &here, "me", password("another one", Some(PASSWORD))).await.unwrap();
    assert!(broker.is_current(&here));
    assert!(!broker.is_current(&other));
    update(&broker, &root, "ana", password("a third one", None)).await.unwrap();
    assert!(!broker.is_current(&here));
    let ana = broker.catalog.user(&UserName::parse("ana").unwrap()).unwrap();
    assert_eq!(ana.user().unwrap().password_version, 3);
}

#[tokio::test]
async fn disabled_ends_all_sessions_and_enabling_brings_none_back() {
    let broker = broker();
    let root = user(&broker, "root").await;
    user(&broker, "ana").await;
    let session = log_in(&broker, "ana").await;
    update(&broker, &root, "ana", disabled(true)).await.unwrap();
    assert!(broker.catalog.sessions_of(session.user).is_empty());
    let refused = broker.log_in("ana", PASSWORD, 600, HERE).await.err();
    assert_eq!(refused, Some(Refusal::BadCredentials));
    update(&broker, &root, "ana", disabled(false)).await.unwrap();
    assert!(!broker.is_current(&session));
    log_in(&broker, "ana").await;
}

#[tokio::test]
async fn the_last_administrator_stays() {
    let broker = broker();
    let root = user(&broker, "root").await;
    user(&broker, "ana").await;
    for patch in [admin(false), disabled(true)] {
        assert_eq!(update(&broker, &root, "me", patch).await, Err(LAST));
    }
    assert_eq!(broker.delete_user(&root, "root", Owned::Delete, None).await, Err(LAST));
    update(&broker, &root, "ana", admin(true)).await.unwrap();
    update(&broker, &root, "ana", disabled(true)).await.unwrap();
    // A disabled one does not count.
    assert_eq!(update(&broker, &root, "me", admin(false)).await, Err(LAST));
    update(&broker, &root, "ana", disabled(false)).await.unwrap();
    update(&broker, &root, "me", admin(false)).await.unwrap();
    assert_eq!(update(&broker, &root, "ana", admin(true)).await, Err(FORBIDDEN));
}

#[tokio::test]
async fn administrators_who_remove_each_other_at_once_leave_one() {
    for way in 0..3 {
        let broker = broker();
        let root = user(&broker, "root").await;
        let ana = user(&broker, "ana").await;
        update(&broker, &root, "ana", admin(true)).await.unwrap();
        let remove = async |by: &Caller, name: &str| match way {
            0 => update(&broker, by, name, admin(false)).await.is_ok(),
            1 => update(&broker, by, name, disabled(true)).await.is_ok(),
            _ => broker.delete_user(by, name, Owned::Refuse, None).await.is_ok(),
        };
        let removed = tokio::join!(remove(&root, "ana"), remove(&ana, "root"));
        assert_eq!(removed, (true, false));
        assert_eq!(broker.catalog.count_admins(), 1);
    }
}

#[tokio::test]
async fn if_match_guards_users() {
    let broker = broker();
    let root = user(&broker, "root").await;
    user(&broker, "ana").await;
    let old = etag(&broker.get_user(&root, "ana").await.unwrap().record);
    let new = broker.update_user(&root, "ana", admin(true), Some(&old)).await.unwrap();
    assert_ne!(etag(&new.record), old);
    let failed = broker.update_user(&root, "ana", admin(false), Some(&old)).await;
    assert_eq!(failed, Err(Refusal::PreconditionFailed));
    let same = broker.update_user(&root, "ana", admin(true), Some("*")).await.unwrap();
    assert_eq!(same.record.version, new.record.version);
    let failed = broker.delete_user(&root, "ana", Owned::Refuse, Some(&old)).await;
    assert_eq!(failed, Err(Refusal::PreconditionFailed));
    let new = etag(&new.record);
    broker.delete_user(&root, "ana", Owned::Refuse, Some(&new)).await.unwrap();
}

#[tokio::test]
async fn changes_of_different_fields_at_once_all_count() {
    let broker = broker();
    let root = user(&broker, "root").await;
    user(&broker, "ana").await;
    let patches = [admin(true), disabled(true), password("another one", None)];
    for answer in join_all(patches.map(|patch| update(&broker, &root, "ana", patch))).await {
        answer.unwrap();
    }
    let ana = broker.get_user(&root, "ana").await.unwrap().value;
    assert!(ana.admin && ana.disabled && ana.password_version == 2);
}

#[tokio::test]
async fn a_deleted_user_takes_credentials_along_and_inherits_nothing() {
    let broker = broker();
    let root = user(&broker, "root").await;
    let ana = user(&broker, "ana").await;
    let session = log_in(&broker, "ana").await;
    let (token, _) = broker.create_api_key(&ana, "ci", None, None).await.unwrap();
    broker.delete_user(&session, "me", Owned::Refuse, None).await.unwrap();
    assert!(!broker.is_current(&session));
    assert!(broker.authenticate_bearer(token.as_str(), HERE).is_err());
    assert!(broker.catalog.sessions_of(ana.user).is_empty());
    assert!(broker.catalog.api_keys_of(ana.user).is_empty());
    let again = broker.delete_user(&root, "ana", Owned::Refuse, None).await;
    assert_eq!(again, Err(Refusal::UserNotFound));
    assert_eq!(broker.user_name(ana.user), None);
    let new = user(&broker, "ana").await;
    assert_ne!(new.user, ana.user);
    assert_eq!(broker.user_name(new.user).as_deref(), Some("ana"));
    assert!(broker.authenticate_bearer(token.as_str(), HERE).is_err());
}

#[tokio::test]
async fn what_becomes_of_a_deleted_users_queues() {
    let broker = broker();
    let root = user(&broker, "root").await;
    let ana = user(&broker, "ana").await;
    for queue in ["a", "b"] {
        broker.put_queue(&ana, queue, QueueChange::default()).await.unwrap();
    }
    let delete = |owned| broker.delete_user(&root, "ana", owned, None);
    assert_eq!(delete(Owned::Refuse).await, Err(Refusal::StillOwns { count: 2 }));
    let to = |name: &str| Owned::Transfer(UserName::parse(name).unwrap());
    assert_eq!(delete(to("nobody")).await, Err(Refusal::UserNotFound));
    assert_eq!(fault(&delete(to("ana")).await.unwrap_err()), "query.new_owner");
    delete(to("root")).await.unwrap();
    let names: Vec<_> = broker.catalog.queues_of(root.user).into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, ["a", "b"].map(|name| crate::base::names::QueueName::parse(name).unwrap()));
    let eva = user(&broker, "eva").await;
    broker.put_queue(&eva, "c", QueueChange::default()).await.unwrap();
    broker.delete_user(&eva, "eva", Owned::Delete, None).await.unwrap();
    assert_eq!(broker.get_queue(&root, "c").await, Err(Refusal::QueueNotFound));
}

#[test]
fn an_ipv6_network_counts_as_one_address() {
    let key = |text: &str| rate_key(text.parse().unwrap());
    assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
    assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
    assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
}
