//! One replica's state of one stream, and every rule that changes it.
//!
//! Pure: what is to be written comes out as [`Change`]s, which the replica commits together. The
//! state in memory runs ahead of the disk by what is queued for it; that is sound because all
//! commits happen in the order of the decisions and no answer leaves before its commit [R6].

mod leasing;
mod settling;
mod storing;
#[cfg(test)]
mod tests;
mod window;

pub use window::Window;

use super::lease::{Attempt, GrantRow};
use super::op::{Change, Closes, Refusal, Seal};
use crate::base::hlc::Hlc;
use crate::base::ids::{Boot, NodeId, RequesterId};
use crate::crdt::context::DotSet;
use crate::crdt::dot::Dot;
use crate::invariant;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where a message stands in the dispatch order: by stamp, then by name.
pub type Place = (Hlc, Dot);

/// What is persisted of a stream beside its messages, grants and attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamMeta {
    /// Every dot seen.
    pub context: DotSet,
    /// No counter at or below it is granted any more [R24].
    pub floor: u64,
    /// Closed to sends, or to everything.
    pub seal: Option<Seal>,
}

/// What a replica remembers of one leased, unsettled message.
#[derive(Clone, Copy, Debug)]
struct Live {
    attempt: Attempt,
    /// A row of its own overrides the grant's row.
    has_row: bool,
    /// The grant whose row carries it.
    grant: Option<RequesterId>,
}

/// A grant row on disk and how many messages still need it.
#[derive(Clone, Copy, Debug)]
struct OpenGrant {
    counter: u64,
    open: usize,
}

/// A replica's state of a stream.
#[derive(Debug)]
pub struct Stream {
    me: NodeId,
    boot: Boot,
    /// Every dot seen. Grows only in the batch that stores the payload or settles it [R12].
    context: DotSet,
    /// The dots whose messages are here, unsettled. `context − present` is settled [F29].
    present: DotSet,
    floor: u64,
    seal: Option<Seal>,
    attempts: BTreeMap<Dot, Live>,
    grants: BTreeMap<RequesterId, OpenGrant>,
    /// Running leases by their end on the service clock.
    expiries: BTreeSet<(u64, Dot)>,
    /// The highest counter ever granted or refused over here.
    top: u64,
    window: Window,
    /// Counts stored messages, so that a scan of the disk knows whether it missed some.
    stored: u64,
}

/// What was read from the disk of a stream.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Its meta row.
    pub meta: StreamMeta,
    /// The places of all its messages, rising.
    pub places: Vec<Place>,
    /// Its grants.
    pub grants: Vec<(RequesterId, GrantRow)>,
    /// Attempts with rows of their own.
    pub attempts: Vec<Attempt>,
}

impl Stream {
    /// A stream as the disk has it.
    ///
    /// # Panics
    /// When a message is present that the context does not know [R12].
    #[must_use]
    pub fn load(me: NodeId, boot: Boot, loaded: Loaded, now_ms: u64) -> Self {
        let Loaded { meta, places, grants, attempts } = loaded;
        let mut stream = Self {
            me,
            boot,
            context: meta.context,
            present: DotSet::new(),
            floor: meta.floor,
            seal: meta.seal,
            attempts: BTreeMap::new(),
            grants: BTreeMap::new(),
            expiries: BTreeSet::new(),
            top: meta.floor,
            window: Window::default(),
            stored: 0,
        };
        for (_, dot) in &places {
            invariant!(
                stream.context.contains(*dot),
                "R12",
                "{dot} is here and not in the context"
            );
            stream.present.insert(*dot);
        }
        for (requester, row) in grants {
            stream.load_grant(requester, &row);
        }
        for attempt in attempts {
            stream.load_attempt(attempt);
        }
        let held: Vec<(u64, Dot)> = stream.attempts.values().filter_map(running).collect();
        stream.expiries.extend(held.into_iter().filter(|(until, _)| *until > now_ms));
        let ready = places.into_iter().filter(|(_, dot)| {
            !stream.attempts.get(dot).is_some_and(|live| live.attempt.is_held(now_ms))
        });
        stream.window = Window::of(ready);
        stream
    }

