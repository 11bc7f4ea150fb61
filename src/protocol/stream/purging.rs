//! Purging, and the coming and going of readers.

use super::reader::Reader;
use super::{Place, Stream, SubscriptionSet, push_once};
use crate::base::ids::SubscriptionId;
use crate::base::rules::{Rule, rule_on};
use crate::crdt::context::DotSet;
use crate::crdt::dot::Dot;
use crate::protocol::lease::Rules;
use crate::protocol::op::{Change, Closes, Refusal};
use std::sync::Arc;

impl Stream {
    /// Settles exactly these dots for a reader, whatever grants exist [R32], in one change: their
    /// rows are removed afterwards, piece by piece, by [`Stream::sweep`]. Returns how many.
    ///
    /// # Errors
    /// [`Refusal::Sealed`]; [`Refusal::NoReader`].
    pub fn purge(
        &mut self,
        record_version: u64,
        id: SubscriptionId,
        dots: &DotSet,
        now_ms: u64,
    ) -> Result<(u64, Vec<Change>), Refusal> {
        self.open_for(Closes::All, record_version)?;
        if !self.readers.contains_key(&id) {
            return Err(Refusal::NoReader);
        }
        let mut changes = Vec::new();
        let mut unseen = dots.numbered();
        unseen.subtract(&self.context);
        if rule_on(Rule::R32) && !unseen.is_empty() {
            // Of a topic's message that is not here nothing can be said for one reader alone [F23].
            if self.is_topic() {
                return Err(Refusal::Behind);
            }
            self.context.merge(&unseen);
            changes.push(Change::PutMeta);
        }
        let count = self.purge_open(id, dots, now_ms, &mut changes);
        Ok((count, changes))
    }

    /// Settles those of some dots that a reader has open, in one change.
    pub(super) fn purge_open(
        &mut self,
        id: SubscriptionId,
        dots: &DotSet,
        now_ms: u64,
        changes: &mut Vec<Change>,
    ) -> u64 {
        let Some(reader) = self.readers.get_mut(&id) else { return 0 };
        let gone = reader.open.intersection(dots);
        let count = reader.open.subtract(dots);
        if count == 0 {
            return 0;
        }
        reader.open_count -= count;
        reader.bytes -= self.sizes.of(&gone);
        reader.purged.merge(&gone);
        reader.forget_settled(changes);
        push_once(changes, Change::PutReader(id));
        let heads: Vec<Place> =
            reader.groups.values().filter_map(|places| places.first().copied()).collect();
        for head in heads {
            reader.seat(head, None, self.marks.get(&head.1), now_ms);
        }
        count
    }

    /// Readers whose purged rows are still to be removed.
    #[must_use]
    pub fn unswept(&self) -> Vec<SubscriptionId> {
        let left = |(id, reader): (&SubscriptionId, &Reader)| {
            let leaves = self.is_topic() && !self.set.filters.contains_key(id);
            (!reader.purged.is_empty() || leaves).then_some(*id)
        };
        self.readers.iter().filter_map(left).collect()
    }

    /// Removes the rows of those of some places that were purged.
    pub fn sweep(&mut self, id: SubscriptionId, places: &[Place]) -> Vec<Change> {
        let mut changes = Vec::new();
        for place in places {
            let Some(reader) = self.readers.get_mut(&id) else { break };
            if !reader.purged.remove(place.1) {
                continue;
            }
            if id != SubscriptionId::QUEUE {
                changes.push(Change::DeleteOpen(id, *place));
            }
            self.drop_if_settled(*place, &mut changes);
        }
        changes
    }

    /// What a reader's sweep is about to remove: what is purged meanwhile is for the next one.
    #[must_use]
    pub fn to_sweep(&self, id: SubscriptionId) -> DotSet {
        self.readers.get(&id).map(|reader| reader.purged.clone()).unwrap_or_default()
    }

    /// All rows were looked at: nothing of what was to be swept is left, and a reader that left is
    /// gone.
    pub fn swept(&mut self, id: SubscriptionId, all: &DotSet) -> Vec<Change> {
        let leaves = self.is_topic() && !self.set.filters.contains_key(&id);
        let Some(reader) = self.readers.get_mut(&id) else { return Vec::new() };
        reader.purged.subtract(all);
        if leaves && reader.open.is_empty() && reader.purged.is_empty() {
            self.readers.remove(&id);
            return vec![Change::DeleteReader(id)];
        }
        vec![Change::PutReader(id)]
    }

