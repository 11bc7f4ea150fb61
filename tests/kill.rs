//! kill -9 of the real binary under load, 20 times, over HTTPS: nothing acknowledged is lost,
//! nothing settled or deleted returns, fences rise, the session and the leases survive. A key is
//! one message over all lives, a publish is one copy in the linked queue, the dead come back when
//! they are redriven, or go on to the queue that was named for them.
#![allow(clippy::unwrap_used)]

mod common;

use common::check::{Event, History};
use common::one::Dice;
use common::process::Process;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const KILLS: u64 = 20;
const SENDERS: u64 = 8;
const RECEIVERS: u64 = 6;
/// Its messages die of two failures, and are redriven.
const QUEUE: &str = "q";
/// Its messages die of the first failure, and go on to the next.
const MORTAL: &str = "mortal";
const GRAVES: &str = "graves";
/// Linked to the first queue.
const TOPIC: &str = "news";
/// The fences of `GRAVES` come after those of `MORTAL`: who is buried is not received above.
const BURIED: i64 = 1 << 40;

/// What is sent under a key, and may be sent again in any life.
#[derive(Clone)]
struct Keyed {
    path: String,
    key: String,
    body: String,
    life: u64,
}

/// What happened, beside the history's own counts.
#[derive(Debug, Default)]
struct Counts {
    repeats: AtomicU64,
    repeats_of_earlier_lives: AtomicU64,
    published: AtomicU64,
    failed: AtomicU64,
    redriven: AtomicU64,
    buried: AtomicU64,
    deleted: AtomicU64,
}

#[derive(Clone)]
struct Load {
    client: reqwest::Client,
    url: String,
    token: String,
    life: u64,
    history: Arc<History>,
    keyed: Arc<Mutex<Vec<Keyed>>>,
    counts: Arc<Counts>,
    killed: Arc<AtomicBool>,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::SeqCst);
}

