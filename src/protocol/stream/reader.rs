//! A reader: what it is not done with, and where each of these messages stands.

use super::waits::Waits;
use super::window::Window;
use super::{Counts, Place, push_once};
use crate::base::hlc::Hlc;
use crate::base::ids::{RequesterId, SubscriptionId};
use crate::base::rules::{Rule, rule_on};
use crate::crdt::context::DotSet;
use crate::crdt::dot::Dot;
use crate::message::envelope::{GroupHash, Kept};
use crate::protocol::lease::{Attempt, Hold, Rules};
use crate::protocol::op::Change;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A message's times and group, for those that have some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its stamp: with the dot, its place.
    pub hlc: Hlc,
    /// Not due before this reading of the replica's service clock, in ms [F11].
    pub ready_ms: u64,
    /// Over from this reading on, in ms; 0: by retention only.
    pub ends_ms: u64,
    /// Its group.
    pub group: Option<GroupHash>,
}

/// Where a message stands for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// The reader is done with it, or never got it.
    Settled,
    /// Under a running lease.
    Leased,
    /// Not due yet.
    Delayed,
    /// Dead.
    Dead,
    /// Its time is over: it is about to be dropped.
    Expired,
    /// It failed too often: it is about to be dead.
    Failed,
    /// An older message of its group comes first.
    Blocked,
    /// Free for whoever asks.
    Ready,
}

/// What a replica remembers of one leased, unsettled message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    pub(super) attempt: Attempt,
    /// A row of its own overrides the grant's row.
    pub(super) has_row: bool,
    /// Its last failure has a reason, in a row of its own.
    pub(super) has_reason: bool,
    /// The grant whose row carries it.
    pub(super) grant: Option<RequesterId>,
}

/// A grant row on disk and how many messages still need it.
#[derive(Clone, Debug)]
pub(super) struct OpenGrant {
    pub(super) counter: u64,
    pub(super) open: usize,
    pub(super) holder: Arc<str>,
    /// Since when it is to be asked whether others hold it too, on the service clock in ms;
    /// `None`: they do [F10].
    pub(super) unchecked_since_ms: Option<u64>,
}

/// A reader's state. Every open message whose place the window has come to is in exactly one of
/// `leases`, `waits`, `dead`, `doomed`, `window` or picked, or behind the head of its group.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) id: SubscriptionId,
    pub(super) rules: Rules,
    /// What it is not done with. For a queue these are the messages that are here [F29].
    pub(super) open: DotSet,
    /// How many these are: the set itself would count its intervals.
    pub(super) open_count: u64,
    pub(super) bytes: u64,
    pub(super) floor: u64,
    /// The highest counter ever granted or refused over here.
    pub(super) top: u64,
    pub(super) attempts: BTreeMap<Dot, Live>,
    pub(super) grants: BTreeMap<RequesterId, OpenGrant>,
    /// Running leases by their end on the service clock.
    pub(super) leases: BTreeSet<(u64, Dot)>,
    pub(super) waits: Waits,
    /// Ends of messages with a time to live.
    pub(super) ends: BTreeSet<(u64, Dot)>,
    pub(super) dead: BTreeSet<Place>,
    /// Those of the dead that a receiver has picked: until they are granted or put back, they are
    /// nobody else's.
    pub(super) picked_dead: BTreeSet<Place>,
    /// Expired, or failed too often: never handed out, left to the broker to drop or bury.
    pub(super) doomed: BTreeSet<Place>,
    /// Places of the living of each group, for a reader that keeps groups in order.
    pub(super) groups: BTreeMap<GroupHash, BTreeSet<Place>>,
    /// The living message of each group that was leased last: while that lease runs, no other of
    /// the group is handed out, not even an older one that came back from the dead [F25].
    pub(super) out: BTreeMap<GroupHash, Dot>,
    pub(super) window: Window,
    /// Settled by a purge whose rows are still being removed.
    pub(super) purged: DotSet,
    /// Requests that get nothing more, until then on the service clock in ms: what is still on its
    /// way for them dies before [R54]. In memory only: a restart breaks the connections, and with
    /// them dies what is on its way.
    pub(super) withdrawn: BTreeMap<RequesterId, u64>,
}

