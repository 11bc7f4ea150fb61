//! The nodes of a run: machines with a disk and clocks that outlive the processes on them.

use crate::clock::{SimClock, sim_now};
use crate::disk::{End, SimDisk, Tempo};
use crate::faults::Fault;
use crate::net::SimNet;
use crate::rng::SimRng;
use crate::spawn::SimSpawn;
use crate::workload::{HTTP_PORT, Shared};
use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tertulia::base::ids::NodeId;
use tertulia::config::{Registration, Settings};
use tertulia::layout::members::Layout;
use tertulia::metadata::Registers;
use tertulia::node::{ClusterParts, Node, Parts};
use tertulia::security::ClusterSecret;
use tokio::sync::watch;
use turmoil::Sim;

/// The clients' machine, by name.
pub const CLIENTS: &str = "clients";
/// Where nodes reach each other.
const PEER_PORT: u16 = 7421;
/// A process that ended by itself is started again after so long.
const RESTART_MS: u64 = 500;

/// How the process on a machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Process {
    Running,
    /// It ended by itself.
    Ended(String),
    /// It starts again at that time, in ms.
    Down(u64),
}

struct Machine {
    name: String,
    disk: RefCell<SimDisk>,
    clock: Arc<SimClock>,
    tempo: Arc<Tempo>,
    process: RefCell<Process>,
    /// Lives so far.
    lives: Cell<u64>,
    /// When the power is to be gone: what becomes of unsynced writes, and for how long it is down.
    losing: Cell<Option<(u64, u64)>>,
    /// Its disk was emptied: what runs on it now is another node.
    is_wiped: Cell<bool>,
    /// The same for a process that ends because of its disk.
    failing: Cell<Option<(u64, u64)>>,
}

/// All machines.
pub struct Cluster {
    seed: u64,
    machines: Vec<Machine>,
    shared: Rc<Shared>,
    /// What ends by itself, and when, in ms.
    ends: RefCell<Vec<(u64, Fault)>>,
    /// Lives of all nodes.
    pub starts: Cell<u64>,
}

impl Cluster {
    pub fn new(seed: u64, nodes: usize, shared: Rc<Shared>) -> Rc<Self> {
        let machine = |at: usize| Machine {
            name: format!("n{at}"),
            disk: RefCell::new(SimDisk::new()),
            clock: Arc::new(SimClock::new(1 + at as u64)),
            tempo: Arc::new(Tempo::new(seed ^ (at as u64) << 32)),
            process: RefCell::new(Process::Running),
            lives: Cell::new(0),
            losing: Cell::new(None),
            failing: Cell::new(None),
            is_wiped: Cell::new(false),
        };
        let machines = (0..nodes).map(machine).collect();
        let (ends, starts) = (RefCell::default(), Cell::default());
        Rc::new(Self { seed, machines, shared, ends, starts })
    }

    /// What the node on machine `at` is started with: here the members of the layout, the address
    /// of each for calls between nodes and the like are handed in.
    fn parts(&self, at: usize) -> Parts {
        let machine = &self.machines[at];
        let life = machine.lives.get() + 1;
        machine.lives.set(life);
        self.starts.set(self.starts.get() + 1);
        Parts {
            net: Arc::new(SimNet),
            disk: Arc::new(machine.disk.borrow().life().clone()),
            clock: machine.clock.clone(),
            rng: Arc::new(SimRng::new(self.seed ^ (at as u64) << 48 ^ life << 32)),
            spawn: Arc::new(SimSpawn(machine.tempo.clone())),
            secret: ClusterSecret::parse(&"A".repeat(44)).unwrap(),
            admin_password: None,
            password_cost_log2: 1,
            metrics: Arc::new(String::new),
            cluster: self.others(at, life),
            before_listening: None,
        }
    }

    /// The cluster as the node on machine `at` sees it; a node alone has none.
    fn others(&self, at: usize, life: u64) -> Option<ClusterParts> {
        let count = self.machines.len();
        if count == 1 {
            return None;
        }
        let id = |at: usize| NodeId(1 + at as u64);
        let members = (0..count).map(id).collect();
        let address = |at: usize| {
            (id(at), (turmoil::lookup(self.machines[at].name.as_str()), PEER_PORT).into())
        };
        let (_, addresses) = watch::channel((0..count).map(address).collect());
        // An empty disk is a new node [R1].
        let node = match self.machines[at].is_wiped.get() {
            true => NodeId(1_000 * life + at as u64),
            false => id(at),
        };
        Some(ClusterParts {
            node,
            layout: Layout { version: 1, slots: 16, members },
            listen: (Ipv4Addr::UNSPECIFIED, PEER_PORT).into(),
            addresses,
            tls: false,
        })
    }

    /// Records are decided at the first node and told to the others: that nodes agree on them by
    /// themselves is not simulated yet.
    async fn tell_records(&self, at: usize, registers: &Registers) {
        let mut changed = registers.catalog().changed();
        loop {
            if at == 0 {
                *self.shared.records.borrow_mut() = registers.catalog().all();
                self.shared.told.notify_waiters();
                if changed.changed().await.is_err() {
                    return;
                }
            } else {
                let told = self.shared.told.notified();
                let records = self.shared.records.borrow().clone();
                for (key, record) in records {
                    let _ = registers.learn(key, record).await;
                }
                let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
            }
        }
    }

