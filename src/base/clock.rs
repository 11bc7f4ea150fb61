//! Time: the only place that reads it.
//!
//! Three readings, never mixed up: *wall* time orders and is shown to people; *boottime* goes on
//! while the machine sleeps and measures durations [R20]; the *service clock* is durable, behind
//! grants, delay and retention [F11].

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine's clocks.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970, as the machine believes. May step.
    fn wall_ms(&self) -> u64;
    /// Milliseconds of `CLOCK_BOOTTIME`: since the kernel started, sleep included. Never steps.
    fn boottime_ms(&self) -> u64;
    /// Names one run of the kernel; `boottime_ms` is comparable only while it stays the same.
    fn kernel_boot_id(&self) -> u64;
}

/// The operating system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    fn boottime_ms(&self) -> u64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let (secs, nanos) = (t.tv_sec.unsigned_abs(), t.tv_nsec.unsigned_abs());
        secs * 1000 + nanos / 1_000_000
    }

    fn kernel_boot_id(&self) -> u64 {
        // Where the kernel does not tell (not Linux, or /proc hidden) the wall time of the kernel's
        // start, in minutes, stands in: wrong only by judging two runs different, which is safe.
        match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
            Ok(text) => text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
            }),
            Err(_) => self.wall_ms().saturating_sub(self.boottime_ms()) / 60_000,
        }
    }
}

/// What is persisted of the service clock, with every batch and every 10 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStamp {
    /// The service clock's reading, in ms.
    pub service_ms: u64,
    /// `CLOCK_BOOTTIME` at that reading, in ms.
    pub boottime_ms: u64,
    /// The kernel run in which it was taken.
    pub kernel_boot_id: u64,
}

/// A durable clock: runs on over restarts of the process; after a restart of the machine it
/// resumes from the last persisted value. It may lag true elapsed time, it never leads it [F11].
pub struct ServiceClock {
    clock: Arc<dyn Clock>,
    kernel_boot_id: u64,
    /// `service = boottime + offset`, wrapping.
    offset: u64,
    /// Never runs backwards, whatever the kernel says.
    floor_ms: AtomicU64,
}

impl ServiceClock {
    /// Resumes from what was persisted last (`None` on an empty disk: starts at 0).
    #[must_use]
    pub fn resume(clock: Arc<dyn Clock>, last: Option<ServiceStamp>) -> Self {
        let (boottime_ms, kernel_boot_id) = (clock.boottime_ms(), clock.kernel_boot_id());
        let service_ms = match last {
            Some(s) if s.kernel_boot_id == kernel_boot_id && boottime_ms >= s.boottime_ms => {
                s.service_ms + (boottime_ms - s.boottime_ms)
            }
            Some(s) => s.service_ms,
            None => 0,
        };
        let offset = service_ms.wrapping_sub(boottime_ms);
        Self { clock, kernel_boot_id, offset, floor_ms: AtomicU64::new(service_ms) }
    }

    /// The reading, in ms.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let now = self.clock.boottime_ms().wrapping_add(self.offset);
        now.max(self.floor_ms.fetch_max(now, Ordering::Relaxed))
    }

    /// The reading to persist.
    #[must_use]
    pub fn stamp(&self) -> ServiceStamp {
        let boottime_ms = self.clock.boottime_ms();
        let service_ms = boottime_ms.wrapping_add(self.offset);
        ServiceStamp { service_ms, boottime_ms, kernel_boot_id: self.kernel_boot_id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(u64, u64);
    impl Clock for Fake {
        fn wall_ms(&self) -> u64 {
            0
        }
        fn boottime_ms(&self) -> u64 {
            self.0
        }
        fn kernel_boot_id(&self) -> u64 {
            self.1
        }
    }

    #[test]
    fn f11_the_service_clock_runs_over_a_process_restart() {
        let stamp = ServiceClock::resume(Arc::new(Fake(500, 1)), None).stamp();
        assert_eq!(stamp.service_ms, 0);
        let later = ServiceClock::resume(Arc::new(Fake(900, 1)), Some(stamp));
        assert_eq!(later.now_ms(), 400);
    }

    #[test]
    fn f11_after_a_machine_restart_it_lags_and_never_leads() {
        let stamp = ServiceStamp { service_ms: 7_000, boottime_ms: 100_000, kernel_boot_id: 1 };
        let later = ServiceClock::resume(Arc::new(Fake(3, 2)), Some(stamp));
        assert_eq!(later.now_ms(), 7_000);
        assert_eq!(later.stamp().service_ms, 7_000);
    }
}
