//! Leasing: picking at the head, granting by the rule, letting leases lapse.

use super::reader::{Live, OpenGrant, Standing};
use super::{Place, Stream};
use crate::base::ids::{RequesterId, SubscriptionId};
use crate::base::rules::{Rule, rule_on};
use crate::crdt::dot::Dot;
use crate::invariant;
use crate::message::envelope::{DeathReason, Kept};
use crate::protocol::lease::{Attempt, Death, GrantRow, Hold, judge_lease};
use crate::protocol::op::{Change, Closes, LeaseDot, LeaseOp, LeaseVote, Purpose, Refusal};

/// How long a replica holds a lease of this duration: 2.5 % longer than its holder believes, so
/// that two clocks each 1 % off never let a second holder in [R20, R22].
#[must_use]
pub fn held_ms(duration_ms: u64) -> u64 {
    duration_ms + duration_ms / 40
}

/// A message taken from the head, and its payload while that is in memory.
pub type Picked = (Place, Option<Kept>);

impl Stream {
    /// Lets time pass for a reader: leases lapse, pauses end, lives end. Returns how many
    /// messages became ready.
    pub fn wake(&mut self, id: SubscriptionId, now_ms: u64) -> usize {
        let Some(reader) = self.readers.get_mut(&id) else { return 0 };
        let mut due = Vec::new();
        while let Some((until_ms, dot)) = reader.leases.first().copied()
            && until_ms <= now_ms
        {
            reader.leases.pop_first();
            due.push(dot);
        }
        while let Some(dot) = reader.waits.pop_due(now_ms) {
            due.push(dot);
        }
        while let Some((ends_ms, dot)) = reader.ends.first().copied()
            && ends_ms <= now_ms
        {
            reader.ends.pop_first();
            due.push(dot);
        }
        let mut ready = 0;
        for dot in due {
            let mark = self.marks.get(&dot);
            let attempted = reader.attempts.get(&dot).map(|live| live.attempt.place);
            let Some(place) = attempted.or(mark.map(|mark| (mark.hlc, dot))) else { continue };
            if reader.standing(place, mark, now_ms) == Standing::Leased {
                continue;
            }
            let payload = reader.unseat(place);
            ready += usize::from(reader.seat(place, payload, mark, now_ms));
            if let Some(head) = reader.comes_back(place, mark) {
                ready += usize::from(reader.seat(head, None, self.marks.get(&head.1), now_ms));
            }
        }
        ready
    }

    /// Takes up to `max` ready messages from the head. Until they are granted or put back they
    /// are nobody's: the caller must do one of the two.
    pub fn pick(&mut self, id: SubscriptionId, max: usize, now_ms: u64) -> Vec<Picked> {
        let Some(reader) = self.readers.get_mut(&id) else { return Vec::new() };
        let mut picked = Vec::new();
        while picked.len() < max
            && let Some((place, payload)) = reader.window.take()
        {
            let mark = self.marks.get(&place.1);
            if reader.standing(place, mark, now_ms) == Standing::Ready {
                picked.push((place, payload));
            } else {
                // The settings have changed since it was put there.
                reader.seat(place, payload, mark, now_ms);
            }
        }
        picked
    }

    /// Takes up to `max` dead messages that nobody else has picked, the oldest first. They stay
    /// among the dead, and until they are granted or put back nobody else picks them.
    pub fn pick_dead(&mut self, id: SubscriptionId, max: usize) -> Vec<Picked> {
        let Some(reader) = self.readers.get_mut(&id) else { return Vec::new() };
        let free = reader.dead.difference(&reader.picked_dead).take(max).copied();
        let places: Vec<Place> = free.collect();
        reader.picked_dead.extend(&places);
        places.into_iter().map(|place| (place, None)).collect()
    }

