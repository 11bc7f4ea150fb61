//! A node's clocks: boottime follows simulated time at a rate of its own, wall time also steps.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tertulia::base::clock::Clock;

const WALL_START_MS: i64 = 1_780_000_000_000;

#[derive(Debug)]
struct State {
    /// Simulated time of the last change, in ms.
    at_ms: u64,
    /// Boottime then, in ms.
    boottime_ms: u64,
    /// Parts per million by which it runs fast.
    fast_ppm: i64,
    /// Wall time less boottime, in ms.
    wall_offset_ms: i64,
    kernel_boot_id: u64,
}

/// The clocks of one machine.
#[derive(Debug)]
pub struct SimClock(Mutex<State>);

/// Simulated time since the run's start.
pub fn sim_now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

fn now_ms() -> Option<u64> {
    turmoil::sim_elapsed().map(|now| now.as_millis() as u64)
}

impl State {
    fn boottime_at(&self, now_ms: u64) -> u64 {
        let passed = now_ms.saturating_sub(self.at_ms);
        let extra = passed as i64 * self.fast_ppm / 1_000_000;
        self.boottime_ms + passed.saturating_add_signed(extra)
    }

    fn rebase(&mut self, now_ms: u64) {
        self.boottime_ms = self.boottime_at(now_ms);
        self.at_ms = now_ms;
    }

    fn boottime(&self) -> u64 {
        now_ms().map_or(self.boottime_ms, |now| self.boottime_at(now))
    }
}

impl SimClock {
    pub fn new(machine: u64) -> Self {
        Self(Mutex::new(State {
            at_ms: 0,
            boottime_ms: 1_000_000 + machine * 77_777,
            fast_ppm: 0,
            wall_offset_ms: WALL_START_MS + machine as i64 * 333,
            kernel_boot_id: machine << 32,
        }))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Wall time jumps.
    pub fn step(&self, by_ms: i64) {
        self.change(|state| state.wall_offset_ms += by_ms);
    }

    /// From now (simulated, in ms) on it runs fast by so many parts per million.
    pub fn set_rate(&self, now_ms: u64, fast_ppm: i64) {
        self.change(|state| {
            state.rebase(now_ms);
            state.fast_ppm = fast_ppm;
        });
    }

    /// Wall time is set right, as a time service does it: sessions end by it, and nodes whose wall
    /// clocks are years apart do not agree on which have ended.
    pub fn set_right(&self, now_ms: u64) {
        self.set_rate(now_ms, 0);
        self.change(|state| {
            state.wall_offset_ms = WALL_START_MS + now_ms as i64 - state.boottime_ms as i64;
        });
    }

    /// The machine starts anew: boottime begins again, wall time goes on.
    pub fn reboot(&self, now_ms: u64) {
        self.change(|state| {
            state.rebase(now_ms);
            state.wall_offset_ms += state.boottime_ms as i64;
            state.boottime_ms = 0;
            state.kernel_boot_id += 1;
        });
    }
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        u64::try_from(state.boottime() as i64 + state.wall_offset_ms).unwrap_or(0)
    }

    fn boottime_ms(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).boottime()
    }

    fn kernel_boot_id(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).kernel_boot_id
    }
}
