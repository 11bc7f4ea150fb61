#![allow(clippy::unwrap_used)]
use super::*;
use crate::base::clock::Clock as _;
use crate::broker::UserPatch;
use crate::broker::testing::*;
use futures_util::{pin_mut, poll};

async fn fail(broker: &Broker, name: &str, address: IpAddr) -> Refusal {
    broker.log_in(name, "a wrong guess", 600, address).await.err().unwrap()
}

fn new_password(password: &str) -> UserPatch {
    UserPatch { password: Some(password.into()), ..UserPatch::default() }
}

#[tokio::test]
async fn a_session_is_its_user_until_it_ends() {
    let (broker, clock) = broker_and_clock();
    let ana = user(&broker, "ana").await;
    let new = broker.log_in("ana", PASSWORD, 600, HERE).await.unwrap();
    assert!(new.token.as_str().starts_with("tts_"));
    assert_eq!((new.user_name.as_str(), new.session.address.as_str()), ("ana", "192.0.2.1"));
    assert_eq!(new.session.expires_ms, clock.wall_ms() + 600_000);
    let caller = broker.authenticate_bearer(new.token.as_str(), HERE).unwrap();
    assert_eq!((caller.user, caller.admin), (ana.user, true));
    assert!(matches!(&caller.credential, Credential::Session { id, .. } if *id == new.session.id));
    clock.advance_ms(599_999);
    assert!(broker.authenticate_bearer(new.token.as_str(), HERE).is_ok());
    assert!(broker.is_current(&caller));
    clock.advance_ms(1);
    assert!(!broker.is_current(&caller));
    let refused = |token: &str| broker.authenticate_bearer(token, HERE).err();
    assert_eq!(refused(new.token.as_str()), Some(Refusal::Unauthenticated));
    let (unknown, _) = broker.keys.mint_token(TokenKind::Session, &*broker.rng);
    for token in ["", "tts_", "nonsense", unknown.as_str()] {
        assert_eq!(refused(token), Some(Refusal::Unauthenticated));
    }
}

#[tokio::test]
async fn a_session_lives_a_minute_to_30_days() {
    let broker = broker();
    user(&broker, "ana").await;
    for bad in [59, 0, -1, 2_592_001, i32::MAX] {
        let refused = broker.log_in("ana", PASSWORD, bad, HERE).await.err().unwrap();
        assert_eq!(fault(&refused), "ttl_seconds");
    }
    for good in [60, 2_592_000] {
        broker.log_in("ana", PASSWORD, good, HERE).await.unwrap();
    }
}

#[tokio::test]
async fn every_refused_login_costs_one_scrypt_and_says_the_same() {
    let broker = broker();
    let root = user(&broker, "root").await;
    user(&broker, "off").await;
    let off = UserPatch { disabled: Some(true), ..UserPatch::default() };
    broker.update_user(&root, "off", off, None).await.unwrap();
    for (name, password) in
        [("root", "a wrong guess"), ("nobody", PASSWORD), ("off", PASSWORD), ("no name", PASSWORD)]
    {
        let before = broker.passwords.hashes();
        let refused = broker.log_in(name, password, 600, HERE).await.err();
        assert_eq!(refused, Some(Refusal::BadCredentials), "{name}");
        assert_eq!(broker.passwords.hashes(), before + 1, "{name}");
        let refused = broker.authenticate_basic(name, password, HERE).await.err();
        assert_eq!(refused, Some(Refusal::BadCredentials), "{name}");
        assert_eq!(broker.passwords.hashes(), before + 2, "{name}");
    }
}

#[tokio::test]
async fn a_name_fails_10_times_a_minute_known_or_not() {
    let (broker, clock) = broker_and_clock();
    user(&broker, "ana").await;
    for name in ["ana", "nobody"] {
        for n in 0..10 {
            let refused = if n % 2 == 0 {
                fail(&broker, name, HERE).await
            } else {
                broker.authenticate_basic(name, "a wrong guess", THERE).await.unwrap_err()
            };
            assert_eq!(refused, Refusal::BadCredentials);
        }
        let before = broker.passwords.hashes();
        let refused = broker.log_in(name, PASSWORD, 600, HERE).await.err();
        assert_eq!(refused, Some(Refusal::RateLimited { retry_after_seconds: 60 }));
        let refused = broker.authenticate_basic(name, PASSWORD, THERE).await.err();
        assert_eq!(refused, Some(Refusal::RateLimited { retry_after_seconds: 60 }));
        assert_eq!(broker.passwords.hashes(), before);
    }
    clock.advance_ms(60_000);
    log_in(&broker, "ana").await;
}

