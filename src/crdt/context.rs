//! The set of dots a replica has seen of a stream. It *is* the tombstone: what is in the context
//! and has no payload was settled (or is a hole, which is repaired) [R12, R13].

use super::dot::Dot;
use super::interval_set::IntervalSet;
use crate::base::ids::{Boot, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Dots by origin. Merging is union.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DotSet {
    minted: BTreeMap<(NodeId, Boot), IntervalSet>,
}

impl DotSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a dot; tells whether it was new.
    pub fn insert(&mut self, dot: Dot) -> bool {
        let Dot::Minted { node, boot, seq } = dot;
        self.minted.entry((node, boot)).or_default().insert(seq)
    }

    /// Takes a dot out; tells whether it was there. Contexts never shrink: this is for sets of
    /// dots that are present.
    pub fn remove(&mut self, dot: Dot) -> bool {
        let Dot::Minted { node, boot, seq } = dot;
        let Some(set) = self.minted.get_mut(&(node, boot)) else { return false };
        let was = set.remove(seq);
        if set.is_empty() {
            self.minted.remove(&(node, boot));
        }
        was
    }

    /// Whether the dot is in the set.
    #[must_use]
    pub fn contains(&self, dot: Dot) -> bool {
        let Dot::Minted { node, boot, seq } = dot;
        self.minted.get(&(node, boot)).is_some_and(|set| set.contains(seq))
    }

    /// The greatest number of an origin; 0 when it has none.
    #[must_use]
    pub fn high(&self, node: NodeId, boot: Boot) -> u64 {
        self.minted.get(&(node, boot)).and_then(IntervalSet::max).unwrap_or(0)
    }

    /// The highest boot seen of a node [R17: Stores from a lower one are refused].
    #[must_use]
    pub fn highest_boot(&self, node: NodeId) -> Option<Boot> {
        let of_node = (node, Boot(0))..=(node, Boot(u64::MAX));
        self.minted.range(of_node).next_back().map(|((_, boot), _)| *boot)
    }

    /// How many dots.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.minted.values().map(IntervalSet::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.minted.is_empty()
    }

    /// The union: commutative, associative, idempotent.
    pub fn merge(&mut self, other: &Self) {
        for (origin, set) in &other.minted {
            self.minted.entry(*origin).or_default().merge(set);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn dot(n: u64) -> Dot {
        Dot::Minted { node: NodeId(n % 3), boot: Boot(n % 2), seq: n / 6 + 1 }
    }

    proptest! {
        #[test]
        fn union_is_a_join(a in prop::collection::vec(0..90u64, 0..40),
                           b in prop::collection::vec(0..90u64, 0..40),
                           c in prop::collection::vec(0..90u64, 0..40)) {
            let set = |v: &[u64]| { let mut s = DotSet::new(); for n in v { s.insert(dot(*n)); } s };
            let join = |x: &DotSet, y: &DotSet| { let mut x = x.clone(); x.merge(y); x };
            let (a, b, c) = (set(&a), set(&b), set(&c));
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert_eq!(join(&a, &a), a);
        }

        #[test]
        fn its_bytes_are_canonical(v in prop::collection::vec(0..90u64, 0..40)) {
            let mut forward = DotSet::new();
            let mut backward = DotSet::new();
            for n in &v { forward.insert(dot(*n)); }
            for n in v.iter().rev() { backward.insert(dot(*n)); }
            let bytes = |s: &DotSet| postcard::to_stdvec(s).unwrap();
            prop_assert_eq!(bytes(&forward), bytes(&backward));
            let back: DotSet = postcard::from_bytes(&bytes(&forward)).unwrap();
            prop_assert_eq!(back, forward);
        }
    }

    #[test]
    fn an_origin_has_a_high_water_mark_per_boot() {
        let mut set = DotSet::new();
        set.insert(Dot::Minted { node: NodeId(1), boot: Boot(4), seq: 9 });
        set.insert(Dot::Minted { node: NodeId(1), boot: Boot(5), seq: 2 });
        assert_eq!(set.high(NodeId(1), Boot(4)), 9);
        assert_eq!(set.high(NodeId(1), Boot(6)), 0);
        assert_eq!(set.highest_boot(NodeId(1)), Some(Boot(5)));
        assert_eq!(set.highest_boot(NodeId(2)), None);
    }
}