impl Reader {
    pub(super) fn new(id: SubscriptionId, rules: Rules) -> Self {
        Self {
            id,
            rules,
            open: DotSet::new(),
            open_count: 0,
            bytes: 0,
            floor: 0,
            top: 0,
            attempts: BTreeMap::new(),
            grants: BTreeMap::new(),
            leases: BTreeSet::new(),
            waits: Waits::default(),
            ends: BTreeSet::new(),
            dead: BTreeSet::new(),
            picked_dead: BTreeSet::new(),
            doomed: BTreeSet::new(),
            groups: BTreeMap::new(),
            out: BTreeMap::new(),
            window: Window::default(),
            purged: DotSet::new(),
            withdrawn: BTreeMap::new(),
        }
    }

    /// A message more to be done with; tells whether it was not open before.
    pub(super) fn open(&mut self, dot: Dot, bytes: u64) -> bool {
        let is_new = self.open.insert(dot);
        if is_new {
            self.open_count += 1;
            self.bytes += bytes;
        }
        is_new
    }

    /// A message is done with; tells whether it was open.
    pub(super) fn close(&mut self, dot: Dot, bytes: u64) -> bool {
        let was = self.open.remove(dot);
        if was {
            self.open_count -= 1;
            self.bytes -= bytes;
        }
        was
    }

    pub(super) fn counts(&self) -> Counts {
        let (leased, delayed) = (self.leases.len() as u64, self.waits.len() as u64);
        let (dead, doomed) = (self.dead.len() as u64, self.doomed.len() as u64);
        let ready = self.open_count.saturating_sub(leased + delayed + dead + doomed);
        Counts { ready, leased, delayed, dead, bytes: self.bytes }
    }

    pub(super) fn next_wake_ms(&self) -> Option<u64> {
        let lease = self.leases.first().map(|(at, _)| *at);
        let end = self.ends.first().map(|(at, _)| *at);
        [lease, end, self.waits.first_ms()].into_iter().flatten().min()
    }

    /// Where a message stands, by what is remembered of it alone: who asks may come at any time.
    pub(super) fn standing(&self, place: Place, mark: Option<&Mark>, now_ms: u64) -> Standing {
        let dot = place.1;
        if !self.open.contains(dot) {
            return Standing::Settled;
        }
        let attempt = self.attempts.get(&dot).map(|live| &live.attempt);
        if attempt.is_some_and(|it| it.is_held(now_ms)) {
            return Standing::Leased;
        }
        if mark.is_some_and(|mark| mark.ends_ms != 0 && mark.ends_ms <= now_ms) {
            return Standing::Expired;
        }
        if attempt.is_some_and(|it| it.is_dead(now_ms)) {
            return Standing::Dead;
        }
        if attempt.is_some_and(|it| self.rules.is_too_many(it.failures(now_ms))) {
            return Standing::Failed;
        }
        if self.due_ms(dot, mark) > now_ms {
            return Standing::Delayed;
        }
        if self.is_blocked(place, mark, now_ms) { Standing::Blocked } else { Standing::Ready }
    }

    /// From when on a message is due, on the service clock; 0: from the beginning.
    pub(super) fn due_ms(&self, dot: Dot, mark: Option<&Mark>) -> u64 {
        let delayed = mark.map_or(0, |mark| mark.ready_ms);
        let paused = self.attempts.get(&dot).map_or(0, |it| it.attempt.due_ms(&self.rules));
        delayed.max(paused)
    }

    /// Whether another message of its group goes first, or is out.
    pub(super) fn is_blocked(&self, place: Place, mark: Option<&Mark>, now_ms: u64) -> bool {
        let is_grouped = self.rules.is_grouped && rule_on(Rule::F25);
        let Some(group) = mark.and_then(|mark| mark.group).filter(|_| is_grouped) else {
            return false;
        };
        let head = self.groups.get(&group).and_then(BTreeSet::first);
        let out = self.out.get(&group).filter(|out| **out != place.1);
        let held = |out: &Dot| self.attempts.get(out).is_some_and(|it| it.attempt.is_held(now_ms));
        head.is_some_and(|head| *head < place) || out.is_some_and(held)
    }

