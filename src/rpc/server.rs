//! The answering end.

use super::{Class, Frame, Refusal, codec, encode, write_frames};
use crate::base::limits;
use crate::base::seams::{Spawn, Stream};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

/// Answers one kind of call within the time that is left to it: bytes in, bytes out; `None` when
/// it failed half-way. It is dropped when that time is over.
pub type Handler = Arc<dyn Fn(Bytes, Duration) -> BoxFuture<'static, Option<Bytes>> + Send + Sync>;

type Running = Arc<Mutex<BTreeMap<u64, CancellationToken>>>;

/// Serves one connection of a class until it ends; `handlers` by kind. When this is dropped, what
/// runs is cancelled.
pub async fn serve(
    stream: Box<dyn Stream>,
    class: Class,
    handlers: Arc<BTreeMap<u16, Handler>>,
    spawn: Arc<dyn Spawn>,
) {
    let (sink, mut frames) = Framed::new(stream, codec()).split();
    let (outbox, inbox) = mpsc::channel::<Bytes>(class.calls_max());
    let jobs = Jobs::default();
    let cut = jobs.cut.clone();
    let writing = cut.run_until_cancelled_owned(write_frames(sink, inbox));
    spawn.task(Box::pin(writing.map(drop)));
    let began = Instant::now();
    let mut beats = tokio::time::interval(limits::PEER_BEAT_TIME);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut quiet_at = began + limits::PEER_QUIET_TIME;
    loop {
        let bytes = tokio::select! {
            biased;
            _ = beats.tick() => {
                // A full outbox: what was told before stands, calls only seem older.
                let _ = outbox.try_send(encode(&Frame::Beat { at_ms: millis(began.elapsed()) }));
                continue;
            }
            read = tokio::time::timeout_at(quiet_at, frames.next()) => match read {
                Ok(Some(Ok(bytes))) => bytes,
                // Gone, or silent for so long that what it sent may be of any age [R54].
                _ => break,
            },
        };
        quiet_at = Instant::now() + limits::PEER_QUIET_TIME;
        match postcard::from_bytes::<Frame>(&bytes) {
            Ok(Frame::Call { id, kind, deadline_ms, heard_ms, body }) => {
                let left = left_of(began.elapsed(), heard_ms, deadline_ms);
                let work = match (handlers.get(&kind), left) {
                    (None, _) => Err(Refusal::UnknownKind),
                    (_, None) => {
                        metrics::counter!("tertulia_peer_calls_late_total").increment(1);
                        Err(Refusal::Late)
                    }
                    (Some(_), _) if is_full(&jobs.running, class) => Err(Refusal::Overloaded),
                    (Some(handler), Some(left)) => Ok((handler(body, left), left)),
                };
                match work {
                    Err(refusal) => {
                        let _ =
                            outbox.send(encode(&Frame::Answer { id, body: Err(refusal) })).await;
                    }
                    Ok((work, left)) => {
                        let job = jobs.job(id, outbox.clone());
                        spawn.task(Box::pin(job.run(work, left)));
                    }
                }
            }
            Ok(Frame::Cancel { id }) => {
                let running = jobs.running.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(cancel) = running.get(&id) {
                    cancel.cancel();
                }
            }
            // One's own beat, sent back: the far end is there.
            Ok(Frame::Beat { .. }) => {}
            // Whoever sends something else does not speak this protocol.
            Ok(Frame::Answer { .. }) | Err(_) => break,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What is left to a call that had heard that reading of this end's clock when it left; `None`: it
/// came too late [R54].
fn left_of(now: Duration, heard_ms: u64, deadline_ms: u32) -> Option<Duration> {
    let age = now.saturating_sub(Duration::from_millis(heard_ms));
    let may = Duration::from_millis(u64::from(deadline_ms)) + limits::CALL_SLACK_TIME;
    may.checked_sub(age).filter(|left| !left.is_zero())
}

/// What runs for one connection: cancelled with it, and so is the writing of answers.
#[derive(Default)]
struct Jobs {
    running: Running,
    cut: CancellationToken,
}

impl Jobs {
    /// Counted from here on, before it first runs: or a burst of calls would slip past the bound.
    fn job(&self, id: u64, outbox: mpsc::Sender<Bytes>) -> Job {
        let (running, cancel) = (self.running.clone(), self.cut.child_token());
        running.lock().unwrap_or_else(PoisonError::into_inner).insert(id, cancel.clone());
        Job { id, running, cancel, outbox }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

fn is_full(running: &Running, class: Class) -> bool {
    running.lock().unwrap_or_else(PoisonError::into_inner).len() >= class.calls_max()
}

struct Job {
    id: u64,
    running: Running,
    cancel: CancellationToken,
    outbox: mpsc::Sender<Bytes>,
}

impl Job {
    async fn run(self, work: BoxFuture<'static, Option<Bytes>>, deadline: Duration) {
        let answer = tokio::select! {
            answer = tokio::time::timeout(deadline, work) => answer.ok().flatten(),
            () = self.cancel.cancelled() => None,
        };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        let body = answer.ok_or(Refusal::Failed);
        let _ = self.outbox.send(encode(&Frame::Answer { id: self.id, body })).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r54_what_is_left_of_a_call_counts_from_what_its_caller_had_heard() {
        let left = |now_ms, heard_ms| left_of(Duration::from_millis(now_ms), heard_ms, 2_000);
        let slack = limits::CALL_SLACK_TIME;
        let deadline = Duration::from_secs(2);
        assert_eq!(left(9_000, 9_000), Some(deadline + slack));
        assert_eq!(left(9_000, 8_000), Some(deadline + slack - Duration::from_secs(1)));
        let age = u64::try_from((deadline + slack).as_millis()).unwrap_or_default();
        assert_eq!(left(age + 10, 10), None, "its whole life went by on the way");
        assert_eq!(left(age + 9, 10), Some(Duration::from_millis(1)));
        // Nothing was heard yet: it is as old as the connection.
        assert_eq!(left(3_000, 0), None);
    }
}
