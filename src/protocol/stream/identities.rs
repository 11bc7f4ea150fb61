//! Keyed dots that are remembered: the identity of a message that its sender named [F1].

use crate::base::hlc::Hlc;
use crate::crdt::dot::KeyedId;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// What is remembered of a keyed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// What "the same message" means: another content under this name is refused [F2].
    pub content_mac: [u8; 32],
    /// The stamp of the copy that is kept.
    pub hlc: Hlc,
    /// The replica's service clock when it was stored, in ms: its window counts from here.
    pub received_ms: u64,
    /// A copy made by a link. It is never forgotten, as nobody here knows when its source cannot
    /// come again. Time is no rule: what waits behind an obstacle, or on a node that is down, is
    /// copied again however long ago the first copy was made. The row does not name its source, a
    /// hash, so the source cannot be asked; and a word from the source after its settlement is lost
    /// in a crash between the two, for ever, as nobody copies a settled message again. What is
    /// needed: source stream, reader and dot in the row; the source asked, once the window is over,
    /// whether the dot is settled there (by all its replicas); and no copying under way that began
    /// before that. Until then the table counts these rows against its bound [F1].
    pub is_copy: bool,
}

impl Identity {
    pub(super) fn age_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.received_ms)
    }
}

/// The table of identities. A row is dropped only when its window is over *and* its message is
/// settled; a full table refuses, it never forgets [F1].
#[derive(Debug, Default)]
pub(super) struct Identities {
    of: BTreeMap<KeyedId, Identity>,
    /// Those whose window may still run, the oldest first.
    ages: BTreeSet<(u64, KeyedId)>,
}

impl Identities {
    pub(super) fn insert(&mut self, id: KeyedId, identity: Identity) {
        if !identity.is_copy {
            self.ages.insert((identity.received_ms, id));
        }
        self.of.insert(id, identity);
    }

    pub(super) fn get(&self, id: KeyedId) -> Option<&Identity> {
        self.of.get(&id)
    }

    pub(super) fn contains(&self, id: KeyedId) -> bool {
        self.of.contains_key(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (KeyedId, &Identity)> + '_ {
        self.of.iter().map(|(id, identity)| (*id, identity))
    }

    /// Those whose names begin with a byte, after one.
    pub(super) fn bucket(
        &self,
        first: u8,
        after: Option<KeyedId>,
    ) -> impl Iterator<Item = (KeyedId, &Identity)> + '_ {
        let mut low = [0; 16];
        low[0] = first;
        let from = after.map_or(Bound::Included(KeyedId(low)), Bound::Excluded);
        let rest = self.of.range((from, Bound::Unbounded));
        rest.take_while(move |(id, _)| id.0[0] == first).map(|(id, identity)| (*id, identity))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = KeyedId> + '_ {
        self.of.keys().copied()
    }

    fn is_over(&self, id: KeyedId, now_ms: u64, window_ms: u64) -> bool {
        let over =
            |it: &Identity| !it.is_copy && it.received_ms.saturating_add(window_ms) <= now_ms;
        self.of.get(&id).is_some_and(over)
    }

    /// Those of the oldest `max` whose window is over.
    fn aged(&self, now_ms: u64, window_ms: u64, max: usize) -> Vec<(u64, KeyedId)> {
        let over = |(_, id): &&(u64, KeyedId)| self.is_over(*id, now_ms, window_ms);
        self.ages.iter().take(max).take_while(over).copied().collect()
    }

    /// How many [`Identities::forget`] would forget.
    pub(super) fn forgettable(
        &self,
        now_ms: u64,
        window_ms: u64,
        max: usize,
        is_settled: impl Fn(KeyedId) -> bool,
    ) -> usize {
        self.aged(now_ms, window_ms, max).iter().filter(|(_, id)| is_settled(*id)).count()
    }

    /// Forgets up to `max` whose window is over and whose message is settled. Those that are
    /// not settled are looked at again when they are ([`Identities::settled`]).
    pub(super) fn forget(
        &mut self,
        now_ms: u64,
        window_ms: u64,
        max: usize,
        is_settled: impl Fn(KeyedId) -> bool,
    ) -> Vec<KeyedId> {
        let mut forgotten = Vec::new();
        for age in self.aged(now_ms, window_ms, max) {
            self.ages.remove(&age);
            if is_settled(age.1) {
                self.of.remove(&age.1);
                forgotten.push(age.1);
            }
        }
        forgotten
    }

    /// Up to `max` whose window is over and whose message is settled: with several replicas they are
    /// forgotten only when none of these has the message open [F1].
    pub(super) fn retirable(
        &self,
        now_ms: u64,
        window_ms: u64,
        max: usize,
        is_settled: impl Fn(KeyedId) -> bool,
    ) -> Vec<KeyedId> {
        let over =
            |(received_ms, _): &&(u64, KeyedId)| received_ms.saturating_add(window_ms) <= now_ms;
        let ids = self.ages.iter().take_while(over).map(|(_, id)| *id);
        ids.filter(|id| is_settled(*id)).take(max).collect()
    }

    /// A message was stored elsewhere before it came here.
    pub(super) fn backdate(&mut self, id: KeyedId, received_ms: u64) -> Option<Identity> {
        let identity = self.of.get(&id).copied()?;
        let identity = Identity { received_ms, ..identity };
        self.remove(id);
        self.insert(id, identity);
        Some(identity)
    }

    pub(super) fn remove(&mut self, id: KeyedId) -> bool {
        let Some(identity) = self.of.remove(&id) else { return false };
        self.ages.remove(&(identity.received_ms, id));
        true
    }

    /// A keyed message was settled: whether its identity is forgotten with it, because its window
    /// was found over before.
    pub(super) fn settled(&mut self, id: KeyedId) -> bool {
        let aged = |it: &Identity| !it.is_copy && !self.ages.contains(&(it.received_ms, id));
        let over = self.of.get(&id).is_some_and(aged);
        if over {
            self.of.remove(&id);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::NodeId;

    fn identity(received_ms: u64, is_copy: bool) -> Identity {
        let hlc = Hlc { wall_ms: 1, logical: 0, node: NodeId(1) };
        Identity { content_mac: [0; 32], hlc, received_ms, is_copy }
    }

    #[test]
    fn f1_a_row_is_dropped_only_when_its_window_is_over_and_its_message_settled() {
        let (a, b, copy) = (KeyedId([1; 16]), KeyedId([2; 16]), KeyedId([3; 16]));
        let mut table = Identities::default();
        table.insert(a, identity(0, false));
        table.insert(b, identity(10, false));
        table.insert(copy, identity(0, true));
        assert_eq!(table.forget(99, 100, 9, |_| true), [], "the window runs");
        assert_eq!(table.forget(100, 100, 9, |_| false), [], "it is not settled");
        assert!(table.contains(a) && !table.settled(b), "b's window runs");
        assert!(table.settled(a) && !table.contains(a), "settled after its window");
        assert_eq!(table.forget(110, 100, 9, |_| true), [b]);
        assert!(table.contains(copy) && !table.settled(copy), "its source may come again");
    }
}
