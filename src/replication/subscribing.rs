//! The subscription set of a topic: changed by version at its replicas [R36].

use super::coordinator::{Coordinator, StreamRef};
use super::opening::{Found, open};
use crate::base::ids::SubscriptionId;
use crate::base::limits::RECEIVE_BYTES_MAX;
use crate::message::envelope::Content;
use crate::protocol::op::{Refusal, Request, SubscriptionOp};
use crate::protocol::record::Filter;
use crate::protocol::stream::{Place, SubscriptionSet};
use std::sync::Arc;

/// How often a change of the set is tried when others change it too.
const TRIES_MAX: usize = 64;
/// Messages that a new reader adopts in one go.
const CHUNK: usize = 200;

impl Coordinator {
    /// Makes a reader part of a topic's set: it gets what is stored from now on.
    ///
    /// # Errors
    /// [`Refusal`]; `None` inside `Ok` is never: without a majority it is [`Refusal::Overloaded`].
    pub async fn join_set(
        &self,
        stream: &StreamRef,
        id: SubscriptionId,
        filter: &Filter,
    ) -> Result<(), Refusal> {
        self.change_set(stream, |set| {
            (set.filters.get(&id) != Some(filter)).then(|| {
                set.filters.insert(id, filter.clone());
            })
        })
        .await
    }

    /// Takes a reader out of a topic's set: what it had not settled is gone for it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn leave_set(&self, stream: &StreamRef, id: SubscriptionId) -> Result<(), Refusal> {
        self.change_set(stream, |set| set.filters.remove(&id).map(|_| ())).await
    }

    async fn change_set(
        &self,
        stream: &StreamRef,
        change: impl Fn(&mut SubscriptionSet) -> Option<()>,
    ) -> Result<(), Refusal> {
        let cell = self.parts.replica.cell(stream.generation).await?;
        for _ in 0..TRIES_MAX {
            let mut set = cell.decide(|state| (**state.set()).clone());
            if change(&mut set).is_none() {
                // It is so already: whoever answers waits for the commit that made it so.
                let barrier = self.parts.replica.store().barrier();
                return barrier.await.map(|_| ()).map_err(|_| Refusal::Stopping);
            }
            set.version += 1;
            let op = SubscriptionOp::Put(set);
            match self.count_up(stream, Request::Subscription(stream.header(), op)).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => return Err(Refusal::Overloaded),
                Err(Refusal::StaleSet) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(Refusal::StaleSet)
    }

    /// Gives a reader that has joined the set what is still kept for others and what it wants.
    ///
    /// # Errors
    /// [`Refusal`]; doing it again is safe as long as the reader has not begun.
    pub async fn adopt_kept(
        &self,
        stream: &StreamRef,
        id: SubscriptionId,
        wants: &(dyn Fn(&Content) -> bool + Sync),
    ) -> Result<(), Refusal> {
        let mut after: Option<Place> = None;
        loop {
            // The messages themselves lie under the stream, whoever reads them.
            let places = self.places(stream, SubscriptionId::QUEUE, after, CHUNK).await?;
            let is_end = places.len() < CHUNK;
            let found = self.read(stream, places.clone(), RECEIVE_BYTES_MAX).await;
            let mut wanted = Vec::new();
            let mut read = 0;
            for (place, found) in places.iter().zip(found) {
                if matches!(found, Found::Later) {
                    break;
                }
                read += 1;
                if let Found::Here(kept) = found
                    && open(stream, &kept.envelope).is_some_and(|content| wants(&content))
                {
                    wanted.push(*place);
                }
            }
            if !wanted.is_empty() {
                let op = SubscriptionOp::Adopt(id, wanted);
                let request = Request::Subscription(stream.header(), op);
                if self.count_up(stream, request).await?.is_none() {
                    return Err(Refusal::Overloaded);
                }
            }
            if read == 0 && !places.is_empty() {
                return Err(Refusal::Overloaded);
            }
            if is_end && read == places.len() {
                return Ok(());
            }
            after = places.get(read.saturating_sub(1)).copied().or(after);
        }
    }

    /// The set as this node's replica has it.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn set_of(&self, stream: &StreamRef) -> Result<Arc<SubscriptionSet>, Refusal> {
        let cell = self.parts.replica.cell(stream.generation).await?;
        Ok(cell.decide(|state| state.set().clone()))
    }
}
