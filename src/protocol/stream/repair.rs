//! Repair: what two replicas of a stream tell each other, and how one takes in what it lacks.
//!
//! A summary is all that replicas have to agree on: which dots were seen, which of them each
//! reader is not done with, which are dead. Grants and pauses are not in it. Merging is union:
//! seen grows, open shrinks, in any order and any number of times.
//!
//! Seen and not open is evidence of a settlement, and the only one that travels [R12]; a dot that
//! is open somewhere enters a context only together with its payload. Who cannot tell what it
//! lacks gives no evidence at all [R13].

use super::reader::Reader;
use super::settling::Settling;
use super::{Place, SetMark, Stream, StreamKind, push_once};
use crate::base::ids::SubscriptionId;
use crate::base::rules::{Rule, rule_on};
use crate::crdt::context::DotSet;
use crate::crdt::dot::Dot;
use crate::message::envelope::{Envelope, Kept};
use crate::protocol::lease::{Attempt, Hold};
use crate::protocol::op::{Change, Seal};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Dead dots, and those brought back, by how often they were brought back.
pub type Fates = BTreeMap<(u32, bool), DotSet>;

/// What a replica knows of a stream, without its keyed messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Every minted and derived dot seen.
    pub context: DotSet,
    /// What each reader is not done with, holes included.
    pub open: BTreeMap<SubscriptionId, DotSet>,
    /// Known, open, and without a payload that opens: asked for, never given [R13].
    pub holes: DotSet,
    /// Dead and redriven messages of each reader.
    pub fates: BTreeMap<SubscriptionId, Fates>,
    /// One digest per bucket of keyed messages ([`KeyedId`]'s first byte) that is not empty.
    pub keyed: BTreeMap<u8, u64>,
    /// The subscription set, by version and hash.
    pub set: SetMark,
    /// The seal.
    pub seal: Option<Seal>,
    /// A damaged row did not tell its name: what is missing here need not be settled [R13].
    pub is_suspect: bool,
}

/// A message on its way to a replica that lacks it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Repaired {
    /// The message.
    pub envelope: Arc<Envelope>,
    /// Who is not done with it, where it comes from.
    pub open: Vec<SubscriptionId>,
    /// How long it was there, in ms.
    pub age_ms: u64,
}

impl Summary {
    /// Whether a dot is open for anybody.
    #[must_use]
    pub fn is_open(&self, dot: Dot) -> bool {
        self.open.values().any(|open| open.contains(dot))
    }

    /// What is open for anybody.
    fn open_for_anybody(&self) -> DotSet {
        let mut all = DotSet::new();
        self.open.values().for_each(|open| all.merge(open));
        all
    }

    /// A digest over everything but suspicion and holes: equal, when neither lacks anything.
    #[must_use]
    pub fn digest(mut self) -> u64 {
        (self.holes, self.is_suspect) = (DotSet::new(), false);
        // A reader without open messages and one that is not known say the same.
        self.open.retain(|_, open| !open.is_empty());
        self.fates.retain(|_, fates| !fates.is_empty());
        fnv(&postcard::to_stdvec(&self).expect("a summary always encodes"))
    }
}

/// FNV-1a: nobody chooses what goes in.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

impl Stream {
    /// What this replica knows.
    #[must_use]
    pub fn summary(&self, now_ms: u64) -> Summary {
        let open = |(id, reader): (&SubscriptionId, &Reader)| (*id, reader.open.numbered());
        let fates = |(id, reader): (&SubscriptionId, &Reader)| (*id, reader.fates());
        Summary {
            context: self.context.clone(),
            open: self.readers.iter().map(open).collect(),
            holes: self.holes.iter().map(|(_, dot)| *dot).collect(),
            fates: self.readers.iter().map(fates).collect(),
            keyed: self.keyed_digests(now_ms),
            set: self.set.mark(),
            seal: self.seal.clone(),
            is_suspect: self.is_suspect,
        }
    }

    /// Who is not done with a message.
    #[must_use]
    pub fn open_for_whom(&self, dot: Dot) -> Vec<SubscriptionId> {
        let open =
            |(id, reader): (&SubscriptionId, &Reader)| reader.open.contains(dot).then_some(*id);
        self.readers.iter().filter_map(open).collect()
    }

    /// What this replica lacks of another's messages: payloads to ask for. Of its holes only
    /// those that the other has whole.
    #[must_use]
    pub fn lacks(&self, theirs: &Summary) -> DotSet {
        let mut lacking = theirs.open_for_anybody();
        lacking.subtract(&self.context);
        for (_, dot) in &self.holes {
            // Keyed ones are not in the summary: whoever has one sends it.
            if matches!(dot, Dot::Keyed(_)) || theirs.is_open(*dot) {
                lacking.insert(*dot);
            }
        }
        lacking.subtract(&theirs.holes);
        lacking
    }