#[tokio::test]
async fn logins_that_succeed_are_no_failures() {
    let broker = broker();
    user(&broker, "ana").await;
    for _ in 0..30 {
        log_in(&broker, "ana").await;
    }
}

#[tokio::test]
async fn an_address_logs_in_300_times_a_minute() {
    let broker = broker();
    user(&broker, "ana").await;
    broker.authenticate_basic("ana", PASSWORD, HERE).await.unwrap();
    for n in 1..300 {
        assert_eq!(fail(&broker, &format!("u{n}"), HERE).await, Refusal::BadCredentials);
    }
    assert!(matches!(fail(&broker, "ana", HERE).await, Refusal::RateLimited { .. }));
    // Not even what is remembered: else the cache would answer guesses for nothing.
    let refused = broker.authenticate_basic("ana", PASSWORD, HERE).await;
    assert!(matches!(refused, Err(Refusal::RateLimited { .. })));
    broker.authenticate_basic("ana", PASSWORD, THERE).await.unwrap();
}

#[tokio::test]
async fn f21_basic_remembers_and_asks_the_user_as_it_is_now() {
    let broker = broker();
    let root = user(&broker, "root").await;
    user(&broker, "ana").await;
    let before = broker.passwords.hashes();
    for _ in 0..500 {
        let caller = broker.authenticate_basic("ana", PASSWORD, HERE).await.unwrap();
        assert!(matches!(caller.credential, Credential::Password));
    }
    assert_eq!(broker.passwords.hashes(), before + 1);
    let basic = |password| broker.authenticate_basic("ana", password, HERE);
    let refused = Some(Refusal::BadCredentials);
    assert_eq!(basic("a wrong guess").await.err(), refused);
    let disabled = |yes| UserPatch { disabled: Some(yes), ..UserPatch::default() };
    broker.update_user(&root, "ana", disabled(true), None).await.unwrap();
    assert_eq!(basic(PASSWORD).await.err(), refused);
    broker.update_user(&root, "ana", disabled(false), None).await.unwrap();
    let made_admin = UserPatch { admin: Some(true), ..UserPatch::default() };
    broker.update_user(&root, "ana", made_admin, None).await.unwrap();
    assert!(basic(PASSWORD).await.unwrap().admin);
    broker.update_user(&root, "ana", new_password("another one"), None).await.unwrap();
    assert_eq!(basic(PASSWORD).await.err(), refused);
    broker.delete_user(&root, "ana", crate::broker::Owned::Refuse, None).await.unwrap();
    assert_eq!(basic("another one").await.err(), refused);
    let again = broker.register(None, HERE, "ana", "a fourth one").await.unwrap();
    assert_eq!(again.value.password_version, 1);
    assert_eq!(basic(PASSWORD).await.err(), refused);
}

#[tokio::test]
async fn f21_what_is_remembered_at_one_address_is_not_at_another() {
    let broker = broker();
    user(&broker, "ana").await;
    broker.authenticate_basic("ana", PASSWORD, HERE).await.unwrap();
    for _ in 0..10 {
        fail(&broker, "ana", THERE).await;
    }
    // The client goes on; who guesses from elsewhere learns nothing.
    broker.authenticate_basic("ana", PASSWORD, HERE).await.unwrap();
    let refused = broker.authenticate_basic("ana", PASSWORD, THERE).await;
    assert!(matches!(refused, Err(Refusal::RateLimited { .. })));
}

#[tokio::test]
async fn a_login_that_crosses_a_new_password_does_not_outlive_it() {
    let broker = broker();
    let root = user(&broker, "root").await;
    let ana = user(&broker, "ana").await;
    // At every await of the login in turn the password changes.
    let mut round = 0;
    loop {
        let old = if round == 0 { PASSWORD.to_owned() } else { format!("password {round}") };
        let new = format!("password {}", round + 1);
        let login = broker.log_in("ana", &old, 600, HERE);
        pin_mut!(login);
        let mut finished = None;
        for _ in 0..round {
            if let std::task::Poll::Ready(done) = poll!(&mut login) {
                finished = Some(done);
                break;
            }
            tokio::task::yield_now().await;
        }
        let over = finished.is_some();
        broker.update_user(&root, "ana", new_password(&new), None).await.unwrap();
        let answer = match finished {
            Some(done) => done,
            None => login.await,
        };
        if let Ok(new) = answer {
            assert!(broker.authenticate_bearer(new.token.as_str(), HERE).is_err(), "round {round}");
        }
        assert!(broker.catalog.sessions_of(ana.user).is_empty(), "round {round}");
        if over || round > 200 {
            break;
        }
        round += 1;
    }
    assert!(round > 2);
}

