//! Hybrid logical clock: wall time that never runs backwards on one node. It orders; safety never
//! depends on it.

use super::clock::Clock;
use super::ids::NodeId;
use super::limits;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::Mutex;

/// A stamp: unique, because it names its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hlc {
    /// Wall time in ms, never below an earlier stamp of the node.
    pub wall_ms: u64,
    /// Counts stamps within one millisecond.
    pub logical: u32,
    /// The node that drew it.
    pub node: NodeId,
}

/// A stamp lies too far ahead to be merged [R44, F24].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stamp is {ahead_ms} ms ahead of this node's clock")]
pub struct TooFarAhead {
    /// By how much, in ms.
    pub ahead_ms: u64,
}

/// Draws stamps for one node.
pub struct HlcClock {
    clock: Arc<dyn Clock>,
    node: NodeId,
    /// Highest (wall, logical) drawn or merged.
    last: Mutex<(u64, u32)>,
}

impl HlcClock {
    /// Starts from a stored stamp, unless that lies more than 500 ms ahead: then order suffers,
    /// service does not [F24].
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, node: NodeId, stored: Option<Hlc>) -> Self {
        let bound = clock.wall_ms() + limits::HLC_AHEAD_MS_MAX;
        let last = match stored {
            Some(s) if s.wall_ms <= bound => (s.wall_ms, s.logical),
            Some(s) => {
                tracing::error!(stored_ms = s.wall_ms, "the stored clock is ahead: ignored [F24]");
                (0, 0)
            }
            None => (0, 0),
        };
        Self { clock, node, last: Mutex::new(last) }
    }

    /// The next stamp, above all earlier ones.
    pub fn now(&self) -> Hlc {
        let wall = self.clock.wall_ms();
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = if wall > last.0 { (wall, 0) } else { (last.0, last.1 + 1) };
        Hlc { wall_ms: last.0, logical: last.1, node: self.node }
    }

    /// Wall time of the machine, in ms.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    /// The highest stamp drawn or merged: what is persisted.
    #[must_use]
    pub fn last(&self) -> Hlc {
        let last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Hlc { wall_ms: last.0, logical: last.1, node: self.node }
    }

    /// Merges a stamp seen elsewhere.
    ///
    /// # Errors
    /// [`TooFarAhead`] when it is more than 500 ms ahead; nothing is merged then.
    pub fn observe(&self, seen: Hlc) -> Result<(), TooFarAhead> {
        let ahead_ms = seen.wall_ms.saturating_sub(self.clock.wall_ms());
        if ahead_ms > limits::HLC_AHEAD_MS_MAX {
            return Err(TooFarAhead { ahead_ms });
        }
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = (*last).max((seen.wall_ms, seen.logical));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Wall(AtomicU64);
    impl Clock for Wall {
        fn wall_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
        fn boottime_ms(&self) -> u64 {
            0
        }
        fn kernel_boot_id(&self) -> u64 {
            0
        }
    }

    #[test]
    fn stamps_rise_when_the_wall_steps_back() {
        let wall = Arc::new(Wall(AtomicU64::new(1_000)));
        let hlc = HlcClock::new(wall.clone(), NodeId(1), None);
        let first = hlc.now();
        wall.0.store(10, Ordering::Relaxed);
        assert!(hlc.now() > first);
    }

    #[test]
    fn r44_a_stamp_far_ahead_is_not_merged() {
        let wall = Arc::new(Wall(AtomicU64::new(1_000)));
        let hlc = HlcClock::new(wall, NodeId(1), None);
        let far = Hlc { wall_ms: 1_501, logical: 0, node: NodeId(2) };
        assert_eq!(hlc.observe(far), Err(TooFarAhead { ahead_ms: 501 }));
        assert!(hlc.now().wall_ms <= 1_000);
        let near = Hlc { wall_ms: 1_400, logical: 3, node: NodeId(2) };
        assert_eq!(hlc.observe(near), Ok(()));
        assert!(hlc.now() > near);
    }

    #[test]
    fn f24_a_stored_stamp_far_ahead_is_ignored() {
        let wall = Arc::new(Wall(AtomicU64::new(1_000)));
        let stored = Hlc { wall_ms: 9_000, logical: 0, node: NodeId(1) };
        assert_eq!(HlcClock::new(wall, NodeId(1), Some(stored)).now().wall_ms, 1_000);
    }
}
