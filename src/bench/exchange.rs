//! What the tasks of a run share, and a request with its retries.

use super::histogram::Histogram;
use super::history::History;
use super::http::{Answer, Client, Connection, Failure};
use super::ledger::Ledger;
use super::pace::RunClock;
use super::plan::Plan;
use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time for a request, waits for messages apart: longer than the broker takes for any.
pub(super) const REQUEST_TIME: Duration = Duration::from_secs(15);
/// A refused request is made at most that often.
const TRIES_MAX: u32 = 10;
/// The longest pause between two tries, whatever `Retry-After` says.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The pause after what failed without saying when to come back.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// For how long after the end of sending a refused send is tried again, in ns.
const GRACE_NS: u64 = 5_000_000_000;

/// Counts and times that all tasks add to.
#[derive(Default)]
pub(super) struct Tally {
    /// Time from when a send was due to its answer, for sends that stored something.
    pub send: Histogram,
    /// Time from when a message's send was due to its first receipt by a consumer.
    pub end_to_end: Histogram,
    /// Sends that stored something.
    pub requests: u64,
    /// Messages acknowledged to producers.
    pub stored: u64,
    /// Messages that came for the first time.
    pub received: u64,
    /// Messages that came again.
    pub duplicates: u64,
    /// Messages that nobody of this run sent.
    pub unexpected: u64,
    /// Messages whose acknowledgement was answered.
    pub acked: u64,
    /// Requests that failed for good, and refused items of a batch, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Requests that were refused or found no connection and were made again, by kind.
    pub retries: BTreeMap<String, u64>,
    /// When the last send was answered that stored something, in ns.
    pub last_stored_ns: u64,
    /// When the last message came for the first time, in ns.
    pub last_received_ns: u64,
}

impl Tally {
    /// Counts errors of a kind.
    pub fn error(&mut self, kind: impl Into<String>, count: u64) {
        *self.errors.entry(kind.into()).or_default() += count;
    }
}

/// What the tasks of a run share.
pub(super) struct Run {
    pub plan: Plan,
    /// Its name, part of every message.
    pub name: String,
    /// The queue's path.
    pub queue_path: String,
    pub client: Arc<Client>,
    pub clock: RunClock,
    pub ledger: Ledger,
    pub history: History,
    /// When sending ends. Moves only to earlier.
    pub end_ns: AtomicU64,
    pub tally: Mutex<Tally>,
}

impl Run {
    pub fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn end_ns(&self) -> u64 {
        self.end_ns.load(Ordering::Relaxed)
    }
}

/// The fields of a problem that decide what to do next.
#[derive(Default, Deserialize)]
pub(super) struct Problem<'a> {
    #[serde(borrow, default)]
    pub code: Cow<'a, str>,
    #[serde(borrow, default)]
    pub detail: Cow<'a, str>,
    #[serde(borrow, default)]
    outcome: Cow<'a, str>,
}

impl<'a> Problem<'a> {
    pub fn of(answer: &'a Answer) -> Self {
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    /// The request may have had its effect.
    pub fn is_unknown(&self) -> bool {
        self.outcome == "unknown"
    }
}

/// What a request is for, as far as its retries go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// May be made again only if it had no effect.
    Send,
    /// Likewise; what a lost answer leased comes back by itself.
    Receive,
    /// May be made again whatever happened.
    Ack,
}

impl Purpose {
    /// Its word in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Ack => "ack",
        }
    }
}

/// The kind of an error answer, like `send 503 overloaded`.
pub(super) fn kind(purpose: Purpose, reply: &Result<Answer, Failure>) -> String {
    let word = purpose.word();
    match reply {
        Ok(answer) => format!("{word} {} {}", answer.status, Problem::of(answer).code),
        Err(failure) => format!("{word} {}", failure.word()),
    }
}

/// Makes a request until it is answered otherwise than by "later", within bounds.
pub(super) async fn ask(
    run: &Run,
    connection: &mut Connection,
    purpose: Purpose,
    (method, path, body): (Method, &str, Bytes),
    time: Duration,
) -> Result<Answer, Failure> {
    let mut tries = 0;
    loop {
        tries += 1;
        let reply = connection.call(method.clone(), path, body.clone(), time).await;
        let Some(pause) = pause(purpose, &reply) else { return reply };
        let late = purpose == Purpose::Send && run.clock.now_ns() > run.end_ns() + GRACE_NS;
        if tries == TRIES_MAX || late {
            return reply;
        }
        *run.tally().retries.entry(kind(purpose, &reply)).or_default() += 1;
        tokio::time::sleep(pause).await;
    }
}

/// How long to wait before the request is made again; `None` if it is not.
fn pause(purpose: Purpose, reply: &Result<Answer, Failure>) -> Option<Duration> {
    match reply {
        Ok(answer) if answer.status == 429 || answer.status == 503 => {
            if Problem::of(answer).is_unknown() && purpose != Purpose::Ack {
                return None;
            }
            let asked = answer.retry_after_seconds.map_or(PAUSE, Duration::from_secs);
            Some(asked.clamp(PAUSE, PAUSE_MAX))
        }
        Err(Failure::Connect) => Some(PAUSE),
        Err(_) if purpose == Purpose::Ack => Some(PAUSE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, after: Option<u64>, body: &'static str) -> Result<Answer, Failure> {
        let body = Bytes::from_static(body.as_bytes());
        Ok(Answer { status, retry_after_seconds: after, body })
    }

    #[test]
    fn only_what_had_no_effect_is_sent_again() {
        let send = |reply: &Result<Answer, Failure>| pause(Purpose::Send, reply);
        let second = Some(Duration::from_secs(1));
        assert_eq!(send(&answer(429, Some(1), "{}")), second);
        assert_eq!(send(&answer(503, Some(1), "{\"outcome\":\"not_stored\"}")), second);
        assert_eq!(send(&answer(503, Some(3600), "no JSON")), Some(PAUSE_MAX));
        assert_eq!(send(&answer(503, None, "{}")), Some(PAUSE));
        assert_eq!(send(&Err(Failure::Connect)), Some(PAUSE));
        let unknown = answer(503, Some(1), "{\"outcome\":\"unknown\"}");
        for reply in [&unknown, &Err(Failure::Broken), &Err(Failure::Timeout)] {
            assert_eq!(send(reply), None);
            assert!(pause(Purpose::Ack, reply).is_some(), "it is idempotent");
        }
        for reply in [&answer(201, None, "{}"), &answer(403, None, "{}")] {
            assert_eq!(pause(Purpose::Ack, reply), None);
        }
    }
}
