//! A replica stores: minting what it coordinates, and keeping what others send.

use super::replica::{Replica, StoreFailed};
use super::rows::ROW_BYTES;
use super::scan;
use super::stream_cell::{Side, StreamCell};
use crate::base::hlc::Hlc;
use crate::base::ids::SubscriptionId;
use crate::base::seams::blocking;
use crate::crdt::dot::Dot;
use crate::message::envelope::Envelope;
use crate::protocol::op::{Answer, OpHeader, Refusal, Reply, StoreOp, StoreVote};
use crate::store::{Admission, Ticket, WriteClass};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Replica {
    /// Mints, seals and stores messages in one decision: the coordinator's own vote. `dots`: the
    /// names of those that have one already. `seal` gets each message's dot and stamp.
    ///
    /// # Errors
    /// [`Refusal`], and no number was drawn.
    pub fn originate(
        &self,
        cell: &Arc<StreamCell>,
        header: OpHeader,
        admission: Admission,
        dots: &[Option<Dot>],
        mut seal: impl FnMut(usize, Dot, Hlc) -> Arc<Envelope>,
    ) -> Result<(StoreOp, Vec<StoreVote>, Ticket), Refusal> {
        self.check_view(&header)?;
        let (_, bounds) = self.bounds(cell.generation).ok_or(Refusal::Sealed)?;
        let keep = self.budget.has_room();
        let now_ms = self.parts.service.now_ms();
        let stored = cell.decide(|stream| {
            stream.may_store(header.record_version)?;
            let mut minted = 0;
            let mut envelopes = Vec::with_capacity(dots.len());
            for (i, named) in dots.iter().enumerate() {
                let dot = named.unwrap_or_else(|| {
                    minted += 1;
                    stream.mint(minted - 1)
                });
                envelopes.push(seal(i, dot, self.parts.hlc.now()));
            }
            let op = StoreOp { header, envelopes, closed: Vec::new() };
            let (votes, changes) = stream.store(&op, bounds, now_ms, keep)?;
            let next = stream.next_wake_ms();
            Ok((op, votes, self.submit(admission, cell.generation, stream, changes), next))
        });
        let (op, votes, ticket, next) = stored?;
        self.after_store(cell, &op, next);
        Ok((op, votes, ticket))
    }

    /// Wakes whoever waits for what was stored.
    fn after_store(&self, cell: &Arc<StreamCell>, op: &StoreOp, next: Option<u64>) {
        if let Some(at_ms) = next {
            self.parts.lapses.watch(cell, at_ms);
        }
        let mut news: BTreeMap<SubscriptionId, usize> = BTreeMap::new();
        for header in op.envelopes.iter().map(|envelope| &envelope.header) {
            if header.set_version == 0 {
                *news.entry(SubscriptionId::QUEUE).or_default() += 1;
            }
            for id in &header.matched {
                *news.entry(*id).or_default() += 1;
            }
        }
        for (id, count) in news {
            cell.ring(id, Side::Ready, count);
        }
    }

    /// The vote that a ticket of [`Replica::originate`] becomes.
    ///
    /// # Errors
    /// [`StoreFailed`].
    pub async fn stored(
        &self,
        ticket: Ticket,
        votes: Vec<StoreVote>,
    ) -> Result<Reply, StoreFailed> {
        self.reply(ticket, Answer::Stored(votes)).await
    }

    pub(super) async fn store_op(&self, op: &StoreOp) -> Result<(Ticket, Answer), Refusal> {
        self.check_view(&op.header)?;
        self.check_minters(op)?;
        for envelope in &op.envelopes {
            // A stamp far ahead is refused, not merged [F24]; of a copy it is its source's.
            if envelope.header.hop == 0 {
                self.parts.hlc.observe(envelope.header.hlc).map_err(|_| Refusal::ClockAhead)?;
            }
        }
        let cell = self.cell(op.header.stream).await?;
        let (_, bounds) = self.bounds(cell.generation).ok_or(Refusal::Sealed)?;
        self.compare_known(&cell, op).await?;
        let bytes = op.envelopes.iter().map(|e| e.sealed.len() + ROW_BYTES).sum();
        let admission = self.admit(WriteClass::Growth, bytes)?;
        let (keep, now_ms) = (self.budget.has_room(), self.parts.service.now_ms());
        let (votes, ticket, next) = cell.decide(|stream| {
            let (votes, changes) = stream.store(op, bounds, now_ms, keep)?;
            let next = stream.next_wake_ms();
            Ok((votes, self.submit(admission, cell.generation, stream, changes), next))
        })?;
        self.after_store(&cell, op, next);
        Ok((ticket, Answer::Stored(votes)))
    }

    /// A known dot with another content is refused [R11]. Of keyed dots the state itself knows.
    async fn compare_known(&self, cell: &StreamCell, op: &StoreOp) -> Result<(), Refusal> {
        let known: Vec<Arc<Envelope>> = cell.decide(|stream| {
            let is_known = |e: &&Arc<Envelope>| {
                let place = (e.header.hlc, e.header.dot);
                !matches!(e.header.dot, Dot::Keyed(_))
                    && stream.is_present(e.header.dot)
                    && !stream.is_hole(place)
            };
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
                let stored = scan::message(&store, generation, place).ok().flatten();
                // Known and not to be found under its place: another content, or a hole [F23].
                stored.is_some_and(|stored| {
                    stored.envelope.header.content_mac == e.header.content_mac
                })
            })
        };
        if blocking(&*self.parts.spawn, same).await { Ok(()) } else { Err(Refusal::OtherContent) }
    }
}
