//! Links: the broker itself copies messages from one stream into another [F17].
//!
//! The copy's dot and content are pure functions of its source, so that copying twice stores once;
//! the target's majority comes first, then the settlement in the source. A crash between the two
//! is repaired by doing it again.

use super::coordinator::{Coordinator, StreamRef};
use super::opening::{Found, open};
use super::removing::item;
use super::sending::Stored;
use super::settling::Settled;
use crate::base::ids::{LinkId, SubscriptionId};
use crate::base::limits::{LINK_HOPS_MAX, RECEIVE_BYTES_MAX};
use crate::crdt::dot::Origin;
use crate::message::envelope::{Content, Died, Envelope, Header, Kept, Reason};
use crate::protocol::lease::Death;
use crate::protocol::op::{Refusal, Request, SettleAction, StoreOp, StoreVote};
use crate::protocol::stream::{Place, Standing};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A one-way road from a reader of one stream into another stream.
#[derive(Clone)]
pub struct Link {
    /// Its name; the same for every node.
    pub id: LinkId,
    /// Where messages are taken from.
    pub source: StreamRef,
    /// For which reader of it.
    pub reader: SubscriptionId,
    /// Where they go.
    pub target: StreamRef,
    /// What copies tell of where they come from.
    pub tells: Tells,
}

impl Link {
    /// The link for the next operation of a worker.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self { source: self.source.anew(), target: self.target.anew(), ..self.clone() }
    }
}

/// What a copy tells of where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tells {
    /// The topic it was published to.
    Topic(String),
    /// The place in which it died.
    Death(String),
}

/// A message under way.
struct Copy {
    place: Place,
    envelope: Arc<Envelope>,
}

