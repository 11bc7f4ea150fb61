//! When replicas compare their streams: after every change, when a peer comes back, and before a
//! receiver is told that there is nothing.

use super::coordinator::{Coordinator, StreamRef};
use super::repair::{RepairAnswer, RepairRequest};
use super::replica::Replica;
use crate::base::ids::{Generation, NodeId};
use crate::base::limits::{COMPARE_PERIOD, COMPARE_STREAMS_MAX};
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a peer has to compare digests.
const COMPARE_TIME: Duration = Duration::from_secs(5);
/// The shortest time between two rounds.
const PAUSE: Duration = Duration::from_millis(100);

/// Streams that are to be compared with peers. Bounded by the streams there are.
#[derive(Debug, Default)]
pub struct Unrepaired {
    /// Off on a node alone: nobody would ever take what is noted.
    is_on: AtomicBool,
    changed: Mutex<BTreeSet<Generation>>,
    with: Mutex<BTreeMap<NodeId, Due>>,
}

/// What is to be compared with one peer.
#[derive(Debug, Default)]
struct Due {
    streams: BTreeSet<Generation>,
    /// Rings when the peer is found to know more.
    news: Arc<Notify>,
}

impl Unrepaired {
    /// Notes that a stream has changed here.
    pub fn note(&self, stream: Generation) {
        if self.is_on.load(Ordering::Relaxed) {
            self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(stream);
        }
    }

    /// Notes that a stream is to be compared with a peer.
    pub fn note_for(&self, peer: NodeId, stream: Generation) {
        let mut with = self.with.lock().unwrap_or_else(PoisonError::into_inner);
        let due = with.entry(peer).or_default();
        if due.streams.insert(stream) {
            due.news.notify_one();
        }
    }

    fn news_of(&self, peer: NodeId) -> Arc<Notify> {
        let mut with = self.with.lock().unwrap_or_else(PoisonError::into_inner);
        with.entry(peer).or_default().news.clone()
    }

