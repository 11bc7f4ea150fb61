//! Three replicas in one process: real stores, real RPC, a network in memory whose links can be
//! cut, held back and doubled.

use super::fault_disk::FaultDisk;
use super::memory_net::MemoryNet;
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tertulia::base::clock::{Clock, ServiceClock, SystemClock};
use tertulia::base::hlc::{Hlc, HlcClock};
use tertulia::base::ids::{Boot, Generation, NodeId, RequesterId, SubscriptionId, UserId};
use tertulia::base::rng::{Rng, SystemRng};
use tertulia::base::seams::{Net, Spawn, SystemSpawn};
use tertulia::crdt::context::DotSet;
use tertulia::crdt::dot::Dot;
use tertulia::layout::members::Layout;
use tertulia::layout::placement;
use tertulia::message::envelope::{Body, Content, Envelope, Header};
use tertulia::metadata::{Draft, Registers};
use tertulia::protocol::op::{
    Answer, LeaseDot, LeaseOp, LeaseVote, Purpose, Refusal, Reply, Request, SettleItem, StoreOp,
    StoreVote,
};
use tertulia::protocol::record::{Ending, Kind, Queue, QueueConfig, RecordKey, State, Value};
use tertulia::protocol::stream::{MessageId, Place};
use tertulia::replication::coordinator::{Coordinator, CoordinatorParts, StreamRef};
use tertulia::replication::dispatcher::{Delivery, ReceiveError, Wanted};
use tertulia::replication::gateway::{FORWARD_CALL, Forwarded, Forwardee, forward_handler};
use tertulia::replication::inspecting::Seen;
use tertulia::replication::lapses::Lapses;
use tertulia::replication::listening::Listening;
use tertulia::replication::peers::{
    CallError, Peer, Peers, REPAIR_CALL, REPLICA_CALL, RemotePeer, repair_handler, replica_handler,
};
use tertulia::replication::repair::{RepairAnswer, RepairRequest};
use tertulia::replication::replica::{Replica, ReplicaParts};
use tertulia::replication::sending::{Outgoing, Sender, Stored};
use tertulia::replication::settling::Settled;
use tertulia::replication::stream_cell::Side;
use tertulia::rpc;
use tertulia::security::keys::{ClusterSecret, DataKey, Keys};
use tertulia::store::{RowOp, Store, StoreOptions, Table};
use tokio::sync::Notify;

/// The machine's clocks, and ahead of them by what a test lets pass.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn wall_ms(&self) -> u64 {
        SystemClock.wall_ms() + self.0.load(Ordering::SeqCst)
    }
    fn boottime_ms(&self) -> u64 {
        SystemClock.boottime_ms() + self.0.load(Ordering::SeqCst)
    }
    fn kernel_boot_id(&self) -> u64 {
        SystemClock.kernel_boot_id()
    }
}

/// A link to one replica, with what can go wrong on it.
pub struct Link {
    peer: Mutex<Option<Arc<RemotePeer>>>,
    alive: AtomicBool,
    held: AtomicBool,
    doubled: AtomicBool,
    impostor: AtomicBool,
    answers_lost: AtomicBool,
    asked: AtomicUsize,
    /// The largest question of repair, in bytes.
    longest_question: AtomicUsize,
    changed: Notify,
}

impl Link {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            peer: Mutex::new(None),
            alive: AtomicBool::new(true),
            held: AtomicBool::new(false),
            doubled: AtomicBool::new(false),
            impostor: AtomicBool::new(false),
            answers_lost: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            longest_question: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    async fn until(&self, met: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if met() {
                return;
            }
            changed.await;
        }
    }
}

struct LinkPeer(Arc<Link>);

