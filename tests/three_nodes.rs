//! Three whole nodes, started as production starts them, joined by mTLS over TCP.
#![allow(clippy::unwrap_used)]

mod common;

use common::fault_disk::FaultDisk;
use common::three::{content, put_queue};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tertulia::base::ids::{Boot, Generation, NodeId, SubscriptionId, UserId};
use tertulia::base::rng::SystemRng;
use tertulia::base::seams::{SystemNet, SystemSpawn};
use tertulia::config::Settings;
use tertulia::layout::members::Layout;
use tertulia::node::{ClusterParts, Node, Parts};
use tertulia::protocol::op::{Refusal, SettleAction, SettleItem};
use tertulia::replication::coordinator::StreamRef;
use tertulia::replication::dispatcher::{Delivery, ReceiveError, Wanted};
use tertulia::replication::sending::{Outgoing, Sender, Stored};
use tertulia::replication::settling::Settled;
use tertulia::security::{ClusterSecret, DataKey, Keys};
use tokio::sync::watch;

const STREAM: Generation = Generation([3; 16]);
const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

type Addresses = BTreeMap<NodeId, SocketAddr>;

/// Nodes on their disks, and where they are.
struct Cluster {
    disks: Vec<FaultDisk>,
    nodes: Vec<Option<Node>>,
    addresses: watch::Sender<Addresses>,
    secret: String,
    wrapped: Vec<u8>,
}

fn layout() -> Layout {
    Layout { version: 1, slots: 256, members: NODES.into_iter().collect::<BTreeSet<_>>() }
}

impl Cluster {
    /// Three nodes that all know one queue.
    async fn start() -> Self {
        let secret = ClusterSecret::generate(&SystemRng);
        let keys = Keys::derive(&secret, &Settings::default().cluster.name);
        let mut cluster = Self {
            disks: NODES.iter().map(|_| FaultDisk::new()).collect(),
            nodes: NODES.iter().map(|_| None).collect(),
            addresses: watch::channel(Addresses::new()).0,
            secret: secret.to_base64().to_string(),
            wrapped: keys.wrap(STREAM, &DataKey::generate(&SystemRng), &SystemRng),
        };
        for at in 0..NODES.len() {
            cluster.start_node(at).await;
            cluster.put_queue(at).await;
        }
        cluster
    }

    /// Starts a node of this identity on a disk.
    async fn node_on(&self, disk: &FaultDisk, node: NodeId) -> Node {
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let addresses = self.addresses.subscribe();
        let parts = Parts {
            net: Arc::new(SystemNet),
            spawn: Arc::new(SystemSpawn),
            password_cost_log2: 4,
            cluster: Some(ClusterParts { node, layout: layout(), listen, addresses, tls: true }),
            ..Parts::system(
                Arc::new(disk.clone()),
                ClusterSecret::parse(&self.secret).unwrap(),
                Arc::new(String::new),
            )
        };
        let mut settings = Settings::default();
        settings.http.listen = listen;
        Node::start(parts, settings).await.unwrap()
    }

    /// Starts a node of the cluster at a new port, and tells the others.
    async fn start_node(&mut self, at: usize) {
        let node = self.node_on(&self.disks[at], NODES[at]).await;
        let address = node.peers_addr().unwrap();
        self.addresses.send_modify(|all| {
            all.insert(NODES[at], address);
        });
        self.nodes[at] = Some(node);
    }

    async fn stop_node(&mut self, at: usize) {
        let stopping = self.nodes[at].take().unwrap().stop();
        tokio::time::timeout(Duration::from_secs(20), stopping).await.expect("a node stops");
    }

    fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().unwrap()
    }

    async fn put_queue(&self, at: usize) {
        put_queue(self.node(at).registers(), STREAM, &self.wrapped, 600).await;
    }

    fn stream(&self, node: &Node) -> StreamRef {
        node.coordinator().stream(STREAM, 1, &self.wrapped, 3).unwrap()
    }

    async fn send(&self, at: usize, text: &str, all: bool) -> Stored {
        self.send_by(self.node(at), text, all).await
    }

    async fn send_by(&self, node: &Node, text: &str, all: bool) -> Stored {
        let sender = Sender { id: UserId([1; 16]), name: "alice".into() };
        let message = vec![Outgoing::plain(content(text))];
        node.coordinator().store(&self.stream(node), &sender, message, all).await.remove(0)
    }

    async fn receive(&self, node: &Node) -> Result<Vec<Delivery>, ReceiveError> {
        self.receive_up_to(node, 10).await
    }

    async fn receive_up_to(&self, node: &Node, max: usize) -> Result<Vec<Delivery>, ReceiveError> {
        let wanted = Wanted {
            reader: SubscriptionId::QUEUE,
            holder: "bob".into(),
            requester: None,
            from_dead: false,
            max,
            bytes_max: 8 << 20,
            duration_ms: 60_000,
            in_flight_max: 120_000,
            retention_ms: u64::MAX,
        };
        let granted = node.coordinator().try_receive(&self.stream(node), &wanted).await?;
        Ok(granted.hand_over())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_what_one_node_stored_another_receives() {
    let cluster = Cluster::start().await;
    let stored = cluster.send(0, "one", true).await;
    assert!(matches!(stored, Stored::Done { copies: 3, .. }), "{stored:?}");
    let got = cluster.receive(cluster.node(1)).await.unwrap();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].content, content("one"));
    assert!(cluster.receive(cluster.node(2)).await.unwrap().is_empty(), "it is under lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g19_one_stopped_the_others_go_on_and_it_is_found_again() {
    let mut cluster = Cluster::start().await;
    cluster.send(0, "zero", true).await;
    cluster.stop_node(2).await;
    let stored = cluster.send(0, "one", false).await;
    assert!(matches!(stored, Stored::Done { copies: 2, .. }), "{stored:?}");
    let boot = Boot(2);
    cluster.start_node(2).await;
    assert_eq!(cluster.node(2).boot(), boot);
    // Nobody else was restarted: only an all-copies send can tell that the third is back.
    let stored = cluster.send(0, "two", true).await;
    assert!(matches!(stored, Stored::Done { copies: 3, .. }), "{stored:?}");
    assert!(cluster.node(0).coordinator().peers().alive(NODES[2]));
    // And the one that came back reaches the others.
    let stored = cluster.send(2, "three", true).await;
    assert!(matches!(stored, Stored::Done { copies: 3, .. }), "{stored:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g19_two_stopped_nothing_is_stored_and_nobody_waits_long() {
    let mut cluster = Cluster::start().await;
    cluster.send(0, "zero", true).await;
    cluster.stop_node(1).await;
    cluster.stop_node(2).await;
    let sending = cluster.send(0, "one", false);
    let stored = tokio::time::timeout(Duration::from_secs(4), sending).await.unwrap();
    assert_eq!(stored, Stored::Unknown);
    assert!(!cluster.node(0).coordinator().peers().alive(NODES[1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f15_a_folder_of_another_identity_is_a_gateway_and_votes_on_nothing() {
    let mut cluster = Cluster::start().await;
    cluster.stop_node(2).await;
    // The folder of node 3 started as if it were node 2: nobody may count it twice.
    let gateway = cluster.node_on(&cluster.disks[2], NODES[1]).await;
    assert_eq!(gateway.id(), NODES[2]);
    let address = gateway.peers_addr().unwrap();
    cluster.addresses.send_modify(|all| {
        all.insert(NODES[2], address);
    });
    let refused = cluster.send_by(&gateway, "one", false).await;
    assert_eq!(refused, Stored::NotStored(Refusal::NotMember));
    // A receive is handed on to a member: nothing was stored.
    assert!(cluster.receive(&gateway).await.unwrap().is_empty());
    assert_eq!(gateway.coordinator().census(&cluster.stream(&gateway)).await, None);
    // Asked by others it refuses too: two copies, however long one waits for the third.
    let stored = cluster.send(0, "two", true).await;
    assert!(matches!(stored, Stored::Done { copies: 2, .. }), "{stored:?}");
    gateway.stop().await;
}

/// What a counter says, over all of its labels but `class="repair"`, which goes on by itself.
fn counted(metrics: &PrometheusHandle, name: &str) -> f64 {
    let text = metrics.render();
    let lines = text.lines().filter(|line| line.starts_with(name) && !line.contains("repair"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Calls, bytes and fsyncs of one of what is done `times` times, one after the other.
async fn cost(
    (cluster, metrics): (&Cluster, &PrometheusHandle),
    what: &str,
    times: u32,
    mut one: impl AsyncFnMut(),
) -> [f64; 3] {
    let now = || {
        let syncs = cluster.disks.iter().map(FaultDisk::syncs).sum::<u64>() as f64;
        let (calls, bytes) = ("tertulia_peer_calls_total", "tertulia_peer_bytes_total");
        [counted(metrics, calls), counted(metrics, bytes), syncs]
    };
    let before = now();
    for _ in 0..times {
        one().await;
    }
    let after = now();
    let [calls, bytes, syncs] = std::array::from_fn(|i| (after[i] - before[i]) / f64::from(times));
    println!("{what}: {calls:.2} calls, {bytes:.0} bytes, {syncs:.2} fsyncs on three disks");
    [calls, bytes, syncs]
}

/// On one thread, so that a recorder of its own sees what these nodes do and nothing else.
#[tokio::test]
async fn a_send_a_lease_and_an_ack_cost_a_call_a_replica_and_an_fsync_a_disk() {
    const TIMES: u32 = 100;
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _here = metrics::set_default_local_recorder(&recorder);
    let cluster = Cluster::start().await;
    cluster.send(0, "warm", true).await;
    let seen = (&cluster, &metrics);
    let text = "x".repeat(1_024);
    let [calls, bytes, syncs] = cost(seen, "send of 1 KiB", TIMES, async || {
        assert!(matches!(cluster.send(0, &text, false).await, Stored::Done { .. }));
    })
    .await;
    assert!((1.9..=2.1).contains(&calls) && (2.7..=3.3).contains(&syncs));
    assert!((2_048.0..=2_800.0).contains(&bytes));
    let mut leases = Vec::new();
    let [calls, _, syncs] = cost(seen, "lease of 1 message", TIMES, async || {
        let got = cluster.receive_up_to(cluster.node(0), 1).await.unwrap();
        leases.extend(got.into_iter().map(|delivery| delivery.lease));
    })
    .await;
    // One more where another node dispatches.
    assert!((1.9..=3.2).contains(&calls) && (2.7..=3.3).contains(&syncs));
    assert_eq!(leases.len(), TIMES as usize);
    let mut leases = leases.into_iter();
    let [calls, _, syncs] = cost(seen, "ack of 1 message", TIMES, async || {
        let lease = leases.next().unwrap();
        let item = SettleItem {
            place: lease.place,
            requester: lease.requester,
            counter: lease.counter,
            receive_count: lease.receive_count,
            failure_count: lease.failure_count,
            action: SettleAction::Ack,
        };
        let node = cluster.node(0);
        let stream = cluster.stream(node);
        let settled = node.coordinator().settle(&stream, SubscriptionId::QUEUE, vec![item], false);
        assert_eq!(settled.await, [Settled::Done]);
    })
    .await;
    assert!((1.9..=2.1).contains(&calls) && (2.7..=3.3).contains(&syncs));
}