    fn load_grant(&mut self, requester: RequesterId, row: &GrantRow) {
        self.top = self.top.max(row.counter);
        let mut open = 0;
        for attempt in &row.attempts {
            let dot = attempt.place.1;
            let newer = self.attempts.get(&dot).is_none_or(|l| l.attempt.counter < row.counter);
            if self.present.contains(dot) && newer {
                let live = Live { attempt: *attempt, has_row: false, grant: Some(requester) };
                if let Some(old) = self.attempts.insert(dot, live) {
                    self.forget_in_grant(old.grant);
                }
                open += 1;
            }
        }
        // A row whose messages have all gone on is left for the next settle to overwrite: it
        // governs nothing, and its counter is remembered.
        self.grants.insert(requester, OpenGrant { counter: row.counter, open });
    }

    fn forget_in_grant(&mut self, grant: Option<RequesterId>) {
        if let Some(open) = grant.and_then(|r| self.grants.get_mut(&r)) {
            open.open = open.open.saturating_sub(1);
        }
    }

    fn load_attempt(&mut self, attempt: Attempt) {
        let dot = attempt.place.1;
        self.top = self.top.max(attempt.counter);
        if !self.present.contains(dot) {
            return;
        }
        match self.attempts.get_mut(&dot) {
            Some(live) if attempt.counter < live.attempt.counter => live.has_row = true,
            Some(live) => {
                live.attempt = attempt;
                live.has_row = true;
            }
            None => {
                self.attempts.insert(dot, Live { attempt, has_row: true, grant: None });
            }
        }
    }

    /// What is to be persisted beside messages, grants and attempts.
    #[must_use]
    pub fn meta(&self) -> StreamMeta {
        let (context, seal) = (self.context.clone(), self.seal.clone());
        StreamMeta { context, floor: self.floor, seal }
    }

    /// Messages present, leased ones included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.present.len()
    }

    /// Whether a message is here, unsettled.
    #[must_use]
    pub fn is_present(&self, dot: Dot) -> bool {
        self.present.contains(dot)
    }

    /// Messages under a running lease, as of the last [`Stream::lapse`].
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.expiries.len()
    }

    /// When the next running lease ends, on the service clock.
    #[must_use]
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.expiries.first().map(|(until, _)| *until)
    }

    /// The seal, when the stream is closed to something.
    #[must_use]
    pub fn seal(&self) -> Option<&Seal> {
        self.seal.as_ref()
    }

    /// What waits to be dispatched.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Messages stored since the stream was loaded.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Closes the stream. A seal is lifted by a record version above its own, so an older one
    /// than the stored is void, and a wider one stays [F5].
    pub fn close(&mut self, seal: Seal) -> Vec<Change> {
        let stays = self.seal.as_ref().is_some_and(|old| {
            old.record_version > seal.record_version
                || (old.record_version == seal.record_version && old.closes >= seal.closes)
        });
        if stays {
            return Vec::new();
        }
        self.seal = Some(seal);
        vec![Change::PutMeta]
    }

    /// Whether an operation that acts on this record version may do what `closes` would close.
    fn open_for(&self, closes: Closes, record_version: u64) -> Result<(), Refusal> {
        match &self.seal {
            Some(seal) if seal.closes >= closes && record_version <= seal.record_version => {
                Err(Refusal::Sealed)
            }
            _ => Ok(()),
        }
    }

    /// A message leaves its grant's row; a row that carries none is removed, and its counter
    /// stays as the floor [R24].
    fn leave_grant(&mut self, grant: Option<RequesterId>, changes: &mut Vec<Change>) {
        let Some(requester) = grant else { return };
        let Some(open) = self.grants.get_mut(&requester) else { return };
        open.open = open.open.saturating_sub(1);
        if open.open == 0 {
            self.floor = self.floor.max(open.counter);
            self.grants.remove(&requester);
            changes.push(Change::DeleteGrant(requester));
            push_meta(changes);
        }
    }
}

/// The end of an attempt's lease, unless it was given back.
fn running(live: &Live) -> Option<(u64, Dot)> {
    match live.attempt.hold {
        super::lease::Hold::Leased { until_ms } => Some((until_ms, live.attempt.place.1)),
        super::lease::Hold::Released => None,
    }
}

/// The meta row is written once per decision, however many reasons there are.
fn push_meta(changes: &mut Vec<Change>) {
    if !changes.contains(&Change::PutMeta) {
        changes.push(Change::PutMeta);
    }
}
