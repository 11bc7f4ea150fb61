//! The set of dots a replica has seen of a stream. It *is* the tombstone: what is in the context
//! and has no payload was settled (or is a hole, which is repaired) [R12, R13].

use super::dot::{Dot, KeyedId, Origin};
use super::interval_set::IntervalSet;
use crate::base::ids::{Boot, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Dots by origin. Merging is union.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DotSet {
    /// Numbers of minted and derived dots; no set is empty.
    numbered: BTreeMap<Origin, IntervalSet>,
    keyed: BTreeSet<KeyedId>,
}

impl DotSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a dot; tells whether it was new.
    pub fn insert(&mut self, dot: Dot) -> bool {
        match (dot.origin(), dot) {
            (Some((origin, seq)), _) => self.numbered.entry(origin).or_default().insert(seq),
            (None, Dot::Keyed(id)) => self.keyed.insert(id),
            (None, _) => false,
        }
    }

    /// Takes a dot out; tells whether it was there. Contexts never shrink: this is for sets of
    /// dots that are present.
    pub fn remove(&mut self, dot: Dot) -> bool {
        match (dot.origin(), dot) {
            (Some((origin, seq)), _) => {
                let Some(set) = self.numbered.get_mut(&origin) else { return false };
                let was = set.remove(seq);
                if set.is_empty() {
                    self.numbered.remove(&origin);
                }
                was
            }
            (None, Dot::Keyed(id)) => self.keyed.remove(&id),
            (None, _) => false,
        }
    }

    /// Whether the dot is in the set.
    #[must_use]
    pub fn contains(&self, dot: Dot) -> bool {
        match (dot.origin(), dot) {
            (Some((origin, seq)), _) => {
                self.numbered.get(&origin).is_some_and(|set| set.contains(seq))
            }
            (None, Dot::Keyed(id)) => self.keyed.contains(&id),
            (None, _) => false,
        }
    }

    /// Adds all numbers of an origin up to one: what can no longer come counts as seen [F16].
    pub fn fill(&mut self, origin: Origin, up_to: u64) {
        if up_to > 0 {
            self.numbered.entry(origin).or_default().insert_range(1, up_to);
        }
    }

    /// Adds the numbers of an origin from one to another, both included.
    pub fn insert_range(&mut self, origin: Origin, first: u64, last: u64) {
        if first <= last {
            self.numbered.entry(origin).or_default().insert_range(first, last);
        }
    }

    /// The smallest number of an origin in the set.
    #[must_use]
    pub fn low(&self, origin: Origin) -> Option<u64> {
        self.numbered.get(&origin)?.intervals().next().map(|(first, _)| first)
    }

    /// The greatest minted number of a node's boot; 0 when it has none.
    #[must_use]
    pub fn high(&self, node: NodeId, boot: Boot) -> u64 {
        let origin = Origin { road: None, node, boot };
        self.numbered.get(&origin).and_then(IntervalSet::max).unwrap_or(0)
    }

    /// The highest boot seen of a node [R17: Stores from a lower one are refused].
    #[must_use]
    pub fn highest_boot(&self, node: NodeId) -> Option<Boot> {
        let origin = |boot| Origin { road: None, node, boot: Boot(boot) };
        let of_node = origin(0)..=origin(u64::MAX);
        self.numbered.range(of_node).next_back().map(|(origin, _)| origin.boot)
    }

    /// All dots.
    pub fn iter(&self) -> impl Iterator<Item = Dot> + '_ {
        let numbered = self.numbered.iter().flat_map(|(origin, set)| {
            let Origin { road, node, boot } = *origin;
            set.intervals().flat_map(|(first, last)| first..=last).map(move |seq| match road {
                None => Dot::Minted { node, boot, seq },
                Some((link, hop)) => Dot::Derived { link, hop, node, boot, seq },
            })
        });
        numbered.chain(self.keyed.iter().map(|id| Dot::Keyed(*id)))
    }

    /// How many dots.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.numbered.values().map(IntervalSet::len).sum::<u64>() + self.keyed.len() as u64
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbered.is_empty() && self.keyed.is_empty()
    }

    /// Takes out every dot that is in the other set; tells how many.
    pub fn subtract(&mut self, other: &Self) -> u64 {
        let mut taken = 0;
        for (origin, set) in &other.numbered {
            if let Some(own) = self.numbered.get_mut(origin) {
                taken += own.subtract(set);
                if own.is_empty() {
                    self.numbered.remove(origin);
                }
            }
        }
        for id in &other.keyed {
            taken += u64::from(self.keyed.remove(id));
        }
        taken
    }

    /// The union: commutative, associative, idempotent.
    pub fn merge(&mut self, other: &Self) {
        for (origin, set) in &other.numbered {
            self.numbered.entry(*origin).or_default().merge(set);
        }
        self.keyed.extend(other.keyed.iter().copied());
    }

    /// The dots that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let both = |(origin, set): (&Origin, &IntervalSet)| {
            let met = set.intersection(other.numbered.get(origin)?);
            (!met.is_empty()).then_some((*origin, met))
        };
        Self {
            numbered: self.numbered.iter().filter_map(both).collect(),
            keyed: self.keyed.intersection(&other.keyed).copied().collect(),
        }
    }

    /// The minted and derived ones.
    #[must_use]
    pub fn numbered(&self) -> Self {
        Self { numbered: self.numbered.clone(), keyed: BTreeSet::new() }
    }

    /// The keyed ones.
    pub fn keyed(&self) -> impl Iterator<Item = KeyedId> + '_ {
        self.keyed.iter().copied()
    }
}

impl FromIterator<Dot> for DotSet {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut set = Self::new();
        for dot in dots {
            set.insert(dot);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::ids::LinkId;
    use proptest::prelude::*;

    fn dot(n: u64) -> Dot {
        let minted = Dot::Minted { node: NodeId(n % 3), boot: Boot(n % 2), seq: n / 6 + 1 };
        match n % 5 {
            0 => Dot::Keyed(KeyedId([u8::try_from(n).unwrap(); 16])),
            1 => minted.copied_by(LinkId([1; 16]), 1),
            _ => minted,
        }
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
        fn subtracting_takes_exactly_what_both_have(a in prop::collection::vec(0..90u64, 0..60),
                                                    b in prop::collection::vec(0..90u64, 0..60)) {
            let set = |v: &[u64]| { let mut s = DotSet::new(); for n in v { s.insert(dot(*n)); } s };
            let (before, other) = (set(&a), set(&b));
            let mut left = before.clone();
            let taken = left.subtract(&other);
            for n in 0..90 {
                prop_assert_eq!(left.contains(dot(n)),
                    before.contains(dot(n)) && !other.contains(dot(n)));
            }
            prop_assert_eq!(taken, before.len() - left.len());
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
