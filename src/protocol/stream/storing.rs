//! Storing: a message enters the context in the same batch as its payload [R12].

use super::{Place, Stream, push_meta};
use crate::base::ids::{Boot, NodeId};
use crate::crdt::dot::Dot;
use crate::message::envelope::Envelope;
use crate::protocol::op::{Change, Closes, Refusal};
use std::sync::Arc;

impl Stream {
    /// Whether a send may be coordinated here under this record version.
    ///
    /// # Errors
    /// [`Refusal::Sealed`] when the stream is closed to sends.
    pub fn may_store(&self, record_version: u64) -> Result<(), Refusal> {
        self.open_for(Closes::Sends, record_version)
    }

    /// The dot that this replica mints `index` messages from now. Dense: a number is drawn in
    /// the very decision that stores it, so a running origin has no holes [R10].
    #[must_use]
    pub fn mint(&self, index: u64) -> Dot {
        let seq = self.context.high(self.me, self.boot) + 1 + index;
        Dot::Minted { node: self.me, boot: self.boot, seq }
    }

    /// Stores messages, all or none. Known dots are answered stored: the caller has compared
    /// their content macs [R11]. `keep`: hold the payloads in memory until they are delivered.
    ///
    /// # Errors
    /// [`Refusal`], and nothing has changed.
    pub fn store(
        &mut self,
        record_version: u64,
        envelopes: &[Arc<Envelope>],
        keep: bool,
    ) -> Result<Vec<Change>, Refusal> {
        self.may_store(record_version)?;
        for envelope in envelopes {
            self.check_boot(envelope.header.dot)?;
        }
        let mut changes = Vec::with_capacity(envelopes.len() + 1);
        for envelope in envelopes {
            self.keep_message(envelope, keep, &mut changes);
        }
        Ok(changes)
    }

    /// Stores from a boot below the highest seen of that node are refused: they come from before
    /// a crash, and their numbers may have been lost with it [R17].
    fn check_boot(&self, dot: Dot) -> Result<(), Refusal> {
        let Dot::Minted { node, boot, .. } = dot;
        match self.highest_boot(node) {
            Some(highest) if boot < highest => Err(Refusal::StaleBoot),
            _ => Ok(()),
        }
    }

    fn highest_boot(&self, node: NodeId) -> Option<Boot> {
        let mine = (node == self.me).then_some(self.boot);
        self.context.highest_boot(node).max(mine)
    }

    pub(super) fn keep_message(
        &mut self,
        envelope: &Arc<Envelope>,
        keep: bool,
        changes: &mut Vec<Change>,
    ) {
        let dot = envelope.header.dot;
        if !self.context.insert(dot) {
            return;
        }
        let place: Place = (envelope.header.hlc, dot);
        self.present.insert(dot);
        self.stored += 1;
        self.window.push(place, keep.then(|| envelope.clone()));
        changes.push(Change::PutMessage(envelope.clone()));
        push_meta(changes);
    }
}
