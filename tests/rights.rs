//! Who may do what: every operation of the document, called by every kind of caller, over HTTPS on
//! the real binary. What is expected is in `tests/rights.tsv`. A new operation needs a row there,
//! and, where its path names something new, a line in [`World::prepared`].
#![allow(clippy::unwrap_used)]

mod common;

use common::served::{As, Served};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PASSWORD: &str = "correct horse battery";
/// Users that have nothing to do with anything, or exactly one right on the owner's queues and
/// topics.
const OTHERS: [&str; 7] =
    ["stranger", "send", "receive", "browse", "publish", "subscribe", "manage"];
const ON_QUEUES: [&str; 4] = ["send", "receive", "browse", "manage"];
const ON_TOPICS: [&str; 3] = ["publish", "subscribe", "manage"];
const ALL_SCOPES: [&str; 6] = ["send", "receive", "browse", "publish", "subscribe", "manage"];

/// An operation of the document.
struct Operation {
    id: String,
    method: String,
    path: String,
    example: Option<Value>,
}

fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(&tertulia::api::spec::json()).unwrap();
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, row) in methods.as_object().unwrap() {
            let Some(id) = row["operationId"].as_str() else { continue };
            let content = &row["requestBody"]["content"]["application/json"];
            found.push(Operation {
                id: id.to_owned(),
                method: method.to_uppercase(),
                path: path.clone(),
                example: content.get("example").cloned(),
            });
        }
    }
    found
}

/// The table: the kinds of callers, and by operation what each is answered.
fn table() -> (Vec<String>, BTreeMap<String, Vec<String>>) {
    let text = include_str!("rights.tsv");
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let words = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    let callers = words(lines.next().unwrap()).split_off(1);
    let mut rows = BTreeMap::new();
    for line in lines {
        let mut row = words(line);
        let expected = row.split_off(1);
        assert_eq!(expected.len(), callers.len(), "{line}");
        assert!(rows.insert(row.remove(0), expected).is_none(), "twice: {line}");
    }
    (callers, rows)
}

struct World {
    served: Served,
    callers: BTreeMap<String, As>,
    made: u32,
}

impl World {
    async fn new() -> Self {
        let served = Served::start("warn").await;
        let mut world = Self { served, callers: BTreeMap::new(), made: 0 };
        world.callers.insert("anonymous".into(), As::Nobody);
        for name in ["admin", "owner"].into_iter().chain(OTHERS) {
            world.register(name).await;
            let (token, _) = world.log_in(name).await;
            world.callers.insert(name.to_owned(), As::Bearer(token));
        }
        for (column, name, scopes) in
            [("owner_key", "owner", &["receive"][..]), ("admin_key", "admin", &ALL_SCOPES)]
        {
            let (secret, _) = world.key(name, json!({ "name": "k", "scopes": scopes })).await;
            world.callers.insert(column.to_owned(), As::Bearer(secret));
        }
        world
    }