    /// Puts a picked message back, unless it was settled or leased meanwhile.
    pub fn unpick(&mut self, id: SubscriptionId, place: Place, payload: Option<Kept>, now_ms: u64) {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.picked_dead.remove(&place);
            reader.seat(place, payload, self.marks.get(&place.1), now_ms);
        }
    }

    /// A picked message turned out to be over: it is dropped by the broker, not handed out.
    pub fn doom(&mut self, id: SubscriptionId, place: Place, now_ms: u64) {
        if let Some(reader) = self.readers.get_mut(&id)
            && !matches!(
                reader.standing(place, self.marks.get(&place.1), now_ms),
                Standing::Settled | Standing::Leased
            )
        {
            reader.unseat(place);
            reader.doomed.insert(place);
        }
    }

    /// Messages that the broker has to drop or to bury, and which of the two.
    #[must_use]
    pub fn doomed(&self, id: SubscriptionId, max: usize, now_ms: u64) -> Vec<(Place, Purpose)> {
        let Some(reader) = self.readers.get(&id) else { return Vec::new() };
        let purpose =
            |place: &Place| match reader.standing(*place, self.marks.get(&place.1), now_ms) {
                Standing::Failed => (*place, Purpose::Bury),
                _ => (*place, Purpose::Expire),
            };
        reader.doomed.iter().take(max).map(purpose).collect()
    }

    /// Messages that the broker could neither drop nor bury go where they belong now: the settings
    /// by which they were doomed may have changed.
    pub fn reconsider(&mut self, id: SubscriptionId, places: &[Place], now_ms: u64) {
        for place in places {
            let mark = self.marks.get(&place.1);
            let Some(reader) = self.readers.get_mut(&id) else { return };
            if reader.doomed.contains(place) {
                let payload = reader.unseat(*place);
                reader.seat(*place, payload, mark, now_ms);
            }
        }
    }

    /// How often a message has failed.
    #[must_use]
    pub fn failures(&self, id: SubscriptionId, dot: Dot, now_ms: u64) -> u32 {
        self.attempt(id, dot).map_or(0, |attempt| attempt.failures(now_ms))
    }

    /// Whether the broker has something to drop or to bury.
    #[must_use]
    pub fn has_doomed(&self, id: SubscriptionId) -> bool {
        self.readers.get(&id).is_some_and(|reader| !reader.doomed.is_empty())
    }

    /// Up to `max` dead messages after a place, rising.
    #[must_use]
    pub fn dead(&self, id: SubscriptionId, after: Option<Place>, max: usize) -> Vec<Place> {
        use std::ops::Bound::{Excluded, Unbounded};
        let Some(reader) = self.readers.get(&id) else { return Vec::new() };
        let from = after.map_or(Unbounded, Excluded);
        reader.dead.range((from, Unbounded)).take(max).copied().collect()
    }

    /// The disk is going to be read on after [`Stream::unread_after`], or is no longer: what comes
    /// meanwhile is not among what is read.
    pub fn set_reading(&mut self, id: SubscriptionId, is_reading: bool) {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.window.set_reading(is_reading);
        }
    }

    /// Takes in what a scan of the disk found after [`Stream::unread_after`]. `to`: how far it
    /// went, `None` when it met the end. Returns how many messages are ready.
    pub fn refill(
        &mut self,
        id: SubscriptionId,
        places: &[Place],
        to: Option<Place>,
        now_ms: u64,
    ) -> usize {
        let Some(reader) = self.readers.get_mut(&id) else { return 0 };
        let missed = reader.window.scanned_to(to);
        let mut ready = 0;
        for place in places.iter().chain(&missed) {
            let mark = self.marks.get(&place.1);
            if reader.standing(*place, mark, now_ms) == Standing::Ready {
                reader.window.put_back(*place, None);
                ready += 1;
            }
        }
        ready
    }

    /// Notes that another replica refuses counters up to this one.
    pub fn raise(&mut self, id: SubscriptionId, above: u64) {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.top = reader.top.max(above);
        }
    }

    /// Notes that another replica counted more failures: it would refuse the message for ever, and
    /// only who counts as many asks to bury it.
    pub fn raise_failures(&mut self, id: SubscriptionId, dot: Dot, failures: u32) {
        let reader = self.readers.get_mut(&id);
        if let Some(live) = reader.and_then(|reader| reader.attempts.get_mut(&dot)) {
            live.attempt.failure_count = live.attempt.failure_count.max(failures);
        }
    }

    /// A counter above every one granted here [R24].
    #[must_use]
    pub fn next_counter(&self, id: SubscriptionId) -> u64 {
        self.readers.get(&id).map_or(1, |reader| reader.top.max(reader.floor) + 1)
    }

    /// Votes on a lease and remembers what it granted.
    ///
    /// # Errors
    /// [`Refusal::Sealed`] when the stream is being deleted; [`Refusal::NoReader`].
    pub fn lease(
        &mut self,
        op: &LeaseOp,
        now_ms: u64,
        wall_ms: u64,
    ) -> Result<(Vec<LeaseVote>, Vec<Change>), Refusal> {
        self.open_for(Closes::All, op.header.record_version)?;
        if !self.has_reader(op.reader) {
            return Err(Refusal::NoReader);
        }
        let mut changes = Vec::new();
        let mut votes = Vec::with_capacity(op.dots.len());
        let mut granted = Vec::with_capacity(op.dots.len());
        for (i, wanted) in op.dots.iter().enumerate() {
            if let Some(envelope) = wanted.envelope.as_ref().filter(|it| !self.is_ahead(it)) {
                let received_ms = now_ms.saturating_sub(wanted.age_ms);
                self.keep_brought(envelope, received_ms, now_ms, &mut changes);
            }
            let place = self.own_place(wanted.place);
            let told = op.failures.get(i).copied().unwrap_or(0);
            let vote = match self.judge_content(wanted) {
                Some(vote) => vote,
                None => self.judge(place, op, told, now_ms),
            };
            if let LeaseVote::Granted { receive_count, failure_count } = vote {
                let counts = (receive_count, failure_count);
                granted.push(self.attempt_of(place, op, counts, now_ms, wall_ms));
            }
            votes.push(vote);
        }
        // The very same ballot again keeps its first end: asking twice does not lengthen it.
        granted.retain(|a| !self.is_same_ballot(op.reader, a));
        if !granted.is_empty() {
            self.remember(op, granted, now_ms, &mut changes);
        }
        Ok((votes, changes))
    }

    fn attempt_of(
        &self,
        place: Place,
        op: &LeaseOp,
        (receive_count, failure_count): (u32, u32),
        now_ms: u64,
        wall_ms: u64,
    ) -> Attempt {
        let last = self.attempt(op.reader, place.1);
        let (death, hold) = match op.purpose {
            Purpose::Bury => {
                let death = Death { reason: DeathReason::MaxFailures, died_ms: wall_ms };
                (Some(death), Hold::Dead)
            }
            Purpose::Deliver | Purpose::DeliverDead | Purpose::Expire => {
                let until_ms = now_ms.saturating_add(held_ms(op.duration_ms));
                (last.and_then(|last| last.death), Hold::Leased { until_ms })
            }
        };
        Attempt {
            place,
            counter: op.counter,
            requester: op.requester,
            receive_count,
            failure_count,
            hold,
            death,
            redrives: last.map_or(0, |last| last.redrives),
        }
    }

    /// A vote is about a content, not about a name alone: the refusal where another one stands here
    /// [R11]. One that was sent when the other's window was over may come with its payload.
    fn judge_content(&self, wanted: &LeaseDot) -> Option<LeaseVote> {
        let (place, content_mac) = (wanted.place, wanted.content_mac?);
        let Dot::Keyed(id) = place.1 else { return None };
        if self.content_mac(place.1)? == content_mac || !rule_on(Rule::R11) {
            return None;
        }
        let is_asked_again = wanted.envelope.is_some();
        Some(match !is_asked_again && self.may_take(id, place.0) {
            true => LeaseVote::NeedsPayload,
            false => LeaseVote::OtherContent,
        })
    }

    fn judge(&self, place: Place, op: &LeaseOp, told: u32, now_ms: u64) -> LeaseVote {
        let dot = place.1;
        // A grant implies the payload [R27]: a hole has none.
        let lacks = !self.is_known(dot) || self.is_hole(place);
        if lacks && rule_on(Rule::R27) {
            return LeaseVote::NeedsPayload;
        }
        let last = self.attempt(op.reader, dot);
        let floor = self.readers.get(&op.reader).map_or(0, |reader| reader.floor);
        if self.is_withdrawn(op.reader, op.requester) {
            return LeaseVote::LowBallot { above: op.counter };
        }
        let same = last.is_some_and(|a| {
            a.requester == op.requester && (a.counter == op.counter || !rule_on(Rule::F9))
        });
        let standing = match self.standing(op.reader, place, now_ms) {
            _ if lacks => Standing::Ready,
            standing => standing,
        };
        let may_take = !rule_on(Rule::F18) && matches!(op.purpose, Purpose::Expire);
        let fits = match (op.purpose, standing) {
            (_, Standing::Settled) => return LeaseVote::Settled,
            (_, Standing::Leased) if !same && !may_take => return LeaseVote::Held,
            (Purpose::Deliver, Standing::Blocked) if !same => return LeaseVote::Blocked,
            (Purpose::Deliver, Standing::Failed) if !same => {
                return LeaseVote::Exhausted { failures: self.failures(op.reader, dot, now_ms) };
            }
            // Who asks has looked at the message itself: retention is not among the marks.
            (Purpose::Expire, _) => true,
            (Purpose::Deliver, Standing::Ready)
            | (Purpose::DeliverDead, Standing::Dead)
            | (Purpose::Bury, Standing::Failed) => true,
            // Somebody counted a failure that this replica missed.
            (Purpose::Bury, Standing::Ready | Standing::Delayed | Standing::Blocked) => {
                same || self.readers[&op.reader].rules.is_too_many(told)
            }
            (Purpose::Deliver, Standing::Delayed) if !rule_on(Rule::F11) => true,
            _ => same,
        };
        if !fits {
            return LeaseVote::NotFit;
        }
        let last = last.filter(|_| !may_take);
        match judge_lease(last, floor, op.requester, op.counter, now_ms) {
            // Nobody receives it.
            LeaseVote::Granted { receive_count, failure_count }
                if !same && matches!(op.purpose, Purpose::Bury | Purpose::Expire) =>
            {
                let failure_count = failure_count.max(told);
                LeaseVote::Granted { receive_count: receive_count - 1, failure_count }
            }
            vote => vote,
        }
    }

    fn is_same_ballot(&self, reader: SubscriptionId, attempt: &Attempt) -> bool {
        self.attempt(reader, attempt.place.1).is_some_and(|last| {
            last.counter == attempt.counter && last.requester == attempt.requester
        })
    }

    /// One row per request. A row of the same request that an earlier try wrote is replaced, with
    /// what it still carries.
    fn remember(
        &mut self,
        op: &LeaseOp,
        granted: Vec<Attempt>,
        now_ms: u64,
        changes: &mut Vec<Change>,
    ) {
        let open = granted.len();
        for attempt in &granted {
            self.begin(op.reader, *attempt, Some(op.requester), now_ms, changes);
        }
        let Some(reader) = self.readers.get_mut(&op.reader) else { return };
        reader.top = reader.top.max(op.counter);
        let of_request = |live: &&Live| live.grant == Some(op.requester);
        let attempts = if reader.grants.contains_key(&op.requester) {
            reader.attempts.values().filter(of_request).map(|live| live.attempt).collect()
        } else {
            granted
        };
        let counter = op.counter;
        let new = || OpenGrant {
            counter,
            open: 0,
            holder: op.holder.as_str().into(),
            unchecked_since_ms: Some(now_ms),
        };
        let grant = reader.grants.entry(op.requester).or_insert_with(new);
        // A keyed receive asks again with higher counters.
        grant.counter = grant.counter.max(counter);
        grant.open += open;
        let row = GrantRow { counter: grant.counter, holder: op.holder.clone(), attempts };
        changes.push(Change::PutGrant(op.reader, op.requester, row));
    }

    /// A lease begins: the message leaves its place and whatever attempt it was in.
    pub(super) fn begin(
        &mut self,
        id: SubscriptionId,
        attempt: Attempt,
        grant: Option<RequesterId>,
        now_ms: u64,
        changes: &mut Vec<Change>,
    ) {
        let (place, dot) = (attempt.place, attempt.place.1);
        let Some(reader) = self.readers.get_mut(&id) else { return };
        let has_payload = reader.open.contains(dot) || !rule_on(Rule::R27);
        invariant!(has_payload, "R27", "a grant of {dot} without its payload");
        reader.unseat(place);
        let has_reason = reader.attempts.get(&dot).is_some_and(|old| old.has_reason);
        let live = Live { attempt, has_row: grant.is_none(), has_reason, grant };
        if let Some(old) = reader.attempts.insert(dot, live) {
            let rises = !rule_on(Rule::R24) || old.attempt.counter < attempt.counter;
            invariant!(rises, "R24", "the fence of {dot} falls");
            if old.has_row && grant.is_some() {
                changes.push(Change::DeleteAttempt(id, dot));
            }
            reader.leave_grant(old.grant, changes);
        }
        if grant.is_none() {
            changes.push(Change::PutAttempt(id, dot, attempt));
        }
        reader.goes_out(&attempt, self.marks.get(&dot), now_ms);
        self.reseat(id, place, now_ms);
    }

    /// A message whose attempt has changed goes where it belongs now; one that died lets the next
    /// of its group go on.
    pub(super) fn reseat(&mut self, id: SubscriptionId, place: Place, now_ms: u64) {
        let mark = self.marks.get(&place.1);
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.seat(place, None, mark, now_ms);
        let standing = reader.standing(place, mark, now_ms);
        if standing != Standing::Leased
            && let Some(head) = reader.comes_back(place, mark)
        {
            reader.seat(head, None, self.marks.get(&head.1), now_ms);
        }
        if standing == Standing::Dead
            && let Some(next) = reader.leave_group(place, mark)
        {
            reader.seat(next, None, self.marks.get(&next.1), now_ms);
        }
    }

    /// Messages of a request that are still leased under it: what a keyed receive returns again
    /// [F26].
    #[must_use]
    pub fn leased_to(
        &self,
        id: SubscriptionId,
        requester: RequesterId,
        now_ms: u64,
    ) -> Vec<Attempt> {
        let Some(reader) = self.readers.get(&id) else { return Vec::new() };
        let held = reader.attempts.values().map(|live| live.attempt);
        held.filter(|a| a.requester == requester && a.is_held(now_ms)).collect()
    }
}
