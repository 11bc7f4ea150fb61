//! What clients do: few queues, few keys, much contention; over HTTP, as any client would. All
//! that was asked and answered goes into the history.

use crate::clock::sim_now;
use crate::common::check::{Line, Op, Outcome};
use crate::common::fault_disk::Xorshift;
use crate::sometimes;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tertulia::protocol::record::{Record, RecordKey};
use tokio::sync::Notify;
use turmoil::net::TcpStream;

pub const HTTP_PORT: u16 = 7420;
const PASSWORD: &str = "correct horse battery";
/// The longest a client waits for an answer, beside what it asked to wait.
const PATIENCE: Duration = Duration::from_secs(3);
const QUEUES: [&str; 3] = ["jobs", "turns", ONCE];
/// Whose receives settle what they give.
const ONCE: &str = "once";
const CLIENTS: u64 = 8;
/// For how long queues may take to run empty after the last fault.
pub const DRAIN: Duration = Duration::from_secs(60);

/// What the clients of a run and the run itself share. One thread has it all.
#[derive(Default)]
pub struct Shared {
    /// What happened, a line each: equal for equal seeds.
    pub trace: RefCell<Vec<String>>,
    pub history: RefCell<Vec<Line>>,
    /// Clients' operations that were begun.
    pub operations: Cell<u64>,
    /// Nothing goes wrong any more.
    pub healed: Cell<bool>,
    /// Whether the trace is also printed, as it comes.
    pub live: bool,
    /// What the first node's records are, for the others.
    pub records: RefCell<Vec<(RecordKey, Arc<Record>)>>,
    /// Rings when they have changed.
    pub told: Notify,
    pub token: RefCell<String>,
    /// Keyed sends: queue, key, body.
    pub keyed: RefCell<Vec<(&'static str, String, String)>>,
    /// What was seen now and then, and how often.
    pub seen: RefCell<BTreeMap<&'static str, u64>>,
}

impl Shared {
    fn saw(&self, point: &'static str, times: u64) {
        *self.seen.borrow_mut().entry(point).or_default() += times;
    }

    pub fn note(&self, now: Duration, what: &str) {
        let line = format!("{:>6}.{:03} {what}", now.as_millis(), now.subsec_micros() % 1_000);
        if self.live {
            println!("{line}");
        }
        self.trace.borrow_mut().push(line);
    }
}

fn now_ns() -> u64 {
    sim_now().as_nanos() as u64
}

/// What a request came to.
enum Reply {
    Answer(u16, Value),
    /// It never left.
    NotSent,
    /// Nobody knows.
    Lost,
}

impl Reply {
    /// What became of one message's send, when no result says so.
    fn outcome(&self) -> Outcome {
        match self {
            Self::NotSent => Outcome::NotStored,
            Self::Answer(503, problem) if problem["outcome"] == "not_stored" => Outcome::NotStored,
            Self::Answer(400..500, _) => Outcome::NotStored,
            _ => Outcome::Unknown,
        }
    }

    /// What became of a settlement.
    fn settled(&self) -> Outcome {
        match self {
            Self::Answer(200 | 204, _) => Outcome::Done,
            Self::Answer(400..500, _) | Self::NotSent => Outcome::Lost,
            _ => Outcome::Unknown,
        }
    }
}

/// One client: it does one thing at a time, over one connection.
pub struct Client {
    shared: Rc<Shared>,
    process: u64,
    nodes: usize,
    /// Where its connection leads.
    at: u64,
    is_setting_up: bool,
    dice: Xorshift,
    connection: Option<SendRequest<Full<Bytes>>>,
    count: u64,
}

struct Taken {
    queue: &'static str,
    body: String,
    receipt: String,
    fence: i64,
    at: u64,
}

impl Client {
    fn new(shared: &Rc<Shared>, seed: u64, process: u64, nodes: usize) -> Self {
        let dice = Xorshift::new(seed.wrapping_mul(1_009).wrapping_add(process));
        let (connection, count) = (None, 0);
        Self {
            shared: shared.clone(),
            process,
            nodes,
            at: 0,
            is_setting_up: false,
            dice,
            connection,
            count,
        }
    }