    /// A call that is not what is tested: it succeeds.
    async fn must(&self, method: &str, path: &str, by: &As, body: Value) -> Value {
        let answer = self.served.call(method, path, by, Some(&body)).await;
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer:?}");
        answer.body
    }

    fn fresh(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{kind}{}", self.made)
    }

    async fn register(&self, name: &str) {
        // Whoever administers is not held to the rate of registrations.
        let by = self.callers.get("admin").cloned().unwrap_or(As::Nobody);
        let body = json!({ "username": name, "password": PASSWORD });
        self.must("POST", "/v1/users", &by, body).await;
    }

    /// A new session's token and id.
    async fn log_in(&self, name: &str) -> (String, String) {
        let body = json!({ "username": name, "password": PASSWORD });
        let made = self.must("POST", "/v1/sessions", &As::Nobody, body).await;
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        (text("token"), text("session_id"))
    }

    /// A new API key's secret and id.
    async fn key(&self, owner: &str, body: Value) -> (String, String) {
        let made = self.must("POST", "/v1/api-keys", &self.callers[owner], body).await;
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        (text("secret"), text("api_key_id"))
    }

    /// A queue of the owner's, with a message, on which each of the others has the right that it
    /// is named after.
    async fn queue(&mut self) -> String {
        let (queue, owner) = (self.fresh("queue"), self.callers["owner"].clone());
        let path = format!("/v1/queues/{queue}");
        self.must("PUT", &path, &owner, json!({})).await;
        for right in ON_QUEUES {
            let path = format!("{path}/grants/{right}");
            self.must("PUT", &path, &owner, json!({ "rights": [right] })).await;
        }
        let body = json!({ "messages": [{ "body": "hello" }] });
        self.must("POST", &format!("{path}/messages"), &owner, body).await;
        queue
    }

    /// A topic of the owner's with the owner's subscription `there`, on which each of the others
    /// has the right that it is named after.
    async fn topic(&mut self) -> String {
        let (topic, owner) = (self.fresh("topic"), self.callers["owner"].clone());
        let path = format!("/v1/topics/{topic}");
        self.must("PUT", &path, &owner, json!({})).await;
        for right in ON_TOPICS {
            let path = format!("{path}/grants/{right}");
            self.must("PUT", &path, &owner, json!({ "rights": [right] })).await;
        }
        self.must("PUT", &format!("{path}/subscriptions/there"), &owner, json!({})).await;
        topic
    }

    async fn message(&self, queue: &str) -> String {
        let path = format!("/v1/queues/{queue}/messages");
        let body = json!({ "messages": [{ "body": "hello" }] });
        let sent = self.must("POST", &path, &self.callers["owner"], body).await;
        sent["results"][0]["id"].as_str().unwrap().to_owned()
    }

    /// The id of a message that was published.
    async fn published_id(&self, topic: &str) -> String {
        let path = format!("/v1/topics/{topic}/messages");
        let body = json!({ "messages": [{ "body": "hello" }] });
        let sent = self.must("POST", &path, &self.callers["owner"], body).await;
        sent["results"][0]["id"].as_str().unwrap().to_owned()
    }

    /// The receipt of a message that was published and leased through the owner's subscription.
    async fn published(&self, topic: &str) -> String {
        let path = format!("/v1/topics/{topic}");
        let body = json!({ "messages": [{ "body": "hello" }] });
        let owner = &self.callers["owner"];
        self.must("POST", &format!("{path}/messages"), owner, body).await;
        let leases = format!("{path}/subscriptions/there/leases");
        let leased = self.must("POST", &leases, owner, json!({})).await;
        leased["messages"][0]["receipt"].as_str().unwrap().to_owned()
    }

    async fn receipt(&self, queue: &str) -> String {
        let (path, body) = (format!("/v1/queues/{queue}/leases"), json!({ "lease_seconds": 600 }));
        let leased = self.must("POST", &path, &self.callers["owner"], body).await;
        leased["messages"][0]["receipt"].as_str().unwrap().to_owned()
    }

    /// What the operation needs to succeed for whoever may do it, made anew for each call: its
    /// path, its body and its caller.
    async fn prepared(&mut self, operation: &Operation, caller: &str) -> (String, Value, As) {
        let (mut path, mut body) = (operation.path.clone(), json!(operation.example));
        let mut by = self.callers[caller].clone();
        if path.contains("{queue}") {
            let queue = self.queue().await;
            path = path.replace("{queue}", &queue).replace("{username}", "*");
            if path.contains("{receipt}") {
                path = path.replace("{receipt}", &self.receipt(&queue).await);
            }
            if path.contains("{message_id}") {
                path = path.replace("{message_id}", &self.message(&queue).await);
            }
            if operation.id == "settle_messages" {
                body = json!({ "ack": [self.receipt(&queue).await] });
            }
        }
        if path.contains("{topic}") {
            let subscription = if operation.id == "put_subscription" { "new" } else { "there" };
            let topic = self.topic().await;
            path = path.replace("{topic}", &topic).replace("{username}", "*");
            path = path.replace("{subscription}", subscription);
            if path.contains("{receipt}") {
                path = path.replace("{receipt}", &self.published(&topic).await);
            }
            if path.contains("{message_id}") {
                path = path.replace("{message_id}", &self.published_id(&topic).await);
            }
            if operation.id == "settle_subscription_messages" {
                body = json!({ "ack": [self.published(&topic).await] });
            }
        }
        match operation.id.as_str() {
            "register_user" => {
                body = json!({ "username": self.fresh("user"), "password": PASSWORD });
            }
            "update_user" => body = json!({}),
            "delete_user" => {
                let name = self.fresh("user");
                self.register(&name).await;
                path = path.replace("{username}", &name);
                if caller == "owner" {
                    by = As::Basic(name, PASSWORD.to_owned());
                }
            }
            "create_session" => body = json!({ "username": "owner", "password": PASSWORD }),
            "delete_current_session" if self.is_user(caller) => {
                by = As::Bearer(self.log_in(caller).await.0);
            }
            "delete_session" => {
                path = path.replace("{session_id}", &self.log_in("owner").await.1);
            }
            "delete_api_key" => {
                let (_, id) = self.key("owner", json!({ "name": "k" })).await;
                path = path.replace("{api_key_id}", &id);
            }
            _ => {}
        }
        (path.replace("{username}", "owner"), body, by)
    }

    /// Whether a caller comes by a session of its own.
    fn is_user(&self, caller: &str) -> bool {
        ["admin", "owner"].contains(&caller) || OTHERS.contains(&caller)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_caller_of_every_operation_is_answered_as_the_table_says() {
    let (callers, mut rows) = table();
    let mut world = World::new().await;
    let known: Vec<_> = world.callers.keys().cloned().collect();
    let mut columns = callers.clone();
    columns.sort();
    assert_eq!(columns, known, "the columns of the table are the callers that there are");
    let mut wrong = Vec::new();
    for operation in operations() {
        let id = &operation.id;
        let Some(expected) = rows.remove(id) else {
            wrong.push(format!("{id} has no row"));
            continue;
        };
        for (caller, expected) in callers.iter().zip(expected) {
            let (path, body, by) = world.prepared(&operation, caller).await;
            assert!(!path.contains('{'), "nothing stands for a part of {path}");
            let body = operation.example.is_some().then_some(&body);
            let answer = world.served.call(&operation.method, &path, &by, body).await;
            let is =
                if answer.status / 100 == 2 { "2xx".into() } else { answer.status.to_string() };
            if is != expected {
                wrong.push(format!("{id} by {caller}: {is}, not {expected}: {}", answer.body));
            }
        }
    }
    wrong.extend(rows.keys().map(|id| format!("{id} has a row, but there is no such operation")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
