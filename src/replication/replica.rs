//! A replica: turns decisions of the protocol into durable commits, and answers.
//!
//! The one door through which the state of a stream changes. Its duties, in this order: check the
//! view, ask for room, decide under the stream's lock, queue the commit under the same lock,
//! answer only after the fsync [R3, R6, R9].

use super::lapses::Lapses;
use super::rows::{ROW_BYTES, row_ops};
use super::scan;
use super::stream_cell::{PayloadBudget, StreamCell};
use crate::base::clock::ServiceClock;
use crate::base::hlc::{Hlc, HlcClock};
use crate::base::ids::{Boot, Generation, NodeId};
use crate::base::seams::{Spawn, blocking};
use crate::crdt::dot::Dot;
use crate::layout::view::ViewId;
use crate::message::envelope::Envelope;
use crate::metadata::Catalog;
use crate::protocol::op::{
    Answer, Change, LeaseOp, LeaseVote, OpHeader, Refusal, Reply, Request, Seal, SettleOp,
    SettleVote, StoreOp, Voter,
};
use crate::protocol::stream::Stream;
use crate::store::{Admission, Refused, Store, Ticket, WriteClass};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OnceCell;

/// The replica's outcome is not known: its store is failing and the process ends [R7].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the replica's store has failed")]
pub struct StoreFailed;

/// What a replica is made of.
pub struct ReplicaParts {
    /// This node.
    pub node: NodeId,
    /// Its boot number.
    pub boot: Boot,
    /// Where it keeps everything.
    pub store: Store,
    /// Which generations exist.
    pub catalog: Arc<Catalog>,
    /// The durable clock behind grants.
    pub service: Arc<ServiceClock>,
    /// Stamps messages.
    pub hlc: Arc<HlcClock>,
    /// Runs disk reads.
    pub spawn: Arc<dyn Spawn>,
    /// Wakes receivers when leases lapse.
    pub lapses: Arc<Lapses>,
    /// The layout in force.
    pub view: ViewId,
}

type Cells = BTreeMap<Generation, Arc<OnceCell<Arc<StreamCell>>>>;

/// This node's copy of its streams.
pub struct Replica {
    parts: ReplicaParts,
    cells: Mutex<Cells>,
    budget: Arc<PayloadBudget>,
}

impl Replica {
    /// A replica on a running store.
    #[must_use]
    pub fn new(parts: ReplicaParts) -> Arc<Self> {
        Arc::new(Self { parts, cells: Mutex::default(), budget: Arc::default() })
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.parts.node
    }

    /// The durable clock.
    #[must_use]
    pub fn service(&self) -> &ServiceClock {
        &self.parts.service
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.parts.store
    }

    /// What runs disk reads.
    #[must_use]
    pub fn spawn(&self) -> &Arc<dyn Spawn> {
        &self.parts.spawn
    }

    /// The worker that watches for lapses.
    #[must_use]
    pub fn lapses(&self) -> &Arc<Lapses> {
        &self.parts.lapses
    }

    /// The stream in memory, loaded on first touch.
    ///
    /// # Errors
    /// [`Refusal::Sealed`] when no record knows the generation: data is made on a positive record
    /// only [F20]; [`Refusal::Overloaded`] when the disk cannot be read.
    pub async fn cell(&self, generation: Generation) -> Result<Arc<StreamCell>, Refusal> {
        let slot = {
            let mut cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
            match cells.get(&generation) {
                Some(slot) => slot.clone(),
                None if self.parts.catalog.queue_by_generation(generation).is_none() => {
                    return Err(Refusal::Sealed);
                }
                None => cells.entry(generation).or_default().clone(),
            }
        };
        if let Some(cell) = slot.get() {
            return Ok(cell.clone());
        }
        slot.get_or_try_init(|| self.load(generation)).await.cloned()
    }

    async fn load(&self, generation: Generation) -> Result<Arc<StreamCell>, Refusal> {
        let store = self.parts.store.clone();
        let read = move || scan::load(&store, generation);
        let loaded = blocking(&*self.parts.spawn, read).await.map_err(|error| {
            tracing::error!(%error, stream = %generation, "a stream cannot be loaded");
            Refusal::Overloaded
        })?;
        let now_ms = self.parts.service.now_ms();
        let stream = Stream::load(self.parts.node, self.parts.boot, loaded, now_ms);
        let next = stream.next_expiry_ms();
        let cell = Arc::new(StreamCell::new(generation, stream, self.budget.clone()));
        if let Some(until_ms) = next {
            self.parts.lapses.watch(&cell, until_ms);
        }
        Ok(cell)
    }

