//! What waits to be dispatched: the head of the queue in memory, the rest on disk.

use super::Place;
use crate::base::limits;
use crate::message::envelope::Envelope;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The ready messages at the head of a stream.
///
/// Invariant: every present, unleased message whose place is at or before `scanned` is in
/// `ready` (or was just taken from it); with `scanned` absent that is every one of the stream.
#[derive(Debug, Default)]
pub struct Window {
    /// Ready messages; the payload while it is still in memory.
    ready: BTreeMap<Place, Option<Arc<Envelope>>>,
    /// How far the disk has been read; `None`: to its end.
    scanned: Option<Place>,
    /// Bytes of sealed payloads held here.
    bytes: usize,
}

impl Window {
    /// A window over the ready places of a stream, rising; what does not fit stays on disk.
    pub(super) fn of(ready: impl Iterator<Item = Place>) -> Self {
        let mut window = Self::default();
        for place in ready {
            if window.ready.len() == limits::WINDOW_MESSAGES_MAX {
                window.scanned = window.last();
                break;
            }
            window.ready.insert(place, None);
        }
        window
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
    pub(super) fn push(&mut self, place: Place, payload: Option<Arc<Envelope>>) {
        if self.scanned.is_some_and(|scanned| place > scanned) {
            return;
        }
        let full = self.ready.len() >= limits::WINDOW_MESSAGES_MAX;
        let last = self.last();
        if full && self.scanned.is_none() && last.is_some_and(|last| place > last) {
            self.scanned = last;
            return;
        }
        self.put(place, payload);
    }

    /// A message that was leased, or repaired into the past: it keeps its place [F34].
    pub(super) fn put_back(&mut self, place: Place, payload: Option<Arc<Envelope>>) {
        if self.scanned.is_none_or(|scanned| place <= scanned) {
            self.put(place, payload);
        }
    }

    fn put(&mut self, place: Place, payload: Option<Arc<Envelope>>) {
        self.remove(place);
        self.bytes += payload.as_ref().map_or(0, |e| e.sealed.len());
        self.ready.insert(place, payload);
    }

    pub(super) fn remove(&mut self, place: Place) -> Option<Option<Arc<Envelope>>> {
        let was = self.ready.remove(&place)?;
        self.bytes -= was.as_ref().map_or(0, |e| e.sealed.len());
        Some(was)
    }

    /// Takes up to `max` messages from the head.
    pub(super) fn take(&mut self, max: usize) -> Vec<(Place, Option<Arc<Envelope>>)> {
        let mut taken = Vec::with_capacity(max.min(self.ready.len()));
        while taken.len() < max
            && let Some((place, payload)) = self.ready.pop_first()
        {
            self.bytes -= payload.as_ref().map_or(0, |e| e.sealed.len());
            taken.push((place, payload));
        }
        taken
    }

    /// Notes that the disk was read up to a place (`None`: to its end).
    pub(super) fn scanned_to(&mut self, place: Option<Place>) {
        self.scanned = place;
    }
}