impl Peer for LinkPeer {
    fn call(
        &self,
        request: Arc<Request>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Reply, CallError>> {
        let link = self.0.clone();
        Box::pin(async move {
            // A dead replica: whether it was reached is not known.
            if !link.alive.load(Ordering::SeqCst) {
                return Err(CallError::Lost);
            }
            let peer = link.peer.lock().unwrap().clone().ok_or(CallError::NotAsked)?;
            let reply = peer.call(request.clone(), deadline).await;
            link.asked.fetch_add(1, Ordering::SeqCst);
            link.changed.notify_waiters();
            if link.doubled.load(Ordering::SeqCst) {
                let again = peer.call(request, deadline).await?;
                // What is stored the first time is known the second: the same "yes".
                let plain = |answer: &Answer| match answer {
                    Answer::Stored(votes) => Answer::Stored(vec![StoreVote::Known; votes.len()]),
                    other => other.clone(),
                };
                assert_eq!(plain(&again.answer), plain(&reply.clone()?.answer));
            }
            link.until(|| !link.held.load(Ordering::SeqCst)).await;
            let mut reply = reply?;
            if link.impostor.load(Ordering::SeqCst) {
                reply.voter.node = NodeId(99);
            }
            Ok(reply)
        })
    }

    fn is_up(&self) -> bool {
        self.0.alive.load(Ordering::SeqCst)
    }

    fn forward(
        &self,
        operation: Forwarded,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Forwardee, CallError>> {
        let link = self.0.clone();
        Box::pin(async move {
            if !link.alive.load(Ordering::SeqCst) {
                return Err(CallError::Lost);
            }
            let peer = link.peer.lock().unwrap().clone().ok_or(CallError::NotAsked)?;
            let done = peer.forward(operation, deadline).await;
            link.asked.fetch_add(1, Ordering::SeqCst);
            link.changed.notify_waiters();
            link.until(|| !link.held.load(Ordering::SeqCst)).await;
            if link.answers_lost.swap(false, Ordering::SeqCst) {
                return Err(CallError::Lost);
            }
            done
        })
    }

    fn repair(
        &self,
        request: RepairRequest,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<RepairAnswer, CallError>> {
        let link = self.0.clone();
        Box::pin(async move {
            if !link.alive.load(Ordering::SeqCst) {
                return Err(CallError::Lost);
            }
            let peer = link.peer.lock().unwrap().clone().ok_or(CallError::NotAsked)?;
            let bytes = postcard::to_stdvec(&request).unwrap().len();
            link.longest_question.fetch_max(bytes, Ordering::SeqCst);
            link.changed.notify_waiters();
            let answer = peer.repair(request, deadline).await;
            link.until(|| !link.held.load(Ordering::SeqCst)).await;
            answer
        })
    }
}

struct Member {
    replica: Arc<Replica>,
    coordinator: Arc<Coordinator>,
    /// To each node, its own place unused.
    links: Vec<Arc<Link>>,
    stream: StreamRef,
}

/// The cluster. Where no node is named, node 0 coordinates.
#[derive(Clone)]
pub struct Three(Arc<Inside>);

struct Inside {
    members: Vec<Member>,
    ahead: Arc<Ahead>,
    _disks: Vec<FaultDisk>,
}

const STREAM: Generation = Generation([3; 16]);

pub fn content(text: &str) -> Content {
    let content_type = "text/plain".to_owned();
    Content {
        body: Body::Text(text.to_owned()),
        content_type,
        attributes: BTreeMap::new(),
        routing_key: None,
        group: None,
        topic: None,
        died: None,
    }
}

fn stamp() -> RowOp {
    RowOp::Put { table: Table::Node, key: b"stamp".to_vec(), tag: 1, bytes: vec![0] }
}

/// Puts the record of a queue with three replicas into the registers of one node.
pub async fn put_queue(
    registers: &Registers,
    generation: Generation,
    wrapped: &[u8],
    dedup_seconds: i32,
) {
    let defaults = tertulia::broker::queues::DEFAULTS;
    let config = QueueConfig { replicas: 3, dedup_seconds, ..defaults };
    let queue = Queue {
        owner: UserId([1; 16]),
        config,
        ending: Ending::No,
        data_key: wrapped.to_vec(),
        grants: BTreeMap::new(),
        created_ms: 0,
        updated_ms: 0,
    };
    let draft = Draft { generation, state: State::Live, value: Value::Queue(queue) };
    registers.change(RecordKey::new(Kind::Queue, "q"), 0, draft).await.unwrap();
}

impl Three {
    /// Three nodes, who all replicate the stream.
    pub async fn start() -> Self {
        Self::of(3).await
    }

    /// So many nodes, of which three replicate the stream.
    pub async fn of(count: u64) -> Self {
        Self::remembering(count, 600).await
    }

    /// The same, with so many seconds for which keys are remembered.
    pub async fn remembering(count: u64, dedup_seconds: i32) -> Self {
        let ahead = Arc::new(Ahead::default());
        let (clock, rng): (Arc<dyn Clock>, Arc<dyn Rng>) = (ahead.clone(), Arc::new(SystemRng));
        let spawn: Arc<dyn Spawn> = Arc::new(SystemSpawn);
        let net = Arc::new(MemoryNet::default());
        let keys = Arc::new(Keys::derive(&ClusterSecret::generate(&*rng), "three"));
        let wrapped = keys.wrap(STREAM, &DataKey::generate(&*rng), &*rng);
        let nodes: Vec<NodeId> = (0..count).map(NodeId).collect();
        let layout = Layout { version: 1, slots: 256, members: nodes.iter().copied().collect() };
        let view = placement::view_of(&layout, STREAM, 3);
        let (mut members, mut disks) = (Vec::new(), Vec::new());
        for node in nodes.clone() {
            let disk = FaultDisk::new();
            let open = Store::open(Arc::new(disk.clone()), 1 << 20).unwrap();
            let options = StoreOptions { reserve_bytes: 0, stamp: Arc::new(|_| stamp()) };
            let store = open.start(&*spawn, options, 0);
            let (registers, catalog) = Registers::open(store.clone()).unwrap();
            put_queue(&registers, STREAM, &wrapped, dedup_seconds).await;
            let service = Arc::new(ServiceClock::resume(clock.clone(), None));
            let lapses = Lapses::new(service.clone());
            spawn.task(Box::pin(lapses.clone().run()));
            let hlc = Arc::new(HlcClock::new(clock.clone(), node, None));
            let (boot, spawn, view) = (Boot(1), spawn.clone(), view.id());
            let parts = ReplicaParts {
                node,
                boot,
                store,
                catalog,
                service,
                hlc,
                spawn,
                lapses,
                view,
                layout: layout.clone(),
                is_shared: true,
                streams_max: 2,
            };
            let replica = Replica::new(parts);
            let links: Vec<Arc<Link>> = nodes.iter().map(|_| Link::new()).collect();
            let mut peers = Peers::new();
            for to in nodes.iter().copied().filter(|to| *to != node) {
                let at = usize::try_from(to.0).unwrap();
                peers.insert(to, Arc::new(LinkPeer(links[at].clone())) as Arc<dyn Peer>);
            }
            let parts = CoordinatorParts {
                replica: replica.clone(),
                peers,
                layout: layout.clone(),
                keys: keys.clone(),
                clock: clock.clone(),
                rng: rng.clone(),
            };
            let coordinator = Coordinator::new(parts);
            let stream = coordinator.stream(STREAM, 1, &wrapped, 3).unwrap();
            disks.push(disk);
            members.push(Member { replica, coordinator, links, stream });
        }
        let three = Self(Arc::new(Inside { members, ahead, _disks: disks }));
        for node in 0..nodes.len() {
            three.serve(node, &net, &spawn).await;
        }
        three
    }

    /// A node answers RPC at an address of the memory network, and the others are connected to it.
    async fn serve(&self, node: usize, net: &Arc<MemoryNet>, spawn: &Arc<dyn Spawn>) {
        let at: SocketAddr = format!("127.0.0.1:{}", 7_000 + node).parse().unwrap();
        let listener = net.bind(at).await.unwrap();
        let Member { replica, coordinator, .. } = &self.0.members[node];
        let handlers = Arc::new(BTreeMap::from([
            (REPLICA_CALL, replica_handler(replica.clone())),
            (REPAIR_CALL, repair_handler(replica.clone())),
            (FORWARD_CALL, forward_handler(coordinator.clone())),
        ]));
        let serving = spawn.clone();
        spawn.task(Box::pin(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.task(Box::pin(rpc::serve(
                    stream,
                    rpc::Class::Data,
                    handlers.clone(),
                    serving.clone(),
                )));
            }
        }));
        for (_, member) in self.0.members.iter().enumerate().filter(|(from, _)| *from != node) {
            let stream = net.connect(at).await.unwrap();
            let client = rpc::Client::new(stream, rpc::Class::Data, &**spawn);
            *member.links[node].peer.lock().unwrap() = Some(Arc::new(RemotePeer::new(client)));
        }
    }

    /// All links of a node, in both directions.
    fn links_of(&self, node: usize) -> impl Iterator<Item = &Arc<Link>> {
        let members = &self.0.members;
        members.iter().map(move |member| &member.links[node]).chain(&members[node].links)
    }

    pub fn kill(&self, node: usize) {
        self.links_of(node).for_each(|link| link.alive.store(false, Ordering::SeqCst));
    }

    /// Connects a node to those that live.
    pub async fn revive(&self, node: usize) {
        self.links_of(node).for_each(|link| link.alive.store(true, Ordering::SeqCst));
    }

    /// Breaks the links between two nodes.
    pub fn cut(&self, a: usize, b: usize) {
        let members = &self.0.members;
        members[a].links[b].alive.store(false, Ordering::SeqCst);
        members[b].links[a].alive.store(false, Ordering::SeqCst);
    }

    /// What answers node 0 in the place of a node is another one.
    pub fn replace(&self, node: usize) {
        self.0.members[0].links[node].impostor.store(true, Ordering::SeqCst);
    }

    /// A node forgets the keys that are over everywhere.
    pub async fn retire(&self, node: usize) {
        self.0.members[node].coordinator.retire_keyed().await;
    }

    /// Whether a node remembers a message by its name.
    pub async fn remembers(&self, node: usize, dot: Dot) -> bool {
        let cell = self.0.members[node].replica.cell(STREAM).await.unwrap();
        cell.decide(|stream| stream.is_known(dot))
    }

    /// Holds the answers back that one node gets from another.
    pub fn hold_between(&self, from: usize, to: usize) {
        self.0.members[from].links[to].held.store(true, Ordering::SeqCst);
    }

    /// The next answer to what one node hands on to another is lost.
    pub fn lose_answers_between(&self, from: usize, to: usize) {
        self.0.members[from].links[to].answers_lost.store(true, Ordering::SeqCst);
    }

    pub fn let_go_between(&self, from: usize, to: usize) {
        let link = &self.0.members[from].links[to];
        link.held.store(false, Ordering::SeqCst);
        link.changed.notify_waiters();
    }

    /// Returns once a node was answered by another (its answer may still be held back).
    pub async fn asked_between(&self, from: usize, to: usize) {
        let link = &self.0.members[from].links[to];
        link.until(|| link.asked.load(Ordering::SeqCst) > 0).await;
    }

    pub fn hold(&self, node: usize) {
        self.hold_between(0, node);
    }

    pub fn let_go(&self, node: usize) {
        self.let_go_between(0, node);
    }

    pub fn double_answers(&self, node: usize) {
        self.0.members[0].links[node].doubled.store(true, Ordering::SeqCst);
    }

    /// Returns once the node has answered node 0 (its answer may still be held back).
    pub async fn asked(&self, node: usize) {
        self.asked_between(0, node).await;
    }

    /// Time passes at all nodes at once.
    pub fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.0.ahead.0.fetch_add(ms, Ordering::SeqCst);
    }