    /// Whether payloads may be kept in memory.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.budget.has_room()
    }

    /// Messages of a stream in memory; `None` when it is not loaded.
    #[must_use]
    pub fn count_loaded(&self, generation: Generation) -> Option<u64> {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = cells.get(&generation)?.get()?.clone();
        drop(cells);
        Some(cell.decide(|stream| stream.count()))
    }

    /// Forgets a stream whose data was dropped.
    pub fn forget(&self, generation: Generation) {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner).remove(&generation);
    }

    /// Asks for room for a write, before anything is decided [R9].
    ///
    /// # Errors
    /// [`Refusal::Overloaded`], [`Refusal::DiskFull`].
    pub fn admit(&self, class: WriteClass, bytes: usize) -> Result<Admission, Refusal> {
        self.parts.store.admit(class, bytes).map_err(|refused| match refused {
            Refused::DiskFull => Refusal::DiskFull,
            Refused::Full => Refusal::Overloaded,
        })
    }

    fn check_view(&self, header: &OpHeader) -> Result<(), Refusal> {
        if header.view == self.parts.view { Ok(()) } else { Err(Refusal::ViewChanged) }
    }

    /// Queues the changes of a decision, under the lock of that decision.
    fn commit(
        &self,
        admission: Admission,
        generation: Generation,
        stream: &Stream,
        changes: Vec<Change>,
    ) -> Ticket {
        if changes.is_empty() {
            // What is answered from state in memory waits for the commits behind that state.
            return self.parts.store.barrier();
        }
        self.parts.store.submit(admission, row_ops(generation, stream, changes))
    }

    async fn reply(&self, ticket: Ticket, answer: Answer) -> Result<Reply, StoreFailed> {
        let commit = ticket.await.map_err(|_| StoreFailed)?;
        let voter = Voter { node: self.parts.node, boot: self.parts.boot, commit };
        Ok(Reply { voter, answer })
    }

    /// The answer that nothing was done.
    #[must_use]
    pub fn refuse(&self, refusal: Refusal) -> Reply {
        let commit = self.parts.store.commit_number();
        let voter = Voter { node: self.parts.node, boot: self.parts.boot, commit };
        Reply { voter, answer: Answer::Refused(refusal) }
    }

    /// Mints, seals and stores messages in one decision: the coordinator's own vote. `seal` gets
    /// each message's dot and stamp.
    ///
    /// # Errors
    /// [`Refusal`], and no number was drawn.
    pub fn originate(
        &self,
        cell: &Arc<StreamCell>,
        header: &OpHeader,
        admission: Admission,
        count: usize,
        mut seal: impl FnMut(usize, Dot, Hlc) -> Arc<Envelope>,
    ) -> Result<(Vec<Arc<Envelope>>, Ticket), Refusal> {
        self.check_view(header)?;
        let keep = self.budget.has_room();
        let stored = cell.decide(|stream| {
            stream.may_store(header.record_version)?;
            let envelopes: Vec<Arc<Envelope>> =
                (0..count).map(|i| seal(i, stream.mint(i as u64), self.parts.hlc.now())).collect();
            let changes = stream.store(header.record_version, &envelopes, keep)?;
            Ok((envelopes, self.commit(admission, cell.generation, stream, changes)))
        })?;
        cell.ring(count);
        Ok(stored)
    }

    /// The vote that a ticket of [`Replica::originate`] becomes.
    ///
    /// # Errors
    /// [`StoreFailed`].
    pub async fn stored(&self, ticket: Ticket) -> Result<Reply, StoreFailed> {
        self.reply(ticket, Answer::Stored).await
    }

    /// The vote that a ticket of [`Replica::lease`] becomes.
    ///
    /// # Errors
    /// [`StoreFailed`].
    pub async fn leased(
        &self,
        ticket: Ticket,
        votes: Vec<LeaseVote>,
    ) -> Result<Reply, StoreFailed> {
        self.reply(ticket, Answer::Leased(votes)).await
    }

    /// Answers a request of any coordinator.
    ///
    /// # Errors
    /// [`StoreFailed`]: whether it was done is not known.
    pub async fn handle(&self, request: &Request) -> Result<Reply, StoreFailed> {
        let done = match request {
            Request::Store(op) => self.store_op(op).await,
            Request::Lease(op) => self.lease_op(op).await,
            Request::Settle(op) => self.settle_op(op).await,
            Request::Seal(header, seal) => self.seal_op(header, seal).await,
            Request::Census(header) => self.census(header).await,
        };
        match done {
            Ok((ticket, answer)) => self.reply(ticket, answer).await,
            Err(refusal) => Ok(self.refuse(refusal)),
        }
    }

    async fn store_op(&self, op: &StoreOp) -> Result<(Ticket, Answer), Refusal> {
        self.check_view(&op.header)?;
        for envelope in &op.envelopes {
            // A stamp far ahead is refused, not merged [F24].
            self.parts.hlc.observe(envelope.header.hlc).map_err(|_| Refusal::ClockAhead)?;
        }
        let cell = self.cell(op.header.stream).await?;
        self.compare_known(&cell, op).await?;
        let bytes = op.envelopes.iter().map(|e| e.sealed.len() + ROW_BYTES).sum();
        let admission = self.admit(WriteClass::Growth, bytes)?;
        let keep = self.budget.has_room();
        let ticket = cell.decide(|stream| {
            let changes = stream.store(op.header.record_version, &op.envelopes, keep)?;
            Ok(self.commit(admission, cell.generation, stream, changes))
        })?;
        cell.ring(op.envelopes.len());
        Ok((ticket, Answer::Stored))
    }

    /// A known dot with another content is refused [R11].
    async fn compare_known(&self, cell: &StreamCell, op: &StoreOp) -> Result<(), Refusal> {
        let known: Vec<Arc<Envelope>> = cell.decide(|stream| {
            let is_known = |e: &&Arc<Envelope>| stream.is_present(e.header.dot);
            op.envelopes.iter().filter(is_known).cloned().collect()
        });
        if known.is_empty() {
            return Ok(());
        }
        let (store, generation) = (self.parts.store.clone(), cell.generation);
        // The row may still be on its way to the disk.
        store.barrier().await.map_err(|_| Refusal::Stopping)?;
        let same = move || {
            known.iter().all(|e| {
                let place = (e.header.hlc, e.header.dot);
                let stored = scan::envelope(&store, generation, place).ok().flatten();
                // Known and not to be found under its place: another content, or a hole [F23].
                stored.is_some_and(|stored| stored.header.content_mac == e.header.content_mac)
            })
        };
        if blocking(&*self.parts.spawn, same).await { Ok(()) } else { Err(Refusal::OtherContent) }
    }

    async fn lease_op(&self, op: &LeaseOp) -> Result<(Ticket, Answer), Refusal> {
        let cell = self.cell(op.header.stream).await?;
        let (ticket, votes) = self.lease(&cell, &mut op.clone())?;
        Ok((ticket, Answer::Leased(votes)))
    }

    /// Votes on a lease of a loaded stream. A counter of 0 is replaced by the next one, in the
    /// same decision: no other lease comes between [R24].
    ///
    /// # Errors
    /// [`Refusal`], and nothing was granted.
    pub fn lease(
        &self,
        cell: &Arc<StreamCell>,
        op: &mut LeaseOp,
    ) -> Result<(Ticket, Vec<LeaseVote>), Refusal> {
        self.check_view(&op.header)?;
        let payload = |e: &Arc<Envelope>| e.sealed.len();
        let bytes =
            op.dots.iter().map(|d| ROW_BYTES + d.envelope.as_ref().map_or(0, payload)).sum();
        let admission = self.admit(WriteClass::Reserve, bytes)?;
        let now_ms = self.parts.service.now_ms();
        let (lapsed, decided) = cell.decide(|stream| {
            let lapsed = stream.lapse(now_ms);
            if op.counter == 0 {
                op.counter = stream.next_counter();
            }
            let decided = stream.lease(op, now_ms).map(|(votes, changes)| {
                let ticket = self.commit(admission, cell.generation, stream, changes);
                (ticket, votes, stream.next_expiry_ms())
            });
            (lapsed, decided)
        });
        cell.ring(lapsed);
        let (ticket, votes, next) = decided?;
        if let Some(until_ms) = next {
            self.parts.lapses.watch(cell, until_ms);
        }
        Ok((ticket, votes))
    }

    async fn settle_op(&self, op: &SettleOp) -> Result<(Ticket, Answer), Refusal> {
        self.check_view(&op.header)?;
        let cell = self.cell(op.header.stream).await?;
        let admission = self.admit(WriteClass::Reserve, op.items.len() * ROW_BYTES)?;
        let now_ms = self.parts.service.now_ms();
        let (ticket, votes, ready, next) = cell.decide(|stream| {
            let lapsed = stream.lapse(now_ms);
            let (votes, changes) = stream.settle(op, now_ms)?;
            let released = op.items.iter().zip(&votes).filter(|(item, vote)| {
                **vote == SettleVote::Counted
                    && stream.attempt(item.place.1).is_some_and(|a| !a.is_held(now_ms))
            });
            let ready = lapsed + released.count();
            let ticket = self.commit(admission, cell.generation, stream, changes);
            Ok((ticket, votes, ready, stream.next_expiry_ms()))
        })?;
        cell.ring(ready);
        if let Some(until_ms) = next {
            self.parts.lapses.watch(&cell, until_ms);
        }
        Ok((ticket, Answer::Settled(votes)))
    }

    async fn seal_op(&self, header: &OpHeader, seal: &Seal) -> Result<(Ticket, Answer), Refusal> {
        self.check_view(header)?;
        let cell = self.cell(header.stream).await?;
        let admission = self.admit(WriteClass::Reserve, ROW_BYTES)?;
        let ticket = cell.decide(|stream| {
            let changes = stream.close(seal.clone());
            self.commit(admission, cell.generation, stream, changes)
        });
        cell.ring_all();
        Ok((ticket, Answer::Sealed))
    }

    async fn census(&self, header: &OpHeader) -> Result<(Ticket, Answer), Refusal> {
        self.check_view(header)?;
        let cell = self.cell(header.stream).await?;
        let count = cell.decide(|stream| stream.count());
        Ok((self.parts.store.barrier(), Answer::Counted(count)))
    }
}
