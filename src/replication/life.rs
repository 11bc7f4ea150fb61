//! The life of an operation: one budget for all that it does [R54].
//!
//! It begins with the [`StreamRef`] that the operation works with, goes down through every round
//! and call, and travels on as a duration: the deadline of each call is what is left. A call that
//! comes later than that is refused by the far end's door ([`crate::rpc`] says how it can tell),
//! so that nothing is stored or leased by an operation that is long over.

use super::coordinator::StreamRef;
use crate::base::limits::OPERATION_TIME;
use std::time::Duration;
use tokio::time::Instant;

/// What is left of an operation's life for its answer to reach the client.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// How long an operation has.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    ends: Instant,
    is_handed_on: bool,
}

impl Life {
    /// The life of an operation that begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self { ends: Instant::now() + OPERATION_TIME - ANSWER_TIME, is_handed_on: false }
    }

    /// The rest of the life of an operation that another node handed on.
    #[must_use]
    pub fn handed_on(left: Duration) -> Self {
        let whole = Self::begin();
        Self { ends: whole.ends.min(Instant::now() + left), is_handed_on: true }
    }

    /// What is left; nothing once it is over.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// Another node handed the operation on: it is not handed on again.
    #[must_use]
    pub fn is_handed_on(&self) -> bool {
        self.is_handed_on
    }
}

impl StreamRef {
    /// The stream for the next operation of a worker, or for what goes on in the background: it
    /// has a life of its own.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self { life: Life::begin(), ..self.clone() }
    }
}
