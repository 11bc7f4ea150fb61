//! The streams in memory: loaded on first touch, let go when they are many and nobody uses them.
//!
//! What is let go is as after a crash of the node, without the crash: all that was decided is on
//! its way to the disk, in order, and whoever loads the stream again waits for that first. Nobody
//! holds a cell then, so nobody waits at it, picks from it, or decides anything.

use super::stream_cell::StreamCell;
use crate::base::ids::Generation;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// Streams looked at when one more is loaded than there may be.
const LOOKS: usize = 8;

/// Where a stream is, or is being loaded.
pub(super) type Slot = Arc<OnceCell<Arc<StreamCell>>>;

struct Entry {
    slot: Slot,
    /// Asked for since the hand last came by.
    is_used: bool,
}

#[derive(Default)]
struct Entries {
    of: BTreeMap<Generation, Entry>,
    /// Who was looked at last: all get a turn.
    hand: Option<Generation>,
}

/// The streams in memory, at most so many as long as the others are idle.
pub(super) struct LoadedStreams {
    entries: Mutex<Entries>,
    max: usize,
}

impl LoadedStreams {
    pub(super) fn new(max: usize) -> Self {
        Self { entries: Mutex::default(), max }
    }

    /// The slot of a stream, made if `may_be` says so and there is none. Whoever holds it, or the
    /// cell in it, keeps the stream here.
    pub(super) fn slot(
        &self,
        generation: Generation,
        may_be: impl FnOnce() -> bool,
    ) -> Option<Slot> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.of.get_mut(&generation) {
            entry.is_used = true;
            return Some(entry.slot.clone());
        }
        if !may_be() {
            return None;
        }
        let slot = Slot::default();
        entries.of.insert(generation, Entry { slot: slot.clone(), is_used: true });
        let gone = entries.make_room(self.max);
        show(entries.of.len());
        drop(entries);
        // Outside of the lock: a long queue takes a while to drop.
        drop(gone);
        Some(slot)
    }

    /// The stream, if it is loaded.
    pub(super) fn get(&self, generation: Generation) -> Option<Arc<StreamCell>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.of.get(&generation)?.slot.get().cloned()
    }

    /// All that are loaded.
    pub(super) fn all(&self) -> Vec<Arc<StreamCell>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.of.values().filter_map(|entry| entry.slot.get().cloned()).collect()
    }

    /// Forgets a stream whose data was dropped.
    pub(super) fn forget(&self, generation: Generation) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.of.remove(&generation);
        show(entries.of.len());
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge")]
fn show(streams: usize) {
    metrics::gauge!("tertulia_streams_loaded").set(streams as f64);
}

impl Entries {
    /// Lets idle streams go that nobody asked for since the last look, until there are few enough
    /// or enough were looked at.
    fn make_room(&mut self, max: usize) -> Vec<StreamCell> {
        let mut gone = Vec::new();
        for _ in 0..LOOKS {
            if self.of.len() <= max {
                break;
            }
            let behind = self.hand.map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.of.range((behind, Bound::Unbounded)).next();
            let Some((&generation, _)) = next.or_else(|| self.of.first_key_value()) else { break };
            self.hand = Some(generation);
            let Some(mut entry) = self.of.remove(&generation) else { break };
            if std::mem::take(&mut entry.is_used) {
                self.of.insert(generation, entry);
                continue;
            }
            match take_idle(entry.slot) {
                Ok(cell) => {
                    metrics::counter!("tertulia_streams_let_go_total").increment(1);
                    gone.extend(cell);
                }
                Err(slot) => drop(self.of.insert(generation, Entry { slot, is_used: false })),
            }
        }
        gone
    }
}

/// What is in a slot that nobody else holds, with a cell that nobody else holds; else the slot as
/// it was. The lapses hold cells weakly: from here on they find none.
fn take_idle(slot: Slot) -> Result<Option<StreamCell>, Slot> {
    let Some(cell) = Arc::try_unwrap(slot)?.into_inner() else { return Ok(None) };
    Arc::try_unwrap(cell).map(Some).map_err(|cell| Arc::new(OnceCell::from(cell)))
}
