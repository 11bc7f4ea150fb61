//! The calling end.

use super::{CallError, Caller, Class, Frame, codec, encode, write_frames};
use crate::base::limits;
use crate::base::seams::{Spawn, Stream};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{SplitSink, SplitStream};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

/// Frames waiting to be written.
const OUTBOX: usize = 256;

type Frames = Framed<Box<dyn Stream>, LengthDelimitedCodec>;
type Answered = oneshot::Sender<Result<Bytes, CallError>>;

/// What a connection is waiting for.
#[derive(Default)]
struct Waiting {
    calls: BTreeMap<u64, Answered>,
    /// Since when something was asked and nothing at all was read.
    silent_since: Option<Instant>,
}

impl Waiting {
    fn is_silent(&self) -> bool {
        self.silent_since.is_some_and(|since| since.elapsed() >= limits::PEER_SILENCE_TIME)
    }
}

/// `None` once the connection is gone: what still waits is lost.
#[derive(Clone)]
struct Pending(Arc<Mutex<Option<Waiting>>>);

impl Pending {
    fn with<T>(&self, look: impl FnOnce(&mut Option<Waiting>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Calls over one connection. When it is gone every call fails; a new client takes over.
pub struct Client {
    class: Class,
    outbox: mpsc::Sender<Bytes>,
    pending: Pending,
    next: AtomicU64,
    /// The far end's last beat.
    heard_ms: Arc<AtomicU64>,
    /// Cancelled when the connection is gone; cancelling it ends the connection.
    gone: CancellationToken,
}

/// Takes the call off the list when its caller goes away, and tells the far end.
struct Waits<'a> {
    id: u64,
    client: &'a Client,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let waited = |w: &mut Option<Waiting>| w.as_mut()?.calls.remove(&self.id);
        if self.client.pending.with(waited).is_some() {
            let _ = self.client.outbox.try_send(encode(&Frame::Cancel { id: self.id }));
        }
    }
}

/// Ends the connection with the task that has this, however it ends.
struct Ends {
    pending: Pending,
    gone: CancellationToken,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.pending.with(Option::take);
        self.gone.cancel();
    }
}

impl Client {
    /// A client on a connected stream, for calls of one class.
    #[must_use]
    pub fn new(stream: Box<dyn Stream>, class: Class, spawn: &dyn Spawn) -> Self {
        let (sink, frames) = Framed::new(stream, codec()).split();
        let (outbox, inbox) = mpsc::channel::<Bytes>(OUTBOX);
        let pending = Pending(Arc::new(Mutex::new(Some(Waiting::default()))));
        let gone = CancellationToken::new();
        let ends = || Ends { pending: pending.clone(), gone: gone.clone() };
        spawn.task(Box::pin(write(sink, inbox, ends())));
        let heard_ms = Arc::new(AtomicU64::new(0));
        let beats = Beats { heard_ms: heard_ms.clone(), outbox: outbox.downgrade() };
        spawn.task(Box::pin(read(frames, beats, ends())));
        Self { class, outbox, pending, next: AtomicU64::new(0), heard_ms, gone }
    }

    /// Whether calls can still be made.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.gone.is_cancelled()
    }

    /// Returns when the connection is gone.
    pub async fn closed(&self) {
        self.gone.cancelled().await;
    }

    /// Whether it was asked and has said nothing at all for [`limits::PEER_SILENCE_TIME`].
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.pending.with(|waiting| waiting.as_ref().is_none_or(Waiting::is_silent))
    }

    /// Calls the far end.
    ///
    /// # Errors
    /// [`CallError`]; `NotSent` and `Refused(Overloaded)` mean that nothing was done.
    pub async fn call(
        &self,
        kind: u16,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let ends = Instant::now() + deadline;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.pending.with(|waiting| {
            let waiting = waiting.as_mut().ok_or(CallError::NotSent)?;
            if waiting.calls.len() >= self.class.calls_max() {
                return Err(CallError::NotSent);
            }
            waiting.calls.insert(id, answer);
            waiting.silent_since.get_or_insert_with(Instant::now);
            Ok(())
        })?;
        let _waits = Waits { id, client: self };
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        // Read before it leaves, and before it waits to: its age is never underrated [R54].
        let heard_ms = self.heard_ms.load(Ordering::Relaxed);
        let frame = encode(&Frame::Call { id, kind, deadline_ms, heard_ms, body });
        // A call that found no place in the outbox has certainly not left.
        match tokio::time::timeout_at(ends, self.outbox.reserve()).await {
            Ok(Ok(place)) => place.send(frame),
            Ok(Err(_)) => return Err(CallError::NotSent),
            Err(_) => {
                self.end_if_silent();
                return Err(CallError::NotSent);
            }
        }
        match tokio::time::timeout_at(ends, answered).await {
            Ok(answer) => answer.unwrap_or(Err(CallError::Lost)),
            Err(_) => {
                self.end_if_silent();
                Err(CallError::Lost)
            }
        }
    }

    /// A far end that is gone without a word (a partition, a power cut) is found out here.
    fn end_if_silent(&self) {
        if self.is_silent() {
            self.gone.cancel();
            self.pending.with(Option::take);
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl Caller for Client {
    fn call(
        &self,
        _class: Class,
        kind: u16,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        Box::pin(self.call(kind, body, deadline))
    }

    fn is_up(&self) -> bool {
        self.is_open() && !self.is_silent()
    }
}

async fn write(sink: SplitSink<Frames, Bytes>, inbox: mpsc::Receiver<Bytes>, ends: Ends) {
    tokio::select! {
        () = write_frames(sink, inbox) => {}
        () = ends.gone.cancelled() => {}
    }
}

/// Hears beats, and sends them back.
struct Beats {
    heard_ms: Arc<AtomicU64>,
    /// Weak: whoever reads does not keep the connection.
    outbox: mpsc::WeakSender<Bytes>,
}

impl Beats {
    fn hear(&self, at_ms: u64) {
        self.heard_ms.fetch_max(at_ms, Ordering::Relaxed);
        if let Some(outbox) = self.outbox.upgrade() {
            // A full outbox says enough.
            let _ = outbox.try_send(encode(&Frame::Beat { at_ms }));
        }
    }
}

async fn read(mut frames: SplitStream<Frames>, beats: Beats, ends: Ends) {
    let reading = async {
        let quiet = limits::PEER_QUIET_TIME;
        while let Ok(Some(Ok(bytes))) = tokio::time::timeout(quiet, frames.next()).await {
            let answer = match postcard::from_bytes(&bytes) {
                Ok(Frame::Answer { id, body }) => Some((id, body)),
                Ok(Frame::Beat { at_ms }) => {
                    beats.hear(at_ms);
                    None
                }
                _ => return,
            };
            let waits = ends.pending.with(|waiting| {
                let waiting = waiting.as_mut()?;
                let waits = answer.as_ref().and_then(|(id, _)| waiting.calls.remove(id));
                let asked = !waiting.calls.is_empty();
                waiting.silent_since = asked.then(Instant::now);
                waits
            });
            if let (Some(waits), Some((_, body))) = (waits, answer) {
                let _ = waits.send(body.map_err(CallError::from));
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = ends.gone.cancelled() => {}
    }
}
