//! Push: messages that come by themselves, over an event stream or a WebSocket. Both are thin:
//! what a consumer may have and what becomes of what it leaves is the broker's.

pub mod connect;
pub mod event_stream;
mod frames;
mod metered;
mod operations;

use super::problem::Problem;
use crate::base::limits;
use crate::broker::refusal::Refusal;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The node's places for open streams and connections: they hold no slot of those for requests.
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(limits::PUSH_CONNECTIONS_MAX)))
    }
}

/// One of them, until it is dropped.
pub(super) struct Place {
    kind: &'static str,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Takes a place.
    fn take(&self, kind: &'static str) -> Result<Place, Problem> {
        let full =
            |_| Refusal::Overloaded { why: "too many event streams and WebSockets are open" };
        let permit = self.0.clone().try_acquire_owned().map_err(full)?;
        metrics::gauge!("tertulia_push_connections", "kind" => kind).increment(1.0);
        Ok(Place { kind, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!("tertulia_push_connections", "kind" => self.kind).decrement(1.0);
    }
}