    /// A node takes in what another knows more of the stream.
    pub async fn catch_up(&self, node: usize, from: u64) {
        let member = &self.0.members[node];
        member.coordinator.catch_up(&member.stream, NodeId(from)).await.unwrap();
    }

    /// The largest question of repair that one node asked another, in bytes.
    pub fn longest_question(&self, from: usize, to: usize) -> usize {
        self.0.members[from].links[to].longest_question.load(Ordering::SeqCst)
    }

    /// Returns once repair at one node has asked another.
    pub async fn compared_between(&self, from: usize, to: usize) {
        let link = &self.0.members[from].links[to];
        link.until(|| link.longest_question.load(Ordering::SeqCst) > 0).await;
    }

    /// Starts the workers that repair.
    pub fn start_repair(&self) {
        for member in &self.0.members {
            tokio::spawn(member.coordinator.clone().run_repair());
        }
    }

    /// Breaks one link, in one direction.
    pub fn deafen(&self, from: usize, to: usize) {
        self.0.members[from].links[to].alive.store(false, Ordering::SeqCst);
    }

    /// A node checks all its grants, whatever their age.
    pub async fn check_grants(&self, node: usize) {
        self.0.members[node].coordinator.check_grants(Duration::ZERO).await;
    }

    /// A node finds that a message's payload does not open.
    pub async fn note_hole(&self, node: usize, place: Place) -> bool {
        let cell = self.0.members[node].replica.cell(STREAM).await.unwrap();
        cell.decide(|stream| stream.note_hole(place))
    }

