//! One stream in memory: its state behind a short lock, and who waits for its messages.

use crate::base::ids::{Generation, SubscriptionId};
use crate::base::limits;
use crate::protocol::stream::Stream;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// What all streams together keep in memory beside what they must.
#[derive(Debug, Default)]
pub struct MemoryBudget {
    payload_bytes: AtomicUsize,
    marks: AtomicUsize,
    holes: AtomicUsize,
}

/// What one stream keeps in memory beside what it must: bytes of payloads, marks; and its holes.
type Held = (usize, usize, usize);

fn held(stream: &Stream) -> Held {
    (stream.payload_bytes(), stream.marks(), stream.count_holes())
}

impl MemoryBudget {
    /// Whether another payload may be kept.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.payload_bytes.load(Ordering::Relaxed) < limits::PAYLOAD_CACHE_BYTES_MAX
    }

    /// Whether another message's times and group may be kept.
    #[must_use]
    pub fn has_room_for_marks(&self) -> bool {
        self.marks.load(Ordering::Relaxed) < limits::MARKS_MAX
    }

    fn account(&self, before: Held, after: Held) {
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        if before.0 != after.0 {
            let used = shift(&self.payload_bytes, before.0, after.0);
            metrics::gauge!("tertulia_payload_cache_bytes").set(used as f64);
        }
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        if before.1 != after.1 {
            let used = shift(&self.marks, before.1, after.1);
            metrics::gauge!("tertulia_marks").set(used as f64);
        }
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        if before.2 != after.2 {
            let used = shift(&self.holes, before.2, after.2);
            metrics::gauge!("tertulia_holes").set(used as f64);
        }
    }
}

fn shift(count: &AtomicUsize, before: usize, after: usize) -> usize {
    if after >= before {
        count.fetch_add(after - before, Ordering::Relaxed) + (after - before)
    } else {
        count.fetch_sub(before - after, Ordering::Relaxed) - (before - after)
    }
}

/// Streams of which something is left for the broker to do: messages to drop or to bury, rows of
/// a purge to remove. Bounded by the streams there are.
#[derive(Debug, Default)]
pub struct LeftOver {
    streams: Mutex<BTreeSet<Generation>>,
    /// Rings when one is noted.
    pub news: Notify,
}

impl LeftOver {
    /// Notes a stream.
    pub fn note(&self, stream: Generation) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams.insert(stream) {
            self.news.notify_one();
        }
    }

    /// Takes all that were noted.
    #[must_use]
    pub fn take(&self) -> BTreeSet<Generation> {
        std::mem::take(&mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which of a reader's messages somebody wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// Those that are free.
    Ready,
    /// The dead.
    Dead,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ready, Self::Dead];
}

/// Who waits for a reader's messages of one side.
#[derive(Debug, Default)]
pub struct Bell {
    /// Rings once per message that came to be on this side.
    pub news: Notify,
    /// Receivers that may be waiting.
    pub waiting: AtomicUsize,
    /// One reader of the disk at a time; the rest wait for what it finds.
    pub refilling: tokio::sync::Mutex<()>,
}

impl Bell {
    fn ring(&self, messages: usize) {
        for _ in 0..messages.min(self.waiting.load(Ordering::Relaxed)) {
            self.news.notify_one();
        }
    }
}

/// A loaded stream.
pub struct StreamCell {
    /// The stream.
    pub generation: Generation,
    /// Held for the time of one decision and never over an await; commits are queued under it, so
    /// their order is the order of the decisions.
    state: Mutex<Stream>,
    budget: Arc<MemoryBudget>,
    left_over: Arc<LeftOver>,
    bells: Mutex<BTreeMap<(SubscriptionId, Side), Arc<Bell>>>,
    /// When the last comparison that sufficed began; held while one runs.
    pub(super) confirmed: tokio::sync::Mutex<Option<tokio::time::Instant>>,
}

impl StreamCell {
    /// A cell around a loaded stream.
    #[must_use]
    pub fn new(
        generation: Generation,
        stream: Stream,
        budget: Arc<MemoryBudget>,
        left_over: Arc<LeftOver>,
    ) -> Self {
        budget.account((0, 0, 0), held(&stream));
        let (state, bells) = (Mutex::new(stream), Mutex::default());
        let confirmed = tokio::sync::Mutex::default();
        Self { generation, state, budget, left_over, bells, confirmed }
    }

    /// Whether somebody waits for messages here.
    pub fn is_awaited(&self) -> bool {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.values().any(|bell| bell.waiting.load(Ordering::Relaxed) > 0)
    }

    /// Makes one decision on the state.
    pub fn decide<T>(&self, decide: impl FnOnce(&mut Stream) -> T) -> T {
        let mut stream = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = held(&stream);
        let result = decide(&mut stream);
        let after = held(&stream);
        if before != after {
            self.budget.account(before, after);
        }
        result
    }

    /// Lets time pass for all readers; wakes receivers; tells when something is next.
    pub fn wake(&self, now_ms: u64) -> Option<u64> {
        let (news, doomed, next) = self.decide(|stream| {
            let mut news = Vec::new();
            let mut doomed = false;
            let is_topic = stream.is_topic();
            for id in stream.readers() {
                let dead = stream.counts(id).dead;
                let count = stream.wake(id, now_ms);
                news.push((id, Side::Ready, count));
                // A lease of a dead message ran out: it is among the dead again.
                let more = stream.counts(id).dead.saturating_sub(dead);
                news.push((id, Side::Dead, usize::try_from(more).unwrap_or(usize::MAX)));
                // Of a topic's readers some are links: what is due there is for the broker.
                doomed |= stream.has_doomed(id) || (is_topic && count > 0);
            }
            (news, doomed, stream.next_wake_ms())
        });
        for (id, side, count) in news {
            self.ring(id, side, count);
        }
        if doomed {
            self.left_over.note(self.generation);
        }
        next
    }

    /// Where it notes what is left to do.
    pub fn left_over(&self) -> &Arc<LeftOver> {
        &self.left_over
    }

    /// Notes that the broker has something to do here.
    pub fn note_left_over(&self) {
        self.left_over.note(self.generation);
    }

    /// The bell of one side of a reader.
    pub fn bell(&self, id: SubscriptionId, side: Side) -> Arc<Bell> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        bells.entry((id, side)).or_default().clone()
    }

    /// Wakes as many receivers of one side as messages came to be there.
    pub fn ring(&self, id: SubscriptionId, side: Side, messages: usize) {
        if messages == 0 {
            return;
        }
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = bells.get(&(id, side)) {
            bell.ring(messages);
        }
    }

    /// Wakes everybody: the stream was closed, or its readers have changed.
    pub fn ring_all(&self) {
        let bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in bells.values() {
            bell.news.notify_waiters();
        }
    }
}

impl Drop for StreamCell {
    fn drop(&mut self) {
        let used = self.decide(|stream| held(stream));
        self.budget.account(used, (0, 0, 0));
    }
}
