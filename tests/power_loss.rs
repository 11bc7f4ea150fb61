//! A whole node under load loses its power, 300 times: whatever was not synced is lost, kept or
//! torn. Nothing acknowledged is lost, nothing settled returns, fences rise, sessions survive.
#![allow(clippy::unwrap_used)]

mod common;

use common::check::{Event, History, Verdict};
use common::fault_disk::FaultDisk;
use common::one::{Dice, HERE, HandClock, PASSWORD, start};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tertulia::broker::{
    Action, Body, Broker, Caller, Credential, Durability, OutgoingMessage, QueueChange,
    ReceiveRequest, ReceivedMessage, ReleaseOutcome, SendStatus, Settlement, Source,
    SubscriptionChange, TopicChange, Verdict as SettleVerdict,
};

const SEEDS: u64 = 300;
const QUEUE: &str = "orders";
const TOPIC: &str = "news";

fn text(body: &Body) -> String {
    match body {
        Body::Text(text) => text.clone(),
        Body::Binary(_) => panic!("only text was sent"),
    }
}

/// Keyed sends: their keys and bodies, repeated at any time, also in another life of the node.
type Keyed = Arc<Mutex<Vec<(String, String)>>>;

struct Load {
    broker: Arc<Broker>,
    caller: Caller,
    history: Arc<History>,
    keyed: Keyed,
}

impl Load {
    async fn send(&self, bodies: Vec<String>) {
        let message = |body: &String| OutgoingMessage::of(Body::Text(body.clone()));
        let messages = bodies.iter().map(message).collect();
        for body in &bodies {
            self.history.note(Event::Sending { body: body.clone() });
        }
        let sent = self.broker.send(&self.caller, QUEUE, messages, Durability::Quorum, None).await;
        let results = sent.map(|r| r.into_iter().map(|r| r.status).collect());
        let statuses: Vec<SendStatus> = results.unwrap_or_default();
        for (body, status) in bodies.into_iter().zip(statuses) {
            match status {
                SendStatus::Stored { .. } => self.history.note(Event::Sent { body }),
                SendStatus::Failed(_) => self.history.note(Event::NotSent { body }),
                SendStatus::Unknown(_) => {}
            }
        }
    }

    /// Sends under a key, or repeats an earlier send under its own: one message, whatever comes
    /// between the two [G8]. A second delivery after the ack of the first is what the checkers see.
    async fn send_keyed(&self, dice: &mut Dice, fresh: String) {
        let (key, body) = {
            let mut keyed = self.keyed.lock().unwrap();
            if keyed.is_empty() || dice.roll(2) == 0 {
                keyed.push((format!("key-{fresh}"), fresh.clone()));
                self.history.note(Event::Sending { body: fresh });
                keyed.last().cloned().unwrap()
            } else {
                let at = usize::try_from(dice.roll(keyed.len() as u64)).unwrap();
                keyed[at].clone()
            }
        };
        let message = vec![OutgoingMessage::of(Body::Text(body.clone()))];
        let (by, durability) = (&self.caller, Durability::Quorum);
        let sent = self.broker.send(by, QUEUE, message, durability, Some(&key)).await;
        if let Ok(results) = sent
            && matches!(results[0].status, SendStatus::Stored { .. })
        {
            self.history.note(Event::Sent { body });
        }
    }

    /// Publishes to a topic that is linked to the queue: one copy comes there [G15].
    async fn publish(&self, body: String) {
        self.history.note(Event::Sending { body: body.clone() });
        let message = vec![OutgoingMessage::of(Body::Text(body.clone()))];
        let (by, durability) = (&self.caller, Durability::Quorum);
        let sent = self.broker.publish(by, TOPIC, message, durability, false, None).await;
        if let Ok(results) = sent
            && matches!(results[0].result.status, SendStatus::Stored { .. })
        {
            assert_eq!(results[0].matched, 1);
            self.history.note(Event::Sent { body });
        }
    }

    async fn receive(&self, max_messages: i32, lease_seconds: i32) -> Vec<ReceivedMessage> {
        self.receive_within(max_messages, lease_seconds, 0).await
    }

