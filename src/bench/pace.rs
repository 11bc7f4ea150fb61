//! When sends begin: as soon as the last one is answered, or at a rate that no answer delays.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The shortest sleep of the pacer: what falls due meanwhile is released in one go.
const PAUSE_MIN: Duration = Duration::from_micros(50);
/// The longest: so soon it notices that the run was told to end.
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// The times at which requests are due, on one clock in nanoseconds since the run began.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Messages per second, all producers together.
    pub rate: u64,
    /// Messages of one request.
    pub batch: u64,
    /// How long requests fall due.
    pub seconds: u64,
}

impl Schedule {
    /// When request `n` (from 0) is due.
    #[must_use]
    pub fn due_ns(&self, n: u64) -> u64 {
        let ns = u128::from(n) * u128::from(self.batch) * 1_000_000_000 / u128::from(self.rate);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// How many requests are due at `now_ns` or before, within the run.
    #[must_use]
    pub fn count_due(&self, now_ns: u64) -> u64 {
        let end_ns = self.seconds.saturating_mul(1_000_000_000);
        if end_ns == 0 {
            return 0;
        }
        // Request n is due at floor(n * batch / rate): the last one due is the last n with
        // n * batch * 1e9 < (now + 1) * rate.
        let last_ns = u128::from(now_ns.min(end_ns - 1));
        let ahead = (last_ns + 1) * u128::from(self.rate) - 1;
        let last = ahead / (u128::from(self.batch) * 1_000_000_000);
        u64::try_from(last + 1).unwrap_or(u64::MAX)
    }
}

/// The clock of a run: nanoseconds since it began.
#[derive(Clone, Copy, Debug)]
pub struct RunClock(Instant);

impl RunClock {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the beginning.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The instant of a reading.
    #[must_use]
    pub fn at(&self, ns: u64) -> Instant {
        self.0 + Duration::from_nanos(ns)
    }
}

/// Hands out due times at a fixed rate. It has a thread: the runtime's timer counts milliseconds,
/// which would show in every latency.
pub struct Pacer {
    schedule: Schedule,
    /// Requests that are due and not taken.
    due: Semaphore,
    /// How many have fallen due.
    released: AtomicU64,
    /// How many were taken.
    taken: AtomicU64,
}

impl Pacer {
    /// Nothing is due until [`Pacer::drive`] says so.
    #[must_use]
    pub fn new(schedule: Schedule) -> Self {
        let (released, taken) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { schedule, due: Semaphore::new(0), released, taken }
    }

    /// Waits for the next request that is due; returns since when, in ns. `None` when the run has
    /// ended.
    pub async fn next(&self) -> Option<u64> {
        self.due.acquire().await.ok()?.forget();
        Some(self.schedule.due_ns(self.taken.fetch_add(1, Ordering::Relaxed)))
    }

    /// Requests that fell due and were never made.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        let taken = self.taken.load(Ordering::Relaxed);
        self.released.load(Ordering::Relaxed).saturating_sub(taken)
    }

    /// Blocks until the run ends, letting requests fall due.
    pub fn drive(&self, clock: RunClock, end_ns: &AtomicU64) {
        loop {
            let (now_ns, end_ns) = (clock.now_ns(), end_ns.load(Ordering::Relaxed));
            let released = self.released.load(Ordering::Relaxed);
            let due = self.schedule.count_due(now_ns.min(end_ns)).max(released);
            self.due.add_permits(usize::try_from(due - released).unwrap_or(0));
            self.released.store(due, Ordering::Relaxed);
            if now_ns >= end_ns {
                self.due.close();
                return;
            }
            let next_ns = self.schedule.due_ns(due).min(end_ns);
            let pause = Duration::from_nanos(next_ns.saturating_sub(now_ns));
            std::thread::sleep(pause.clamp(PAUSE_MIN, PAUSE_MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn due_requests_are_those_whose_time_has_come(
            rate in 1..2_000_000u64, batch in 1..=100u64, seconds in 1..100u64, now_ns in 0..200_000_000_000u64,
        ) {
            let schedule = Schedule { rate, batch, seconds };
            let due = schedule.count_due(now_ns);
            let now_ns = now_ns.min(seconds * 1_000_000_000 - 1);
            prop_assert!(due >= 1, "the first is due at once");
            prop_assert!(schedule.due_ns(due - 1) <= now_ns);
            prop_assert!(schedule.due_ns(due) > now_ns);
        }

        #[test]
        fn the_rate_holds_over_the_whole_run(
            rate in 1..2_000_000u64, batch in 1..=100u64, seconds in 1..100u64,
        ) {
            let schedule = Schedule { rate, batch, seconds };
            let messages = schedule.count_due(u64::MAX) * batch;
            prop_assert!(messages >= rate * seconds && messages < rate * seconds + batch);
        }
    }

    #[tokio::test]
    async fn a_late_taker_is_told_when_its_request_was_due() {
        let schedule = Schedule { rate: 1_000, batch: 1, seconds: 1 };
        let pacer = Pacer::new(schedule);
        pacer.due.add_permits(3);
        pacer.released.store(3, Ordering::Relaxed);
        assert_eq!(pacer.next().await, Some(0));
        assert_eq!(pacer.next().await, Some(1_000_000));
        // A run that has ended lets everything fall due and hands out nothing.
        pacer.drive(RunClock::start(), &AtomicU64::new(0));
        assert_eq!(pacer.next().await, None);
        assert_eq!(pacer.unsent(), 1);
    }

    #[test]
    fn nothing_is_due_in_no_time() {
        assert_eq!(Schedule { rate: 5, batch: 1, seconds: 0 }.count_due(7), 0);
    }
}