    /// A message goes out; the dead among them are of no group. Nor does what the broker takes to
    /// drop it, while another is out, stand for its group.
    pub(super) fn goes_out(&mut self, attempt: &Attempt, mark: Option<&Mark>, now_ms: u64) {
        let group = mark.and_then(|mark| mark.group).filter(|_| self.rules.is_grouped);
        if let (Some(group), Hold::Leased { .. }, None) = (group, attempt.hold, attempt.death) {
            let out = self.out.get(&group).and_then(|out| self.attempts.get(out));
            if out.is_some_and(|it| it.attempt.is_held(now_ms)) {
                return;
            }
            self.out.insert(group, attempt.place.1);
        }
    }

    /// A message is not out any more. The head of its group, if that waited for this: the caller
    /// seats it.
    pub(super) fn comes_back(&mut self, place: Place, mark: Option<&Mark>) -> Option<Place> {
        let group = mark?.group?;
        if self.out.get(&group) != Some(&place.1) {
            return None;
        }
        self.out.remove(&group);
        let head = self.groups.get(&group)?.first().copied();
        head.filter(|head| *head != place)
    }

    /// Puts a message where it belongs now; tells whether that is the window.
    pub(super) fn seat(
        &mut self,
        place: Place,
        payload: Option<Kept>,
        mark: Option<&Mark>,
        now_ms: u64,
    ) -> bool {
        let dot = place.1;
        match self.standing(place, mark, now_ms) {
            Standing::Settled | Standing::Blocked => false,
            Standing::Leased => {
                if let Some(Hold::Leased { until_ms }) =
                    self.attempts.get(&dot).map(|live| live.attempt.hold)
                {
                    self.leases.insert((until_ms, dot));
                }
                false
            }
            Standing::Delayed => {
                let due_ms = self.due_ms(dot, mark);
                self.waits.set(dot, due_ms);
                false
            }
            Standing::Dead => {
                self.dead.insert(place);
                false
            }
            Standing::Expired | Standing::Failed => {
                self.doomed.insert(place);
                false
            }
            Standing::Ready => {
                self.window.put_back(place, payload);
                true
            }
        }
    }

    /// Takes a message from wherever it is, before something about it changes.
    pub(super) fn unseat(&mut self, place: Place) -> Option<Kept> {
        let dot = place.1;
        if let Some(live) = self.attempts.get(&dot)
            && let Hold::Leased { until_ms } = live.attempt.hold
        {
            self.leases.remove(&(until_ms, dot));
        }
        self.waits.remove(dot);
        self.dead.remove(&place);
        self.picked_dead.remove(&place);
        self.doomed.remove(&place);
        self.window.remove(place).flatten()
    }

    pub(super) fn join_group(&mut self, place: Place, mark: &Mark) {
        if let Some(group) = mark.group.filter(|_| self.rules.is_grouped) {
            self.groups.entry(group).or_default().insert(place);
        }
    }

    /// A message is done with, or dead: the next of its group is free. That one's place, if there
    /// is one that waited for this: the caller seats it.
    pub(super) fn leave_group(&mut self, place: Place, mark: Option<&Mark>) -> Option<Place> {
        let back = self.comes_back(place, mark);
        let group = mark?.group?;
        let places = self.groups.get_mut(&group)?;
        let was_head = places.first() == Some(&place);
        places.remove(&place);
        let next = places.first().copied();
        if next.is_none() {
            self.groups.remove(&group);
        }
        next.filter(|_| was_head || back.is_some())
    }

    /// A message leaves its grant's row; a row that carries none is removed, and its counter
    /// stays as the floor [R24].
    pub(super) fn leave_grant(&mut self, grant: Option<RequesterId>, changes: &mut Vec<Change>) {
        let Some(requester) = grant else { return };
        let Some(open) = self.grants.get_mut(&requester) else { return };
        open.open = open.open.saturating_sub(1);
        if open.open == 0 {
            self.floor = self.floor.max(open.counter);
            self.grants.remove(&requester);
            changes.push(Change::DeleteGrant(self.id, requester));
            push_once(changes, Change::PutReader(self.id));
        }
    }
}