    async fn receive_within(
        &self,
        max_messages: i32,
        lease_seconds: i32,
        wait_seconds: i32,
    ) -> Vec<ReceivedMessage> {
        let invoked = self.history.len();
        let lease_seconds = Some(lease_seconds);
        let request = ReceiveRequest {
            max_messages,
            lease_seconds,
            wait_seconds,
            ..ReceiveRequest::default()
        };
        let got = self.broker.receive(&self.caller, Source::Queue(QUEUE), request, || {}).await;
        let got = got.unwrap_or_default();
        for message in &got {
            let (body, fence) = (text(&message.body), message.fence);
            self.history.note(Event::Delivered { body, fence, invoked });
        }
        got
    }

    async fn settle(&self, message: &ReceivedMessage, action: Action) {
        let body = text(&message.body);
        if action == Action::Ack {
            self.history.note(Event::Acking { body: body.clone() });
        }
        let receipt = message.receipt.clone().unwrap();
        let settlements = vec![Settlement::new(receipt, action)];
        let verdicts = self.broker.settle(&self.caller, Source::Queue(QUEUE), settlements).await;
        if action != Action::Ack {
            return;
        }
        match verdicts.ok().and_then(|v| v.into_iter().next()) {
            Some(SettleVerdict::Done { .. }) => self.history.note(Event::Acked { body }),
            Some(SettleVerdict::Lost) => self.history.note(Event::AckLost { body }),
            _ => {}
        }
    }