    /// How many holes a node has.
    pub async fn holes(&self, node: usize) -> usize {
        let cell = self.0.members[node].replica.cell(STREAM).await.unwrap();
        cell.decide(|stream| stream.count_holes())
    }

    /// Leases a message at one replica alone, as a coordinator does that dies before the others
    /// hear of it.
    pub async fn lease_only_at(&self, node: usize, place: Place, duration_ms: u64) -> LeaseVote {
        let Member { replica, stream, .. } = &self.0.members[node];
        let op = LeaseOp {
            header: stream.header(),
            reader: SubscriptionId::QUEUE,
            requester: RequesterId([9; 16]),
            holder: "nobody".into(),
            purpose: Purpose::Deliver,
            counter: 1,
            duration_ms,
            dots: vec![LeaseDot { place, envelope: None, age_ms: 0, content_mac: None }],
            failures: Vec::new(),
        };
        match replica.handle(&Request::Lease(op)).await.unwrap().answer {
            Answer::Leased(votes) => votes[0],
            other => panic!("{other:?}"),
        }
    }

    /// The nodes that replicate the stream, in preference order, and those that do not.
    pub fn sides(&self) -> (Vec<usize>, Vec<usize>) {
        let replicas: Vec<usize> = self.0.members[0]
            .stream
            .view
            .replicas()
            .iter()
            .map(|node| usize::try_from(node.0).unwrap())
            .collect();
        let rest = (0..self.0.members.len()).filter(|node| !replicas.contains(node)).collect();
        (replicas, rest)
    }

