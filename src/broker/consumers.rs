//! Consumers: messages that come by themselves.
//!
//! A consumer pulls messages from its source while it has room, and hands them out one by one. It
//! remembers which of them are unsettled; when it ends they are given back at once, counted as
//! failures or not. What it leased ahead and handed to nobody goes back as if never leased.
//! Rights, and whether the caller is still connected, are checked at each delivery [R45].
//!
//! It hears of settlements through this node at once. One through another node frees its place
//! when the lease, as last known here, ends; giving such a message back then does nothing, because
//! the replicas know that the lease is over.

use super::objects::name_of;
use super::receipts::Receipt;
use super::receive::{ReceiveRequest, ReceivedMessage, clamp};
use super::sources::{Address, Reading};
use super::standing::Standing;
use super::{Action, Answer, Broker, Refusal};
use crate::base::ids::{Generation, RequesterId, SubscriptionId};
use crate::base::limits;
use crate::base::names::QueueName;
use crate::crdt::dot::Dot;
use crate::protocol::op::{self, SettleAction, SettleItem};
use crate::protocol::record::{Kind, Right, State as Stage};
use crate::replication::settling::Settled;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

mod terms;

pub use terms::{End, Farewell, SourceName, Terms, Window};

/// The first pause after the source could not be asked; each next one is twice as long, up to
/// [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often giving back is tried, with the same pauses.
const GIVE_BACK_TRIES: u32 = 8;

/// A lease: two in one batch differ in the message, two of one message in the requester.
type LeaseKey = (RequesterId, Dot);

fn key_of(receipt: &Receipt) -> LeaseKey {
    (receipt.requester, receipt.place.1)
}

/// The broker's list of leases whose consumers want to be told.
#[derive(Default)]
pub(super) struct Told(Mutex<BTreeMap<LeaseKey, Weak<Shared>>>);

impl Told {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<LeaseKey, Weak<Shared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A consumer. Dropped without [`Consumer::end`], its messages count as failed.
pub struct Consumer(Arc<Shared>);

/// A consumer's handle, for whoever does not hold it.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    broker: Arc<Broker>,
    standing: Standing,
    source: SourceName,
    lease_seconds: Option<i32>,
    window: Window,
    state: Mutex<State>,
    /// Rings when there may be room.
    room: Notify,
    /// Nothing more comes; `State::ended` says why.
    over: CancellationToken,
}

struct State {
    /// Messages that may still be handed out, with [`Window::Credit`].
    credit: usize,
    /// Leased and handed to nobody yet.
    ahead: VecDeque<Ahead>,
    /// Handed out, by lease: the receipt and the lease's end as last known (boottime, ms).
    unsettled: BTreeMap<LeaseKey, (Receipt, u64)>,
    ended: Option<End>,
}

struct Ahead {
    message: ReceivedMessage,
    receipt: Receipt,
    /// Boottime, in ms.
    since_ms: u64,
    ends_ms: u64,
}

impl Ahead {
    /// Whether it has lain for so long that somebody else should have it.
    fn is_stale(&self, now_ms: u64) -> bool {
        let time_ms = (self.ends_ms - self.since_ms) / 2;
        now_ms >= self.since_ms + time_ms.min(limits::CONSUMER_AHEAD_MS_MAX)
    }
}

impl Broker {
    /// Begins a consumer.
    ///
    /// # Errors
    /// [`Refusal`], when the source is unknown or the caller may not receive from it.
    pub fn consume(self: &Arc<Self>, standing: Standing, terms: Terms) -> Answer<Consumer> {
        let Terms { source, lease_seconds, window } = terms;
        let credit = match window {
            Window::Credit(credit) => credit,
            Window::Unsettled(_) => 0,
        };
        let (ahead, unsettled) = (VecDeque::new(), BTreeMap::new());
        let shared = Arc::new(Shared {
            broker: self.clone(),
            standing,
            source,
            lease_seconds,
            window,
            state: Mutex::new(State { credit, ahead, unsettled, ended: None }),
            room: Notify::new(),
            over: CancellationToken::new(),
        });
        shared.reading()?;
        let watched = Arc::downgrade(&shared);
        self.coordinator.replica().spawn().task(Box::pin(watch(watched)));
        Ok(Consumer(shared))
    }

