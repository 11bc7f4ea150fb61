//! A replica: turns decisions of the protocol into durable commits, and answers.
//!
//! The one door through which the state of a stream changes. Its duties, in this order: check the
//! view, ask for room, decide under the stream's lock, queue the commit under the same lock,
//! answer only after the fsync [R3, R6, R9].

use super::comparing::Unrepaired;
use super::lapses::Lapses;
use super::loaded::LoadedStreams;
use super::rows::{ROW_BYTES, row_ops};
use super::rules;
use super::scan;
use super::stream_cell::{LeftOver, MemoryBudget, Side, StreamCell};
use crate::base::clock::ServiceClock;
use crate::base::hlc::HlcClock;
use crate::base::ids::{Boot, Generation, NodeId, SubscriptionId};
use crate::base::seams::{Spawn, blocking};
use crate::layout::members::Layout;
use crate::layout::view::ViewId;
use crate::message::envelope::{Envelope, Kept};
use crate::metadata::Catalog;
use crate::protocol::op::{
    Answer, Change, LeaseOp, LeaseVote, OpHeader, Purpose, Refusal, Reply, Request, Seal, SettleOp,
    SubscriptionOp, Voter,
};
use crate::protocol::stream::{Bounds, Place, Stream, StreamKind};
use crate::store::{Admission, Refused, Store, Ticket, WriteClass};
use std::sync::Arc;

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
    /// The view in force; [`ViewId::NONE`] on a node that is no member: it votes on nothing.
    pub view: ViewId,
    /// The members, by which it knows the streams that it replicates.
    pub layout: Layout,
    /// There are other members: they may replicate any stream too.
    pub is_shared: bool,
    /// Streams kept in memory (`limits::STREAMS_LOADED_MAX`); those in use may be more.
    pub streams_max: usize,
}

/// This node's copy of its streams.
pub struct Replica {
    pub(super) parts: ReplicaParts,
    loaded: LoadedStreams,
    pub(super) budget: Arc<MemoryBudget>,
    left_over: Arc<LeftOver>,
    unrepaired: Unrepaired,
}

impl Replica {
    /// A replica on a running store.
    #[must_use]
    pub fn new(parts: ReplicaParts) -> Arc<Self> {
        let (budget, left_over) = (Arc::default(), Arc::default());
        let (loaded, unrepaired) = (LoadedStreams::new(parts.streams_max), Unrepaired::default());
        Arc::new(Self { parts, loaded, budget, left_over, unrepaired })
    }

    /// Streams that are to be compared with other replicas.
    #[must_use]
    pub fn unrepaired(&self) -> &Unrepaired {
        &self.unrepaired
    }

