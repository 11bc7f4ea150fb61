//! Quorums: sets of voters, never counters [R18]. One function decides, for every operation.

use super::op::Outcome;
use crate::base::ids::NodeId;
use crate::base::rules::{Rule, rule_on};
use crate::layout::view::View;
use std::collections::BTreeSet;

/// Whether the voters are a majority in *each* active layout version of the view [R48].
#[must_use]
pub fn reached(view: &View, voters: &BTreeSet<NodeId>) -> bool {
    view.sets().iter().all(|set| {
        let votes = set.iter().filter(|node| voters.contains(node)).count();
        votes > set.len() / 2
    })
}

/// Whether no majority can be without one of the voters, in *each* active layout version: N−M+1 of
/// its replicas. What a majority has, one of them has.
#[must_use]
pub fn covers(view: &View, voters: &BTreeSet<NodeId>) -> bool {
    view.sets().iter().all(|set| {
        let votes = set.iter().filter(|node| voters.contains(node)).count();
        votes >= set.len() - set.len() / 2
    })
}

/// What the replicas of a view said to one operation. A replica is counted once: its first
/// answer stands, a late or repeated one changes nothing.
#[derive(Clone, Debug)]
pub struct Tally {
    view: View,
    yes: BTreeSet<NodeId>,
    no: BTreeSet<NodeId>,
    lost: BTreeSet<NodeId>,
}

impl Tally {
    /// A tally without answers.
    #[must_use]
    pub fn new(view: View) -> Self {
        Self { view, yes: BTreeSet::new(), no: BTreeSet::new(), lost: BTreeSet::new() }
    }

    fn is_new(&self, voter: NodeId) -> bool {
        let member = self.view.sets().iter().flatten().any(|node| *node == voter);
        let seen = [&self.yes, &self.no, &self.lost].iter().any(|set| set.contains(&voter));
        member && !seen
    }

    /// The replica did it, durably.
    pub fn yes(&mut self, voter: NodeId) {
        if self.is_new(voter) {
            self.yes.insert(voter);
        }
    }

    /// The replica refused before any write, or was certainly not asked.
    pub fn no(&mut self, voter: NodeId) {
        if self.is_new(voter) {
            self.no.insert(voter);
        }
    }

    /// No answer: the replica may or may not have done it.
    pub fn lost(&mut self, voter: NodeId) {
        if self.is_new(voter) {
            self.lost.insert(voter);
        }
    }

    /// How many replicas did it so far.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.yes.len()
    }

    /// Whether a majority did it.
    #[must_use]
    pub fn reached(&self) -> bool {
        reached(&self.view, &self.yes)
    }

    /// Whether a majority refused.
    #[must_use]
    pub fn refused(&self) -> bool {
        reached(&self.view, &self.no)
    }

    /// Whether every replica has answered or is given up.
    #[must_use]
    pub fn complete(&self) -> bool {
        let seen =
            |node| self.yes.contains(node) || self.no.contains(node) || self.lost.contains(node);
        self.view.sets().iter().flatten().all(seen)
    }

    /// The outcome of a write as soon as it is certain; `None` while answers may change it.
    /// Three-valued [R30]: `NotStored` only when *every* replica refused before any write.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        if self.reached() {
            return Some(Outcome::Done);
        }
        let gone: BTreeSet<NodeId> = self.no.union(&self.lost).copied().collect();
        let open: BTreeSet<NodeId> = self
            .view
            .sets()
            .iter()
            .flatten()
            .copied()
            .filter(|node| !gone.contains(node))
            .collect();
        if reached(&self.view, &open) {
            return None;
        }
        if rule_on(Rule::R30) && (!self.yes.is_empty() || !self.lost.is_empty()) {
            return Some(Outcome::Unknown);
        }
        self.complete().then_some(Outcome::NotStored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::view::ViewId;
    use proptest::prelude::*;

    fn view(sets: Vec<Vec<u64>>) -> View {
        let sets = sets.into_iter().map(|s| s.into_iter().map(NodeId).collect()).collect();
        View::new(ViewId { version: 1, hash: 0 }, sets)
    }

    #[test]
    fn r18_a_late_or_repeated_answer_is_not_counted_twice() {
        let mut tally = Tally::new(view(vec![vec![1, 2, 3]]));
        tally.yes(NodeId(1));
        tally.yes(NodeId(1));
        tally.yes(NodeId(9));
        assert!(!tally.reached());
        tally.lost(NodeId(2));
        tally.yes(NodeId(2));
        assert_eq!(tally.copies(), 1);
        assert_eq!(tally.outcome(), None);
        tally.yes(NodeId(3));
        assert_eq!(tally.outcome(), Some(Outcome::Done));
    }

    #[test]
    fn r30_outcomes_are_three_valued() {
        let mut refused = Tally::new(view(vec![vec![1, 2, 3]]));
        refused.no(NodeId(1));
        refused.no(NodeId(2));
        assert_eq!(refused.outcome(), None, "the third may have stored it");
        refused.no(NodeId(3));
        assert_eq!(refused.outcome(), Some(Outcome::NotStored));

        let mut unknown = Tally::new(view(vec![vec![1, 2, 3]]));
        unknown.yes(NodeId(1));
        unknown.lost(NodeId(2));
        assert_eq!(unknown.outcome(), None);
        unknown.no(NodeId(3));
        assert_eq!(unknown.outcome(), Some(Outcome::Unknown));
    }

    #[test]
    fn r48_a_change_needs_a_majority_in_both_layouts() {
        let both = view(vec![vec![1, 2, 3], vec![3, 4, 5]]);
        let voters = |v: &[u64]| v.iter().copied().map(NodeId).collect();
        assert!(!reached(&both, &voters(&[1, 2])));
        assert!(!reached(&both, &voters(&[1, 2, 4])));
        assert!(reached(&both, &voters(&[1, 3, 4])));
    }

    #[test]
    fn f27_so_many_cover_every_majority_as_few_as_can() {
        for (replicas, needed) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (7, 4)] {
            let view = view(vec![(0..replicas).collect()]);
            let first = |n| (0..n).map(NodeId).collect::<BTreeSet<_>>();
            assert!(covers(&view, &first(needed)), "{replicas}");
            assert!(!covers(&view, &first(needed - 1)), "{replicas}");
        }
    }

    proptest! {
        #[test]
        fn two_quorums_meet_in_every_active_layout(
            a in prop::collection::btree_set(0..7u64, 1..7),
            b in prop::collection::btree_set(0..7u64, 1..7),
            x in any::<u8>(), y in any::<u8>(),
        ) {
            let view = view(vec![a.iter().copied().collect(), b.iter().copied().collect()]);
            let pick = |mask: u8| -> BTreeSet<NodeId> {
                (0..7u64).filter(|i| mask >> i & 1 == 1).map(NodeId).collect()
            };
            let (x, y) = (pick(x), pick(y));
            if reached(&view, &x) && reached(&view, &y) {
                for set in view.sets() {
                    prop_assert!(set.iter().any(|n| x.contains(n) && y.contains(n)));
                }
            }
        }
    }
}
