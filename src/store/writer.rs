//! The writer: the one place from which the file is changed.
//!
//! It takes submissions in the order in which they came, puts as many as are waiting (and fit)
//! into one commit, and resolves their tickets when that is durable. It waits for no timer: while
//! one commit is under way, the next batch gathers. After any error it stops for good [R7].

use super::database::{Changes, Rows, panic_text};
use super::space::{Admission, REFRESH_BUSY, Space};
use super::{RowOp, Stamp};
use crate::base::limits::{COMMIT_BYTES_MAX, COMMIT_ROWS_MAX};
use metrics::{Counter, Gauge, Histogram};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Rows to write together, or (without rows) a barrier.
pub(super) struct Submission {
    pub(super) ops: Vec<RowOp>,
    pub(super) bytes: usize,
    /// Given back when this is dropped: once its batch is done with.
    pub(super) admission: Option<Admission>,
    pub(super) done: oneshot::Sender<u64>,
}

/// What the writer is told.
pub(super) enum Message {
    Submit(Submission),
    /// Take no more, commit what was submitted, close the file.
    Close,
}

/// What the writer and the store's handles have in common.
pub(super) struct Shared {
    pub(super) rows: Rows,
    pub(super) space: Arc<Space>,
    /// The number of the last commit that is durable.
    pub(super) last_commit: AtomicU64,
    /// Set before any ticket of a failed batch resolves.
    pub(super) failed: watch::Sender<bool>,
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) queue: mpsc::UnboundedReceiver<Message>,
    pub(super) stamp: Stamp,
    /// The next submission, when it did not fit into the batch before it.
    pub(super) held: Option<Submission>,
    pub(super) meters: Meters,
    /// Dropped with the writer: how `close` learns of its end.
    pub(super) _ended: watch::Sender<()>,
}

/// The metrics of the store.
pub(super) struct Meters {
    commits: Counter,
    rows: Histogram,
    bytes: Histogram,
    sync: Histogram,
    waiting: Gauge,
    free: Gauge,
}

impl Meters {
    pub(super) fn new() -> Self {
        Self {
            commits: metrics::counter!("tertulia_commits_total"),
            rows: metrics::histogram!("tertulia_commit_rows"),
            bytes: metrics::histogram!("tertulia_commit_bytes"),
            sync: metrics::histogram!("tertulia_fsync_seconds"),
            waiting: metrics::gauge!("tertulia_store_waiting_bytes"),
            free: metrics::gauge!("tertulia_store_free_bytes"),
        }
    }

    fn read_space(&self, space: &Space) {
        self.waiting.set(space.waiting_bytes() as f64);
        self.free.set(space.free_bytes() as f64);
    }

    fn count(&self, batch: &Batch, took: Duration) {
        self.commits.increment(1);
        self.rows.record(batch.rows as f64);
        self.bytes.record(batch.bytes as f64);
        self.sync.record(took.as_secs_f64());
    }
}

/// Submissions of one commit, in order.
#[derive(Default)]
struct Batch {
    submissions: Vec<Submission>,
    rows: usize,
    bytes: usize,
}

impl Batch {
    /// Whether it may take this one; the first always fits, so that none waits for ever.
    fn has_room_for(&self, next: &Submission) -> bool {
        self.submissions.is_empty()
            || (self.rows + next.ops.len() <= COMMIT_ROWS_MAX
                && self.bytes + next.bytes <= COMMIT_BYTES_MAX)
    }

    fn push(&mut self, next: Submission) {
        self.rows += next.ops.len();
        self.bytes += next.bytes;
        self.submissions.push(next);
    }

    /// All ops by table and key: of two on one key the later wins.
    fn take_changes(&mut self, stamp: RowOp) -> Changes {
        let mut changes = Changes::new();
        let ops = self.submissions.iter_mut().flat_map(|submission| submission.ops.drain(..));
        for op in ops.chain([stamp]) {
            let (table, key, row) = match op {
                RowOp::Put { table, key, tag, bytes } => (table, key, Some((tag, bytes))),
                RowOp::Delete { table, key } => (table, key, None),
            };
            changes.entry(table).or_default().insert(key, row);
        }
        changes
    }
}

impl Writer {
    /// Writes until the store is closed, dropped, or broken.
    pub(super) async fn run(mut self) {
        self.meters.read_space(&self.shared.space);
        while let Some(mut batch) = self.next_batch().await {
            self.shared.space.refresh(REFRESH_BUSY);
            self.meters.read_space(&self.shared.space);
            if let Err(why) = self.write(&mut batch) {
                return self.fail(&why, batch).await;
            }
            let number = self.shared.last_commit.load(Ordering::Acquire);
            for Submission { done, admission, .. } in batch.submissions {
                drop(admission);
                // Who dropped the ticket does not want to know.
                let _ = done.send(number);
            }
            self.meters.read_space(&self.shared.space);
        }
        if let Err(error) = self.shared.rows.close() {
            // All commits are durable; the next opening only takes longer.
            tracing::warn!(error, "the store did not close cleanly");
        }
    }

    /// Waits for a submission and takes what is queued behind it; `None` when no more will come.
    async fn next_batch(&mut self) -> Option<Batch> {
        let mut batch = Batch::default();
        let first = match self.held.take() {
            Some(held) => held,
            None => loop {
                let message = self.queue.recv().await?;
                if let Some(submission) = self.open_message(message) {
                    break submission;
                }
            },
        };
        batch.push(first);
        while let Ok(message) = self.queue.try_recv() {
            let Some(next) = self.open_message(message) else { continue };
            if !batch.has_room_for(&next) {
                self.held = Some(next);
                break;
            }
            batch.push(next);
        }
        Some(batch)
    }

    fn open_message(&mut self, message: Message) -> Option<Submission> {
        match message {
            Message::Submit(submission) => Some(submission),
            Message::Close => {
                // What was sent before still comes; what is sent from now on is refused.
                self.queue.close();
                None
            }
        }
    }

    /// Makes the batch durable. Barriers alone need no commit: all before them is durable.
    fn write(&mut self, batch: &mut Batch) -> Result<(), String> {
        if batch.rows == 0 {
            return Ok(());
        }
        let number = self.shared.last_commit.load(Ordering::Acquire) + 1;
        let commit = || {
            let changes = batch.take_changes((self.stamp)(number));
            self.shared.rows.commit(&changes).map_err(|error| error.to_string())
        };
        let took = catch_unwind(AssertUnwindSafe(commit))
            .unwrap_or_else(|panic| Err(panic_text(&*panic)))?;
        self.shared.last_commit.store(number, Ordering::Release);
        self.meters.count(batch, took);
        Ok(())
    }

    /// Nobody knows what of the batch is durable, and a second fsync could claim what the first
    /// one lost: nothing is tried again, everyone is told, the process must end [R7].
    async fn fail(&mut self, why: &str, batch: Batch) {
        tracing::error!(why, "the store failed to write; this process must end");
        self.shared.failed.send_replace(true);
        drop(batch);
        self.held = None;
        self.queue.close();
        // Drained to the end, with the ones being sent at this moment: no ticket waits for ever.
        while self.queue.recv().await.is_some() {}
    }
}
