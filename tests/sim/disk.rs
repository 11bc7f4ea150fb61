//! A node's disk over its lives: each life has a `FaultDisk` of its own, so that a dead one writes
//! nothing more; and how slow it is.

use crate::common::fault_disk::{FaultDisk, Xorshift};
use std::sync::Mutex;
use std::time::Duration;

/// How long commits take.
#[derive(Debug)]
pub struct Tempo(Mutex<Pace>);

#[derive(Debug)]
struct Pace {
    random: Xorshift,
    max_us: u64,
}

/// A disk in good health syncs within this.
const SYNC_MAX_US: u64 = 3_000;

impl Tempo {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Pace { random: Xorshift::new(seed), max_us: SYNC_MAX_US }))
    }

    /// How long the next commit waits.
    pub fn next(&self) -> Duration {
        let mut pace = self.0.lock().unwrap();
        let max_us = pace.max_us;
        Duration::from_micros(pace.random.below(max_us) + max_us / 4)
    }

    /// Commits take about so long; `None`: as in good health.
    pub fn set(&self, sync_ms: Option<u64>) {
        self.0.lock().unwrap().max_us = sync_ms.map_or(SYNC_MAX_US, |ms| ms * 1_000);
    }
}

/// How a life of a disk ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process is gone, the machine runs on.
    Killed,
    /// What was not synced is kept, lost or torn, as this number decides.
    PowerLoss(u64),
    /// All is gone.
    Wiped,
    /// What was durable at the last snapshot is back.
    Restored,
}

/// One machine's disk.
#[derive(Debug)]
pub struct SimDisk {
    life: FaultDisk,
    snapshot: Option<Vec<u8>>,
}

impl SimDisk {
    pub fn new() -> Self {
        Self { life: FaultDisk::new(), snapshot: None }
    }

    /// What the process that runs now has.
    pub fn life(&self) -> &FaultDisk {
        &self.life
    }

    /// Keeps what is durable, for a later [`End::Restored`].
    pub fn take_snapshot(&mut self) {
        self.snapshot = Some(self.life.durable_image());
    }

    /// Ends this life, before the process is ended, and begins the next.
    pub fn end(&mut self, end: End) {
        self.life = match (end, &self.snapshot) {
            (End::Killed, _) => self.life.outlive(),
            (End::PowerLoss(fate), _) => self.life.power_loss(fate),
            (End::Restored, Some(image)) => {
                self.life.cut_power();
                FaultDisk::with_image(image.clone())
            }
            (End::Wiped | End::Restored, _) => {
                self.life.cut_power();
                FaultDisk::new()
            }
        };
    }

    /// Nothing is wrong with it any more.
    pub fn heal(&self) {
        self.life.fail_sync(false);
        self.life.fail_writes(false);
        self.life.set_cap(None);
    }
}
