//! A whole node in this process, on a disk that can lose its power and a clock that is moved.

use super::fault_disk::FaultDisk;
use super::memory_net::MemoryNet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tertulia::base::clock::Clock;
use tertulia::base::rng::SystemRng;
use tertulia::base::seams::SystemSpawn;
use tertulia::config::Settings;
use tertulia::node::{Node, Parts};
use tertulia::security::ClusterSecret;

/// Where tests call from.
pub const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// A small deterministic source of numbers.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Whose password that is.
pub const PASSWORD: &str = "correct horse battery";

/// A clock that only tests move; it runs on over restarts of the node.
#[derive(Debug)]
pub struct HandClock(AtomicU64);

impl HandClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(1_000_000)))
    }

    pub fn advance_ms(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn wall_ms(&self) -> u64 {
        1_780_000_000_000 + self.0.load(Ordering::SeqCst)
    }
    fn boottime_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn kernel_boot_id(&self) -> u64 {
        7
    }
}

/// Starts a node on the disk.
pub async fn start(disk: &FaultDisk, clock: &Arc<HandClock>) -> Node {
    let secret = ClusterSecret::parse(&"A".repeat(44)).expect("32 bytes and more");
    let parts = Parts {
        net: Arc::new(MemoryNet::default()),
        disk: Arc::new(disk.clone()),
        clock: clock.clone(),
        rng: Arc::new(SystemRng),
        spawn: Arc::new(SystemSpawn),
        secret,
        admin_password: None,
        password_cost_log2: 4,
        metrics: Arc::new(String::new),
        cluster: None,
        before_listening: None,
    };
    Node::start(parts, Settings::default()).await.expect("the node starts")
}
