//! Who has a say about a stream: the replicas of its view, and nobody else.
//!
//! A node whose folder was wiped is another node, and no member; what it does not know of a stream
//! says nothing about the stream [R1, F15].

use super::replica::Replica;
use super::rules;
use super::stream_cell::StreamCell;
use crate::base::ids::{Generation, NodeId};
use crate::crdt::dot::Dot;
use crate::layout::placement;
use crate::layout::view::ViewId;
use crate::message::envelope::Envelope;
use crate::protocol::op::{OpHeader, Refusal, StoreOp};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Replica {
    /// A gateway decides nothing about streams, whatever the request says.
    pub(super) fn check_member(&self) -> Result<(), Refusal> {
        if self.parts.view == ViewId::NONE { Err(Refusal::NotMember) } else { Ok(()) }
    }

    /// Who is no replica of a stream has neither votes nor evidence to give about it.
    pub(super) fn check_replica(&self, stream: Generation) -> Result<(), Refusal> {
        self.check_member()?;
        let is_replica = self.is_replica_of(stream, self.parts.node);
        if is_replica { Ok(()) } else { Err(Refusal::NotMember) }
    }

    pub(super) fn check_view(&self, header: &OpHeader) -> Result<(), Refusal> {
        self.check_replica(header.stream)?;
        if header.view == self.parts.view { Ok(()) } else { Err(Refusal::ViewChanged) }
    }

    /// The stream of an operation, for one of its replicas.
    pub(super) async fn cell_of(&self, header: &OpHeader) -> Result<Arc<StreamCell>, Refusal> {
        self.check_view(header)?;
        self.cell(header.stream).await
    }

    /// Only replicas mint [R17]. What repair and leases bring was judged when it was stored.
    pub(super) fn check_minters(&self, op: &StoreOp) -> Result<(), Refusal> {
        let minter = |envelope: &Arc<Envelope>| match envelope.header.dot {
            Dot::Minted { node, .. } => Some(node),
            Dot::Keyed(_) | Dot::Derived { .. } => None,
        };
        // Of a batch it is one and the same.
        let minters: BTreeSet<NodeId> = op.envelopes.iter().filter_map(minter).collect();
        let may = minters.into_iter().all(|node| self.is_replica_of(op.header.stream, node));
        if may { Ok(()) } else { Err(Refusal::NotMember) }
    }

    /// A stream of which no record is here is left to [`Replica::cell`], which refuses it.
    fn is_replica_of(&self, stream: Generation, node: NodeId) -> bool {
        let layout = &self.parts.layout;
        match rules::replicas(&self.parts.catalog, stream) {
            Some(wanted) if wanted < layout.members.len() => {
                placement::view_of(layout, stream, wanted).replicas().contains(&node)
            }
            // Every member replicates it.
            _ => layout.members.contains(&node),
        }
    }
}