    fn take_changed(&self) -> BTreeSet<Generation> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes up to so many streams that are to be compared with a peer.
    fn take_for(&self, peer: NodeId, max: usize) -> Vec<Generation> {
        let mut with = self.with.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Due { streams, .. }) = with.get_mut(&peer) else { return Vec::new() };
        let taken: Vec<Generation> = streams.iter().take(max).copied().collect();
        for stream in &taken {
            streams.remove(stream);
        }
        taken
    }

    fn put_back(&self, peer: NodeId, streams: &[Generation]) {
        let mut with = self.with.lock().unwrap_or_else(PoisonError::into_inner);
        with.entry(peer).or_default().streams.extend(streams);
    }

    /// How many comparisons are due.
    #[must_use]
    pub fn len(&self) -> usize {
        let with = self.with.lock().unwrap_or_else(PoisonError::into_inner);
        with.values().map(|due| due.streams.len()).sum()
    }

    /// Whether none is due.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Coordinator {
    /// Worker: compares streams with the peers that replicate them too. Runs for ever.
    pub async fn run_repair(self: Arc<Self>) {
        let replica: &Arc<Replica> = &self.parts.replica;
        replica.unrepaired().is_on.store(true, Ordering::Relaxed);
        for generation in replica.catalog().streams() {
            replica.unrepaired().note(generation);
        }
        // A loop per peer: who is slow or dead holds up nobody else.
        let peers: Vec<NodeId> = self.parts.peers.nodes().collect();
        let comparing = join_all(peers.into_iter().map(|peer| self.run_comparisons(peer)));
        tokio::join!(comparing, self.run_rounds());
    }

    /// Looks again and again at what was left to do. Runs for ever.
    async fn run_rounds(&self) {
        let replica = &self.parts.replica;
        loop {
            self.rest().await;
            // Whoever becomes the dispatcher finds what the last one has left.
            for cell in replica.loaded() {
                if cell.decide(|stream| stream.readers().iter().any(|id| stream.has_doomed(*id))) {
                    cell.note_left_over();
                }
            }
            #[allow(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!("tertulia_comparisons_due").set(replica.unrepaired().len() as f64);
        }
    }

    /// Compares streams with one peer. Runs for ever.
    async fn run_comparisons(&self, peer: NodeId) {
        let replica = &self.parts.replica;
        let news = replica.unrepaired().news_of(peer);
        loop {
            tokio::select! {
                () = self.rest() => {}
                () = news.notified() => tokio::time::sleep(PAUSE).await,
            }
            // Streams that somebody waits for are compared whether they have changed or not [R26].
            for generation in replica.awaited() {
                replica.unrepaired().note(generation);
            }
            self.distribute();
            self.compare_with(peer).await;
        }
    }

    /// A second, more or less.
    async fn rest(&self) {
        let jitter = Duration::from_millis(self.parts.rng.below(200));
        tokio::time::sleep(COMPARE_PERIOD - Duration::from_millis(100) + jitter).await;
    }

    fn distribute(&self) {
        let me = self.parts.replica.node();
        let unrepaired = self.parts.replica.unrepaired();
        for generation in unrepaired.take_changed() {
            let Some(stream) = self.stream_of(generation) else { continue };
            let replicas = stream.view.replicas();
            if replicas.contains(&me) {
                for peer in replicas.into_iter().filter(|node| *node != me) {
                    unrepaired.put_back(peer, &[generation]);
                }
            }
        }
    }

    /// Compares what is due with one peer, and catches up where it knows more.
    async fn compare_with(&self, peer: NodeId) {
        let replica = &self.parts.replica;
        let unrepaired = replica.unrepaired();
        let due = unrepaired.take_for(peer, COMPARE_STREAMS_MAX);
        if due.is_empty() {
            return;
        }
        let (mut digests, mut holed) = (Vec::with_capacity(due.len()), Vec::new());
        for generation in &due {
            if let Ok(cell) = replica.cell(*generation).await {
                digests.push((*generation, replica.digest(&cell)));
                if cell.decide(|stream| stream.count_holes()) > 0 {
                    holed.push(*generation);
                }
            }
        }
        let request = RepairRequest::Compare(replica.node(), digests);
        let answer = match self.parts.peers.get(&peer) {
            Some(peer) => peer.repair(request, COMPARE_TIME).await.ok(),
            None => None,
        };
        let Some(RepairAnswer::Differ(mut differ)) = answer else {
            unrepaired.put_back(peer, &due);
            return;
        };
        // Who agrees on what there is may still have it whole.
        holed.retain(|generation| !differ.contains(generation));
        differ.extend(holed);
        for generation in differ {
            if let Some(stream) = self.stream_of(generation)
                && let Err(error) = self.catch_up(&stream, peer).await
            {
                tracing::debug!(%error, %peer, stream = %generation, "a comparison broke off");
            }
            // Equal only when the next comparison says so.
            unrepaired.put_back(peer, &[generation]);
        }
    }

    /// Compares a stream with so many peers that, with this node, no message that a majority has
    /// can be missed. One comparison serves all that began to wait before it did.
    ///
    /// Returns whether it succeeded.
    pub(super) async fn confirm(&self, stream: &StreamRef, began: tokio::time::Instant) -> bool {
        let me = self.parts.replica.node();
        let replicas = stream.view.replicas();
        if replicas == [me] {
            return true;
        }
        let Ok(cell) = self.parts.replica.cell(stream.generation).await else { return false };
        let mut confirmed = cell.confirmed.lock().await;
        if confirmed.is_some_and(|at| at >= began) {
            return true;
        }
        let at = tokio::time::Instant::now();
        let others = replicas.iter().copied().filter(|node| *node != me);
        let mut asked: FuturesUnordered<_> = others
            .map(|peer| async move { (peer, self.catch_up(stream, peer).await.is_ok()) })
            .collect();
        let mut voters = BTreeSet::from([me]);
        while !crate::protocol::quorum::covers(&stream.view, &voters) {
            match asked.next().await {
                Some((peer, true)) => _ = voters.insert(peer),
                Some((_, false)) => {}
                None => return false,
            }
        }
        *confirmed = Some(at);
        true
    }
}
