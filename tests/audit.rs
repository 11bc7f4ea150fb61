//! One journey past everything that the audit notes, over HTTPS on the real binary: its lines are
//! those of `tests/audit.tsv`, written by hand, and nothing else; and no secret is among them.
#![allow(clippy::unwrap_used)]

mod common;

use common::served::{Answer, As, Served};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};

const ROOT: &str = "root's own password";
const BOB: &str = "bob's first password";
const BOB_NEW: &str = "bob's second password";
const WRONG: &str = "nobody's password";
/// The fields of a line, as the table's columns have them.
const FIELDS: [&str; 7] =
    ["request_id", "address", "event", "actor", "object", "outcome", "detail"];

/// A node that is walked past, and a client of it.
struct Journey {
    served: Served,
    client: reqwest::Client,
}

impl Journey {
    async fn call(&self, id: &str, call: (&str, &str), by: &As, body: Value) -> Answer {
        let body = (!body.is_null()).then_some(&body);
        self.served.call_by(&self.client, id, call.0, call.1, by, body).await
    }

    /// A call that is answered so.
    async fn go(&self, id: &str, call: (&str, &str), by: &As, body: Value, status: u16) -> Value {
        let answer = self.call(id, call, by, body).await;
        assert_eq!(answer.status, status, "{id}: {answer:?}");
        answer.body
    }
}

fn named(name: &str, password: &str) -> Value {
    json!({ "username": name, "password": password })
}

fn bearer(made: &Value, field: &str) -> As {
    As::Bearer(made[field].as_str().unwrap().to_owned())
}

/// Bob's part; answers all the secrets that he saw.
async fn bob(walk: &Journey) -> Vec<String> {
    let (login, nobody) = (("POST", "/v1/sessions"), As::Nobody);
    walk.go("login-wrong", login, &nobody, named("bob", WRONG), 401).await;
    walk.go("login-no-name", login, &nobody, named(WRONG, WRONG), 401).await;
    let made = walk.go("login", login, &nobody, named("bob", BOB), 201).await;
    let bob = bearer(&made, "token");
    let bound = json!({ "username": "bob", "password": BOB, "bind_ip": true });
    let bound = walk.go("login-bound", login, &nobody, bound, 201).await;
    let there = walk.served.client_from(Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))));
    let by = bearer(&bound, "token");
    walk.go("here", ("GET", "/v1/queues"), &by, Value::Null, 200).await;
    let refused = walk.served.call_by(&there, "elsewhere", "GET", "/v1/queues", &by, None).await;
    assert_eq!((refused.status, refused.body["code"].as_str()), (401, Some("unauthenticated")));
    let key = json!({ "name": "till", "scopes": ["send", "browse"] });
    let key = walk.go("key", ("POST", "/v1/api-keys"), &bob, key, 201).await;
    let queue = "/v1/queues/orders";
    walk.go("queue", ("PUT", queue), &bob, json!({}), 201).await;
    walk.go("queue-again", ("PUT", queue), &bob, json!({}), 200).await;
    walk.go("change", ("PATCH", queue), &bob, json!({ "lease_seconds": 60 }), 200).await;
    walk.go("no-change", ("PATCH", queue), &bob, json!({ "lease_seconds": 60 }), 200).await;
    let grants = format!("{queue}/grants/root");
    let rights = json!({ "rights": ["receive", "send"] });
    walk.go("grant", ("PUT", &grants), &bob, rights, 200).await;
    walk.go("revoke", ("DELETE", &grants), &bob, Value::Null, 204).await;
    walk.go("revoke-again", ("DELETE", &grants), &bob, Value::Null, 204).await;
    let id = key["api_key_id"].as_str().unwrap();
    let path = format!("/v1/api-keys/{id}");
    walk.go("key-gone", ("DELETE", &path), &bob, Value::Null, 204).await;
    let me = ("PATCH", "/v1/users/bob");
    let patch = |current| json!({ "password": BOB_NEW, "current_password": current });
    walk.go("password-wrong", me, &bob, patch(WRONG), 422).await;
    walk.go("password", me, &bob, patch(BOB), 200).await;
    walk.go("logout", ("DELETE", "/v1/sessions/current"), &bob, Value::Null, 204).await;
    let seen = [&made["token"], &bound["token"], &key["secret"]];
    seen.iter().map(|secret| secret.as_str().unwrap().to_owned()).collect()
}

async fn root(walk: &Journey) {
    let root = As::Basic("root".to_owned(), ROOT.to_owned());
    let bob = ("PATCH", "/v1/users/bob");
    walk.go("disable", bob, &root, json!({ "disabled": true }), 200).await;
    walk.go("enable", bob, &root, json!({ "disabled": false, "roles": ["admin"] }), 200).await;
    let login = named("bob", BOB_NEW);
    let made = walk.go("login-new", ("POST", "/v1/sessions"), &As::Nobody, login, 201).await;
    let session = format!("/v1/sessions/{}", made["session_id"].as_str().unwrap());
    walk.go("end", ("DELETE", &session), &root, Value::Null, 204).await;
    walk.go("queue-gone", ("DELETE", "/v1/queues/orders"), &root, Value::Null, 204).await;
    walk.go("user-gone", ("DELETE", "/v1/users/bob"), &root, Value::Null, 204).await;
}

/// Those who try too often.
async fn rates(walk: &Journey) {
    let by = As::Basic("nobody".to_owned(), WRONG.to_owned());
    let mut status = 401;
    while status == 401 {
        let answer = walk.call("guess", ("GET", "/v1/queues"), &by, Value::Null).await;
        status = answer.status;
    }
    assert_eq!(status, 429);
    let mut status = 409;
    while status == 409 {
        let again = named("root", "long enough");
        status = walk.call("taken", ("POST", "/v1/users"), &As::Nobody, again).await.status;
    }
    assert_eq!(status, 429);
}

/// The audit's lines as the table has them: ids become `*`, and the same line again is one.
fn lines(log: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(
            (line["target"].as_str(), line["level"].as_str()),
            (Some("audit"), Some("INFO"))
        );
        let field = |name: &&str| {
            let text = line[*name].as_str().unwrap_or_else(|| panic!("no {name} in {line}"));
            match text.split_once('/') {
                Some((kind @ ("session" | "api_key"), id)) if id.len() == 22 => format!("{kind}/*"),
                _ => text.to_owned(),
            }
        };
        lines.push(FIELDS.iter().map(field).collect::<Vec<_>>().join("\t"));
    }
    lines.dedup();
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journey_is_in_the_audit_line_by_line() {
    let served = Served::start("off,audit=info").await;
    let client = served.client_from(None);
    let walk = Journey { served, client };
    for (name, password) in [("root", ROOT), ("bob", BOB)] {
        let id = format!("register-{name}");
        walk.go(&id, ("POST", "/v1/users"), &As::Nobody, named(name, password), 201).await;
    }
    let secrets = bob(&walk).await;
    root(&walk).await;
    rates(&walk).await;
    let log = walk.served.log();
    for secret in secrets.iter().map(String::as_str).chain([ROOT, BOB, BOB_NEW, WRONG]) {
        assert!(!log.contains(secret), "{secret}");
    }
    let expected = include_str!("audit.tsv").lines().filter(|line| !line.starts_with('#'));
    let expected: Vec<_> = expected.collect();
    assert_eq!(expected[0], FIELDS.join("\t"));
    assert_eq!(lines(&log).join("\n"), expected[1..].join("\n"));
}
