//! The dispatcher: hands messages out.
//!
//! A habit, not an office: any replica may dispatch, the leases of a majority keep that safe.
//! It picks at its own head, opens what it picked, asks for grants, and gives back whatever it
//! could not win or could not hand over.

use super::coordinator::{Coordinator, Settled, StreamRef};
use super::scan;
use super::stream_cell::StreamCell;
use crate::base::ids::RequesterId;
use crate::base::limits;
use crate::base::seams::blocking;
use crate::message::envelope::{Content, Envelope, Header};
use crate::protocol::op::{
    Answer, LeaseDot, LeaseOp, LeaseVote, Refusal, Request, SettleAction, SettleItem,
};
use crate::protocol::quorum::Tally;
use crate::protocol::stream::Place;
use crate::security::sealing::open_message;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often a withdrawal is tried, and the first pause between two tries; each next one is twice
/// as long.
const WITHDRAW_TRIES: u32 = 8;
const WITHDRAW_PAUSE: Duration = Duration::from_millis(50);
/// Places read from the disk in one go.
const REFILL: usize = limits::WINDOW_MESSAGES_MAX / 2;

/// A message under lease.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The clear part.
    pub header: Header,
    /// What was sent.
    pub content: Content,
    /// The lease.
    pub lease: Lease,
}

/// A won lease, as its holder sees it.
#[derive(Clone, Copy, Debug)]
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
    /// What to tell the replicas about this message.
    #[must_use]
    pub fn item(&self, action: SettleAction) -> SettleItem {
        let Self { place, requester, counter, receive_count, failure_count, .. } = *self;
        SettleItem { place, requester, counter, receive_count, failure_count, action }
    }
}

/// Why nothing can be received now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveError {
    /// Too many messages of the stream are under lease.
    InFlightLimit,
    /// Refused before any write.
    Refused(Refusal),
    /// No majority answered.
    NoQuorum,
}

/// Picked messages: they go back to their places unless they are granted.
struct Picked {
    cell: Arc<StreamCell>,
    coordinator: Arc<Coordinator>,
    messages: Vec<(Place, Option<Arc<Envelope>>)>,
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
        self.cell.decide(|stream| {
            for (place, payload) in messages {
                stream.unpick(place, payload.filter(|_| keep), now_ms);
            }
        });
        self.cell.ring(count);
    }
}

/// Granted messages that nobody has yet: they are given back unless they are handed over.
pub struct Granted {
    coordinator: Arc<Coordinator>,
    stream: StreamRef,
    /// What was won, in dispatch order.
    pub deliveries: Vec<Delivery>,
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
        let leases = self.deliveries.iter().map(|d| d.lease).collect();
        self.coordinator.withdraw(&self.stream, leases);
    }
}

/// A receiver that waits for messages of a stream.
pub struct Listening {
    cell: Arc<StreamCell>,
    coordinator: Arc<Coordinator>,
}

impl Listening {
    /// The bell that rings when messages become ready.
    #[must_use]
    pub fn bell(&self) -> &tokio::sync::Notify {
        &self.cell.news
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.cell.waiting.fetch_sub(1, Ordering::Relaxed);
        self.coordinator.listeners.fetch_sub(1, Ordering::Relaxed);
        // The bell may have rung for this one, which leaves: whoever waits behind looks instead.
        self.cell.ring(1);
        metrics::gauge!("tertulia_receivers_waiting").decrement(1.0);
    }
}

impl Coordinator {
    /// Listens for messages. Look for one *after* this, or its bell may be missed.
    ///
    /// # Errors
    /// [`Refusal`], when the stream is gone or cannot be read.
    pub async fn listen(self: &Arc<Self>, stream: &StreamRef) -> Result<Listening, Refusal> {
        let cell = self.parts.replica.cell(stream.generation).await?;
        cell.waiting.fetch_add(1, Ordering::Relaxed);
        self.listeners.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("tertulia_receivers_waiting").increment(1.0);
        Ok(Listening { cell, coordinator: self.clone() })
    }