    /// Its settings. HTTP goes without TLS: `aws-lc` takes its entropy from the kernel itself, and
    /// a handshake costs more than all else that a request does. All above TLS is what production
    /// runs.
    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.http.listen = (Ipv4Addr::UNSPECIFIED, HTTP_PORT).into();
        settings.http.tls = false;
        settings.auth.registration = Registration::Open;
        settings.store.cache_bytes = 1 << 20;
        settings
    }

    /// Adds the machines to the simulation.
    pub fn enter(self: &Rc<Self>, sim: &mut Sim<'_>) {
        for at in 0..self.machines.len() {
            let cluster = self.clone();
            sim.host(self.machines[at].name.as_str(), move || {
                let cluster = cluster.clone();
                async move {
                    let why = cluster.live(at).await;
                    *cluster.machines[at].process.borrow_mut() = Process::Ended(why);
                    // The harness ends what is left of it.
                    std::future::pending().await
                }
            });
        }
    }

    /// One life of a node, to its end by itself.
    async fn live(&self, at: usize) -> String {
        let name = &self.machines[at].name;
        match Node::start(self.parts(at), Self::settings()).await {
            Ok(node) => {
                self.shared.note(sim_now(), &format!("{name} up, boot {}", node.boot().0));
                let mut failed = node.failed();
                let registers = node.registers().clone();
                tokio::select! {
                    _ = failed.wait_for(|failed| *failed) => {}
                    () = self.tell_records(at, &registers) => {}
                }
                node.abandon();
                "the store failed".to_owned()
            }
            Err(error) => format!("it did not start: {error}"),
        }
    }

    fn host(&self, at: usize) -> &str {
        self.machines.get(at).map_or(CLIENTS, |machine| machine.name.as_str())
    }

    fn note(&self, sim: &Sim<'_>, what: &str) {
        self.shared.note(sim.elapsed(), what);
    }

    /// Ends the process on a machine, its disk first: a dead process writes nothing more.
    fn end(&self, sim: &mut Sim<'_>, at: usize, end: End, down_ms: u64) {
        let machine = &self.machines[at];
        let now_ms = sim.elapsed().as_millis() as u64;
        self.note(sim, &format!("{} ends: {end:?}, down for {down_ms} ms", machine.name));
        machine.disk.borrow_mut().end(end);
        machine.losing.set(None);
        machine.failing.set(None);
        sim.crash(machine.name.as_str());
        if end != End::Killed {
            machine.clock.reboot(now_ms);
        }
        *machine.process.borrow_mut() = Process::Down(now_ms + down_ms);
    }

    /// Makes a fault happen.
    pub fn strike(&self, sim: &mut Sim<'_>, fault: &Fault) {
        self.note(sim, &format!("fault {fault:?}"));
        let now_ms = sim.elapsed().as_millis() as u64;
        let later = |ms: u64| self.ends.borrow_mut().push((now_ms + ms, fault.clone()));
        let running = |at: usize| *self.machines[at].process.borrow() == Process::Running;
        match *fault {
            Fault::Kill { node, down_ms } if running(node) => {
                self.end(sim, node, End::Killed, down_ms);
            }
            Fault::Wipe { node, down_ms } if running(node) => {
                self.machines[node].is_wiped.set(true);
                self.end(sim, node, End::Wiped, down_ms);
            }
            Fault::Restore { node, down_ms } if running(node) => {
                self.end(sim, node, End::Restored, down_ms);
            }
            Fault::PowerLoss { node, operations, fate, down_ms } if running(node) => {
                let machine = &self.machines[node];
                machine.losing.set(Some((fate, down_ms)));
                machine.disk.borrow().life().cut_power_after(operations);
            }
            Fault::FailSync { node, fate, down_ms } if running(node) => {
                self.machines[node].failing.set(Some((fate, down_ms)));
                self.machines[node].disk.borrow().life().fail_sync(true);
            }
            Fault::FailWrites { node, fate, down_ms } if running(node) => {
                self.machines[node].failing.set(Some((fate, down_ms)));
                self.machines[node].disk.borrow().life().fail_writes(true);
            }
            Fault::DiskFull { node, spare_bytes, ms } => {
                let disk = self.machines[node].disk.borrow();
                disk.life().set_cap(Some(disk.life().taken_bytes() + spare_bytes));
                later(ms);
            }
            Fault::Flip { node, place } => {
                let disk = self.machines[node].disk.borrow();
                let len = disk.life().image().len() as u64;
                if len > 0 {
                    disk.life().flip((place % len) as usize, 1 << (place >> 56 & 7));
                }
            }
            Fault::ClockStep { node, by_ms } => self.machines[node].clock.step(by_ms),
            Fault::ClockRate { node, fast_ppm } => {
                self.machines[node].clock.set_rate(now_ms, fast_ppm);
            }
            Fault::SlowSync { node, sync_ms, ms } => {
                self.machines[node].tempo.set(Some(sync_ms));
                later(ms);
            }
            Fault::Pause { node, ms } => {
                self.machines[node].tempo.set(Some(ms));
                (0..=self.machines.len()).filter(|to| *to != node).for_each(|to| {
                    sim.hold(self.host(node), self.host(to));
                });
                later(ms);
            }
            Fault::Partition { from, to, one_way: true, ms } => {
                sim.partition_oneway(self.host(from), self.host(to));
                later(ms);
            }
            Fault::Partition { from, to, one_way: false, ms } => {
                sim.partition(self.host(from), self.host(to));
                later(ms);
            }
            Fault::Hold { from, to, ms } => {
                sim.hold(self.host(from), self.host(to));
                later(ms);
            }
            Fault::Loss { from, to, per_mille, ms } => {
                let rate = per_mille as f64 / 1_000.0;
                sim.set_link_fail_rate(self.host(from), self.host(to), rate);
                later(ms);
            }
            Fault::Delay { from, to, max_ms, ms } => {
                let max = Duration::from_millis(max_ms);
                sim.set_link_max_message_latency(self.host(from), self.host(to), max);
                later(ms);
            }
            // Nobody is there whom it could happen to.
            _ => {}
        }
    }

    fn lift(&self, sim: &mut Sim<'_>, fault: &Fault) {
        match *fault {
            Fault::DiskFull { node, .. } => self.machines[node].disk.borrow().life().set_cap(None),
            Fault::SlowSync { node, .. } => self.machines[node].tempo.set(None),
            Fault::Pause { node, .. } => {
                self.machines[node].tempo.set(None);
                (0..=self.machines.len()).filter(|to| *to != node).for_each(|to| {
                    sim.release(self.host(node), self.host(to));
                });
            }
            Fault::Partition { from, to, .. } => sim.repair(self.host(from), self.host(to)),
            Fault::Hold { from, to, .. } => sim.release(self.host(from), self.host(to)),
            Fault::Loss { from, to, .. } => {
                sim.set_link_fail_rate(self.host(from), self.host(to), 0.0);
                sim.repair(self.host(from), self.host(to));
            }
            Fault::Delay { from, to, .. } => {
                let max = Duration::from_millis(super::LATENCY_MAX_MS);
                sim.set_link_max_message_latency(self.host(from), self.host(to), max);
            }
            _ => {}
        }
    }

    /// Looks after the machines, once a step: faults that are over end, processes that ended are
    /// buried and started again.
    pub fn tend(&self, sim: &mut Sim<'_>) {
        let now_ms = sim.elapsed().as_millis() as u64;
        let over: Vec<(u64, Fault)> =
            self.ends.borrow_mut().extract_if(.., |(at, _)| *at <= now_ms).collect();
        for (_, fault) in over {
            self.lift(sim, &fault);
        }
        for (at, machine) in self.machines.iter().enumerate() {
            let is_cut = machine.disk.borrow().life().power_is_off();
            let process = machine.process.borrow().clone();
            match (process, machine.losing.get()) {
                (Process::Down(until), _) if until <= now_ms => {
                    machine.disk.borrow_mut().take_snapshot();
                    *machine.process.borrow_mut() = Process::Running;
                    sim.bounce(machine.name.as_str());
                }
                (Process::Down(_), _) => {}
                (_, Some((fate, down_ms))) if is_cut => {
                    self.end(sim, at, End::PowerLoss(fate), down_ms);
                }
                (Process::Ended(why), _) => {
                    self.note(sim, &format!("{} ended: {why}", machine.name));
                    // What a failed fsync covered may be gone although the machine runs on.
                    let failing = machine.failing.get();
                    let (end, down_ms) = match failing {
                        Some((fate, down_ms)) => (End::PowerLoss(fate), down_ms),
                        None => (End::Killed, RESTART_MS),
                    };
                    self.end(sim, at, end, down_ms);
                }
                (Process::Running, _) => {}
            }
        }
    }

    /// Nothing goes wrong any more, from now on.
    pub fn heal(&self, sim: &mut Sim<'_>) {
        let ends = std::mem::take(&mut *self.ends.borrow_mut());
        for (_, fault) in ends {
            self.lift(sim, &fault);
        }
        for at in 0..self.machines.len() {
            let machine = &self.machines[at];
            machine.tempo.set(None);
            machine.clock.set_right(sim.elapsed().as_millis() as u64);
            machine.disk.borrow().heal();
            if machine.losing.get().is_some() {
                // The power was to go in an operation that has not come.
                let (fate, down_ms) = machine.losing.take().unwrap_or_default();
                self.end(sim, at, End::PowerLoss(fate), down_ms);
            }
            if let Process::Down(until) = &mut *machine.process.borrow_mut() {
                *until = 0;
            }
        }
        self.note(sim, "healed");
        self.shared.healed.set(true);
    }
}
