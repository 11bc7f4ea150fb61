//! The dispatcher: hands messages out.
//!
//! A habit, not an office: any replica may dispatch, the leases of a majority keep that safe.
//! It picks at its own head, opens what it picked, asks for grants, and gives back whatever it
//! could not win or could not hand over.

use super::coordinator::{Coordinator, StreamRef};
use super::gateway::Road;
use super::opening::{OpenMessage, Opened};
use super::stream_cell::{Side, StreamCell};
use crate::base::ids::{RequesterId, SubscriptionId};
use crate::crdt::dot::Dot;
use crate::message::envelope::{Content, Header, Reason};
use crate::protocol::lease::Death;
use crate::protocol::op::{
    Answer, LeaseDot, LeaseOp, LeaseVote, Purpose, Refusal, Request, SettleAction, SettleItem,
};
use crate::protocol::quorum::Tally;
use crate::protocol::stream::{Picked as PickedMessage, Place};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How often a receive looks for other messages because others got what it found, and the pause
/// before the second look, in ms; each next one may be twice as long.
const CANDIDATES_LOST_MAX: u32 = 5;
const LOST_PAUSE_MS: u64 = 4;

/// A message under lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivery {
    /// The clear part.
    pub header: Header,
    /// What was sent.
    pub content: Content,
    /// The lease.
    pub lease: Lease,
    /// When and why it died, if it is dead.
    pub death: Option<Death>,
    /// Why it failed last, if it is dead and somebody said so.
    pub detail: Option<Reason>,
}

/// Who wants which messages of a stream, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wanted {
    /// For which reader.
    pub reader: SubscriptionId,
    /// The name of the user who asks.
    pub holder: String,
    /// The request, when its sender may repeat it; else a fresh one is drawn [F9, F26].
    pub requester: Option<RequesterId>,
    /// Dead messages instead of ready ones.
    pub from_dead: bool,
    /// Messages at most.
    pub max: usize,
    /// Bytes at most, but one message always fits.
    pub bytes_max: usize,
    /// How long the leases run, in ms.
    pub duration_ms: u64,
    /// Messages of the reader under lease at once.
    pub in_flight_max: usize,
    /// How long messages are kept, in ms.
    pub retention_ms: u64,
}

impl Wanted {
    /// Which messages are wanted.
    #[must_use]
    pub fn side(&self) -> Side {
        if self.from_dead { Side::Dead } else { Side::Ready }
    }
}

/// A won lease, as its holder sees it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Lease {
    /// The message.
    pub place: Place,
    /// The holder.
    pub requester: RequesterId,
    /// The fence.
    pub counter: u64,
    /// Leases so far.
    pub receive_count: u32,
    /// Failures so far.
    pub failure_count: u32,
    /// `CLOCK_BOOTTIME` from before the first request, in ms: the lease counts from there [R20].
    pub began_ms: u64,
    /// How long, in ms.
    pub duration_ms: u64,
}

impl Lease {
    /// Whether its holder may still count on it, by `CLOCK_BOOTTIME` in ms.
    #[must_use]
    pub fn runs_at(&self, boottime_ms: u64) -> bool {
        boottime_ms.saturating_sub(self.began_ms) < self.duration_ms
    }

    /// What to tell the replicas about this message.
    #[must_use]
    pub fn item(&self, action: SettleAction) -> SettleItem {
        let Self { place, requester, counter, receive_count, failure_count, .. } = *self;
        SettleItem { place, requester, counter, receive_count, failure_count, action }
    }
}

/// Why nothing can be received now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReceiveError {
    /// Too many messages of the stream are under lease.
    InFlightLimit,
    /// Refused before any write.
    Refused(Refusal),
    /// No majority answered.
    NoQuorum,
}

/// Picked messages: they go back to their places unless they are granted.
pub(super) struct Picked {
    pub(super) cell: Arc<StreamCell>,
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) reader: SubscriptionId,
    pub(super) side: Side,
    pub(super) messages: Vec<PickedMessage>,
}

