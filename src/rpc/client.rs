//! The calling end.

use super::{CallError, Frame, codec, encode};
use crate::base::limits;
use crate::base::seams::{Spawn, Stream};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::Framed;

/// Frames waiting to be written.
const OUTBOX: usize = 256;

type Waiting = BTreeMap<u64, oneshot::Sender<Result<Bytes, CallError>>>;
/// `None` once the connection is gone: what still waits is lost.
type Pending = Arc<Mutex<Option<Waiting>>>;

/// Calls over one connection. When it is gone every call fails; a new client takes over.
pub struct Client {
    outbox: mpsc::Sender<Bytes>,
    pending: Pending,
    next: AtomicU64,
}

/// Takes the call off the list when its caller goes away, and tells the far end.
struct Waits {
    id: u64,
    pending: Pending,
    outbox: mpsc::Sender<Bytes>,
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.as_mut().is_some_and(|waiting| waiting.remove(&self.id).is_some()) {
            let _ = self.outbox.try_send(encode(&Frame::Cancel { id: self.id }));
        }
    }
}

impl Client {
    /// A client on a connected stream.
    #[must_use]
    pub fn new(stream: Box<dyn Stream>, spawn: &dyn Spawn) -> Self {
        let (mut sink, mut frames) = Framed::new(stream, codec()).split();
        let (outbox, mut inbox) = mpsc::channel::<Bytes>(OUTBOX);
        let pending: Pending = Arc::new(Mutex::new(Some(Waiting::new())));
        spawn.task(Box::pin(async move {
            while let Some(frame) = inbox.recv().await {
                let mut sent = sink.feed(frame).await;
                // One flush for all that is ready.
                while let (Ok(()), Ok(frame)) = (&sent, inbox.try_recv()) {
                    sent = sink.feed(frame).await;
                }
                if sent.is_err() || sink.flush().await.is_err() {
                    return;
                }
            }
        }));
        let answers = pending.clone();
        spawn.task(Box::pin(async move {
            while let Some(Ok(bytes)) = frames.next().await {
                let Ok(Frame::Answer { id, body }) = postcard::from_bytes(&bytes) else { break };
                let mut pending = answers.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(waits) = pending.as_mut().and_then(|waiting| waiting.remove(&id)) {
                    let _ = waits.send(body.map_err(CallError::from));
                }
            }
            answers.lock().unwrap_or_else(PoisonError::into_inner).take();
        }));
        Self { outbox, pending, next: AtomicU64::new(0) }
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
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = pending.as_mut().ok_or(CallError::NotSent)?;
            if waiting.len() >= limits::CALLS_IN_FLIGHT_MAX {
                return Err(CallError::NotSent);
            }
            waiting.insert(id, answer);
        }
        let _waits = Waits { id, pending: self.pending.clone(), outbox: self.outbox.clone() };
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        let frame = encode(&Frame::Call { id, kind, deadline_ms, body });
        let answer = async {
            self.outbox.send(frame).await.map_err(|_| CallError::NotSent)?;
            answered.await.unwrap_or(Err(CallError::Lost))
        };
        tokio::time::timeout(deadline, answer).await.unwrap_or(Err(CallError::Lost))
    }
}