    async fn connect(&mut self) -> Option<SendRequest<Full<Bytes>>> {
        if let Some(open) = self.connection.take().filter(|open| !open.is_closed()) {
            return Some(open);
        }
        // Records are decided at the first node.
        let at = if self.is_setting_up { 0 } else { self.dice.below(self.nodes as u64) };
        self.at = at;
        let node = format!("n{at}");
        let tcp = TcpStream::connect((node.as_str(), HTTP_PORT));
        let tcp = tokio::time::timeout(Duration::from_secs(1), tcp).await.ok()?.ok()?;
        let (sender, driver) = handshake(TokioIo::new(tcp)).await.ok()?;
        tokio::spawn(driver);
        Some(sender)
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<Value>,
        wait_s: u64,
    ) -> Reply {
        self.shared.operations.set(self.shared.operations.get() + 1);
        let asked = format!("c{} {method} {path}", self.process);
        self.shared.note(
            sim_now(),
            &format!("{asked} {}", body.as_ref().map_or_else(String::new, Value::to_string)),
        );
        let reply = self.try_call(method, path, key, body, wait_s).await;
        let said = match &reply {
            Reply::Answer(status, body) => format!("{status} {body}"),
            Reply::NotSent => "not sent".to_owned(),
            Reply::Lost => "lost".to_owned(),
        };
        self.shared.note(sim_now(), &format!("{asked} -> {said}"));
        reply
    }