    /// One client: sends, receives, settles as the dice say, until the power goes.
    async fn client(&self, mut dice: Dice, name: String) {
        for n in 0..200 {
            match dice.roll(6) {
                0 => self.send_keyed(&mut dice, format!("{name}-{n}-k")).await,
                1 => self.publish(format!("{name}-{n}-p")).await,
                2 => {
                    let count = dice.roll(4) + 1;
                    self.send((0..count).map(|i| format!("{name}-{n}-{i}")).collect()).await;
                }
                _ => {
                    for message in self.receive(3, 60).await {
                        let action = match dice.roll(6) {
                            0 => Action::Release {
                                outcome: ReleaseOutcome::Failed,
                                delay_seconds: None,
                            },
                            1 => Action::Extend { lease_seconds: 90 },
                            2 => continue,
                            _ => Action::Ack,
                        };
                        self.settle(&message, action).await;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Load {
    /// Takes everything that is there, the dead among it, and what a crash left in the topic.
    async fn drain(&self) {
        for _ in 0..20 {
            let waits = !self.history.verdict().lost.is_empty();
            let got = self.receive_within(100, 60, i32::from(waits)).await;
            let is_empty = got.is_empty();
            for message in got {
                self.settle(&message, Action::Ack).await;
            }
            if !is_empty {
                continue;
            }
            let redriven =
                self.broker.redrive(&self.caller, Source::Queue(QUEUE), 1_000).await.unwrap();
            if redriven.moved == 0 && !waits {
                return;
            }
        }
    }
}

async fn caller(broker: &Broker, token: &str) -> Caller {
    let caller = broker.authenticate_bearer(token, HERE).expect("the session survived");
    assert!(matches!(caller.credential, Credential::Session { .. }));
    caller
}

async fn run(seed: u64) -> Verdict {
    let mut dice = Dice::new(seed);
    let (mut disk, clock) = (FaultDisk::new(), HandClock::new());
    let history = Arc::new(History::default());
    let keyed = Keyed::default();
    let mut token = String::new();
    // Two lives, then a third that drains.
    for life in 0..2 {
        let node = start(&disk, &clock).await;
        assert_eq!(node.boot().0, life + 1);
        let broker = node.broker().clone();
        if life == 0 {
            broker.register(None, HERE, "alice", PASSWORD).await.unwrap();
            let session = broker.log_in("alice", PASSWORD, 3_600, HERE).await.unwrap();
            token = session.token.as_str().to_owned();
            let who = caller(&broker, &token).await;
            // Some die of it, and are brought back in the end.
            let mortal = QueueChange { max_failures: Some(2), ..QueueChange::default() };
            broker.put_queue(&who, QUEUE, mortal).await.unwrap();
            broker.put_topic(&who, TOPIC, TopicChange::default()).await.unwrap();
            let link = SubscriptionChange {
                deliver_to: Some(QUEUE.to_owned()),
                ..SubscriptionChange::default()
            };
            broker.put_subscription(&who, TOPIC, "link", &link).await.unwrap();
        }
        let who = caller(&broker, &token).await;
        let mut clients = tokio::task::JoinSet::new();
        for c in 0..3u64 {
            let load = Load {
                broker: broker.clone(),
                caller: who.clone(),
                history: history.clone(),
                keyed: keyed.clone(),
            };
            let (dice, name) = (Dice::new(seed * 31 + life * 7 + c), format!("s{seed}l{life}c{c}"));
            clients.spawn(async move { load.client(dice, name).await });
        }
        // The power goes after some more syncs, wherever the clients are then; sometimes in the
        // middle of a commit, whose sync hangs until then.
        let cut_at = disk.syncs() + 1 + dice.roll(40);
        while disk.syncs() < cut_at && !clients.is_empty() {
            if tokio::time::timeout(Duration::from_micros(200), clients.join_next()).await.is_ok() {
                continue;
            }
        }
        if dice.roll(2) == 0 {
            disk.hold_sync();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let left = disk.power_loss(dice.roll(u64::MAX));
        clients.shutdown().await;
        node.abandon();
        disk = left;
        clock.advance_ms(dice.roll(30_000));
    }
    let node = start(&disk, &clock).await;
    let broker = node.broker().clone();
    let who = caller(&broker, &token).await;
    clock.advance_ms(200_000);
    let load = Load { broker, caller: who, history: history.clone(), keyed: keyed.clone() };
    load.drain().await;
    // Whatever became of them: repeated, they are the same messages.
    let count = keyed.lock().unwrap().len();
    for _ in 0..count {
        load.send_keyed(&mut dice, format!("s{seed}-last")).await;
    }
    load.drain().await;
    node.stop().await;
    history.verdict()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_g4_g5_g8_g15_a_node_that_loses_its_power_keeps_its_promises() {
    let mut total = Verdict::default();
    for seed in 0..SEEDS {
        let verdict = tokio::time::timeout(Duration::from_secs(60), run(seed)).await;
        let verdict = verdict.unwrap_or_else(|_| panic!("seed {seed} hangs"));
        verdict.assert_clean(&format!("seed {seed}"));
        total.add(&verdict);
    }
    println!(
        "power loss: {SEEDS} seeds, {} power cuts, {} sends acknowledged, {} deliveries, {} acks, \
         {} of unknown outcome that came",
        2 * SEEDS,
        total.sent,
        total.delivered,
        total.acked,
        total.recovered
    );
    assert!(total.sent > 1_000 && total.acked > 500, "too tame: {total:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r6_nothing_is_answered_while_the_fsync_does_not_return() {
    let (disk, clock) = (FaultDisk::new(), HandClock::new());
    let node = start(&disk, &clock).await;
    let broker = node.broker().clone();
    broker.register(None, HERE, "alice", PASSWORD).await.unwrap();
    let session = broker.log_in("alice", PASSWORD, 3_600, HERE).await.unwrap();
    let who = caller(&broker, session.token.as_str()).await;
    broker.put_queue(&who, QUEUE, QueueChange::default()).await.unwrap();
    let history = Arc::new(History::default());
    let load = Load {
        broker: broker.clone(),
        caller: who.clone(),
        history: history.clone(),
        keyed: Keyed::default(),
    };
    load.send(vec!["one".into(), "two".into()]).await;
    let held = load.receive(1, 60).await;
    disk.hold_sync();
    let wait = Duration::from_millis(300);
    let none = |what: &str, done: bool| assert!(!done, "{what} was answered without an fsync");
    let send = load.send(vec!["three".into()]);
    none("a send", tokio::time::timeout(wait, send).await.is_ok());
    let receive = load.receive(1, 60);
    none("a receive", tokio::time::timeout(wait, receive).await.is_ok());
    let ack = load.settle(&held[0], Action::Ack);
    none("an ack", tokio::time::timeout(wait, ack).await.is_ok());
    let create = broker.put_queue(&who, "other", QueueChange::default());
    none("a creation", tokio::time::timeout(wait, create).await.is_ok());
    let login = broker.log_in("alice", PASSWORD, 3_600, HERE);
    none("a login", tokio::time::timeout(wait, login).await.is_ok());
    let logout = broker.log_out_current(&who);
    none("a logout", tokio::time::timeout(wait, logout).await.is_ok());
    disk.release_sync();
    node.stop().await;
}
