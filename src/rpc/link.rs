//! A link to one other node: a connection per class of calls, made on the first call and made
//! again whenever it breaks, for as long as this node runs.

use super::dialing::Dial;
use super::{CallError, Caller, Class, Client};
use crate::base::ids::NodeId;
use crate::base::limits;
use crate::base::seams::{Rng, Spawn};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a link is made of.
#[derive(Clone)]
pub struct LinkParts {
    /// The far end.
    pub node: NodeId,
    /// Reaches it.
    pub dial: Arc<dyn Dial>,
    /// Runs the link; ends with the node.
    pub spawn: Arc<dyn Spawn>,
    /// Spreads attempts, so that nodes do not knock in step.
    pub rng: Arc<dyn Rng>,
}

/// A link to one other node.
pub struct Link {
    lines: [Arc<Line>; Class::ALL.len()],
}

impl Link {
    /// A link; it connects when it is called.
    #[must_use]
    pub fn new(parts: &LinkParts) -> Arc<Self> {
        Arc::new(Self { lines: Class::ALL.map(|class| Line::new(parts.clone(), class)) })
    }

    fn line(&self, class: Class) -> &Arc<Line> {
        let at = Class::ALL.iter().position(|c| *c == class);
        &self.lines[at.expect("every class is in the list of all")]
    }
}

impl Caller for Link {
    fn call(
        &self,
        class: Class,
        kind: u16,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        Box::pin(self.line(class).call(kind, body, deadline))
    }

    /// Of a node that nobody has called nothing bad is known.
    fn is_up(&self) -> bool {
        self.lines.iter().all(|line| line.is_up())
    }
}

/// What is known of a line.
#[derive(Clone)]
enum State {
    /// An attempt is under way; nothing bad is known yet.
    Dialing,
    /// Calls can be made.
    Up(Arc<Client>),
    /// The last attempt failed; the next one is not made before then.
    Down(Instant),
    /// The node stops.
    Over,
}

/// The connection of one class.
struct Line {
    parts: LinkParts,
    class: Class,
    begun: AtomicBool,
    /// Written by [`Line::keep`] alone.
    state: watch::Sender<State>,
}

/// Ends the waits of callers with the task that keeps the line.
struct Keeps(Arc<Line>);

impl Drop for Keeps {
    fn drop(&mut self) {
        self.0.state.send_replace(State::Over);
    }
}

impl Line {
    fn new(parts: LinkParts, class: Class) -> Arc<Self> {
        let (state, _) = watch::channel(State::Dialing);
        Arc::new(Self { parts, class, begun: AtomicBool::new(false), state })
    }

    fn is_up(&self) -> bool {
        match &*self.state.borrow() {
            State::Dialing => true,
            State::Up(client) => Caller::is_up(&**client),
            State::Down(_) | State::Over => false,
        }
    }

    async fn call(
        self: &Arc<Self>,
        kind: u16,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        if !self.begun.swap(true, Ordering::Relaxed) {
            let keeps = Keeps(self.clone());
            self.parts.spawn.task(Box::pin(async move { keeps.0.keep().await }));
        }
        let now = Instant::now();
        let ends = now + deadline;
        let patience = ends.min(now + limits::PEER_WAIT_TIME);
        loop {
            let client = self.client(patience).await.ok_or(CallError::NotSent)?;
            let left = ends.saturating_duration_since(Instant::now());
            match client.call(kind, body.clone(), left).await {
                // It broke just now: there is another one soon.
                Err(CallError::NotSent) if !client.is_open() && Instant::now() < patience => {}
                answer => {
                    self.count(body.len(), answer.as_ref().map_or(0, Bytes::len));
                    return answer;
                }
            }
        }
    }

    fn count(&self, sent: usize, answered: usize) {
        let class = self.class.name();
        metrics::counter!("tertulia_peer_calls_total", "class" => class).increment(1);
        metrics::counter!("tertulia_peer_bytes_total", "class" => class)
            .increment((sent + answered) as u64);
    }

    /// The connection, if there is one until then.
    async fn client(&self, until: Instant) -> Option<Arc<Client>> {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| match state {
            State::Dialing => false,
            State::Up(client) => client.is_open(),
            // Not worth waiting for.
            State::Down(next) => *next >= until,
            State::Over => true,
        });
        match &*tokio::time::timeout_at(until, settled).await.ok()?.ok()? {
            State::Up(client) => Some(client.clone()),
            State::Dialing | State::Down(_) | State::Over => None,
        }
    }

    /// Keeps the line up: one attempt at a time, with ever longer pauses.
    async fn keep(&self) {
        let node = self.parts.node;
        let mut pause = limits::PEER_PAUSE_MIN;
        // Said once, not at every attempt.
        let mut said = None;
        loop {
            match self.parts.dial.dial(node, self.class).await {
                Ok(client) => {
                    said = None;
                    let began = Instant::now();
                    let client = Arc::new(client);
                    self.state.send_replace(State::Up(client.clone()));
                    client.closed().await;
                    metrics::counter!("tertulia_peer_lost_total").increment(1);
                    tracing::info!(%node, class = ?self.class, "the connection is gone");
                    if began.elapsed() >= limits::PEER_PAUSE_MAX {
                        pause = limits::PEER_PAUSE_MIN;
                        self.state.send_replace(State::Dialing);
                        continue;
                    }
                }
                Err(error) => {
                    let why = error.to_string();
                    if said.as_ref() != Some(&why) {
                        tracing::warn!(%node, class = ?self.class, error = why, "not connected");
                        said = Some(why);
                    }
                }
            }
            self.pause(pause).await;
            pause = (pause * 2).min(limits::PEER_PAUSE_MAX);
        }
    }

    /// Waits, or until the node has another address.
    async fn pause(&self, pause: Duration) {
        let half = pause / 2;
        let by_chance =
            (*self.parts.rng).u64() % u64::try_from(half.as_millis()).unwrap_or(1).max(1);
        let next = Instant::now() + half + Duration::from_millis(by_chance);
        let node = self.parts.node;
        let mut addresses = self.parts.dial.addresses();
        let known = addresses.borrow().get(&node).copied();
        self.state.send_replace(State::Down(next));
        let moved = addresses.wait_for(|all| all.get(&node).copied() != known);
        let moved = async {
            if moved.await.is_err() {
                // Nobody publishes addresses any more.
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout_at(next, moved).await;
        self.state.send_replace(State::Dialing);
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