    /// Waits for messages at a node.
    pub async fn listening_at(&self, node: usize) -> Listening {
        let Member { coordinator, stream, .. } = &self.0.members[node];
        coordinator.listen(&stream.anew(), SubscriptionId::QUEUE, Side::Ready).await.unwrap()
    }

    /// Looks for a message at a node.
    pub async fn find_at(&self, node: usize, id: MessageId) -> Option<Seen> {
        let Member { coordinator, stream, .. } = &self.0.members[node];
        coordinator.find(&stream.anew(), SubscriptionId::QUEUE, id, u64::MAX).await.unwrap()
    }

    /// Removes a message at a node.
    pub async fn remove_at(&self, node: usize, id: MessageId) -> Settled {
        let Member { coordinator, stream, .. } = &self.0.members[node];
        coordinator.remove(&stream.anew(), SubscriptionId::QUEUE, id).await
    }

    /// What each node knows of the stream.
    pub async fn digests(&self) -> Vec<u64> {
        let mut digests = Vec::new();
        for member in &self.0.members {
            let cell = member.replica.cell(STREAM).await.unwrap();
            digests.push(member.replica.digest(&cell));
        }
        digests
    }

    pub async fn send(&self, text: &str, all: bool) -> Stored {
        self.send_at(0, Outgoing::plain(content(text)), all).await
    }

    pub async fn send_at(&self, node: usize, message: Outgoing, all: bool) -> Stored {
        let sender = Sender { id: UserId([1; 16]), name: "alice".into() };
        let Member { coordinator, stream, .. } = &self.0.members[node];
        coordinator.store(&stream.anew(), &sender, vec![message], all).await.remove(0)
    }

    pub async fn send_all_at(&self, node: usize, messages: Vec<Outgoing>) {
        let sender = Sender { id: UserId([1; 16]), name: "alice".into() };
        let Member { coordinator, stream, .. } = &self.0.members[node];
        let stored = coordinator.store(&stream.anew(), &sender, messages, false).await;
        assert!(stored.iter().all(|stored| matches!(stored, Stored::Done { .. })), "{stored:?}");
    }

    pub async fn receive(&self, max: usize, lease_ms: u64) -> Result<Vec<Delivery>, ReceiveError> {
        self.receive_at(0, max, lease_ms).await
    }

    pub async fn receive_at(
        &self,
        node: usize,
        max: usize,
        lease_ms: u64,
    ) -> Result<Vec<Delivery>, ReceiveError> {
        self.receive_as(node, None, max, lease_ms).await
    }

    /// Receives under a key.
    pub async fn receive_keyed_at(
        &self,
        node: usize,
        max: usize,
        lease_ms: u64,
    ) -> Result<Vec<Delivery>, ReceiveError> {
        self.receive_as(node, Some(RequesterId([7; 16])), max, lease_ms).await
    }