#[tokio::test]
async fn above_100_sessions_the_oldest_end() {
    let (broker, clock) = broker_and_clock();
    let ana = user(&broker, "ana").await;
    let mut tokens = Vec::new();
    for _ in 0..SESSIONS_PER_USER_MAX + 2 {
        tokens.push(broker.log_in("ana", PASSWORD, 600, HERE).await.unwrap().token);
        clock.advance_ms(10);
    }
    let lives = |token: &Token| broker.authenticate_bearer(token.as_str(), HERE).is_ok();
    assert_eq!(tokens.iter().map(lives).filter(|lives| *lives).count(), SESSIONS_PER_USER_MAX);
    assert!(!lives(&tokens[0]) && !lives(&tokens[1]) && lives(&tokens[2]));
    assert_eq!(broker.catalog.sessions_of(ana.user).len(), SESSIONS_PER_USER_MAX);
}

#[tokio::test]
async fn sessions_are_listed_to_their_owner_alone() {
    let (broker, clock) = broker_and_clock();
    let root = user(&broker, "root").await;
    user(&broker, "ana").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(broker.log_in("ana", PASSWORD, 60 + n, HERE).await.unwrap().session.id);
        clock.advance_ms(1);
    }
    let ana = log_in(&broker, "ana").await;
    let list = async |cursor: Option<String>, limit| {
        let page = broker.list_sessions(&ana, cursor.as_deref(), limit).await.unwrap();
        (page.items.iter().map(|it| it.id).collect::<Vec<_>>(), page.next)
    };
    let (first, next) = list(None, 4).await;
    assert_eq!(first, ids[..4]);
    let (rest, end) = list(next.clone(), 4).await;
    assert_eq!((rest[0], rest.len(), end), (ids[4], 2, None));
    assert!(broker.list_sessions(&root, None, 100).await.unwrap().items.is_empty());
    let foreign = broker.list_sessions(&root, next.as_deref(), 4).await.unwrap_err();
    assert_eq!(fault(&foreign), "query.cursor");
    clock.advance_ms(60_000);
    assert_eq!(list(None, 100).await.0.len(), 5);
}

#[tokio::test]
async fn who_may_end_a_session() {
    let broker = broker();
    let root = user(&broker, "root").await;
    user(&broker, "ana").await;
    user(&broker, "eva").await;
    let (one, two) = (log_in(&broker, "ana").await, log_in(&broker, "ana").await);
    let eva = log_in(&broker, "eva").await;
    let id = |caller: &Caller| match &caller.credential {
        Credential::Session { id, .. } => id.to_string(),
        _ => unreachable!(),
    };
    let missing = Err(Refusal::SessionNotFound);
    assert_eq!(broker.delete_session(&eva, &id(&one)).await, missing);
    assert_eq!(broker.delete_session(&eva, "nonsense").await, missing);
    broker.delete_session(&two, &id(&one)).await.unwrap();
    assert!(!broker.is_current(&one));
    assert_eq!(broker.delete_session(&two, &id(&one)).await, missing);
    broker.delete_session(&root, &id(&two)).await.unwrap();
    assert!(!broker.is_current(&two));
    broker.log_out_current(&eva).await.unwrap();
    assert!(!broker.is_current(&eva));
    // Two log-outs at once are both well.
    broker.log_out_current(&eva).await.unwrap();
    assert_eq!(broker.log_out_current(&root).await, missing);
}

#[tokio::test]
async fn what_expired_is_swept_in_batches() {
    let (broker, clock) = broker_and_clock();
    let ana = user(&broker, "ana").await;
    for _ in 0..3 {
        log_in(&broker, "ana").await;
    }
    let session = broker.log_in("ana", PASSWORD, 6_000, HERE).await.unwrap();
    assert_eq!(broker.sweep().await, Ok(0));
    clock.advance_ms(600_000);
    assert_eq!(broker.sweep().await, Ok(3));
    assert_eq!(broker.sweep().await, Ok(0));
    assert!(broker.authenticate_bearer(session.token.as_str(), HERE).is_ok());
    assert_eq!(broker.catalog.sessions_of(ana.user).len(), 1);
    for n in 0..501u32 {
        let value = Value::Session(Session { expires_ms: 5, ..session.session.clone() });
        let key = RecordKey::new(Kind::Session, n.to_be_bytes());
        broker.create(&key, value).await.unwrap();
    }
    assert_eq!(broker.sweep().await, Ok(500));
    assert_eq!(broker.sweep().await, Ok(1));
}

