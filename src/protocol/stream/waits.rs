//! Messages that are not due yet, by the time at which they are.

use crate::crdt::dot::Dot;
use std::collections::{BTreeMap, BTreeSet};

/// A timer per dot. Invariant: `by_time` and `of` hold the same pairs.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by_time: BTreeSet<(u64, Dot)>,
    of: BTreeMap<Dot, u64>,
}

impl Waits {
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    pub(super) fn first_ms(&self) -> Option<u64> {
        self.by_time.first().map(|(at, _)| *at)
    }

    pub(super) fn set(&mut self, dot: Dot, at_ms: u64) {
        self.remove(dot);
        self.by_time.insert((at_ms, dot));
        self.of.insert(dot, at_ms);
    }

    pub(super) fn remove(&mut self, dot: Dot) {
        if let Some(at_ms) = self.of.remove(&dot) {
            self.by_time.remove(&(at_ms, dot));
        }
    }

    /// Takes the first one that is due.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<Dot> {
        let (_, dot) = self.by_time.first().copied().filter(|(at, _)| *at <= now_ms)?;
        self.remove(dot);
        Some(dot)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Dot) -> bool) {
        let gone: Vec<Dot> = self.of.keys().copied().filter(|dot| !keep(*dot)).collect();
        for dot in gone {
            self.remove(dot);
        }
    }
}
