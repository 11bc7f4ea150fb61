//! Worker: wakes receivers when leases lapse, pauses end, delayed messages are due. One timer for the whole node: an idle queue costs
//! nothing, a busy one an entry.

use super::stream_cell::{LeftOver, StreamCell};
use crate::base::clock::ServiceClock;
use crate::base::ids::Generation;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;

#[derive(Default)]
struct Watched {
    /// Streams by the next such change, on the service clock in ms.
    order: BTreeSet<(u64, Generation)>,
    /// The entry of each stream in `order`.
    streams: BTreeMap<Generation, Entry>,
}

struct Entry {
    at_ms: u64,
    cell: Weak<StreamCell>,
    left_over: Arc<LeftOver>,
}

/// Streams in which something changes by itself.
pub struct Lapses {
    service: Arc<ServiceClock>,
    watched: Mutex<Watched>,
    earlier: Notify,
}

impl Lapses {
    /// Nothing watched yet.
    #[must_use]
    pub fn new(service: Arc<ServiceClock>) -> Arc<Self> {
        Arc::new(Self { service, watched: Mutex::default(), earlier: Notify::new() })
    }

    /// Looks at the stream again at that time.
    pub fn watch(&self, cell: &Arc<StreamCell>, until_ms: u64) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = watched.streams.get(&cell.generation) {
            // The entry may be of a cell that was let go: this one knows all that it knew.
            let same = std::ptr::eq(entry.cell.as_ptr(), Arc::as_ptr(cell));
            let at_ms = entry.at_ms;
            if same && at_ms <= until_ms {
                return;
            }
            watched.order.remove(&(at_ms, cell.generation));
        }
        let left_over = cell.left_over().clone();
        let entry = Entry { at_ms: until_ms, cell: Arc::downgrade(cell), left_over };
        watched.streams.insert(cell.generation, entry);
        watched.order.insert((until_ms, cell.generation));
        if watched.order.first() == Some(&(until_ms, cell.generation)) {
            self.earlier.notify_one();
        }
    }

    fn next(&self) -> Option<u64> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.order.first().map(|(at, _)| *at)
    }

    fn take_due(&self, now_ms: u64) -> Vec<Arc<StreamCell>> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Vec::new();
        while let Some((at, generation)) = watched.order.first().copied()
            && at <= now_ms
        {
            watched.order.pop_first();
            if let Some(Entry { cell, left_over, .. }) = watched.streams.remove(&generation) {
                match cell.upgrade() {
                    Some(cell) => due.push(cell),
                    // It was let go: whoever looks what is left to do loads it, and it wakes.
                    None => left_over.note(generation),
                }
            }
        }
        due
    }

    /// Runs for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            let wait = self.next().map(|at| at.saturating_sub(self.service.now_ms()));
            match wait {
                Some(0) => {}
                Some(ms) => tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(ms)) => {}
                    () = self.earlier.notified() => continue,
                },
                None => {
                    self.earlier.notified().await;
                    continue;
                }
            }
            let now_ms = self.service.now_ms();
            for cell in self.take_due(now_ms) {
                if let Some(at_ms) = cell.wake(now_ms) {
                    self.watch(&cell, at_ms);
                }
            }
        }
    }
}