impl Drop for Picked {
    fn drop(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let now_ms = self.coordinator.parts.replica.service().now_ms();
        let messages = std::mem::take(&mut self.messages);
        let count = messages.len();
        let keep = self.coordinator.parts.replica.has_room();
        let reader = self.reader;
        self.cell.decide(|stream| {
            for (place, payload) in messages {
                stream.unpick(reader, place, payload.filter(|_| keep), now_ms);
            }
        });
        self.cell.ring(reader, self.side, count);
    }
}

/// Granted messages that nobody has yet: they are given back unless they are handed over.
pub struct Granted {
    pub(super) coordinator: Arc<Coordinator>,
    pub(super) stream: StreamRef,
    pub(super) reader: SubscriptionId,
    /// What was won, in dispatch order.
    pub deliveries: Vec<Delivery>,
    /// The first answer may have handed them over already: they are not taken back.
    pub(super) is_repeat: bool,
}

impl Granted {
    /// The messages go out.
    #[must_use]
    pub fn hand_over(mut self) -> Vec<Delivery> {
        std::mem::take(&mut self.deliveries)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if self.is_repeat {
            return;
        }
        let leases = self.deliveries.iter().map(|d| d.lease).collect();
        self.coordinator.withdraw(&self.stream, self.reader, leases);
    }
}

impl Coordinator {
    /// Leases messages that are there now. Empty: there is none.
    ///
    /// # Errors
    /// [`ReceiveError`], and nothing is leased.
    pub async fn try_receive(
        self: &Arc<Self>,
        stream: &StreamRef,
        wanted: &Wanted,
    ) -> Result<Granted, ReceiveError> {
        if let Road::There(nodes) = self.to_dispatcher(stream) {
            if let Some(received) = self.hand_on_receive(nodes, stream, wanted).await {
                return received;
            }
            if !self.is_replica(stream) {
                return Err(ReceiveError::NoQuorum);
            }
        }
        self.receive_here(stream, wanted, self.requester(wanted)).await
    }

    /// Who a receive is: one that cannot be repeated is a new one [F9].
    pub(super) fn requester(&self, wanted: &Wanted) -> RequesterId {
        wanted.requester.unwrap_or_else(|| RequesterId::random(&*self.parts.rng))
    }

    pub(super) async fn receive_here(
        self: &Arc<Self>,
        stream: &StreamRef,
        wanted: &Wanted,
        requester: RequesterId,
    ) -> Result<Granted, ReceiveError> {
        let began_ms = self.parts.clock.boottime_ms();
        let replica = &self.parts.replica;
        replica.check_member().map_err(ReceiveError::Refused)?;
        let cell = replica.cell(stream.generation).await.map_err(ReceiveError::Refused)?;
        if let Some(mut granted) = self.repeat(&cell, stream, wanted, began_ms).await? {
            self.tell_reasons(&cell, &mut granted).await;
            return Ok(granted);
        }
        let mut sure_since = tokio::time::Instant::now();
        let (mut is_sure, mut lost) = (false, 0);
        if wanted.max == 0 {
            // Paused: nothing is looked for.
            return Ok(self.nothing(stream, wanted));
        }
        loop {
            if stream.life.left().is_zero() {
                return Err(ReceiveError::NoQuorum);
            }
            let picked = self.pick(&cell, stream, wanted).await?;
            let found = !picked.messages.is_empty();
            let opened = self.open(picked, stream, wanted).await;
            let is_stuck = opened.is_stuck;
            if !opened.messages.is_empty() {
                let mut granted = self.grant(opened, stream, wanted, (requester, began_ms)).await?;
                if !granted.deliveries.is_empty() || lost == CANDIDATES_LOST_MAX {
                    self.tell_reasons(&cell, &mut granted).await;
                    return Ok(granted);
                }
                // Others know more of these messages, or ask for them too [R25, F27].
                lost += 1;
                let jitter = self.parts.rng.below(LOST_PAUSE_MS << lost);
                tokio::time::sleep(Duration::from_millis(jitter)).await;
                (is_sure, sure_since) = (false, tokio::time::Instant::now());
            } else if !found {
                // Empty means empty: so many were asked that nothing a majority has is missed [R26].
                if is_sure {
                    return Ok(self.nothing(stream, wanted));
                }
                if !self.confirm(stream, sure_since).await {
                    return Err(ReceiveError::NoQuorum);
                }
                is_sure = true;
            } else if is_stuck {
                // The disk does not answer, and what went back would be found again at once.
                return Err(ReceiveError::Refused(Refusal::Overloaded));
            }
            // Otherwise all that was found was over: there may be more behind it.
        }
    }