    /// Takes in what another replica has settled, and its seal. Grants do not matter: what is
    /// settled anywhere is settled [F4].
    pub fn merge_settled(&mut self, theirs: &Summary, now_ms: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(seal) = &theirs.seal {
            changes.extend(self.close(seal.clone()));
        }
        // Of another set of readers nothing can be told yet [R36].
        if rule_on(Rule::R13) && theirs.is_suspect || theirs.set != self.set.mark() {
            return changes;
        }
        let ids: Vec<SubscriptionId> = self.readers.keys().copied().collect();
        for id in ids {
            let mut settled = self.readers[&id].open.intersection(&theirs.context);
            if let Some(open) = theirs.open.get(&id) {
                settled.subtract(open);
            }
            self.settle_dots(id, &settled, now_ms, &mut changes);
        }
        let mut news = theirs.context.clone();
        if rule_on(Rule::R12) {
            news.subtract(&theirs.open_for_anybody());
        }
        news.subtract(&self.context);
        if !news.is_empty() {
            self.context.merge(&news);
            push_once(&mut changes, Change::PutMeta);
        }
        changes
    }

    pub(super) fn settle_dots(
        &mut self,
        id: SubscriptionId,
        dots: &DotSet,
        now_ms: u64,
        changes: &mut Vec<Change>,
    ) {
        if dots.is_empty() {
            return;
        }
        let Some(reader) = self.readers.get(&id) else { return };
        // Those whose places are in memory one by one; the rows of the others are found by a
        // sweep, as after a purge.
        let mut open = reader.open.intersection(dots);
        let waiting = reader.window.places().filter(|place| open.contains(place.1));
        let mut places: BTreeMap<Dot, Place> = waiting.map(|place| (place.1, place)).collect();
        places.extend(open.iter().filter_map(|dot| Some((dot, self.known_place(id, dot)?))));
        for (dot, place) in places {
            open.remove(dot);
            self.finish(place, &mut Settling::of_repair(id, now_ms, changes));
        }
        self.purge_open(id, &open, now_ms, changes);
    }

    /// The place of a message of which memory holds more than that it is here.
    fn known_place(&self, id: SubscriptionId, dot: Dot) -> Option<Place> {
        let reader = self.readers.get(&id)?;
        if let Some(live) = reader.attempts.get(&dot) {
            return Some(live.attempt.place);
        }
        if let Some(mark) = self.marks.get(&dot) {
            return Some((mark.hlc, dot));
        }
        match dot {
            Dot::Keyed(key) => self.identities.get(key).map(|identity| (identity.hlc, dot)),
            _ => None,
        }
    }

    /// Takes in messages that this replica lacks, each in one batch with its context [R12]. Their
    /// time goes on from where it stands at their source [F11, R22].
    pub fn merge_messages(&mut self, repaired: &[Repaired], now_ms: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for Repaired { envelope, open, age_ms } in repaired {
            let header = &envelope.header;
            let place: Place = (header.hlc, header.dot);
            let dot = header.dot;
            if self.is_ahead(envelope) {
                continue;
            }
            let is_news = match dot {
                Dot::Keyed(id) => self.may_take(id, header.hlc),
                _ => !self.is_known(dot),
            };
            if self.fill_hole(envelope, (*age_ms, now_ms), &mut changes) || !is_news {
                continue;
            }
            let received_ms = now_ms.saturating_sub(*age_ms);
            self.keep_brought(envelope, received_ms, now_ms, &mut changes);
            // What its source has settled for somebody is settled.
            let done: Vec<SubscriptionId> = self
                .open_for_whom(header.dot)
                .into_iter()
                .filter(|id| self.kind == StreamKind::Topic && !open.contains(id))
                .collect();
            for id in done {
                self.finish(place, &mut Settling::of_repair(id, now_ms, &mut changes));
            }
        }
        changes
    }

    /// A message that is known and did not open gets its payload back, under the place it has here;
    /// its time goes on.
    pub(super) fn fill_hole(
        &mut self,
        envelope: &Arc<Envelope>,
        (age_ms, now_ms): (u64, u64),
        changes: &mut Vec<Change>,
    ) -> bool {
        let dot = envelope.header.dot;
        let Some(hole) = self.holes.iter().find(|(_, hole)| *hole == dot).copied() else {
            return false;
        };
        if let Dot::Keyed(key) = dot
            && self
                .identities
                .get(key)
                .is_some_and(|it| it.content_mac != envelope.header.content_mac)
        {
            return false;
        }
        self.holes.remove(&hole);
        let received_ms = now_ms.saturating_sub(age_ms);
        let row = Kept { received_ms, envelope: envelope.clone() }.to_bytes();
        let old = u64::from(self.sizes.get(dot));
        self.sizes.insert(dot, row.len());
        for reader in self.readers.values_mut().filter(|reader| reader.open.contains(dot)) {
            reader.bytes = reader.bytes - old + row.len() as u64;
        }
        changes.push(Change::PutMessage(hole, row));
        // Whoever found the hole took it from its place.
        for id in self.open_for_whom(dot) {
            self.reseat(id, hole, now_ms);
        }
        true
    }

