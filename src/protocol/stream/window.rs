//! What waits to be dispatched: the head of the queue in memory, the rest on disk.

use super::Place;
use crate::base::limits;
use crate::message::envelope::Kept;
use std::collections::{BTreeMap, BTreeSet};

/// The ready messages at the head of a stream.
///
/// Invariant: every present, unleased message whose place is at or before `scanned` is in
/// `ready` (or was just taken from it); with `scanned` absent that is every one of the stream.
#[derive(Debug, Default)]
pub struct Window {
    /// Ready messages; the payload while it is still in memory.
    ready: BTreeMap<Place, Option<Kept>>,
    /// How far the disk has been read; `None`: to its end.
    scanned: Option<Place>,
    /// While the disk is being read on: what would have been put behind `scanned` meanwhile. A
    /// message that repair brings into the past may be none of what was read.
    missed: Option<BTreeSet<Place>>,
    /// Bytes of sealed payloads held here.
    bytes: usize,
}

impl Window {
    /// The places that wait in memory, rising.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.ready.keys().copied()
    }

    fn last(&self) -> Option<Place> {
        self.ready.last_key_value().map(|(place, _)| *place)
    }

    /// Whether a message waits in memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// From where the disk has to be read on; `None`: there is nothing more on it.
    #[must_use]
    pub fn unread_after(&self) -> Option<Place> {
        self.scanned
    }

    /// Bytes of sealed payloads held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A new message.
    pub(super) fn push(&mut self, place: Place, payload: Option<Kept>) {
        let full = self.ready.len() >= limits::WINDOW_MESSAGES_MAX;
        let last = self.last();
        if full && self.scanned.is_none() && last.is_some_and(|last| place > last) {
            self.scanned = last;
            return self.put_back(place, payload);
        }
        self.put_back(place, payload);
    }

    /// A message that was leased, or repaired into the past: it keeps its place [F34].
    pub(super) fn put_back(&mut self, place: Place, payload: Option<Kept>) {
        if self.scanned.is_some_and(|scanned| place > scanned) {
            if let Some(missed) = &mut self.missed {
                missed.insert(place);
            }
            return;
        }
        self.remove(place);
        self.bytes += bytes_of(payload.as_ref());
        self.ready.insert(place, payload);
        if self.ready.len() > limits::WINDOW_MESSAGES_MAX
            && let Some((_, payload)) = self.ready.pop_last()
        {
            // What falls out is read again when it is its turn.
            self.bytes -= bytes_of(payload.as_ref());
            self.scanned = self.last();
        }
    }

    /// Keeps those that are still wanted.
    pub(super) fn retain(&mut self, keep: impl Fn(Place) -> bool) {
        self.ready.retain(|place, _| keep(*place));
        self.bytes = self.ready.values().map(|payload| bytes_of(payload.as_ref())).sum();
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<Option<Kept>> {
        let was = self.ready.remove(&place)?;
        self.bytes -= bytes_of(was.as_ref());
        Some(was)
    }

    /// Takes the message at the head.
    pub(super) fn take(&mut self) -> Option<(Place, Option<Kept>)> {
        let (place, payload) = self.ready.pop_first()?;
        self.bytes -= bytes_of(payload.as_ref());
        Some((place, payload))
    }

    /// The disk is going to be read on from `unread_after`, or is no longer.
    pub(super) fn set_reading(&mut self, is_reading: bool) {
        self.missed = is_reading.then(BTreeSet::new);
    }

    /// Notes that the disk was read up to a place (`None`: to its end). Returns what came in before
    /// that place since the reading began.
    pub(super) fn scanned_to(&mut self, place: Option<Place>) -> Vec<Place> {
        self.scanned = place;
        let missed = self.missed.take().unwrap_or_default();
        missed.into_iter().filter(|at| place.is_none_or(|place| *at <= place)).collect()
    }
}

fn bytes_of(payload: Option<&Kept>) -> usize {
    payload.map_or(0, |kept| kept.envelope.sealed.len())
}