    /// Whether the broker is stopping: returns when it is.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// A lease has changed: its consumer, if it has one here, is told.
    pub(super) fn tell_consumer(&self, receipt: &Receipt, action: Action, outcome: Settled) {
        let key = key_of(receipt);
        let consumer = self.consumers.lock().get(&key).and_then(Weak::upgrade);
        let Some(consumer) = consumer else { return };
        match (outcome, action) {
            (Settled::Done, Action::Extend { lease_seconds }) => {
                let ms = u64::try_from(lease_seconds).unwrap_or(0) * 1_000;
                consumer.extended(&key, self.clock.boottime_ms() + ms);
            }
            (Settled::Done | Settled::Lost, _) => consumer.forget([key]),
            (Settled::Refused(_) | Settled::Unknown, _) => {}
        }
    }

    /// Gives leases of a reader back, and tries again for a while if that is refused: the messages
    /// would stay hidden until their leases end.
    async fn give_back(&self, of: (Generation, SubscriptionId), mut items: Vec<SettleItem>) {
        let (generation, reader) = of;
        let mut pause = PAUSE_MIN;
        for _ in 0..GIVE_BACK_TRIES {
            // Whoever lost its rights gives back all the same. A stream that is gone has nothing.
            let Some((key, record)) = self.catalog.stream_by_generation(generation) else { return };
            if record.state != Stage::Live {
                return;
            }
            if let Some(stream) = self.live_stream(&record) {
                let settled = self.coordinator.settle(&stream, reader, items.clone(), false).await;
                if key.kind == Kind::Queue
                    && let Ok(name) = QueueName::parse(&name_of(&key))
                {
                    self.after_settling(&Address::Queue(name));
                }
                let open = |settled: &Settled| match settled {
                    // Nor has a reader that is gone.
                    Settled::Refused(why) => *why != op::Refusal::NoReader,
                    Settled::Unknown => true,
                    Settled::Done | Settled::Lost => false,
                };
                let mut open = settled.iter().map(open);
                items.retain(|_| open.next().unwrap_or(false));
            }
            if items.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Looks after a consumer while it is there.
async fn watch(consumer: Weak<Shared>) {
    loop {
        tokio::time::sleep(limits::CONSUMER_PERIOD).await;
        let Some(consumer) = consumer.upgrade() else { return };
        consumer.look_after();
        if consumer.over.is_cancelled() {
            return;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.broker.clock.boottime_ms()
    }

    /// The source as it is now, if the caller may receive from it.
    fn reading(&self) -> Answer<Reading> {
        if !self.broker.stands(&self.standing) {
            return Err(Refusal::Unauthenticated);
        }
        let (by, source) = (&self.standing.by, self.source.as_source());
        self.broker.reading(by, source, Right::Receive)
    }

    fn finish(&self, end: End) {
        self.lock().ended.get_or_insert(end);
        self.over.cancel();
    }

    fn ended(&self) -> Option<End> {
        self.lock().ended.clone()
    }

    /// How many messages may be leased now.
    fn vacancies(&self) -> usize {
        let state = self.lock();
        let held = state.unsettled.len() + state.ahead.len();
        match self.window {
            Window::Unsettled(max) => max.saturating_sub(held),
            Window::Credit(_) => {
                let credit = state.credit.saturating_sub(state.ahead.len());
                credit.min(limits::CONSUMER_UNSETTLED_MAX.saturating_sub(held))
            }
        }
    }

    /// Leases messages, waiting for one.
    async fn pull(&self, max: usize, lease_seconds: i32) -> Answer<()> {
        // A lease that is over soon is not spent on lying here.
        let max = if lease_seconds < 5 { 1 } else { max.min(limits::CONSUMER_AHEAD_MAX) };
        let request = ReceiveRequest {
            max_messages: clamp(max as u64),
            wait_seconds: limits::WAIT_SECONDS_MAX,
            lease_seconds: self.lease_seconds,
            ..ReceiveRequest::default()
        };
        let (by, source) = (&self.standing.by, self.source.as_source());
        let bytes_max = limits::CONSUMER_AHEAD_BYTES_MAX;
        let messages = self.broker.receive_within(by, source, request, bytes_max, || {}).await?;
        let now_ms = self.now_ms();
        let ahead = messages.into_iter().filter_map(|message| {
            let receipt = self.broker.open_receipt(message.receipt.as_deref()?)?;
            let left_ms = u64::try_from(message.lease_remaining_ms?).unwrap_or(0);
            Some(Ahead { message, receipt, since_ms: now_ms, ends_ms: now_ms + left_ms })
        });
        self.lock().ahead.extend(ahead);
        Ok(())
    }

    /// Hands the next message out. From here on it is unsettled.
    fn deliver(self: &Arc<Self>) -> Option<ReceivedMessage> {
        let now_ms = self.now_ms();
        let mut state = self.lock();
        while let Some(Ahead { mut message, receipt, ends_ms, .. }) = state.ahead.pop_front() {
            // One whose lease ran out is no longer anybody's.
            if ends_ms <= now_ms {
                continue;
            }
            message.lease_remaining_ms = Some(clamp(ends_ms - now_ms));
            state.credit = state.credit.saturating_sub(1);
            let key = key_of(&receipt);
            self.broker.consumers.lock().insert(key, Arc::downgrade(self));
            state.unsettled.insert(key, (receipt, ends_ms));
            metrics::counter!("tertulia_messages_pushed_total").increment(1);
            return Some(message);
        }
        None
    }

    fn extended(&self, key: &LeaseKey, ends_ms: u64) {
        if let Some((_, ends)) = self.lock().unsettled.get_mut(key) {
            *ends = ends_ms;
        }
    }

    /// Leases that are over: their places are free.
    fn forget(&self, keys: impl IntoIterator<Item = LeaseKey>) {
        for key in keys {
            self.lock().unsettled.remove(&key);
            self.broker.consumers.lock().remove(&key);
        }
        self.room.notify_one();
    }

    fn look_after(&self) {
        let now_ms = self.now_ms();
        let (lapsed, stale) = {
            let mut state = self.lock();
            let over = state.unsettled.iter().filter(|(_, (_, ends_ms))| *ends_ms <= now_ms);
            let lapsed: Vec<LeaseKey> = over.map(|(key, _)| *key).collect();
            // They came in order: behind a fresh one lie fresh ones.
            let stale = state.ahead.iter().take_while(|ahead| ahead.is_stale(now_ms)).count();
            (lapsed, state.ahead.drain(..stale).collect::<Vec<_>>())
        };
        if !lapsed.is_empty() {
            self.forget(lapsed);
        }
        if !stale.is_empty() {
            self.room.notify_one();
        }
        let stale = stale.iter().map(|ahead| (ahead.receipt, SettleAction::Withdraw)).collect();
        drop(self.release(stale));
        if let Err(refusal) = self.reading() {
            self.finish(End::Refused(refusal));
        }
    }

    /// Releases leases in a task that runs to its end; what it returns ends with it.
    fn release(&self, leases: Vec<(Receipt, SettleAction)>) -> oneshot::Receiver<()> {
        let (done, released) = oneshot::channel();
        let mut readers: BTreeMap<(Generation, SubscriptionId), Vec<SettleItem>> = BTreeMap::new();
        for (receipt, action) in leases {
            readers
                .entry((receipt.generation, receipt.reader))
                .or_default()
                .push(receipt.item(action));
        }
        if readers.is_empty() {
            let _ = done.send(());
            return released;
        }
        let broker = self.broker.clone();
        self.broker.coordinator.replica().spawn().task(Box::pin(async move {
            for (reader, items) in readers {
                broker.give_back(reader, items).await;
            }
            let _ = done.send(());
        }));
        released
    }

    /// Gives everything back.
    fn leave(&self, farewell: Farewell) -> oneshot::Receiver<()> {
        self.finish(End::Cancelled);
        let (ahead, unsettled) = {
            let mut state = self.lock();
            (std::mem::take(&mut state.ahead), std::mem::take(&mut state.unsettled))
        };
        self.forget(unsettled.keys().copied());
        let now_ms = self.now_ms();
        let release = SettleAction::Release { outcome: farewell.outcome(), delay_ms: None };
        let open = unsettled.into_values().filter(|(_, ends_ms)| *ends_ms > now_ms);
        let held = open.map(|(receipt, _)| (receipt, release));
        let ahead = ahead.into_iter().map(|ahead| (ahead.receipt, SettleAction::Withdraw));
        self.release(held.chain(ahead).collect())
    }
}

impl Consumer {
    /// The next message, waiting for it as long as it takes. Dropped while it waits, nothing is
    /// lost.
    ///
    /// # Errors
    /// [`End`]: nothing more comes.
    pub async fn next(&mut self) -> Result<ReceivedMessage, End> {
        let shared = &self.0;
        let mut pause = PAUSE_MIN;
        loop {
            let room = shared.room.notified();
            if let Some(end) = shared.ended() {
                return Err(end);
            }
            let reading = shared.reading().map_err(End::Refused)?;
            // Paused or suspended: what is leased ahead goes back when it is stale.
            if !reading.is_paused
                && let Some(message) = shared.deliver()
            {
                return Ok(message);
            }
            let lease_seconds = shared.lease_seconds.unwrap_or(reading.lease_seconds);
            let vacancies = shared.vacancies();
            let wait = async {
                if vacancies == 0 {
                    room.await;
                    return Ok(());
                }
                match shared.pull(vacancies, lease_seconds).await {
                    Err(refusal) if is_passing(&refusal) => {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(PAUSE_MAX);
                        Ok(())
                    }
                    pulled => {
                        pause = PAUSE_MIN;
                        pulled
                    }
                }
            };
            tokio::select! {
                waited = wait => waited.map_err(End::Refused)?,
                () = shared.over.cancelled() => {}
                () = shared.broker.stopping.cancelled() => shared.finish(End::Stopping),
            }
        }
    }

    /// A handle to it.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.0.clone())
    }

    /// Takes back a message that was handed out and then not sent: nobody has seen it.
    pub fn take_back(&self, message: &ReceivedMessage) {
        let receipt = message.receipt.as_deref().and_then(|it| self.0.broker.open_receipt(it));
        if let Some(receipt) = receipt {
            self.0.forget([key_of(&receipt)]);
            drop(self.0.release(vec![(receipt, SettleAction::Withdraw)]));
        }
    }

    /// Ends it, and returns when its messages are given back.
    pub async fn end(self, farewell: Farewell) {
        let _ = self.0.leave(farewell).await;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        drop(self.0.leave(Farewell::Failed));
    }
}

impl Handle {
    /// Lets so many more messages come.
    ///
    /// # Errors
    /// `Invalid`, when that is more than a consumer may have.
    pub fn add_credit(&self, more: usize) -> Answer<()> {
        let max = usize::try_from(limits::CREDIT_MAX).unwrap_or(0);
        {
            let mut state = self.0.lock();
            if state.credit + more > max {
                let message = format!("{} are left; together at most {max}", state.credit);
                return Err(Refusal::invalid("credit", "range", message));
            }
            state.credit += more;
        }
        self.0.room.notify_one();
        Ok(())
    }

    /// Lets nothing more come. What was handed out stays so until the consumer ends.
    pub fn cancel(&self) {
        self.0.finish(End::Cancelled);
        let ahead = std::mem::take(&mut self.0.lock().ahead);
        let ahead = ahead.into_iter().map(|ahead| (ahead.receipt, SettleAction::Withdraw));
        drop(self.0.release(ahead.collect()));
    }

    /// How many messages are unsettled, as far as this node knows.
    #[must_use]
    pub fn unsettled(&self) -> usize {
        self.0.lock().unsettled.len()
    }
}

/// Whether another try may find it otherwise.
fn is_passing(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::InFlightLimit | Refusal::Overloaded { .. } | Refusal::NotEnoughReplicas { .. }
    )
}

#[cfg(test)]
#[path = "consumers_tests.rs"]
mod tests;
