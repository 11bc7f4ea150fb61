//! kill -9 of the real binary under load, 20 times, over HTTPS: nothing acknowledged is lost,
//! nothing settled returns, fences rise, the session and the leases survive.
#![allow(clippy::unwrap_used)]

mod common;

use common::check::{Event, History};
use common::one::Dice;
use common::process::Process;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const KILLS: u64 = 20;
const SENDERS: u64 = 8;
const RECEIVERS: u64 = 4;

#[derive(Clone)]
struct Load {
    client: reqwest::Client,
    url: String,
    token: String,
    history: Arc<History>,
    killed: Arc<AtomicBool>,
}

impl Load {
    async fn post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let url = format!("{}/v1/{path}", self.url);
        let request = self.client.post(url).bearer_auth(&self.token).json(body);
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.ok()?))
    }

    async fn send(&self, bodies: Vec<String>) {
        let messages: Vec<Value> = bodies.iter().map(|body| json!({ "body": body })).collect();
        for body in &bodies {
            self.history.note(Event::Sending { body: body.clone() });
        }
        let answer = self.post("queues/q/messages", &json!({ "messages": messages })).await;
        // No answer: the outcome is unknown.
        let Some((status, answer)) = answer else { return };
        for (i, body) in bodies.into_iter().enumerate() {
            if status == 201 && answer["results"][i]["status"] == "stored" {
                self.history.note(Event::Sent { body });
            } else if answer["outcome"] == "not_stored" {
                self.history.note(Event::NotSent { body });
            }
        }
    }

    async fn receive(&self, wait_seconds: u32, lease_seconds: u32) -> Vec<(String, String)> {
        let invoked = self.history.len();
        let request = json!({ "max_messages": 10, "wait_seconds": wait_seconds, "lease_seconds": lease_seconds });
        let Some((200, answer)) = self.post("queues/q/leases", &request).await else {
            return Vec::new();
        };
        let messages = answer["messages"].as_array().unwrap();
        let note = |message: &Value| {
            let body = message["body"].as_str().unwrap().to_owned();
            let fence = message["fence"].as_i64().unwrap();
            self.history.note(Event::Delivered { body: body.clone(), fence, invoked });
            (body, message["receipt"].as_str().unwrap().to_owned())
        };
        messages.iter().map(note).collect()
    }

    async fn ack(&self, body: String, receipt: &str) {
        self.history.note(Event::Acking { body: body.clone() });
        let url = format!("{}/v1/queues/q/leases/{receipt}", self.url);
        let answer = self.client.delete(url).bearer_auth(&self.token).send().await;
        match answer.map(|answer| answer.status().as_u16()) {
            Ok(204) => self.history.note(Event::Acked { body }),
            Ok(409) => self.history.note(Event::AckLost { body }),
            _ => {}
        }
    }

    async fn sender(self, name: String) {
        let mut dice = Dice::new(name.len() as u64 + self.history.len() as u64);
        for n in 0.. {
            if self.killed.load(Ordering::SeqCst) {
                return;
            }
            let count = dice.roll(3) + 1;
            self.send((0..count).map(|i| format!("{name}-{n}-{i}")).collect()).await;
        }
    }

    async fn receiver(self, seed: u64) {
        let mut dice = Dice::new(seed);
        while !self.killed.load(Ordering::SeqCst) {
            for (body, receipt) in self.receive(1, 2).await {
                // Some are left to lapse.
                if dice.roll(8) > 0 {
                    self.ack(body, &receipt).await;
                }
            }
        }
    }
}

async fn set_up(client: &reqwest::Client, url: &str) -> String {
    let alice = json!({ "username": "alice", "password": "correct horse battery" });
    let made = client.post(format!("{url}/v1/users")).json(&alice).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let session = client.post(format!("{url}/v1/sessions")).json(&alice).send().await.unwrap();
    assert_eq!(session.status(), 201);
    let session: Value = session.json().await.unwrap();
    let token = session["token"].as_str().unwrap().to_owned();
    let put = client.put(format!("{url}/v1/queues/q")).bearer_auth(&token).json(&json!({}));
    assert_eq!(put.send().await.unwrap().status(), 201);
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_g4_g5_the_real_binary_killed_under_load_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let history = Arc::new(History::default());
    let mut dice = Dice::new(20);
    let mut token = String::new();
    for kill in 0..KILLS {
        let mut broker = Process::start(folder.path(), &[]).await;
        let client = broker.client(None);
        if kill == 0 {
            token = set_up(&client, &broker.url()).await;
        }
        let (url, token) = (broker.url(), token.clone());
        let load = Load { client, url, token, history: history.clone(), killed: Arc::default() };
        let mut clients = tokio::task::JoinSet::new();
        for s in 0..SENDERS {
            clients.spawn(load.clone().sender(format!("k{kill}s{s}")));
        }
        for r in 0..RECEIVERS {
            clients.spawn(load.clone().receiver(kill * 10 + r));
        }
        // After some load; the kill falls wherever the clients are then.
        history.grows_by(2_000 + usize::try_from(dice.roll(8_000)).unwrap()).await;
        broker.kill();
        load.killed.store(true, Ordering::SeqCst);
        while clients.join_next().await.is_some() {}
    }
    let broker = Process::start(folder.path(), &[]).await;
    let client = broker.client(None);
    let (url, history) = (broker.url(), history.clone());
    let load = Load { client, url, token, history, killed: Arc::default() };
    // Leases of at most 2 s lapse while this waits for messages.
    loop {
        let got = load.receive(5, 30).await;
        if got.is_empty() {
            break;
        }
        for (body, receipt) in got {
            load.ack(body, &receipt).await;
        }
    }
    let verdict = load.history.verdict();
    println!(
        "kill: {KILLS} kills, {} sends acknowledged, {} deliveries, {} acks, {} of unknown \
         outcome that came",
        verdict.sent, verdict.delivered, verdict.acked, verdict.recovered
    );
    verdict.assert_clean("kill");
    assert!(verdict.sent > 1_000 && verdict.acked > 500, "too tame: {verdict:?}");
}
