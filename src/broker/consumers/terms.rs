//! What a consumer is asked for, and how it ends.

use crate::broker::Refusal;
use crate::broker::sources::Source;
use crate::protocol::op::ReleaseOutcome;

/// The name of where messages come from, kept: a [`Source`] while it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceName {
    /// A queue.
    Queue(String),
    /// A subscription.
    Subscription {
        /// Its topic.
        topic: String,
        /// Its name there.
        name: String,
    },
}

impl SourceName {
    /// What it names.
    #[must_use]
    pub fn as_source(&self) -> Source<'_> {
        match self {
            Self::Queue(name) => Source::Queue(name),
            Self::Subscription { topic, name } => Source::Subscription { topic, name },
        }
    }
}

/// How many messages may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// At most so many unsettled at a time; each settled one makes room.
    Unsettled(usize),
    /// So many, and more as credit is added.
    Credit(usize),
}

/// What a consumer wants.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Where from.
    pub source: SourceName,
    /// Seconds of each lease; the source's where absent.
    pub lease_seconds: Option<i32>,
    /// How many.
    pub window: Window,
}

/// Why a consumer gets nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The node stops.
    Stopping,
    /// The caller wanted no more.
    Cancelled,
    /// The caller may not (or no longer), or the source is gone.
    Refused(Refusal),
}

/// What becomes of the unsettled messages of a consumer that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// They are given back without a failure.
    HandedBack,
    /// Each counts a failure.
    Failed,
}

impl Farewell {
    pub(super) fn outcome(self) -> ReleaseOutcome {
        match self {
            Self::HandedBack => ReleaseOutcome::HandedBack,
            Self::Failed => ReleaseOutcome::Failed,
        }
    }
}
