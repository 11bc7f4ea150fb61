//! The members of the cluster under one version of the layout.

use crate::base::ids::NodeId;
use crate::base::limits;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// One version of the layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Starts at 1, rises by one with every change.
    pub version: u64,
    /// How many placement slots there are; fixed when the cluster is born.
    pub slots: u16,
    /// Who replicates.
    pub members: BTreeSet<NodeId>,
}

impl Layout {
    /// The first layout of a node that is born alone.
    #[must_use]
    pub fn alone(node: NodeId) -> Self {
        Self { version: 1, slots: limits::SLOTS, members: BTreeSet::from([node]) }
    }

    /// A hash over everything the layout says. Of version 1 it is the cluster's id.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let bytes = postcard::to_stdvec(self).expect("a layout always encodes");
        Sha256::digest(&bytes).into()
    }
}