impl Load {
    async fn post(&self, path: &str, body: &Value, key: Option<&str>) -> Option<(u16, Value)> {
        let url = format!("{}/v1/{path}", self.url);
        let mut request = self.client.post(url).bearer_auth(&self.token).json(body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.ok()?;
        Some((status, serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }

    async fn delete(&self, path: &str) -> Option<u16> {
        let url = format!("{}/v1/{path}", self.url);
        let answer = self.client.delete(url).bearer_auth(&self.token).send().await;
        answer.ok().map(|answer| answer.status().as_u16())
    }

    /// Sends or publishes; the ids of what is known to be stored.
    async fn send(&self, path: &str, bodies: &[String], key: Option<&str>) -> Vec<Option<String>> {
        let messages: Vec<Value> = bodies.iter().map(|body| json!({ "body": body })).collect();
        for body in bodies {
            self.history.note(Event::Sending { body: body.clone() });
        }
        let wish = json!({ "messages": messages });
        // No answer: the outcome is unknown.
        let Some((status, answer)) = self.post(&format!("{path}/messages"), &wish, key).await
        else {
            return Vec::new();
        };
        let mut ids = Vec::new();
        for (i, body) in bodies.iter().enumerate() {
            let result = &answer["results"][i];
            let how = result["status"].as_str().unwrap_or_default();
            let body = body.clone();
            let id = result["id"].as_str().filter(|_| matches!(how, "stored" | "duplicate"));
            if let (201, Some(id)) = (status, id) {
                self.history.note_id(format!("{path} {body}"), id);
                self.history.note(Event::Sent { body });
                if key.is_none() {
                    assert_eq!(how, "stored", "nothing else was sent under that name");
                }
            } else if key.is_none() && answer["outcome"] == "not_stored" {
                self.history.note(Event::NotSent { body });
            }
            ids.push(id.map(str::to_owned));
        }
        ids
    }

    /// Sends under a key, or sends again what was sent under one in this or an earlier life: one
    /// message with one id, whatever came between [G8].
    async fn send_keyed(&self, dice: &mut Dice, path: String, fresh: String) {
        let it = {
            let mut keyed = self.keyed.lock().unwrap();
            if keyed.is_empty() || dice.roll(2) == 0 {
                let (key, life) = (format!("key-{fresh}"), self.life);
                keyed.push(Keyed { path, key, body: fresh, life });
                keyed.last().cloned().unwrap()
            } else {
                let at = usize::try_from(dice.roll(keyed.len() as u64)).unwrap();
                keyed[at].clone()
            }
        };
        self.repeat(&it).await;
    }

    async fn repeat(&self, it: &Keyed) {
        let ids = self.send(&it.path, std::slice::from_ref(&it.body), Some(&it.key)).await;
        if ids.first().is_some_and(Option::is_some) {
            count(&self.counts.repeats);
            if it.life < self.life {
                count(&self.counts.repeats_of_earlier_lives);
            }
            if it.path.starts_with("topics/") {
                count(&self.counts.published);
            }
        }
    }

    async fn receive(
        &self,
        queue: &str,
        max_messages: u32,
        wait_seconds: u32,
        lease_seconds: u32,
    ) -> Vec<Taken> {
        let invoked = self.history.len();
        let wish = json!({
            "max_messages": max_messages,
            "wait_seconds": wait_seconds,
            "lease_seconds": lease_seconds,
        });
        let answer = self.post(&format!("queues/{queue}/leases"), &wish, None).await;
        let Some((200, answer)) = answer else {
            return Vec::new();
        };
        let note = |message: &Value| {
            let body = message["body"].as_str().unwrap().to_owned();
            let mut fence = message["fence"].as_i64().unwrap();
            self.history.note_id(format!("queues/{queue} {body}"), message["id"].as_str().unwrap());
            if queue == GRAVES {
                fence += BURIED;
                count(&self.counts.buried);
                assert_eq!(message["dead_letter"]["queue"], MORTAL);
            }
            self.history.note(Event::Delivered { body: body.clone(), fence, invoked });
            let receipt = message["receipt"].as_str().unwrap();
            Taken { lease: format!("queues/{queue}/leases/{receipt}"), body }
        };
        answer["messages"].as_array().unwrap().iter().map(note).collect()
    }

    async fn ack(&self, taken: Taken) {
        let body = taken.body;
        self.history.note(Event::Acking { body: body.clone() });
        match self.delete(&taken.lease).await {
            Some(204) => self.history.note(Event::Acked { body }),
            Some(409) => self.history.note(Event::AckLost { body }),
            _ => {}
        }
    }

    async fn fail(&self, taken: &Taken) {
        let wish = json!({ "outcome": "failed" });
        let answer = self.post(&format!("{}/releases", taken.lease), &wish, None).await;
        if matches!(answer, Some((204, _))) {
            count(&self.counts.failed);
        }
    }

    /// Deletes a message: once that is answered, no later receive gets it.
    async fn take_out(&self, body: &str, id: &str) {
        self.history.note(Event::Acking { body: body.to_owned() });
        if self.delete(&format!("queues/{QUEUE}/messages/{id}")).await == Some(204) {
            self.history.note(Event::Acked { body: body.to_owned() });
            count(&self.counts.deleted);
        }
    }

    async fn redrive(&self) {
        let wish = json!({ "max_messages": 1_000 });
        let answer = self.post(&format!("queues/{QUEUE}/redrives"), &wish, None).await;
        if let Some((200, answer)) = answer {
            let moved = answer["moved_count"].as_u64().unwrap();
            self.counts.redriven.fetch_add(moved, Ordering::SeqCst);
        }
    }

    async fn sender(self, name: String, mut dice: Dice) {
        for n in 0.. {
            if self.killed.load(Ordering::SeqCst) {
                return;
            }
            let (queue, topic) = (format!("queues/{QUEUE}"), format!("topics/{TOPIC}"));
            let fresh = format!("{name}-{n}");
            match dice.roll(8) {
                0 => self.send_keyed(&mut dice, queue, fresh).await,
                1 => self.send_keyed(&mut dice, topic, fresh).await,
                2 => {
                    for _ in self.send(&topic, &[fresh], None).await {
                        count(&self.counts.published);
                    }
                }
                3 => {
                    let ids = self.send(&queue, std::slice::from_ref(&fresh), None).await;
                    if let Some(Some(id)) = ids.first() {
                        self.take_out(&fresh, id).await;
                    }
                }
                4 => drop(self.send(&format!("queues/{MORTAL}"), &[fresh], None).await),
                _ => {
                    let bodies: Vec<String> =
                        (0..=dice.roll(3)).map(|i| format!("{fresh}-{i}")).collect();
                    self.send(&queue, &bodies, None).await;
                }
            }
        }
    }

    async fn receiver(self, mut dice: Dice) {
        while !self.killed.load(Ordering::SeqCst) {
            let (queue, wait_seconds) = match dice.roll(6) {
                0 => (MORTAL, 0),
                1 => (GRAVES, 0),
                _ => (QUEUE, 1),
            };
            for taken in self.receive(queue, 10, wait_seconds, 2).await {
                // Some are left to lapse.
                match dice.roll(8) {
                    0 => {}
                    1..4 => self.fail(&taken).await,
                    _ => self.ack(taken).await,
                }
            }
            if dice.roll(20) == 0 {
                self.redrive().await;
            }
        }
    }

    /// Whether no queue has a message in whatever state.
    async fn is_empty(&self) -> bool {
        for queue in [QUEUE, MORTAL, GRAVES] {
            let url = format!("{}/v1/queues/{queue}", self.url);
            let view = self.client.get(url).bearer_auth(&self.token).send().await.unwrap();
            let view: Value = view.json().await.unwrap();
            let stats = &view["stats"];
            let all = ["ready", "leased", "delayed", "dead"];
            if all.iter().any(|state| stats[*state].as_u64().unwrap() > 0) {
                return false;
            }
        }
        true
    }

    /// Takes everything out, the dead too. Leases of at most 2 s lapse meanwhile; what a crash
    /// left in the topic comes by itself.
    async fn drain(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        let mut wait_seconds = 0;
        loop {
            let takes = [QUEUE, QUEUE, QUEUE, QUEUE, MORTAL, GRAVES];
            let takes = takes.map(|queue| self.take_all(queue, wait_seconds));
            let taken: usize = futures_util::future::join_all(takes).await.into_iter().sum();
            wait_seconds = 0;
            if taken > 0 {
                continue;
            }
            self.redrive().await;
            let left = self.history.verdict().left;
            if left.is_empty() && self.is_empty().await {
                return;
            }
            assert!(Instant::now() < end, "it does not drain (C-DRAIN): {left:?}");
            // Whoever finds nothing waits for what comes.
            wait_seconds = 1;
        }
    }

    /// Takes out what is ready; how many that was.
    async fn take_all(&self, queue: &str, wait_seconds: u32) -> usize {
        let taken = self.receive(queue, 100, wait_seconds, 30).await;
        let receipt = |taken: &Taken| taken.lease.rsplit('/').next().unwrap().to_owned();
        let receipts: Vec<String> = taken.iter().map(receipt).collect();
        if receipts.is_empty() {
            return 0;
        }
        for Taken { body, .. } in &taken {
            self.history.note(Event::Acking { body: body.clone() });
        }
        let path = format!("queues/{queue}/settlements");
        let (status, answer) = self.post(&path, &json!({ "ack": receipts }), None).await.unwrap();
        assert_eq!((status, &answer["failed_count"]), (200, &json!(0)), "{answer}");
        for Taken { body, .. } in &taken {
            self.history.note(Event::Acked { body: body.clone() });
        }
        taken.len()
    }
}

/// A message under a lease.
struct Taken {
    lease: String,
    body: String,
}

async fn set_up(client: &reqwest::Client, url: &str) -> String {
    let alice = json!({ "username": "alice", "password": "correct horse battery" });
    let made = client.post(format!("{url}/v1/users")).json(&alice).send().await.unwrap();
    assert_eq!(made.status(), 201);
    let session = client.post(format!("{url}/v1/sessions")).json(&alice).send().await.unwrap();
    assert_eq!(session.status(), 201);
    let session: Value = session.json().await.unwrap();
    let token = session["token"].as_str().unwrap().to_owned();
    let things = [
        (format!("queues/{QUEUE}"), json!({ "max_failures": 2 })),
        (format!("queues/{GRAVES}"), json!({ "max_failures": 0 })),
        (format!("queues/{MORTAL}"), json!({ "max_failures": 1, "dead_letter": GRAVES })),
        (format!("topics/{TOPIC}"), json!({})),
        (format!("topics/{TOPIC}/subscriptions/link"), json!({ "deliver_to": QUEUE })),
    ];
    for (path, config) in things {
        let put = client.put(format!("{url}/v1/{path}")).bearer_auth(&token).json(&config);
        assert_eq!(put.send().await.unwrap().status(), 201, "{path}");
    }
    token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_g4_g5_g8_g14_g15_the_real_binary_killed_under_load_keeps_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let history = Arc::new(History::default());
    let (keyed, counts): (Arc<Mutex<Vec<Keyed>>>, Arc<Counts>) = Default::default();
    let mut dice = Dice::new(20);
    let mut token = String::new();
    let load = |life, broker: &Process, token: &str| Load {
        client: broker.client(None),
        url: broker.url(),
        token: token.to_owned(),
        life,
        history: history.clone(),
        keyed: keyed.clone(),
        counts: counts.clone(),
        killed: Arc::default(),
    };
    for life in 0..KILLS {
        let mut broker = Process::start(folder.path(), &[]).await;
        if life == 0 {
            token = set_up(&broker.client(None), &broker.url()).await;
        }
        let load = load(life, &broker, &token);
        let mut clients = tokio::task::JoinSet::new();
        for s in 0..SENDERS {
            let dice = Dice::new(life * 100 + s);
            clients.spawn(load.clone().sender(format!("k{life}s{s}"), dice));
        }
        for r in 0..RECEIVERS {
            clients.spawn(load.clone().receiver(Dice::new(life * 100 + SENDERS + r)));
        }
        // After some load; the kill falls wherever the clients are then.
        history.grows_by(300 + usize::try_from(dice.roll(1_200)).unwrap()).await;
        broker.kill();
        load.killed.store(true, Ordering::SeqCst);
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    }
    let broker = Process::start(folder.path(), &[]).await;
    let load = load(KILLS, &broker, &token);
    load.drain().await;
    // Whatever became of them: sent once more they are the same messages, and none comes.
    let again = keyed.lock().unwrap().clone();
    for some in again.chunks(16) {
        futures_util::future::join_all(some.iter().map(|it| load.repeat(it))).await;
    }
    load.drain().await;
    let verdict = history.verdict();
    println!(
        "kill: {KILLS} kills, {} sends acknowledged, {} deliveries, {} acks, {} of unknown \
         outcome that came; {counts:?}",
        verdict.sent, verdict.delivered, verdict.acked, verdict.recovered
    );
    verdict.assert_clean("kill");
    let each = [
        &counts.repeats,
        &counts.repeats_of_earlier_lives,
        &counts.published,
        &counts.failed,
        &counts.redriven,
        &counts.buried,
        &counts.deleted,
    ];
    assert!(each.iter().all(|count| count.load(Ordering::SeqCst) > 0), "too tame: {counts:?}");
    assert!(verdict.sent > 1_000 && verdict.acked > 500, "too tame: {verdict:?}");
}
