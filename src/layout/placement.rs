//! Placement: from a stream to its slot, from a slot to its replicas in preference order.

use super::members::Layout;
use super::view::{View, ViewId};
use crate::base::ids::{Generation, NodeId};
use sha2::{Digest, Sha256};

/// The slot of a stream.
#[must_use]
pub fn slot_of(layout: &Layout, stream: Generation) -> u16 {
    let digest = Sha256::digest(stream.0);
    u16::from_be_bytes([digest[0], digest[1]]) % layout.slots
}

/// The view of a stream that wants `wanted` copies: as many replicas as there are members, at
/// most that many, by highest hash of slot and member, so that a change of members moves few.
///
/// # Panics
/// When the layout has no members.
#[must_use]
pub fn view_of(layout: &Layout, stream: Generation, wanted: usize) -> View {
    let slot = slot_of(layout, stream);
    let mut ranked: Vec<(u64, NodeId)> =
        layout.members.iter().map(|node| (rank(slot, *node), *node)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    let replicas: Vec<NodeId> =
        ranked.into_iter().take(wanted.max(1)).map(|(_, node)| node).collect();
    let hash = layout.hash();
    let hash = u64::from_be_bytes(hash[..8].try_into().expect("eight of 32 bytes"));
    View::new(ViewId { version: layout.version, hash }, vec![replicas])
}

fn rank(slot: u16, node: NodeId) -> u64 {
    let digest = Sha256::new().chain_update(slot.to_be_bytes()).chain_update(node.0.to_be_bytes());
    u64::from_be_bytes(digest.finalize()[..8].try_into().expect("eight of 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn layout(members: impl IntoIterator<Item = u64>) -> Layout {
        Layout { version: 1, slots: 256, members: members.into_iter().map(NodeId).collect() }
    }

    #[test]
    fn a_node_alone_replicates_everything() {
        let view = view_of(&Layout::alone(NodeId(7)), Generation([1; 16]), 3);
        assert_eq!(view.replicas(), [NodeId(7)]);
    }

    proptest! {
        #[test]
        fn replicas_are_distinct_members_and_the_rest_stays_when_one_leaves(
            members in prop::collection::btree_set(any::<u64>(), 1..12),
            stream in any::<[u8; 16]>(), wanted in 1..7usize,
        ) {
            let before = view_of(&layout(members.clone()), Generation(stream), wanted).replicas();
            prop_assert_eq!(before.len(), wanted.min(members.len()));
            prop_assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), before.len());
            if members.len() > 1 {
                let gone = before[0];
                let rest = members.iter().copied().filter(|n| *n != gone.0);
                let after = view_of(&layout(rest), Generation(stream), wanted).replicas();
                let kept = before[1..].iter().all(|n| after.contains(n));
                prop_assert!(kept, "only the leaver's place moves");
            }
        }
    }
}
