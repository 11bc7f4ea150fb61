//! The answering end.

use super::{Frame, Refusal, codec, encode};
use crate::base::limits;
use crate::base::seams::{Spawn, Stream};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{SinkExt, StreamExt};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

/// Answers one kind of call: bytes in, bytes out; `None` when it failed half-way.
pub type Handler = Arc<dyn Fn(Bytes) -> BoxFuture<'static, Option<Bytes>> + Send + Sync>;

type Running = Arc<Mutex<BTreeMap<u64, CancellationToken>>>;

/// Serves one connection until it ends. `handlers` by kind.
pub async fn serve(
    stream: Box<dyn Stream>,
    handlers: Arc<BTreeMap<u16, Handler>>,
    spawn: Arc<dyn Spawn>,
) {
    let (mut sink, mut frames) = Framed::new(stream, codec()).split();
    let (outbox, mut inbox) = mpsc::channel::<Bytes>(limits::CALLS_IN_FLIGHT_MAX);
    spawn.task(Box::pin(async move {
        while let Some(frame) = inbox.recv().await {
            let mut sent = sink.feed(frame).await;
            while let (Ok(()), Ok(frame)) = (&sent, inbox.try_recv()) {
                sent = sink.feed(frame).await;
            }
            if sent.is_err() || sink.flush().await.is_err() {
                return;
            }
        }
    }));
    let running = Running::default();
    while let Some(Ok(bytes)) = frames.next().await {
        match postcard::from_bytes::<Frame>(&bytes) {
            Ok(Frame::Call { id, kind, deadline_ms, body }) => {
                let deadline = Duration::from_millis(u64::from(deadline_ms));
                let work = match handlers.get(&kind) {
                    None => Err(Refusal::UnknownKind),
                    Some(_) if is_full(&running) => Err(Refusal::Overloaded),
                    Some(handler) => Ok(handler(body)),
                };
                match work {
                    Err(refusal) => {
                        let _ =
                            outbox.send(encode(&Frame::Answer { id, body: Err(refusal) })).await;
                    }
                    Ok(work) => {
                        let job = Job { id, running: running.clone(), outbox: outbox.clone() };
                        spawn.task(Box::pin(job.run(work, deadline)));
                    }
                }
            }
            Ok(Frame::Cancel { id }) => {
                let running = running.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(cancel) = running.get(&id) {
                    cancel.cancel();
                }
            }
            // Whoever sends something else does not speak this protocol.
            Ok(Frame::Answer { .. }) | Err(_) => break,
        }
    }
    for cancel in running.lock().unwrap_or_else(PoisonError::into_inner).values() {
        cancel.cancel();
    }
}

fn is_full(running: &Running) -> bool {
    let running = running.lock().unwrap_or_else(PoisonError::into_inner);
    running.len() >= limits::CALLS_IN_FLIGHT_MAX
}

struct Job {
    id: u64,
    running: Running,
    outbox: mpsc::Sender<Bytes>,
}

impl Job {
    async fn run(self, work: BoxFuture<'static, Option<Bytes>>, deadline: Duration) {
        let cancel = CancellationToken::new();
        let insert = |running: &mut BTreeMap<_, _>| running.insert(self.id, cancel.clone());
        insert(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = tokio::select! {
            answer = tokio::time::timeout(deadline, work) => answer.ok().flatten(),
            () = cancel.cancelled() => None,
        };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        let body = answer.ok_or(Refusal::Failed);
        let _ = self.outbox.send(encode(&Frame::Answer { id: self.id, body })).await;
    }
}