    /// Notes that a message here does not open.
    pub fn note_hole(&mut self, place: Place) -> bool {
        self.is_present(place.1) && self.holes.insert(place)
    }

    /// Messages here that do not open.
    #[must_use]
    pub fn count_holes(&self) -> usize {
        self.holes.len()
    }

    /// Whether a message here does not open.
    #[must_use]
    pub fn is_hole(&self, place: Place) -> bool {
        !self.holes.is_empty() && self.holes.contains(&place)
    }

    /// Dead and redriven messages of which another replica knows more.
    #[must_use]
    pub fn lacks_fates(&self, theirs: &Summary) -> BTreeMap<SubscriptionId, DotSet> {
        let mut lacking: BTreeMap<SubscriptionId, DotSet> = BTreeMap::new();
        for (id, fates) in &theirs.fates {
            let Some(reader) = self.readers.get(id) else { continue };
            for (fate, dots) in fates {
                for dot in dots.iter().filter(|dot| reader.open.contains(*dot)) {
                    if reader.fate(dot) < *fate {
                        lacking.entry(*id).or_default().insert(dot);
                    }
                }
            }
        }
        lacking
    }

    /// What is remembered of the attempts at some messages.
    #[must_use]
    pub fn attempts_at(&self, id: SubscriptionId, dots: &DotSet, max: usize) -> Vec<Attempt> {
        let Some(reader) = self.readers.get(&id) else { return Vec::new() };
        let of = |dot| reader.attempts.get(&dot).map(|live| live.attempt);
        dots.iter().filter_map(of).take(max).collect()
    }

    /// Takes in that messages died or were brought back. A lease that runs here stays.
    pub fn merge_fates(
        &mut self,
        id: SubscriptionId,
        attempts: &[Attempt],
        now_ms: u64,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for theirs in attempts {
            // A keyed message stands here under the stamp it has here.
            let theirs = Attempt { place: self.own_place(theirs.place), ..*theirs };
            let dot = theirs.place.1;
            let Some(reader) = self.readers.get_mut(&id) else { break };
            let fate = (theirs.redrives, theirs.death.is_some());
            let own = reader.attempts.get(&dot).map(|live| live.attempt);
            let is_held = own.is_some_and(|own| own.is_held(now_ms));
            if !reader.open.contains(dot) || is_held || reader.fate(dot) >= fate {
                continue;
            }
            let hold = if theirs.death.is_some() {
                Hold::Dead
            } else {
                Hold::Released { ready_ms: now_ms }
            };
            let counter = own.map_or(0, |own| own.counter).max(theirs.counter);
            let attempt = Attempt { hold, counter, ..theirs };
            self.put_fate(id, attempt, now_ms, &mut changes);
        }
        changes
    }

    fn put_fate(
        &mut self,
        id: SubscriptionId,
        attempt: Attempt,
        now_ms: u64,
        changes: &mut Vec<Change>,
    ) {
        let place = attempt.place;
        let mark = self.marks.get(&place.1).copied();
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.unseat(place);
        reader.top = reader.top.max(attempt.counter);
        let has_reason = reader.attempts.get(&place.1).is_some_and(|old| old.has_reason);
        let live = super::reader::Live { attempt, has_row: true, has_reason, grant: None };
        if let Some(old) = reader.attempts.insert(place.1, live) {
            reader.leave_grant(old.grant, changes);
        }
        changes.push(Change::PutAttempt(id, place.1, attempt));
        if attempt.hold != Hold::Dead
            && let Some(mark) = &mark
        {
            reader.join_group(place, mark);
        }
        self.reseat(id, place, now_ms);
    }
}

impl Reader {
    /// How often a message was brought back, and whether it is dead. The greater one is later.
    fn fate(&self, dot: Dot) -> (u32, bool) {
        self.attempts
            .get(&dot)
            .map_or((0, false), |live| (live.attempt.redrives, live.attempt.death.is_some()))
    }

    fn fates(&self) -> Fates {
        let mut fates = Fates::new();
        for (dot, live) in &self.attempts {
            let fate = (live.attempt.redrives, live.attempt.death.is_some());
            if fate != (0, false) {
                fates.entry(fate).or_default().insert(*dot);
            }
        }
        fates
    }
}
