//! A view: the layout version(s) in force for a slot, and the replicas each names.

use crate::base::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Names a view on the wire: every vote carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ViewId {
    /// The newest layout version in it.
    pub version: u64,
    /// The first 64 bits of that layout's hash: two layouts of one version never mix [R50].
    pub hash: u64,
}

impl ViewId {
    /// No view: what a node that is no member votes in, that is in none. No layout has version 0.
    pub const NONE: Self = Self { version: 0, hash: 0 };
}

/// The replicas of a stream under each active layout version. During a change there are two, and
/// a quorum needs a majority in each [R48].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    id: ViewId,
    /// Never empty; each set in preference order, never empty.
    sets: Vec<Vec<NodeId>>,
}

impl View {
    /// A view of the given replica sets.
    ///
    /// # Panics
    /// When there is no set, or a set without replicas.
    #[must_use]
    pub fn new(id: ViewId, sets: Vec<Vec<NodeId>>) -> Self {
        assert!(!sets.is_empty() && sets.iter().all(|s| !s.is_empty()), "a view has replicas");
        Self { id, sets }
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> ViewId {
        self.id
    }

    /// The replica sets, one per active layout version.
    #[must_use]
    pub fn sets(&self) -> &[Vec<NodeId>] {
        &self.sets
    }

    /// All replicas once, in preference order of the newest version first.
    #[must_use]
    pub fn replicas(&self) -> Vec<NodeId> {
        let mut seen = BTreeSet::new();
        self.sets.iter().rev().flatten().copied().filter(|n| seen.insert(*n)).collect()
    }
}
