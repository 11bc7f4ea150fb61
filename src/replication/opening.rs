//! Reading and opening payloads. What does not open is a hole: counted, left to repair, never
//! delivered and never taken for settled [R13].

use super::coordinator::{Coordinator, StreamRef};
use super::dispatcher::{Picked, Wanted};
use super::scan;
use super::stream_cell::StreamCell;
use crate::base::seams::blocking;
use crate::message::envelope::{Content, Envelope, Kept};
use crate::protocol::stream::Place;
use crate::security::sealing::open_message;
use std::sync::Arc;

impl Coordinator {
    /// Opens what was picked, from memory or from the disk. What does not open is a hole: it is
    /// counted and left to repair, never delivered and never taken for settled [R13].
    pub(super) async fn open(
        self: &Arc<Self>,
        mut picked: Picked,
        stream: &StreamRef,
        wanted: &Wanted,
    ) -> Opened {
        let (bytes_max, count) = (wanted.bytes_max, picked.messages.len());
        let now_ms = self.parts.replica.service().now_ms();
        let missing: Vec<Place> =
            picked.messages.iter().filter(|(_, e)| e.is_none()).map(|(p, _)| *p).collect();
        let mut read = self.read(stream, missing, bytes_max).await.into_iter();
        let (mut messages, mut bytes) = (Vec::with_capacity(picked.messages.len()), 0);
        let mut rest = Vec::new();
        for (place, payload) in std::mem::take(&mut picked.messages) {
            let found = match payload {
                Some(payload) => Found::Here(payload),
                None => read.next().unwrap_or(Found::Later),
            };
            let full = bytes >= bytes_max && !messages.is_empty();
            match found {
                Found::Here(payload) if full => rest.push((place, Some(payload))),
                Found::Later => rest.push((place, None)),
                Found::Here(kept) if kept.ends_ms(wanted.retention_ms) <= now_ms => {
                    picked.cell.decide(|state| state.doom(wanted.reader, place, now_ms));
                    picked.cell.note_left_over();
                }
                Found::Here(kept) => match open(stream, &kept.envelope) {
                    Some(content) => {
                        bytes += content.body.len();
                        messages.push(OpenMessage { place, content, kept });
                    }
                    None => self.note_hole(&picked.cell, place),
                },
                Found::Nothing => self.note_hole(&picked.cell, place),
            }
        }
        // The last may have been too much, unless it is the only one.
        if bytes > bytes_max
            && messages.len() > 1
            && let Some(last) = messages.pop()
        {
            rest.push((last.place, Some(last.kept)));
        }
        let is_stuck = count > 0 && rest.len() == count;
        picked.messages = rest;
        let back = messages.iter().map(|m| (m.place, Some(m.kept.clone()))).collect();
        let (cell, coordinator, reader) = (picked.cell.clone(), self.clone(), wanted.reader);
        let side = wanted.side();
        let picked = Picked { cell, coordinator, reader, side, messages: back };
        Opened { messages, picked, is_stuck }
    }

    /// A message that is present and does not open is a hole. One that was settled meanwhile is
    /// none.
    fn note_hole(&self, cell: &StreamCell, place: Place) {
        // It is pulled from whoever has it whole.
        if cell.decide(|stream| stream.note_hole(place)) {
            self.parts.replica.unrepaired().note(cell.generation);
            tracing::error!(stream = %cell.generation, dot = %place.1,
                "a message does not open: its row is damaged [R13]");
        }
    }

    /// Reads payloads in order until they are as many bytes as may be answered.
    pub(super) async fn read(
        &self,
        stream: &StreamRef,
        places: Vec<Place>,
        bytes_max: usize,
    ) -> Vec<Found> {
        if places.is_empty() {
            return Vec::new();
        }
        let (store, generation) = (self.parts.replica.store().clone(), stream.generation);
        if store.barrier().await.is_err() {
            return Vec::new();
        }
        let read = move || {
            let mut bytes = 0;
            let mut found = Vec::with_capacity(places.len());
            for place in places {
                if bytes >= bytes_max {
                    break;
                }
                found.push(match scan::message(&store, generation, place) {
                    Ok(Some(kept)) => {
                        bytes += kept.envelope.sealed.len();
                        Found::Here(kept)
                    }
                    Ok(None) => Found::Nothing,
                    Err(error) => {
                        tracing::error!(%error, stream = %generation, "a message cannot be read");
                        break;
                    }
                });
            }
            found
        };
        blocking(&**self.parts.replica.spawn(), read).await
    }
}

/// What became of reading a payload.
pub(super) enum Found {
    /// It is here.
    Here(Kept),
    /// Its row is gone or damaged.
    Nothing,
    /// It was not read: there is enough already, or the disk does not answer.
    Later,
}

pub(super) struct OpenMessage {
    pub(super) place: Place,
    pub(super) content: Content,
    pub(super) kept: Kept,
}

/// Opened messages, still only picked.
pub(super) struct Opened {
    pub(super) messages: Vec<OpenMessage>,
    pub(super) picked: Picked,
    /// Nothing of what was picked could be read: looking again finds the same.
    pub(super) is_stuck: bool,
}

pub(super) fn open(stream: &StreamRef, envelope: &Envelope) -> Option<Content> {
    let header = &envelope.header;
    let bound = header.associated(stream.generation);
    let plain = open_message(&stream.key, &header.dot, &bound, &envelope.nonce, &envelope.sealed)?;
    Content::from_bytes(&plain)
}
