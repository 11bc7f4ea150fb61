//! Waiting for messages: at this node's replica, or at another's.

use super::coordinator::{Coordinator, StreamRef};
use super::gateway::{Forwarded, Forwardee, Road};
use super::stream_cell::{Bell, Side, StreamCell};
use crate::base::ids::{NodeId, SubscriptionId};
use crate::base::limits::WATCH_TIME;
use crate::protocol::op::Refusal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Beside [`WATCH_TIME`], how long the answer of a watch may take.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// How long a node that cannot watch anywhere waits before it looks again, at least.
const BLIND_MS: u64 = 500;

/// A receiver that waits for messages of a stream.
pub struct Listening {
    /// The stream, where this node replicates it.
    cell: Option<Arc<StreamCell>>,
    reader: SubscriptionId,
    side: Side,
    bell: Arc<Bell>,
    coordinator: Arc<Coordinator>,
    /// Ends the watch at another node.
    _watch: Option<DropGuard>,
}

impl Listening {
    /// The bell that rings when messages become ready.
    #[must_use]
    pub fn bell(&self) -> &tokio::sync::Notify {
        &self.bell.news
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.bell.waiting.fetch_sub(1, Ordering::Relaxed);
        self.coordinator.listeners.fetch_sub(1, Ordering::Relaxed);
        // The bell may have rung for this one, which leaves: whoever waits behind looks instead.
        if let Some(cell) = &self.cell {
            cell.ring(self.reader, self.side, 1);
        }
        metrics::gauge!("tertulia_receivers_waiting").decrement(1.0);
    }
}

impl Coordinator {
    /// Listens for messages. Look for one *after* this, or its bell may be missed.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn listen(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        side: Side,
    ) -> Result<Listening, Refusal> {
        let (cell, bell, watch) = match self.to_replica(stream) {
            Road::Here => {
                let cell = self.parts.replica.cell(stream.generation).await?;
                let bell = cell.bell(reader, side);
                (Some(cell), bell, None)
            }
            Road::There(nodes) => {
                let (bell, end) = (Arc::<Bell>::default(), CancellationToken::new());
                self.watch(nodes, stream.clone(), (reader, side), bell.clone(), end.clone());
                (None, bell, Some(end.drop_guard()))
            }
        };
        bell.waiting.fetch_add(1, Ordering::Relaxed);
        self.listeners.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("tertulia_receivers_waiting").increment(1.0);
        let coordinator = self.clone();
        Ok(Listening { cell, reader, side, bell, coordinator, _watch: watch })
    }

    /// Rings a bell whenever it may have rung at a replica. The watch is renewed every few
    /// seconds, at another replica when one is gone.
    fn watch(
        self: &Arc<Self>,
        nodes: Vec<NodeId>,
        stream: StreamRef,
        (reader, side): (SubscriptionId, Side),
        bell: Arc<Bell>,
        end: CancellationToken,
    ) {
        let coordinator = self.clone();
        let watching = async move {
            let mut nodes = nodes.into_iter().cycle();
            let mut node = nodes.next();
            while let Some(at) = node {
                let operation = Forwarded::Watch(stream.target(), reader, side);
                let watched = coordinator.hand_on(at, operation, WATCH_TIME + ANSWER_TIME).await;
                if !matches!(watched, Ok(Forwardee::Watched)) {
                    node = nodes.next();
                    let jitter = coordinator.parts.rng.below(BLIND_MS);
                    tokio::time::sleep(Duration::from_millis(BLIND_MS + jitter)).await;
                }
                bell.news.notify_one();
            }
        };
        self.parts.replica.spawn().task(Box::pin(async move {
            tokio::select! {
                () = watching => {}
                () = end.cancelled() => {}
            }
        }));
    }

    /// How many receivers listen.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.listeners.load(Ordering::Relaxed)
    }
}
