//! Who has a say about a stream: the replicas of its view, and nobody else.
//!
//! A node whose folder was wiped is another node, and no member; what it does not know of a stream
//! says nothing about the stream [R1, F15].

use super::replica::Replica;
use super::rules;
use crate::base::ids::{Generation, NodeId};
use crate::crdt::dot::Dot;
use crate::layout::placement;
use crate::layout::view::ViewId;
use crate::protocol::op::{OpHeader, Refusal, StoreOp};

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

    /// Only replicas mint [R17]. What repair and leases bring was judged when it was stored.
    pub(super) fn check_minters(&self, op: &StoreOp) -> Result<(), Refusal> {
        let is_minter = |dot: Dot| match dot {
            Dot::Minted { node, .. } => self.is_replica_of(op.header.stream, node),
            Dot::Keyed(_) | Dot::Derived { .. } => true,
        };
        let all = op.envelopes.iter().all(|envelope| is_minter(envelope.header.dot));
        if all { Ok(()) } else { Err(Refusal::NotMember) }
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
