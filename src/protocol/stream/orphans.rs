//! Grants that nobody holds: a requester died, or its answer was lost, before a majority granted.
//! Such a grant hides its messages at this replica until it runs out. One that is old is checked
//! with the other replicas: each that holds none of that request first durably refuses its ballot,
//! and then disowns it; disowned by so many that no majority can hold it, it is dropped [F10].

use super::Stream;
use super::reader::{OpenGrant, Reader};
use crate::base::ids::{RequesterId, SubscriptionId};
use crate::base::limits::{OPERATION_TIME, WITHDRAWN_MAX};
use crate::base::rules::{Rule, rule_on};
use crate::crdt::dot::Dot;
use crate::protocol::lease::{Attempt, Hold};
use crate::protocol::op::{Change, Refusal};
use std::collections::BTreeSet;

/// How long a withdrawn request is remembered: longer than anything of it can be on its way [R54].
const REMEMBERED_MS: u64 = 2 * OPERATION_TIME.as_secs() * 1_000;

impl Stream {
    /// Grants from before a time that were not checked yet.
    #[must_use]
    pub fn unchecked_grants(
        &self,
        before_ms: u64,
        now_ms: u64,
        max: usize,
    ) -> Vec<(SubscriptionId, RequesterId, u64)> {
        let of_reader = |(id, reader): (&SubscriptionId, &Reader)| {
            let is_old = |grant: &OpenGrant| {
                grant.unchecked_since_ms.is_some_and(|since| since <= before_ms)
            };
            let mut old: Vec<_> = reader.grants.iter().filter(|(_, grant)| is_old(grant)).collect();
            if !old.is_empty() {
                // One walk over the attempts for all grants.
                let holders = reader.holders(now_ms);
                old.retain(|(requester, _)| holders.contains(requester));
            }
            let ballot =
                |(requester, grant): (&RequesterId, &OpenGrant)| (*id, *requester, grant.counter);
            old.into_iter().map(ballot).collect::<Vec<_>>()
        };
        self.readers.iter().flat_map(of_reader).take(max).collect()
    }

    /// Refuses a ballot for ever, unless a lease of that request runs here. Whether it is refused.
    pub fn disown(
        &mut self,
        id: SubscriptionId,
        (requester, counter): (RequesterId, u64),
        now_ms: u64,
    ) -> (bool, Vec<Change>) {
        let Some(reader) = self.readers.get_mut(&id) else { return (false, Vec::new()) };
        if reader.holds(requester, now_ms) {
            return (false, Vec::new());
        }
        if reader.floor >= counter {
            return (true, Vec::new());
        }
        if rule_on(Rule::F10) {
            reader.floor = counter;
        }
        (true, vec![Change::PutReader(id)])
    }

    /// A grant was checked: others hold it, or it is looked at again later.
    pub fn checked(&mut self, id: SubscriptionId, requester: RequesterId, again_ms: Option<u64>) {
        let reader = self.readers.get_mut(&id);
        if let Some(grant) = reader.and_then(|reader| reader.grants.get_mut(&requester)) {
            grant.unchecked_since_ms = again_ms;
        }
    }

    /// Drops a grant that no majority can hold: its messages are free again. What the replica
    /// counted stands.
    pub fn drop_grant(
        &mut self,
        id: SubscriptionId,
        requester: RequesterId,
        now_ms: u64,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let Some(reader) = self.readers.get(&id) else { return changes };
        let of_request: Vec<Attempt> = reader
            .attempts
            .values()
            .map(|live| live.attempt)
            .filter(|attempt| attempt.requester == requester && attempt.is_held(now_ms))
            .collect();
        for attempt in of_request {
            self.give_back(id, attempt, now_ms, &mut changes);
        }
        changes
    }

    /// Undoes all grants of a request that nobody waits for any more, as if they had never been,
    /// and grants it nothing more [R25].
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] when too many are remembered.
    pub fn withdraw_request(
        &mut self,
        id: SubscriptionId,
        requester: RequesterId,
        now_ms: u64,
    ) -> Result<Vec<Change>, Refusal> {
        let Some(reader) = self.readers.get_mut(&id) else { return Ok(Vec::new()) };
        reader.withdrawn.retain(|_, until_ms| *until_ms > now_ms);
        if reader.withdrawn.len() >= WITHDRAWN_MAX {
            return Err(Refusal::Overloaded);
        }
        reader.withdrawn.insert(requester, now_ms.saturating_add(REMEMBERED_MS));
        for live in reader.attempts.values_mut() {
            let attempt = &mut live.attempt;
            if attempt.requester == requester && attempt.is_held(now_ms) {
                attempt.receive_count = attempt.receive_count.saturating_sub(1);
            }
        }
        Ok(self.drop_grant(id, requester, now_ms))
    }

    pub(super) fn is_withdrawn(&self, id: SubscriptionId, requester: RequesterId) -> bool {
        self.readers.get(&id).is_some_and(|reader| reader.withdrawn.contains_key(&requester))
    }

    fn give_back(
        &mut self,
        id: SubscriptionId,
        attempt: Attempt,
        now_ms: u64,
        changes: &mut Vec<Change>,
    ) {
        let (place, dot): (_, Dot) = (attempt.place, attempt.place.1);
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.unseat(place);
        let Some(live) = reader.attempts.get_mut(&dot) else { return };
        let alive = Hold::Released { ready_ms: now_ms };
        live.attempt.hold = if attempt.death.is_some() { Hold::Dead } else { alive };
        live.has_row = true;
        changes.push(Change::PutAttempt(id, dot, live.attempt));
        let grant = live.grant.take();
        reader.leave_grant(grant, changes);
        self.reseat(id, place, now_ms);
    }
}

impl Reader {
    fn holders(&self, now_ms: u64) -> BTreeSet<RequesterId> {
        let held = self.attempts.values().filter(|live| live.attempt.is_held(now_ms));
        held.map(|live| live.attempt.requester).collect()
    }

    fn holds(&self, requester: RequesterId, now_ms: u64) -> bool {
        let of_request =
            |attempt: &Attempt| attempt.requester == requester && attempt.is_held(now_ms);
        self.attempts.values().any(|live| of_request(&live.attempt))
    }
}