    fn nothing(self: &Arc<Self>, stream: &StreamRef, wanted: &Wanted) -> Granted {
        let (coordinator, stream) = (self.clone(), stream.clone());
        let (reader, deliveries) = (wanted.reader, Vec::new());
        Granted { coordinator, stream, reader, deliveries, is_repeat: false }
    }

    async fn pick(
        self: &Arc<Self>,
        cell: &Arc<StreamCell>,
        stream: &StreamRef,
        wanted: &Wanted,
    ) -> Result<Picked, ReceiveError> {
        let (reader, side) = (wanted.reader, wanted.side());
        let take = || {
            self.parts.replica.decide(cell, reader, |state, now_ms| {
                let room = wanted.in_flight_max.saturating_sub(state.in_flight(reader));
                if room == 0 {
                    metrics::counter!("tertulia_in_flight_refused_total").increment(1);
                    return Err(ReceiveError::InFlightLimit);
                }
                let max = wanted.max.min(room);
                if side == Side::Dead {
                    return Ok((state.pick_dead(reader, max), false));
                }
                let messages = state.pick(reader, max, now_ms);
                let dry = messages.is_empty() && state.unread_after(reader).is_some();
                Ok((messages, dry))
            })
        };
        loop {
            let (messages, dry) = take()?;
            let (cell, coordinator) = (cell.clone(), self.clone());
            if !dry {
                return Ok(Picked { cell, coordinator, reader, side, messages });
            }
            self.refill(&cell, stream, reader).await.map_err(ReceiveError::Refused)?;
        }
    }

    async fn grant(
        self: &Arc<Self>,
        mut opened: Opened,
        stream: &StreamRef,
        wanted: &Wanted,
        (requester, began_ms): (RequesterId, u64),
    ) -> Result<Granted, ReceiveError> {
        let (reader, duration_ms) = (wanted.reader, wanted.duration_ms);
        let replica = &self.parts.replica;
        let cell = opened.picked.cell.clone();
        let now_ms = replica.service().now_ms();
        let age_ms = |m: &OpenMessage| now_ms.saturating_sub(m.kept.received_ms);
        let dot = |m: &OpenMessage, envelope| LeaseDot {
            place: m.place,
            envelope,
            age_ms: age_ms(m),
            content_mac: content_of(&m.kept.envelope.header),
        };
        let mut op = LeaseOp {
            header: stream.header(),
            reader,
            requester,
            holder: wanted.holder.clone(),
            purpose: match wanted.side() {
                Side::Ready => Purpose::Deliver,
                Side::Dead => Purpose::DeliverDead,
            },
            counter: 0,
            duration_ms,
            dots: opened.messages.iter().map(|m| dot(m, None)).collect(),
            failures: Vec::new(),
        };
        let (ticket, votes) = replica.lease(&cell, &mut op).map_err(ReceiveError::Refused)?;
        let mut deaths = deaths_of(&cell, wanted, &op).into_iter();
        opened.picked.messages.clear();
        let lease = |m: &OpenMessage| Lease {
            place: m.place,
            requester: op.requester,
            counter: op.counter,
            receive_count: 0,
            failure_count: 0,
            began_ms,
            duration_ms,
        };
        let deliver = |m: OpenMessage| Delivery {
            lease: lease(&m),
            header: m.kept.envelope.header.clone(),
            content: m.content,
            death: deaths.next().flatten(),
            detail: None,
        };
        let with_payload = LeaseOp {
            dots: opened.messages.iter().map(|m| dot(m, Some(m.kept.envelope.clone()))).collect(),
            ..op.clone()
        };
        let deliveries = opened.messages.drain(..).map(deliver).collect();
        // From here on, whoever drops this gives the messages back.
        let (coordinator, stream) = (self.clone(), stream.clone());
        let granted = Granted { coordinator, stream, reader, deliveries, is_repeat: false };
        let local = {
            let replica = replica.clone();
            async move { replica.leased(ticket, votes).await }
        };
        let fallback = Arc::new(Request::Lease(with_payload));
        self.count_grants(granted, Arc::new(Request::Lease(op)), fallback, local).await
    }

