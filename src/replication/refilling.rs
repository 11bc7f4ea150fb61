//! Reading a stream on from the disk, where the window in memory ends.

use super::coordinator::{Coordinator, StreamRef};
use super::scan;
use super::stream_cell::{Side, StreamCell};
use crate::base::ids::SubscriptionId;
use crate::base::limits;
use crate::base::seams::blocking;
use crate::protocol::op::Refusal;
use std::sync::Arc;

/// Places read from the disk in one go.
const REFILL: usize = limits::WINDOW_MESSAGES_MAX / 2;

impl Coordinator {
    /// Reads on where the window ends.
    pub(super) async fn refill(
        &self,
        cell: &Arc<StreamCell>,
        stream: &StreamRef,
        reader: SubscriptionId,
    ) -> Result<(), Refusal> {
        let bell = cell.bell(reader, Side::Ready);
        let _one = bell.refilling.lock().await;
        let (after, ready) = cell.decide(|s| (s.unread_after(reader), s.has_ready(reader)));
        let (Some(after), false) = (after, ready) else { return Ok(()) };
        let _reading = Reading::begin(cell, reader);
        let store = self.parts.replica.store().clone();
        // What is queued for the disk must be on it before the disk is asked.
        store.barrier().await.map_err(|_| Refusal::Stopping)?;
        let generation = stream.generation;
        let read = move || scan::places(&store, generation, reader, Some(after), REFILL);
        let places = blocking(&**self.parts.replica.spawn(), read).await.map_err(|error| {
            tracing::error!(%error, stream = %generation, "a stream cannot be read on");
            Refusal::Overloaded
        })?;
        let now_ms = self.parts.replica.service().now_ms();
        let ready = cell.decide(|state| {
            let last = places.last().filter(|_| places.len() == REFILL);
            state.refill(reader, &places, last.copied(), now_ms)
        });
        cell.ring(reader, Side::Ready, ready);
        Ok(())
    }
}

/// While it lives, the window notes what it would miss.
struct Reading<'a> {
    cell: &'a StreamCell,
    reader: SubscriptionId,
}

impl<'a> Reading<'a> {
    fn begin(cell: &'a StreamCell, reader: SubscriptionId) -> Self {
        cell.decide(|state| state.set_reading(reader, true));
        Self { cell, reader }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.cell.decide(|state| state.set_reading(self.reader, false));
    }
}