    /// The decided records.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.parts.catalog
    }

    /// The streams in memory.
    #[must_use]
    pub fn loaded(&self) -> Vec<Arc<StreamCell>> {
        self.loaded.all()
    }

    /// The streams whose messages somebody waits for at this node.
    #[must_use]
    pub fn awaited(&self) -> Vec<Generation> {
        let is_awaited = |cell: &Arc<StreamCell>| cell.is_awaited().then_some(cell.generation);
        self.loaded.all().iter().filter_map(is_awaited).collect()
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

    /// Streams of which something is left to do.
    #[must_use]
    pub fn left_over(&self) -> &Arc<LeftOver> {
        &self.left_over
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
        let may_be = || self.bounds(generation).is_some();
        let slot = self.loaded.slot(generation, may_be).ok_or(Refusal::Sealed)?;
        if let Some(cell) = slot.get() {
            return Ok(cell.clone());
        }
        slot.get_or_try_init(|| self.load(generation)).await.cloned()
    }

    async fn load(&self, generation: Generation) -> Result<Arc<StreamCell>, Refusal> {
        let store = self.parts.store.clone();
        let (kind, _) = self.bounds(generation).ok_or(Refusal::Sealed)?;
        // It may have been here before: what it decided then must be on the disk before the disk
        // is asked.
        store.barrier().await.map_err(|_| Refusal::Stopping)?;
        let read = move || scan::load(&store, generation, kind);
        let loaded = blocking(&*self.parts.spawn, read).await.map_err(|error| {
            tracing::error!(%error, stream = %generation, "a stream cannot be loaded");
            Refusal::Overloaded
        })?;
        let now_ms = self.parts.service.now_ms();
        let me = (self.parts.node, self.parts.boot);
        let rules = |id| rules::reader(&self.parts.catalog, generation, id);
        let mut stream = Stream::load(me, kind, loaded, now_ms, &rules);
        if self.parts.is_shared {
            stream.share();
        }
        let unswept = !stream.unswept().is_empty();
        let (budget, left_over) = (self.budget.clone(), self.left_over.clone());
        let cell = Arc::new(StreamCell::new(generation, stream, budget, left_over));
        if unswept {
            cell.note_left_over();
        }
        if let Some(at_ms) = cell.wake(now_ms) {
            self.parts.lapses.watch(&cell, at_ms);
        }
        Ok(cell)
    }

    /// Looks at a stream, or changes it, as its settings are now, for all its readers at once.
    pub(super) fn look<T>(&self, cell: &StreamCell, look: impl FnOnce(&mut Stream, u64) -> T) -> T {
        let (bounds, now_ms) = (self.bounds(cell.generation), self.parts.service.now_ms());
        cell.decide(|stream| {
            if let Some((_, bounds)) = bounds {
                stream.remember_for(bounds.dedup_ms);
            }
            look(stream, now_ms)
        })
    }

    /// A digest over what the replicas of a stream have to agree on.
    #[must_use]
    pub fn digest(&self, cell: &StreamCell) -> u64 {
        self.look(cell, |stream, now_ms| stream.summary(now_ms)).digest()
    }

    /// What a stream is, and what bounds it; `None` when no record knows it.
    pub(super) fn bounds(&self, generation: Generation) -> Option<(StreamKind, Bounds)> {
        rules::stream(&self.parts.catalog, generation)
    }

    /// Makes one decision for a reader, as its settings are now: time passes first, then what is
    /// asked; receivers are woken and timers set afterwards.
    pub(super) fn decide<T>(
        &self,
        cell: &Arc<StreamCell>,
        reader: SubscriptionId,
        decide: impl FnOnce(&mut Stream, u64) -> T,
    ) -> T {
        let now_ms = self.parts.service.now_ms();
        let rules = rules::reader(&self.parts.catalog, cell.generation, reader);
        let (result, ready, dead, doomed, next) = cell.decide(|stream| {
            stream.govern(reader, rules);
            let before = stream.counts(reader);
            stream.wake(reader, now_ms);
            let result = decide(stream, now_ms);
            let after = stream.counts(reader);
            let ready = after.ready.saturating_sub(before.ready);
            let dead = after.dead.saturating_sub(before.dead);
            // What died may have to leave for another queue.
            let left = stream.has_doomed(reader) || dead > 0;
            (result, ready, dead, left, stream.next_wake_ms())
        });
        for (side, count) in [(Side::Ready, ready), (Side::Dead, dead)] {
            cell.ring(reader, side, usize::try_from(count).unwrap_or(usize::MAX));
        }
        if doomed {
            cell.note_left_over();
        }
        if let Some(at_ms) = next {
            self.parts.lapses.watch(cell, at_ms);
        }
        result
    }

    /// Whether payloads may be kept in memory.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.budget.has_room()
    }

    /// Whether times and groups of messages may be kept in memory.
    #[must_use]
    pub fn has_room_for_marks(&self) -> bool {
        self.budget.has_room_for_marks()
    }

    /// Messages of a stream in memory; `None` when it is not loaded.
    #[must_use]
    pub fn count_loaded(&self, generation: Generation) -> Option<u64> {
        Some(self.loaded.get(generation)?.decide(|stream| stream.count()))
    }

    /// Forgets a stream whose data was dropped.
    pub fn forget(&self, generation: Generation) {
        self.loaded.forget(generation);
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

    /// Queues the changes of a decision, under the lock of that decision.
    pub(super) fn submit(
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
        self.unrepaired.note(generation);
        self.parts.store.submit(admission, row_ops(generation, stream, changes))
    }

    pub(super) async fn reply(&self, ticket: Ticket, answer: Answer) -> Result<Reply, StoreFailed> {
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
        if let Err(refusal) = self.check_member() {
            return Ok(self.refuse(refusal));
        }
        let done = match request {
            Request::Store(op) => self.store_op(op).await,
            Request::Lease(op) => self.lease_op(op).await,
            Request::Settle(op) => self.settle_op(op).await,
            Request::Seal(header, seal) => self.seal_op(header, seal).await,
            Request::Census(header) => self.census(header).await,
            Request::Context(header) => self.context(header).await,
            Request::Subscription(header, op) => self.subscription_op(header, op).await,
            Request::Disown(header, reader, ballots) => self.disown(header, *reader, ballots).await,
            Request::Held(header, reader, requester) => {
                self.held(header, *reader, *requester).await
            }
            Request::Withdraw(header, reader, requester) => {
                self.withdraw(header, *reader, *requester).await
            }
        };
        match done {
            Ok((ticket, answer)) => self.reply(ticket, answer).await,
            Err(refusal) => Ok(self.refuse(refusal)),
        }
    }

    async fn lease_op(&self, op: &LeaseOp) -> Result<(Ticket, Answer), Refusal> {
        let cell = self.cell(op.header.stream).await?;
        let mut op = op.clone();
        if op.purpose != Purpose::Expire {
            let (ticket, votes) = self.lease(&cell, &mut op)?;
            return Ok((ticket, Answer::Leased(votes)));
        }
        let over = self.are_over(&cell, &op).await?;
        let mut is_over = over.iter().copied();
        op.dots.retain(|_| is_over.next().unwrap_or(false));
        let (ticket, granted) = self.lease(&cell, &mut op)?;
        let mut granted = granted.into_iter();
        let vote = |is_over| match is_over {
            true => granted.next().unwrap_or(LeaseVote::NotFit),
            false => LeaseVote::NotFit,
        };
        Ok((ticket, Answer::Leased(over.into_iter().map(vote).collect())))
    }

    /// A lease to drop messages is granted only for what this replica's own clock calls over: one
    /// fast clock expires nothing [F18].
    async fn are_over(&self, cell: &StreamCell, op: &LeaseOp) -> Result<Vec<bool>, Refusal> {
        let retention_ms =
            rules::reader(&self.parts.catalog, cell.generation, op.reader).retention_ms;
        let (store, generation) = (self.parts.store.clone(), cell.generation);
        store.barrier().await.map_err(|_| Refusal::Stopping)?;
        // Of racing sends by one key each replica keeps the stamp it saw first.
        let own = |state: &Stream| op.dots.iter().map(|dot| state.own_place(dot.place)).collect();
        let places: Vec<Place> = cell.decide(|state| own(state));
        let read = move || {
            let of = |place| scan::message(&store, generation, place).ok().flatten();
            places.into_iter().map(of).collect::<Vec<_>>()
        };
        let kept = blocking(&*self.parts.spawn, read).await;
        let now_ms = self.parts.service.now_ms();
        let is_over =
            |kept: &Option<Kept>| kept.as_ref().is_some_and(|k| k.ends_ms(retention_ms) <= now_ms);
        Ok(kept.iter().map(is_over).collect())
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
        let wall_ms = self.parts.hlc.wall_ms();
        self.decide(cell, op.reader, |stream, now_ms| {
            if op.counter == 0 {
                op.counter = stream.next_counter(op.reader);
            }
            let (votes, changes) = stream.lease(op, now_ms, wall_ms)?;
            Ok((self.submit(admission, cell.generation, stream, changes), votes))
        })
    }

    async fn settle_op(&self, op: &SettleOp) -> Result<(Ticket, Answer), Refusal> {
        let cell = self.cell_of(&op.header).await?;
        let reasons: usize = op.reasons.values().map(|sealed| ROW_BYTES + sealed.len()).sum();
        let bytes = op.items.len() * ROW_BYTES + reasons;
        let admission = self.admit(WriteClass::Reserve, bytes)?;
        let wall_ms = self.parts.hlc.wall_ms();
        let (ticket, votes) = self.decide(&cell, op.reader, |stream, now_ms| {
            let (votes, changes) = stream.settle(op, now_ms, wall_ms)?;
            Ok((self.submit(admission, cell.generation, stream, changes), votes))
        })?;
        Ok((ticket, Answer::Settled(votes)))
    }

    async fn context(&self, header: &OpHeader) -> Result<(Ticket, Answer), Refusal> {
        let cell = self.cell_of(header).await?;
        let seen = cell.decide(|stream| stream.seen());
        Ok((self.parts.store.barrier(), Answer::Seen(seen)))
    }

    async fn subscription_op(
        &self,
        header: &OpHeader,
        op: &SubscriptionOp,
    ) -> Result<(Ticket, Answer), Refusal> {
        let cell = self.cell_of(header).await?;
        let rows = match op {
            SubscriptionOp::Purge(..) => 4,
            SubscriptionOp::Put(set) => 4 + set.filters.len(),
            SubscriptionOp::Adopt(_, places) => places.len(),
        };
        let admission = self.admit(WriteClass::Reserve, rows * ROW_BYTES)?;
        let now_ms = self.parts.service.now_ms();
        let version = header.record_version;
        let rules = |id| rules::reader(&self.parts.catalog, cell.generation, id);
        let (ticket, answer) = cell.decide(|stream| {
            let (answer, changes) = match op {
                SubscriptionOp::Purge(id, dots) => {
                    let (count, changes) = stream.purge(version, *id, dots, now_ms)?;
                    (Answer::Counted(count), changes)
                }
                SubscriptionOp::Put(set) => {
                    (Answer::Joined, stream.put_set(version, set, &rules, now_ms)?)
                }
                SubscriptionOp::Adopt(id, places) => {
                    (Answer::Joined, stream.adopt(version, *id, places, now_ms)?)
                }
            };
            Ok((self.submit(admission, cell.generation, stream, changes), answer))
        })?;
        cell.ring_all();
        cell.note_left_over();
        Ok((ticket, answer))
    }

    async fn seal_op(&self, header: &OpHeader, seal: &Seal) -> Result<(Ticket, Answer), Refusal> {
        let cell = self.cell_of(header).await?;
        let admission = self.admit(WriteClass::Reserve, ROW_BYTES)?;
        let ticket = cell.decide(|stream| {
            let changes = stream.close(seal.clone());
            self.submit(admission, cell.generation, stream, changes)
        });
        cell.ring_all();
        Ok((ticket, Answer::Sealed))
    }

    async fn census(&self, header: &OpHeader) -> Result<(Ticket, Answer), Refusal> {
        let cell = self.cell_of(header).await?;
        let count = cell.decide(|stream| stream.count());
        Ok((self.parts.store.barrier(), Answer::Counted(count)))
    }
}
