//! A set of numbers as inclusive intervals: small when the numbers are dense.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A set of `u64`, kept as disjoint intervals that do not touch: one canonical form per set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntervalSet {
    /// First to last number of each interval. Invariant: `last[i] + 1 < first[i + 1]`.
    intervals: BTreeMap<u64, u64>,
}

impl IntervalSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one number; tells whether it was new.
    pub fn insert(&mut self, n: u64) -> bool {
        if self.contains(n) {
            return false;
        }
        self.insert_range(n, n);
        true
    }

    /// Adds all numbers from `first` to `last`, both included.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        if let Some((&f, &l)) = self.intervals.range(..=first).next_back()
            && l.saturating_add(1) >= first
        {
            first = f;
            last = last.max(l);
            self.intervals.remove(&f);
        }
        while let Some((&f, &l)) = self.intervals.range(first..).next() {
            if f > last.saturating_add(1) {
                break;
            }
            last = last.max(l);
            self.intervals.remove(&f);
        }
        self.intervals.insert(first, last);
    }

    /// Takes one number out; tells whether it was there.
    pub fn remove(&mut self, n: u64) -> bool {
        let Some((&first, &last)) = self.intervals.range(..=n).next_back() else { return false };
        if last < n {
            return false;
        }
        self.intervals.remove(&first);
        if first < n {
            self.intervals.insert(first, n - 1);
        }
        if n < last {
            self.intervals.insert(n + 1, last);
        }
        true
    }

    /// Whether the number is in the set.
    #[must_use]
    pub fn contains(&self, n: u64) -> bool {
        self.intervals.range(..=n).next_back().is_some_and(|(_, &last)| last >= n)
    }

    /// The greatest number.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.intervals.last_key_value().map(|(_, &last)| last)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.intervals.is_empty()
    }

    /// How many numbers.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.intervals.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// The intervals, rising.
    pub fn intervals(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.intervals.iter().map(|(&first, &last)| (first, last))
    }

    /// The numbers that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut met = Self::new();
        let (mut ours, mut theirs) = (self.intervals().peekable(), other.intervals().peekable());
        while let (Some(&(f, l)), Some(&(g, m))) = (ours.peek(), theirs.peek()) {
            let (first, last) = (f.max(g), l.min(m));
            if first <= last {
                met.intervals.insert(first, last);
            }
            if l <= m {
                ours.next();
            } else {
                theirs.next();
            }
        }
        met
    }

    /// Takes out every number that is in the other set; tells how many.
    pub fn subtract(&mut self, other: &Self) -> u64 {
        let mut taken = 0;
        for (first, last) in other.intervals() {
            taken += self.remove_range(first, last);
        }
        taken
    }

    fn remove_range(&mut self, first: u64, last: u64) -> u64 {
        let mut taken = 0;
        // What begins before the range and reaches into it is cut.
        if let Some((&f, &l)) = self.intervals.range(..first).next_back()
            && l >= first
        {
            self.intervals.insert(f, first - 1);
            taken += l.min(last) - first + 1;
            if l > last {
                self.intervals.insert(last + 1, l);
                return taken;
            }
        }
        while let Some((&f, &l)) = self.intervals.range(first..=last).next() {
            self.intervals.remove(&f);
            taken += l.min(last) - f + 1;
            if l > last {
                self.intervals.insert(last + 1, l);
            }
        }
        taken
    }

    /// The union: commutative, associative, idempotent.
    pub fn merge(&mut self, other: &Self) {
        for (first, last) in other.intervals() {
            self.insert_range(first, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn canonical(set: &IntervalSet) -> bool {
        let all: Vec<_> = set.intervals().collect();
        all.iter().all(|(f, l)| f <= l) && all.windows(2).all(|w| w[0].1 + 1 < w[1].0)
    }

    fn built(steps: &[(u8, u64, u64)]) -> (IntervalSet, BTreeSet<u64>) {
        let (mut set, mut model) = (IntervalSet::new(), BTreeSet::new());
        for &(what, a, b) in steps {
            match what % 3 {
                0 => assert_eq!(set.insert(a), model.insert(a)),
                1 => {
                    set.insert_range(a, a + b % 9);
                    model.extend(a..=a + b % 9);
                }
                _ => assert_eq!(set.remove(a), model.remove(&a)),
            }
        }
        (set, model)
    }

    proptest! {
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<u8>(), 0..60u64, any::<u64>()), 0..80)) {
            let (set, model) = built(&steps);
            prop_assert!(canonical(&set));
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.max(), model.last().copied());
            for n in 0..80 {
                prop_assert_eq!(set.contains(n), model.contains(&n));
            }
        }

        #[test]
        fn union_is_a_join(
            a in prop::collection::vec((0..2u8, 0..60u64, any::<u64>()), 0..30),
            b in prop::collection::vec((0..2u8, 0..60u64, any::<u64>()), 0..30),
            c in prop::collection::vec((0..2u8, 0..60u64, any::<u64>()), 0..30),
        ) {
            let (a, b, c) = (built(&a).0, built(&b).0, built(&c).0);
            let join = |x: &IntervalSet, y: &IntervalSet| { let mut x = x.clone(); x.merge(y); x };
            prop_assert_eq!(join(&a, &b), join(&b, &a));
            prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
            prop_assert_eq!(join(&a, &a), a.clone());
            prop_assert!(canonical(&join(&a, &b)));
        }
    }

    #[test]
    fn the_edges_of_the_numbers_hold() {
        let mut set = IntervalSet::new();
        set.insert_range(u64::MAX - 1, u64::MAX);
        set.insert(0);
        assert!(set.contains(u64::MAX) && set.contains(0) && !set.contains(1));
        assert!(set.remove(u64::MAX));
        assert_eq!(set.max(), Some(u64::MAX - 1));
    }
}