    /// How many receivers listen.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.listeners.load(Ordering::Relaxed)
    }

    /// Leases up to `max` messages that are ready now, at most `bytes_max` bytes of them, but
    /// one always fits. Empty: there is none.
    ///
    /// # Errors
    /// [`ReceiveError`], and nothing is leased.
    pub async fn try_receive(
        self: &Arc<Self>,
        stream: &StreamRef,
        max: usize,
        bytes_max: usize,
        duration_ms: u64,
    ) -> Result<Granted, ReceiveError> {
        let began_ms = self.parts.clock.boottime_ms();
        let replica = &self.parts.replica;
        let cell = replica.cell(stream.generation).await.map_err(ReceiveError::Refused)?;
        let picked = self.pick(&cell, stream, max).await?;
        let opened = self.open(picked, stream, bytes_max).await;
        if opened.messages.is_empty() {
            let (coordinator, stream) = (self.clone(), stream.clone());
            return Ok(Granted { coordinator, stream, deliveries: Vec::new() });
        }
        self.grant(opened, stream, duration_ms, began_ms).await
    }

    async fn pick(
        self: &Arc<Self>,
        cell: &Arc<StreamCell>,
        stream: &StreamRef,
        max: usize,
    ) -> Result<Picked, ReceiveError> {
        let take = || {
            let now_ms = self.parts.replica.service().now_ms();
            cell.decide(|state| {
                let lapsed = state.lapse(now_ms);
                let room = limits::IN_FLIGHT_MAX.saturating_sub(state.in_flight());
                if room == 0 {
                    metrics::counter!("tertulia_in_flight_refused_total").increment(1);
                    return Err(ReceiveError::InFlightLimit);
                }
                let messages = state.pick(max.min(room));
                let dry = messages.is_empty() && state.window().unread_after().is_some();
                Ok((messages, dry, lapsed))
            })
        };
        loop {
            let (messages, dry, lapsed) = take()?;
            // What lapsed beyond what is taken here is for others.
            cell.ring(lapsed.saturating_sub(messages.len()));
            let (cell, coordinator) = (cell.clone(), self.clone());
            if !dry {
                return Ok(Picked { cell, coordinator, messages });
            }
            self.refill(&cell, stream).await.map_err(ReceiveError::Refused)?;
        }
    }

    /// Reads on where the window ends.
    async fn refill(&self, cell: &Arc<StreamCell>, stream: &StreamRef) -> Result<(), Refusal> {
        let _one = cell.refilling.lock().await;
        let (after, empty, stored) =
            cell.decide(|s| (s.window().unread_after(), s.window().is_empty(), s.stored()));
        let (Some(after), true) = (after, empty) else { return Ok(()) };
        let store = self.parts.replica.store().clone();
        // What is queued for the disk must be on it before the disk is asked.
        store.barrier().await.map_err(|_| Refusal::Stopping)?;
        let generation = stream.generation;
        let read = move || scan::places(&store, generation, after, REFILL);
        let places = blocking(&**self.parts.replica.spawn(), read).await.map_err(|error| {
            tracing::error!(%error, stream = %generation, "a stream cannot be read on");
            Refusal::Overloaded
        })?;
        let now_ms = self.parts.replica.service().now_ms();
        cell.decide(|state| {
            let at_end = places.len() < REFILL && state.stored() == stored;
            let last = places.last().copied().unwrap_or(after);
            state.refill(&places, (!at_end).then_some(last), now_ms);
        });
        cell.ring(places.len());
        Ok(())
    }

    /// Opens what was picked, from memory or from the disk. What does not open is a hole: it is
    /// counted and left to repair, never delivered and never taken for settled [R13].
    async fn open(
        self: &Arc<Self>,
        mut picked: Picked,
        stream: &StreamRef,
        bytes_max: usize,
    ) -> Opened {
        let missing: Vec<Place> =
            picked.messages.iter().filter(|(_, e)| e.is_none()).map(|(p, _)| *p).collect();
        let mut read = self.read(stream, missing, bytes_max).await.into_iter();
        let (mut messages, mut bytes) = (Vec::with_capacity(picked.messages.len()), 0);
        let mut rest = Vec::new();
        for (place, payload) in std::mem::take(&mut picked.messages) {
            let found = match payload {
                Some(payload) => Found::Here(payload),
                None => read.next().unwrap_or(Found::Later),
            };
            let full = bytes >= bytes_max && !messages.is_empty();
            match found {
                Found::Here(payload) if full => rest.push((place, Some(payload))),
                Found::Later => rest.push((place, None)),
                Found::Here(payload) => match open(stream, &payload) {
                    Some(content) => {
                        bytes += content.body.len();
                        messages.push(OpenMessage { place, content, envelope: payload });
                    }
                    None => self.note_hole(&picked.cell, place),
                },
                Found::Nothing => self.note_hole(&picked.cell, place),
            }
        }
        // The last may have been too much, unless it is the only one.
        if bytes > bytes_max
            && messages.len() > 1
            && let Some(last) = messages.pop()
        {
            rest.push((last.place, Some(last.envelope)));
        }
        picked.messages = rest;
        let back = messages.iter().map(|m| (m.place, Some(m.envelope.clone()))).collect();
        let (cell, coordinator) = (picked.cell.clone(), self.clone());
        Opened { messages, picked: Picked { cell, coordinator, messages: back } }
    }

    /// A message that is present and does not open is a hole. One that was settled meanwhile is
    /// none.
    fn note_hole(&self, cell: &StreamCell, place: Place) {
        if cell.decide(|stream| stream.is_present(place.1)) {
            metrics::gauge!("tertulia_holes").increment(1.0);
            tracing::error!(stream = %cell.generation, dot = %place.1,
                "a message does not open: its row is damaged [R13]");
        }
    }

    /// Reads payloads in order until they are as many bytes as may be answered.
    async fn read(&self, stream: &StreamRef, places: Vec<Place>, bytes_max: usize) -> Vec<Found> {
        if places.is_empty() {
            return Vec::new();
        }
        let (store, generation) = (self.parts.replica.store().clone(), stream.generation);
        if store.barrier().await.is_err() {
            return Vec::new();
        }
        let read = move || {
            let mut bytes = 0;
            let mut found = Vec::with_capacity(places.len());
            for place in places {
                if bytes >= bytes_max {
                    break;
                }
                found.push(match scan::envelope(&store, generation, place) {
                    Ok(Some(envelope)) => {
                        bytes += envelope.sealed.len();
                        Found::Here(Arc::new(envelope))
                    }
                    Ok(None) => Found::Nothing,
                    Err(error) => {
                        tracing::error!(%error, stream = %generation, "a message cannot be read");
                        break;
                    }
                });
            }
            found
        };
        blocking(&**self.parts.replica.spawn(), read).await
    }

    async fn grant(
        self: &Arc<Self>,
        mut opened: Opened,
        stream: &StreamRef,
        duration_ms: u64,
        began_ms: u64,
    ) -> Result<Granted, ReceiveError> {
        let replica = &self.parts.replica;
        let cell = opened.picked.cell.clone();
        let bare = |m: &OpenMessage| LeaseDot { place: m.place, envelope: None };
        let mut op = LeaseOp {
            header: stream.header(),
            requester: RequesterId::random(&*self.parts.rng),
            counter: 0,
            duration_ms,
            dots: opened.messages.iter().map(bare).collect(),
        };
        let (ticket, votes) = replica.lease(&cell, &mut op).map_err(ReceiveError::Refused)?;
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
            header: m.envelope.header.clone(),
            content: m.content,
        };
        let with_payload = LeaseOp {
            dots: opened
                .messages
                .iter()
                .map(|m| LeaseDot { place: m.place, envelope: Some(m.envelope.clone()) })
                .collect(),
            ..op.clone()
        };
        let deliveries = opened.messages.drain(..).map(deliver).collect();
        // From here on, whoever drops this gives the messages back.
        let granted = Granted { coordinator: self.clone(), stream: stream.clone(), deliveries };
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
        let view = granted.stream.view.clone();
        let mut tallies: Vec<Tally> =
            granted.deliveries.iter().map(|_| Tally::new(view.clone())).collect();
        let mut counts = vec![(0, 0); tallies.len()];
        let mut answers = Tally::new(view.clone());
        self.ask(&view, request, Some(fallback), local, |node, answer| {
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
                    }
                }
                _ => tallies.iter_mut().for_each(|tally| tally.lost(node)),
            }
            tallies.iter().all(|tally| tally.outcome().is_some())
        })
        .await;
        let (mut won, mut lost) = (Vec::new(), Vec::new());
        for (i, mut delivery) in std::mem::take(&mut granted.deliveries).into_iter().enumerate() {
            (delivery.lease.receive_count, delivery.lease.failure_count) = counts[i];
            if tallies[i].reached() { won.push(delivery) } else { lost.push(delivery.lease) }
        }
        granted.deliveries = won;
        self.withdraw(&granted.stream, lost);
        if answers.reached() { Ok(granted) } else { Err(ReceiveError::NoQuorum) }
    }

    /// A withdrawal that an overloaded node refuses is tried again for a while: the messages would
    /// stay hidden until their leases end.
    async fn withdraw_until_done(self: &Arc<Self>, stream: &StreamRef, mut items: Vec<SettleItem>) {
        for tried in 0..WITHDRAW_TRIES {
            let settled = self.settle(stream, items.clone(), false).await;
            let mut open =
                settled.iter().map(|s| matches!(s, Settled::Refused(_) | Settled::Unknown));
            items.retain(|_| open.next().unwrap_or(false));
            if items.is_empty() {
                return;
            }
            tokio::time::sleep(WITHDRAW_PAUSE * 2_u32.pow(tried)).await;
        }
    }

    /// Gives back leases whose messages were never handed out, in the background.
    fn withdraw(self: &Arc<Self>, stream: &StreamRef, leases: Vec<Lease>) {
        if leases.is_empty() {
            return;
        }
        let (coordinator, stream) = (self.clone(), stream.clone());
        let items = leases.iter().map(|lease| lease.item(SettleAction::Withdraw)).collect();
        self.parts.replica.spawn().task(Box::pin(async move {
            coordinator.withdraw_until_done(&stream, items).await;
        }));
    }
}

/// What became of reading a payload.
enum Found {
    /// It is here.
    Here(Arc<Envelope>),
    /// Its row is gone or damaged.
    Nothing,
    /// It was not read: there is enough already, or the disk does not answer.
    Later,
}

struct OpenMessage {
    place: Place,
    content: Content,
    envelope: Arc<Envelope>,
}

/// Opened messages, still only picked.
struct Opened {
    messages: Vec<OpenMessage>,
    picked: Picked,
}

fn open(stream: &StreamRef, envelope: &Envelope) -> Option<Content> {
    let header = &envelope.header;
    let bound = header.associated(stream.generation);
    let plain = open_message(&stream.key, &header.dot, &bound, &envelope.nonce, &envelope.sealed)?;
    Content::from_bytes(&plain)
}