    async fn try_call(
        &mut self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<Value>,
        wait_s: u64,
    ) -> Reply {
        let Some(mut connection) = self.connect().await else { return Reply::NotSent };
        let mut request = Request::builder().method(method).uri(format!("/v1{path}"));
        request = request.header("host", "node");
        let token = self.shared.token.borrow().clone();
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = request.body(Full::new(bytes)).unwrap();
        let exchange = async {
            let answer = connection.send_request(request).await.ok()?;
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.ok()?.to_bytes();
            Some(Reply::Answer(status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        let patience = PATIENCE + Duration::from_secs(wait_s);
        match tokio::time::timeout(patience, exchange).await {
            Ok(Some(reply)) => {
                self.connection = Some(connection);
                if matches!(reply, Reply::Answer(401, _)) {
                    self.shared.token.borrow_mut().clear();
                }
                reply
            }
            Ok(None) | Err(_) => Reply::Lost,
        }
    }

    async fn pause(&mut self, max_ms: u64) {
        let ms = 1 + self.dice.below(max_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Registers, logs in, makes the queues; again until it is done.
    async fn set_up(&mut self) {
        (self.is_setting_up, self.connection) = (true, None);
        let who = json!({ "username": "alice", "password": PASSWORD });
        while !matches!(
            self.call(Method::POST, "/users", None, Some(who.clone()), 0).await,
            Reply::Answer(201 | 409, _)
        ) {
            self.pause(100).await;
        }
        self.log_in().await;
        (self.is_setting_up, self.connection) = (true, None);
        let few = json!({ "max_failures": 3, "lease_seconds": 5 });
        let turns = json!({ "max_failures": 3, "lease_seconds": 5, "ordering": "group" });
        for (queue, config) in QUEUES.iter().zip([few.clone(), turns, few]) {
            let path = format!("/queues/{queue}");
            while !matches!(
                self.call(Method::PUT, &path, None, Some(config.clone()), 0).await,
                Reply::Answer(200 | 201, _)
            ) {
                self.pause(100).await;
            }
        }
        (self.is_setting_up, self.connection) = (false, None);
    }

    async fn log_in(&mut self) {
        if self.shared.token.borrow().is_empty() {
            (self.is_setting_up, self.connection) = (true, None);
        }
        while self.shared.token.borrow().is_empty() {
            let who = json!({ "username": "alice", "password": PASSWORD });
            let reply = self.call(Method::POST, "/sessions", None, Some(who), 0).await;
            match reply {
                Reply::Answer(201, session) => {
                    let token = session["token"].as_str().unwrap().to_owned();
                    *self.shared.token.borrow_mut() = token;
                }
                _ => self.pause(300).await,
            }
        }
        if self.is_setting_up {
            (self.is_setting_up, self.connection) = (false, None);
        }
    }

    fn line(&self, op: Op, queue: &str, body: &str) -> Line {
        let mut line = Line::open(op, self.process, now_ns(), body);
        line.queue = Some(queue.to_owned());
        line
    }

    /// Enters operations that were begun, before they are ended: what is cut off was begun.
    fn enter(&self, mut lines: Vec<Line>, outcomes: &[Outcome]) {
        for (line, outcome) in lines.iter_mut().zip(outcomes) {
            line.outcome = *outcome;
            line.returned_ns = (*outcome != Outcome::Unknown).then(now_ns);
        }
        self.shared.history.borrow_mut().extend(lines);
    }

    async fn send(&mut self, queue: &'static str) {
        let count = 1 + self.dice.below(3);
        let (mut messages, mut lines) = (Vec::new(), Vec::new());
        for _ in 0..count {
            self.count += 1;
            let body = format!("c{}-{}", self.process, self.count);
            let mut message = json!({ "body": body });
            let mut line = self.line(Op::Send, queue, &body);
            if queue == "turns" && self.dice.below(4) > 0 {
                message["group"] = json!(format!("g{}", self.dice.below(3)));
            }
            if self.dice.below(8) == 0 {
                message["delay_seconds"] = json!(self.dice.below(6));
            }
            if self.dice.below(12) == 0 {
                let ttl_s = 1 + self.dice.below(8);
                message["ttl_seconds"] = json!(ttl_s);
                line.ttl_ms = Some(ttl_s * 1_000);
            }
            messages.push(message);
            lines.push(line);
        }
        let path = format!("/queues/{queue}/messages");
        let body = json!({ "messages": messages });
        let reply = self.call(Method::POST, &path, None, Some(body), 0).await;
        let outcomes = outcomes(&reply, lines.len());
        self.enter(lines, &outcomes);
    }

    /// A new key, or one of before: also while its first send is on its way.
    async fn send_keyed(&mut self, queue: &'static str) {
        let fresh = self.shared.keyed.borrow().is_empty() || self.dice.below(3) == 0;
        if fresh {
            self.count += 1;
            let body = format!("k{}-{}", self.process, self.count);
            self.shared.keyed.borrow_mut().push((queue, format!("key-{body}"), body));
        }
        let (queue, key, body) = {
            let keyed = self.shared.keyed.borrow();
            // Mostly one of the last: that is where the races are.
            let recent = keyed.len().min(6) as u64;
            let back = if self.dice.below(5) == 0 { keyed.len() as u64 } else { recent };
            let back = if fresh { 1 } else { 1 + self.dice.below(back) };
            keyed[keyed.len() - back as usize].clone()
        };
        let mut line = self.line(Op::Send, queue, &body);
        line.key = Some(key.clone());
        let path = format!("/queues/{queue}/messages");
        let message = json!({ "messages": [{ "body": body }] });
        let reply = self.call(Method::POST, &path, Some(&key), Some(message), 0).await;
        let outcomes = outcomes(&reply, 1);
        if matches!(&reply, Reply::Answer(201, a) if a["results"][0]["status"] == "duplicate") {
            self.shared.saw(sometimes::KEYED_REPEAT, 1);
        }
        self.enter(vec![line], &outcomes);
    }

    async fn receive(&mut self, queue: &'static str, max: u64, lease_s: u64) -> Vec<Taken> {
        let wait_s = self.dice.below(3);
        let mut is_dead = false;
        let mut wish =
            json!({ "max_messages": max, "lease_seconds": lease_s, "wait_seconds": wait_s });
        if self.dice.below(12) == 0 {
            wish["from"] = json!("dead");
            is_dead = true;
        }
        let began = now_ns();
        let path = format!("/queues/{queue}/leases");
        let reply = self.call(Method::POST, &path, None, Some(wish), wait_s).await;
        let Reply::Answer(200, answer) = reply else { return Vec::new() };
        let mut taken = Vec::new();
        for message in answer["messages"].as_array().unwrap() {
            let text = |field: &str| message[field].as_str().unwrap().to_owned();
            let (body, fence) = (text("body"), message["fence"].as_i64().unwrap());
            let mut line = self.line(Op::Receive, queue, &body);
            (line.invoked_ns, line.returned_ns) = (began, Some(now_ns()));
            line.outcome = Outcome::Delivered;
            (line.fence, line.id, line.lease_ms) =
                (Some(fence), Some(text("id")), Some(lease_s * 1_000));
            self.shared.history.borrow_mut().push(line);
            self.shared.saw(sometimes::BURIED, u64::from(is_dead));
            taken.push(Taken { queue, body, receipt: text("receipt"), fence, at: self.at });
        }
        taken
    }

    /// One settlement; its beginning is entered at once: an answer that never comes ends it.
    async fn settle(&mut self, taken: &Taken, op: Op, lease_s: u64, outcome: &str) {
        let mut line = self.line(op, taken.queue, &taken.body);
        line.fence = Some(taken.fence);
        let lease = format!("/queues/{}/leases/{}", taken.queue, taken.receipt);
        let reply = match op {
            Op::Extend => {
                line.lease_ms = Some(lease_s * 1_000);
                let wish = json!({ "lease_seconds": lease_s });
                self.call(Method::PATCH, &lease, None, Some(wish), 0).await
            }
            Op::Release => {
                let wish = json!({ "outcome": outcome });
                self.call(Method::POST, &format!("{lease}/releases"), None, Some(wish), 0).await
            }
            _ => self.call(Method::DELETE, &lease, None, None, 0).await,
        };
        let settled = reply.settled();
        let is_elsewhere = op == Op::Ack && settled == Outcome::Done && self.at != taken.at;
        self.shared.saw(sometimes::ELSEWHERE, u64::from(is_elsewhere));
        self.enter(vec![line], &[settled]);
    }

    /// One message that its receive settles: of several some may be left out unseen [F12].
    async fn take(&mut self, queue: &'static str) {
        let wait_s = self.dice.below(3);
        let wish = json!({ "max_messages": 1, "auto_ack": true, "wait_seconds": wait_s });
        let mut line = self.line(Op::Take, queue, "");
        let path = format!("/queues/{queue}/leases");
        match self.call(Method::POST, &path, None, Some(wish), wait_s).await {
            Reply::Answer(200, answer) => {
                let Some(message) = answer["messages"].as_array().unwrap().first() else { return };
                line.message = message["body"].as_str().unwrap().to_owned();
                line.id = message["id"].as_str().map(str::to_owned);
                line.fence = message["fence"].as_i64();
                self.enter(vec![line], &[Outcome::Delivered]);
            }
            Reply::Answer(503, problem) if problem["outcome"] == "not_stored" => {}
            Reply::Answer(400..500, _) | Reply::NotSent => {}
            _ => self.enter(vec![line], &[Outcome::Unknown]),
        }
    }

    async fn browse(&mut self, queue: &'static str) {
        let path = format!("/queues/{queue}/messages");
        let reply = self.call(Method::GET, &path, None, None, 0).await;
        let Reply::Answer(200, page) = reply else { return };
        let shown = page["items"].as_array().map_or(0, Vec::len);
        self.shared.saw(sometimes::BROWSED, shown as u64);
    }

    async fn work(&mut self, queue: &'static str) {
        let (max, lease_s) = (1 + self.dice.below(4), 1 + self.dice.below(6));
        for taken in self.receive(queue, max, lease_s).await {
            match self.dice.below(20) {
                0 => self.settle(&taken, Op::Release, 0, "failed").await,
                1 => self.settle(&taken, Op::Release, 0, "handed_back").await,
                2 => self.settle(&taken, Op::Release, 0, "poison").await,
                // Somebody who is gone, and lets the lease lapse.
                3 => continue,
                n @ 4..6 => {
                    let lease_s = 1 + self.dice.below(8);
                    self.settle(&taken, Op::Extend, lease_s, "").await;
                    if n == 4 {
                        self.pause(2_000).await;
                        self.settle(&taken, Op::Ack, 0, "").await;
                    }
                }
                // Somebody who outlives the lease.
                6 => {
                    self.pause(lease_s * 2_000).await;
                    self.settle(&taken, Op::Ack, 0, "").await;
                }
                _ => self.settle(&taken, Op::Ack, 0, "").await,
            }
        }
    }

    async fn purge(&mut self, queue: &'static str) {
        let line = self.line(Op::Purge, queue, "");
        let path = format!("/queues/{queue}/messages");
        let reply = self.call(Method::DELETE, &path, None, None, 0).await;
        if let Reply::Answer(200, answer) = &reply {
            let count = answer["purged_count"].as_u64().unwrap();
            self.shared.saw(sometimes::PURGED, u64::from(count > 0));
        }
        self.enter(vec![line], &[reply.settled()]);
    }

    async fn redrive(&mut self, queue: &'static str) {
        let wish = json!({ "max_messages": 100 });
        let path = format!("/queues/{queue}/redrives");
        let reply = self.call(Method::POST, &path, None, Some(wish), 0).await;
        if let Reply::Answer(200, answer) = reply {
            let count = answer["moved_count"].as_u64().unwrap();
            self.shared.saw(sometimes::REDRIVEN, u64::from(count > 0));
        }
    }

    async fn run(&mut self) {
        while !self.shared.healed.get() {
            self.log_in().await;
            let queue = QUEUES[self.dice.below(9) as usize * 3 / 10];
            match self.dice.below(60) {
                0..14 => self.send(queue).await,
                14..24 => self.send_keyed(queue).await,
                24..56 if queue == ONCE => self.take(queue).await,
                24..56 => self.work(queue).await,
                56 => self.browse(queue).await,
                57..59 => self.redrive(queue).await,
                _ if self.dice.below(4) == 0 => self.purge(queue).await,
                _ => {}
            }
            self.pause(80).await;
        }
    }

    /// Takes all there is, the dead among it, until the queue says that it has none.
    async fn drain(&mut self, queue: &'static str) {
        let mut line = self.line(Op::Drain, queue, "");
        let until = sim_now() + DRAIN;
        while sim_now() < until {
            self.log_in().await;
            let taken = self.receive(queue, 100, 5).await;
            for taken in &taken {
                self.settle(taken, Op::Ack, 0, "").await;
            }
            if !taken.is_empty() {
                continue;
            }
            self.redrive(queue).await;
            let path = format!("/queues/{queue}");
            let reply = self.call(Method::GET, &path, None, None, 0).await;
            if matches!(reply, Reply::Answer(200, view) if is_empty(&view["stats"])) {
                line.outcome = Outcome::Done;
                line.returned_ns = Some(now_ns());
                break;
            }
            self.pause(300).await;
        }
        if line.outcome != Outcome::Done {
            // For the trace: what each node says of what is left.
            for _ in 0..6 {
                let path = format!("/queues/{queue}/messages?limit=20");
                self.call(Method::GET, &path, None, None, 0).await;
            }
        }
        self.shared.history.borrow_mut().push(line);
    }
}

fn outcomes(reply: &Reply, count: usize) -> Vec<Outcome> {
    if let Reply::Answer(201, answer) = reply {
        let results = answer["results"].as_array().unwrap();
        assert_eq!(results.len(), count);
        let outcome = |result: &Value| match result["status"].as_str().unwrap() {
            "stored" | "duplicate" => Outcome::Stored,
            "failed" => Outcome::NotStored,
            _ => Outcome::Unknown,
        };
        return results.iter().map(outcome).collect();
    }
    // A problem names the outcome of the first item that failed, not of each.
    let is_503 = matches!(reply, Reply::Answer(503, _));
    vec![if count > 1 && is_503 { Outcome::Unknown } else { reply.outcome() }; count]
}

fn is_empty(stats: &Value) -> bool {
    let counts = ["ready", "leased", "delayed", "dead"];
    counts.iter().all(|state| stats[state].as_i64().unwrap() == 0)
}

/// All clients, from the first queue made to the last one empty.
pub async fn clients(shared: Rc<Shared>, seed: u64, nodes: usize) {
    Client::new(&shared, seed, 0, nodes).set_up().await;
    let work = |process| {
        let mut client = Client::new(&shared, seed, process, nodes);
        tokio::task::spawn_local(async move { client.run().await })
    };
    let all: Vec<_> = (1..=CLIENTS).map(work).collect();
    for client in all {
        client.await.unwrap();
    }
    let drain = |(at, queue): (usize, &'static str)| {
        let mut client = Client::new(&shared, seed, 100 + at as u64, nodes);
        tokio::task::spawn_local(async move { client.drain(queue).await })
    };
    let all: Vec<_> = QUEUES.into_iter().enumerate().map(drain).collect();
    for client in all {
        client.await.unwrap();
    }
}