impl Coordinator {
    /// Copies messages of the source that stand free (of a link that tells of deaths: that are
    /// dead) into the target, then settles them in the source. Returns how many were moved; those
    /// that met an obstacle stay where they are.
    ///
    /// # Errors
    /// [`Refusal`], when the source is gone or cannot be read, or the first obstacle when nothing
    /// could be moved.
    pub async fn forward(
        self: &Arc<Self>,
        link: &Link,
        places: Vec<Place>,
    ) -> Result<usize, Refusal> {
        let cell = self.parts.replica.cell(link.source.generation).await?;
        let free: Vec<(Place, Option<Death>)> =
            self.parts.replica.decide(&cell, link.reader, |state, now_ms| {
                let fits = |place: &Place| {
                    let standing = state.standing(link.reader, *place, now_ms);
                    let wanted = match link.tells {
                        Tells::Topic(_) => Standing::Ready,
                        Tells::Death(_) => Standing::Dead,
                    };
                    let death = state.attempt(link.reader, place.1).and_then(|a| a.death);
                    (standing == wanted).then_some((*place, death))
                };
                places.iter().filter_map(fits).collect()
            });
        let places: Vec<Place> = free.iter().map(|(place, _)| *place).collect();
        let reasons = match link.tells {
            Tells::Death(_) => {
                let dots = places.iter().map(|place| place.1).collect();
                self.reasons(&cell, &link.source, link.reader, dots).await
            }
            Tells::Topic(_) => vec![None; places.len()],
        };
        let found = self.read(&link.source, places, RECEIVE_BYTES_MAX).await;
        type Free<'a> = (&'a (Place, Option<Death>), Option<Reason>);
        let copy = |(((place, death), reason), found): (Free<'_>, Found)| match found {
            Found::Here(kept) => self.copy(link, *place, &kept, (*death, reason)),
            _ => None,
        };
        let copies: Vec<Copy> = free.iter().zip(reasons).zip(found).filter_map(copy).collect();
        if copies.is_empty() {
            return Ok(0);
        }
        // What one of several replicas has not open may be open elsewhere: with more than one,
        // contexts keep their gaps [F16].
        let is_alone = link.source.view.replicas().len() == 1;
        let closed = cell.decide(|state| {
            if !is_alone {
                return Vec::new();
            }
            let mut closed: BTreeMap<Origin, u64> = BTreeMap::new();
            for copy in &copies {
                let below = state.closed_below(link.reader, copy.place.1);
                if let Some((origin, _)) = copy.envelope.header.dot.origin().filter(|_| below > 0) {
                    closed.insert(origin, below);
                }
            }
            closed.into_iter().collect()
        });
        self.move_copies(link, copies, closed).await
    }

    async fn move_copies(
        self: &Arc<Self>,
        link: &Link,
        copies: Vec<Copy>,
        closed: Vec<(Origin, u64)>,
    ) -> Result<usize, Refusal> {
        let envelopes: Vec<Arc<Envelope>> = copies.iter().map(|c| c.envelope.clone()).collect();
        let votes = vec![StoreVote::Stored; envelopes.len()];
        let op = StoreOp { header: link.target.header(), envelopes, closed };
        let request = Arc::new(Request::Store(op));
        let local = self.own_vote(request.clone());
        let stored = self.count_stores(&link.target, request, votes, local, false).await;
        let mut obstacle = None;
        let mut items = Vec::new();
        for (copy, stored) in copies.iter().zip(stored) {
            match stored {
                Stored::Done { .. } => items.push(item(copy.place, SettleAction::Remove)),
                Stored::NotStored(why) => obstacle = obstacle.or(Some(why)),
                Stored::Unknown => obstacle = obstacle.or(Some(Refusal::Overloaded)),
            }
        }
        let settled = self.settle(&link.source, link.reader, items, false).await;
        let moved = settled.iter().filter(|settled| **settled == Settled::Done).count();
        metrics::counter!("tertulia_messages_forwarded_total").increment(moved as u64);
        match obstacle {
            Some(why) if moved == 0 => Err(why),
            _ => Ok(moved),
        }
    }

    /// The copy of a message: a function of it, the link and its death alone.
    fn copy(
        &self,
        link: &Link,
        place: Place,
        kept: &Kept,
        (death, detail): (Option<Death>, Option<Reason>),
    ) -> Option<Copy> {
        let source = &kept.envelope.header;
        let content = open(&link.source, &kept.envelope)?;
        let hop = source.hop + 1;
        if hop > LINK_HOPS_MAX {
            tracing::warn!(stream = %link.source.generation, "a message went in a circle: it stays");
            metrics::counter!("tertulia_link_loops_total").increment(1);
            return None;
        }
        let content = match &link.tells {
            Tells::Topic(topic) => Content { topic: Some(topic.clone()), ..content },
            Tells::Death(at) => {
                let died = death.map(|death| Died {
                    place: at.clone(),
                    reason: death.reason,
                    died_ms: death.died_ms,
                    detail,
                });
                Content { died, ..content }
            }
        };
        let plain = content.to_bytes();
        let header = Header {
            dot: source.dot.copied_by(link.id, hop),
            content_mac: self.copy_mac(&link.target, &plain, source),
            group: self.group_hash(&link.target, &content),
            // It waited in the source; here it is due.
            delay_ms: 0,
            hop,
            set_version: 0,
            matched: Vec::new(),
            ..source.clone()
        };
        let envelope = self.seal_message(&link.target, header, &plain);
        Some(Copy { place, envelope })
    }

    /// Places of a reader that a link may move now.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn movable(&self, link: &Link, max: usize) -> Result<Vec<Place>, Refusal> {
        let replica = &self.parts.replica;
        let cell = replica.cell(link.source.generation).await?;
        if matches!(link.tells, Tells::Death(_)) {
            return Ok(replica.decide(&cell, link.reader, |s, _| s.dead(link.reader, None, max)));
        }
        let mut after = None;
        loop {
            let places = self.places(&link.source, link.reader, after, max).await?;
            let (is_end, last) = (places.len() < max, places.last().copied());
            let ready: Vec<Place> = replica.decide(&cell, link.reader, |state, now_ms| {
                let free = |p: &Place| state.standing(link.reader, *p, now_ms) == Standing::Ready;
                places.into_iter().filter(free).collect()
            });
            if !ready.is_empty() || is_end {
                return Ok(ready);
            }
            after = last;
        }
    }
}
