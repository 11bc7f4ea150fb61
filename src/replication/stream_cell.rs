//! One stream in memory: its state behind a short lock, and who waits for its messages.

use crate::base::ids::Generation;
use crate::protocol::stream::Stream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Bytes of sealed payloads that all streams together keep in memory.
#[derive(Debug, Default)]
pub struct PayloadBudget {
    used: AtomicUsize,
}

impl PayloadBudget {
    /// Whether another payload may be kept.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.used.load(Ordering::Relaxed) < crate::base::limits::PAYLOAD_CACHE_BYTES_MAX
    }

    fn account(&self, before: usize, after: usize) {
        let used = if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed) + (after - before)
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed) - (before - after)
        };
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("tertulia_payload_cache_bytes").set(used as f64);
    }
}

/// A loaded stream.
pub struct StreamCell {
    /// The stream.
    pub generation: Generation,
    /// Held for the time of one decision and never over an await; commits are queued under it, so
    /// their order is the order of the decisions.
    state: Mutex<Stream>,
    budget: Arc<PayloadBudget>,
    /// Rings once per message that became ready.
    pub news: Notify,
    /// Receivers that may be waiting.
    pub waiting: AtomicUsize,
    /// One reader of the disk at a time; the rest wait for what it finds.
    pub refilling: tokio::sync::Mutex<()>,
}

impl StreamCell {
    /// A cell around a loaded stream.
    #[must_use]
    pub fn new(generation: Generation, stream: Stream, budget: Arc<PayloadBudget>) -> Self {
        Self {
            generation,
            state: Mutex::new(stream),
            budget,
            news: Notify::new(),
            waiting: AtomicUsize::new(0),
            refilling: tokio::sync::Mutex::new(()),
        }
    }

    /// Makes one decision on the state.
    pub fn decide<T>(&self, decide: impl FnOnce(&mut Stream) -> T) -> T {
        let mut stream = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = stream.window().bytes();
        let result = decide(&mut stream);
        let after = stream.window().bytes();
        if before != after {
            self.budget.account(before, after);
        }
        result
    }

    /// Wakes as many receivers as messages became ready.
    pub fn ring(&self, messages: usize) {
        for _ in 0..messages.min(self.waiting.load(Ordering::Relaxed)) {
            self.news.notify_one();
        }
    }

    /// Wakes everybody: the stream was closed.
    pub fn ring_all(&self) {
        self.news.notify_waiters();
    }
}

impl Drop for StreamCell {
    fn drop(&mut self) {
        let bytes = self.decide(|stream| stream.window().bytes());
        self.budget.account(bytes, 0);
    }
}