#[tokio::test]
async fn a_bound_session_is_good_from_its_address_alone() {
    let broker = broker();
    user(&broker, "ana").await;
    let bound = Terms { ttl_seconds: 600, bound: true };
    let token = broker.log_in("ana", PASSWORD, bound, HERE).await.unwrap().token;
    let from = |address| broker.authenticate_bearer(token.as_str(), address).err();
    assert_eq!(from(HERE), None);
    assert_eq!(from(THERE), Some(Refusal::Unauthenticated));
    let mapped: std::net::Ipv4Addr = HERE.to_string().parse().unwrap();
    assert_eq!(from(mapped.to_ipv6_mapped().into()), None);
    let free = broker.log_in("ana", PASSWORD, 600, HERE).await.unwrap().token;
    assert!(broker.authenticate_bearer(free.as_str(), THERE).is_ok());
}

/// Drives an update until its user's record has changed, and then drops it, as a crash would: no
/// record of a session is cleared away.
async fn crash_after_the_change(broker: &Broker, by: &Caller, name: &str, patch: UserPatch) {
    let user = UserName::parse(name).unwrap();
    let epoch = || broker.catalog.user(&user).unwrap().user().unwrap().sessions_epoch;
    let before = epoch();
    let update = broker.update_user(by, name, patch, None);
    pin_mut!(update);
    while epoch() == before {
        assert!(poll!(&mut update).is_pending(), "it ended before it was seen half done");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_crash_right_after_the_change_leaves_no_ended_session() {
    let broker = broker();
    let root = user(&broker, "root").await;
    let ana = user(&broker, "ana").await;
    let disabled = |yes| UserPatch { disabled: Some(yes), ..UserPatch::default() };
    let by_self = UserPatch {
        password: Some("password two".into()),
        current_password: Some(PASSWORD.into()),
        ..UserPatch::default()
    };
    let (own, other) = (log_in(&broker, "ana").await, log_in(&broker, "ana").await);
    crash_after_the_change(&broker, &own, "ana", by_self).await;
    assert_eq!(broker.catalog.sessions_of(ana.user).len(), 2, "nothing was cleared");
    assert!(broker.is_current(&own));
    assert!(!broker.is_current(&other));
    let listed = broker.list_sessions(&ana, None, 100).await.unwrap().items;
    assert_eq!(listed.len(), 1);
    let again = broker.log_in("ana", "password two", 600, HERE).await.unwrap();
    assert!(broker.authenticate_bearer(again.token.as_str(), HERE).is_ok());
    crash_after_the_change(&broker, &root, "ana", new_password("password three")).await;
    assert!(!broker.is_current(&own));
    assert!(broker.authenticate_bearer(again.token.as_str(), HERE).is_err());
    let third = broker.log_in("ana", "password three", 600, HERE).await.unwrap();
    crash_after_the_change(&broker, &root, "ana", disabled(true)).await;
    broker.update_user(&root, "ana", disabled(false), None).await.unwrap();
    assert!(broker.authenticate_bearer(third.token.as_str(), HERE).is_err());
}

#[tokio::test]
async fn a_session_that_was_ended_does_not_spare_itself() {
    let broker = broker();
    let root = user(&broker, "root").await;
    user(&broker, "ana").await;
    let own = log_in(&broker, "ana").await;
    let disabled = |yes| UserPatch { disabled: Some(yes), ..UserPatch::default() };
    crash_after_the_change(&broker, &root, "ana", disabled(true)).await;
    broker.update_user(&root, "ana", disabled(false), None).await.unwrap();
    let by_self = UserPatch {
        password: Some("password two".into()),
        current_password: Some(PASSWORD.into()),
        ..UserPatch::default()
    };
    broker.update_user(&own, "ana", by_self, None).await.unwrap();
    assert!(!broker.is_current(&own));
}

#[test]
fn a_session_of_a_later_epoch_is_good_where_the_user_is_late() {
    let user = User {
        id: crate::base::ids::UserId([1; 16]),
        password: String::new(),
        password_version: 1,
        admin: false,
        disabled: false,
        created_ms: 0,
        updated_ms: 0,
        sessions_epoch: 2,
        spared: None,
    };
    let of = |epoch| Session {
        id: SessionId([2; 16]),
        user: user.id,
        user_name: "ana".into(),
        created_ms: 0,
        expires_ms: 1,
        address: String::new(),
        epoch,
        bound: false,
    };
    assert_eq!([1, 2, 3].map(|epoch| user.keeps(&of(epoch))), [false, true, true]);
    let other = Session { user: crate::base::ids::UserId([3; 16]), ..of(2) };
    assert!(!user.keeps(&other));
}