    async fn count_grants(
        self: &Arc<Self>,
        mut granted: Granted,
        request: Arc<Request>,
        fallback: Arc<Request>,
        local: impl Future<Output = Result<crate::protocol::op::Reply, super::replica::StoreFailed>>
        + Send
        + 'static,
    ) -> Result<Granted, ReceiveError> {
        let asked = granted.stream.clone();
        let view = asked.view.clone();
        let mut tallies: Vec<Tally> =
            granted.deliveries.iter().map(|_| Tally::new(view.clone())).collect();
        let mut counts = vec![(0, 0); tallies.len()];
        let mut answers = Tally::new(view.clone());
        let (mut highest, mut exhausted) = (0, Vec::new());
        self.ask(&asked, request, Some(fallback), local, |node, answer| {
            match answer {
                Ok(Answer::Leased(votes)) => {
                    answers.yes(node);
                    for (i, vote) in votes.iter().enumerate().take(tallies.len()) {
                        if let LeaseVote::Granted { receive_count, failure_count } = vote {
                            // The maximum over the granting majority [F9].
                            counts[i].0 = counts[i].0.max(*receive_count);
                            counts[i].1 = counts[i].1.max(*failure_count);
                            tallies[i].yes(node);
                        } else {
                            tallies[i].no(node);
                        }
                        match vote {
                            LeaseVote::LowBallot { above } => highest = highest.max(*above),
                            // It is compared soon, whether it has changed or not [F1].
                            LeaseVote::OtherContent => {
                                self.parts.replica.unrepaired().note(asked.generation);
                            }
                            LeaseVote::Exhausted { failures } => {
                                exhausted.push((granted.deliveries[i].lease.place.1, *failures));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {
                    answers.lost(node);
                    tallies.iter_mut().for_each(|tally| tally.lost(node));
                }
            }
            // Refusals by few are certain early; whether a majority answers is asked too.
            answers.outcome().is_some() && tallies.iter().all(|tally| tally.outcome().is_some())
        })
        .await;
        let (mut won, mut lost) = (Vec::new(), Vec::new());
        let now_ms = self.parts.clock.boottime_ms();
        for (i, mut delivery) in std::mem::take(&mut granted.deliveries).into_iter().enumerate() {
            (delivery.lease.receive_count, delivery.lease.failure_count) = counts[i];
            // Replicas may have taken their time: what has run out meanwhile is nobody's [R20].
            if tallies[i].reached() && delivery.lease.runs_at(now_ms) {
                won.push(delivery)
            } else {
                lost.push(delivery.lease)
            }
        }
        granted.deliveries = won;
        self.heed(&granted, highest, exhausted).await;
        self.withdraw(&granted.stream, granted.reader, lost);
        if answers.reached() { Ok(granted) } else { Err(ReceiveError::NoQuorum) }
    }

    /// The next try is above what others have seen; what they call exhausted is buried.
    async fn heed(&self, granted: &Granted, highest: u64, exhausted: Vec<(Dot, u32)>) {
        if highest == 0 && exhausted.is_empty() {
            return;
        }
        let Ok(cell) = self.parts.replica.cell(granted.stream.generation).await else { return };
        cell.decide(|state| {
            state.raise(granted.reader, highest);
            for (dot, failures) in exhausted {
                state.raise_failures(granted.reader, dot, failures);
            }
        });
    }
}

/// What a lease says of its content: keyed messages alone may have several.
fn content_of(header: &Header) -> Option<[u8; 32]> {
    matches!(header.dot, Dot::Keyed(_)).then_some(header.content_mac)
}

/// When and why the dead died that were leased.
fn deaths_of(cell: &StreamCell, wanted: &Wanted, op: &LeaseOp) -> Vec<Option<Death>> {
    if !wanted.from_dead {
        return Vec::new();
    }
    cell.decide(|state| {
        let death =
            |dot: &LeaseDot| state.attempt(wanted.reader, dot.place.1).and_then(|a| a.death);
        op.dots.iter().map(death).collect()
    })
}