    /// Takes the next version of the subscription set: new readers get what is stored from now on,
    /// those that left are purged.
    ///
    /// # Errors
    /// [`Refusal::Sealed`]; [`Refusal::StaleSet`] when the version is not the next one (the very
    /// same set again is answered as before).
    pub fn put_set(
        &mut self,
        record_version: u64,
        set: &SubscriptionSet,
        rules: &dyn Fn(SubscriptionId) -> Rules,
        now_ms: u64,
    ) -> Result<Vec<Change>, Refusal> {
        self.open_for(Closes::All, record_version)?;
        if *set == *self.set {
            return Ok(Vec::new());
        }
        if set.version != self.set.version + 1 {
            return Err(Refusal::StaleSet);
        }
        Ok(self.merge_set(set, rules, now_ms))
    }

    /// Takes over a newer subscription set that other replicas have [R36]. What came here before it
    /// was sent before its new readers began.
    pub fn merge_set(
        &mut self,
        set: &SubscriptionSet,
        rules: &dyn Fn(SubscriptionId) -> Rules,
        now_ms: u64,
    ) -> Vec<Change> {
        if set.version <= self.set.version {
            return Vec::new();
        }
        let left: Vec<SubscriptionId> =
            self.readers.keys().filter(|id| !set.filters.contains_key(id)).copied().collect();
        self.set = Arc::new(set.clone());
        let mut changes = vec![Change::PutSet];
        for id in set.filters.keys() {
            self.readers.entry(*id).or_insert_with(|| Reader::new(*id, rules(*id)));
        }
        for id in left {
            let open = self.readers[&id].open.clone();
            self.purge_open(id, &open, now_ms, &mut changes);
        }
        changes
    }

    /// Gives a reader messages that are older than it, as far as they are still here. Repeating it
    /// before the reader has begun changes nothing.
    ///
    /// # Errors
    /// [`Refusal::Sealed`]; [`Refusal::NoReader`].
    pub fn adopt(
        &mut self,
        record_version: u64,
        id: SubscriptionId,
        places: &[Place],
        now_ms: u64,
    ) -> Result<Vec<Change>, Refusal> {
        self.open_for(Closes::All, record_version)?;
        let mut changes = Vec::new();
        for place in places {
            let dot = place.1;
            if !self.sizes.contains(dot) {
                continue;
            }
            let mark = self.marks.get(&dot);
            let reader = self.readers.get_mut(&id).ok_or(Refusal::NoReader)?;
            let bytes = u64::from(self.sizes.get(dot));
            if reader.purged.contains(dot) || !reader.open(dot, bytes) {
                continue;
            }
            if let Some(mark) = mark {
                reader.join_group(*place, mark);
                if mark.ends_ms != 0 {
                    reader.ends.insert((mark.ends_ms, dot));
                }
            }
            reader.seat(*place, None, mark, now_ms);
            changes.push(Change::PutOpen(id, *place));
        }
        Ok(changes)
    }
}

impl Reader {
    /// Forgets all that is remembered of messages that are not open any more.
    fn forget_settled(&mut self, changes: &mut Vec<Change>) {
        let open = &self.open;
        self.window.retain(|place| open.contains(place.1));
        self.waits.retain(|dot| open.contains(dot));
        self.leases.retain(|(_, dot)| open.contains(*dot));
        self.ends.retain(|(_, dot)| open.contains(*dot));
        self.dead.retain(|place| open.contains(place.1));
        self.doomed.retain(|place| open.contains(place.1));
        for places in self.groups.values_mut() {
            places.retain(|place| open.contains(place.1));
        }
        self.groups.retain(|_, places| !places.is_empty());
        self.out.retain(|_, dot| open.contains(*dot));
        let gone: Vec<Dot> =
            self.attempts.keys().copied().filter(|dot| !open.contains(*dot)).collect();
        for dot in gone {
            if let Some(live) = self.attempts.remove(&dot) {
                if live.has_row {
                    changes.push(Change::DeleteAttempt(self.id, dot));
                }
                if live.has_reason {
                    changes.push(Change::DeleteReason(self.id, dot));
                }
                self.leave_grant(live.grant, changes);
            }
        }
    }
}