    async fn receive_as(
        &self,
        node: usize,
        requester: Option<RequesterId>,
        max: usize,
        lease_ms: u64,
    ) -> Result<Vec<Delivery>, ReceiveError> {
        let Member { coordinator, stream, .. } = &self.0.members[node];
        let wanted = Wanted {
            reader: SubscriptionId::QUEUE,
            holder: "bob".into(),
            requester,
            from_dead: false,
            max,
            bytes_max: 8 << 20,
            duration_ms: lease_ms,
            in_flight_max: 120_000,
            retention_ms: u64::MAX,
        };
        let granted = coordinator.try_receive(&stream.anew(), &wanted).await?;
        Ok(granted.hand_over())
    }

    /// Receives, waiting for the bell.
    pub async fn received_within(
        &self,
        within: Duration,
        max: usize,
        lease_ms: u64,
    ) -> Vec<Delivery> {
        let Member { coordinator, stream, .. } = &self.0.members[0];
        let listening =
            coordinator.listen(&stream.anew(), SubscriptionId::QUEUE, Side::Ready).await.unwrap();
        let wait = async {
            loop {
                let news = listening.bell().notified();
                tokio::pin!(news);
                news.as_mut().enable();
                match self.receive(max, lease_ms).await {
                    Ok(got) if !got.is_empty() => return got,
                    Ok(_) => news.await,
                    Err(error) => panic!("{error:?}"),
                }
            }
        };
        tokio::time::timeout(within, wait).await.expect("a message becomes ready in time")
    }

    pub async fn settle(&self, item: SettleItem, late: bool) -> Settled {
        self.settle_at(0, item, late).await
    }

    pub async fn settle_at(&self, node: usize, item: SettleItem, late: bool) -> Settled {
        let Member { coordinator, stream, .. } = &self.0.members[node];
        coordinator.settle(&stream.anew(), SubscriptionId::QUEUE, vec![item], late).await[0]
    }

    /// What one node answers another that asks it for evidence of the stream.
    pub async fn evidence_of(&self, from: usize, node: usize) -> Vec<RepairAnswer> {
        let requests = [
            RepairRequest::Compare(NodeId(from as u64), vec![(STREAM, 1)]),
            RepairRequest::Summary(STREAM),
            RepairRequest::Settled(STREAM, Vec::new()),
            RepairRequest::Pull(STREAM, DotSet::new(), None),
        ];
        let peer = LinkPeer(self.0.members[from].links[node].clone());
        let mut answers = Vec::new();
        for request in requests {
            answers.push(peer.repair(request, Duration::from_secs(5)).await.unwrap());
        }
        answers
    }

    /// What one replica says to storing a message of this name, whoever sends it.
    pub async fn store_only_at(&self, node: usize, dot: Dot) -> Answer {
        let Member { replica, stream, .. } = &self.0.members[node];
        let header = Header {
            dot,
            sender: UserId([1; 16]),
            sender_name: "alice".into(),
            hlc: Hlc { wall_ms: SystemClock.wall_ms(), logical: 0, node: NodeId(0) },
            sent_ms: 0,
            content_mac: [0; 32],
            delay_ms: 0,
            ttl_ms: 0,
            group: None,
            hop: 0,
            set_version: 0,
            matched: Vec::new(),
        };
        let envelope = Arc::new(Envelope { header, nonce: [0; 12], sealed: vec![1].into() });
        let op = StoreOp { header: stream.header(), envelopes: vec![envelope], closed: Vec::new() };
        replica.handle(&Request::Store(op)).await.unwrap().answer
    }

    /// What one replica answers to a question that changes nothing.
    pub async fn census_at(&self, node: usize) -> Answer {
        let Member { replica, stream, .. } = &self.0.members[node];
        replica.handle(&Request::Census(stream.header())).await.unwrap().answer
    }

    /// Messages present at one replica.
    pub async fn count(&self, node: usize) -> u64 {
        let request = Request::Census(self.0.members[node].stream.header());
        match self.0.members[node].replica.handle(&request).await.unwrap().answer {
            Answer::Counted(count) => count,
            // It has no say; what it has all the same is looked at from within.
            Answer::Refused(Refusal::NotMember) => {
                let cell = self.0.members[node].replica.cell(STREAM).await.unwrap();
                cell.decide(|stream| stream.count())
            }
            other => panic!("{other:?}"),
        }
    }
}
