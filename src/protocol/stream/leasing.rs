//! Leasing: picking at the head, granting by the rule, letting leases lapse.

use super::{Live, OpenGrant, Place, Stream};
use crate::base::ids::RequesterId;
use crate::crdt::dot::Dot;
use crate::invariant;
use crate::message::envelope::Envelope;
use crate::protocol::lease::{Attempt, GrantRow, Hold, judge_lease};
use crate::protocol::op::{Change, Closes, LeaseOp, LeaseVote, Refusal};
use std::sync::Arc;

/// How long a replica holds a lease of this duration: 2.5 % longer than its holder believes, so
/// that two clocks each 1 % off never let a second holder in [R20, R22].
#[must_use]
pub fn held_ms(duration_ms: u64) -> u64 {
    duration_ms + duration_ms / 40
}

impl Stream {
    /// Lets leases that are over lapse: their messages stand at their places again. Returns how
    /// many.
    pub fn lapse(&mut self, now_ms: u64) -> usize {
        let mut lapsed = 0;
        while let Some((until, dot)) = self.expiries.first().copied()
            && until <= now_ms
        {
            self.expiries.pop_first();
            if let Some(live) = self.attempts.get(&dot) {
                self.window.put_back(live.attempt.place, None);
                lapsed += 1;
            }
        }
        lapsed
    }

    /// Takes up to `max` ready messages from the head. Until they are granted or put back they
    /// are nobody's: the caller must do one of the two.
    pub fn pick(&mut self, max: usize) -> Vec<(Place, Option<Arc<Envelope>>)> {
        self.window.take(max)
    }

    /// Puts a picked message back, unless it was settled or leased meanwhile.
    pub fn unpick(&mut self, place: Place, payload: Option<Arc<Envelope>>, now_ms: u64) {
        let held = self.attempts.get(&place.1).is_some_and(|live| live.attempt.is_held(now_ms));
        if self.present.contains(place.1) && !held {
            self.window.put_back(place, payload);
        }
    }

    /// Takes in what a scan of the disk found after [`super::Window::unread_after`]. `to`: how far
    /// it went, `None` when it met the end and nothing was stored since it began.
    pub fn refill(&mut self, places: &[Place], to: Option<Place>, now_ms: u64) {
        self.window.scanned_to(to);
        for place in places {
            self.unpick(*place, None, now_ms);
        }
    }

    /// A counter above every one granted here [R24].
    #[must_use]
    pub fn next_counter(&self) -> u64 {
        self.top.max(self.floor) + 1
    }

    /// Votes on a lease and remembers what it granted.
    ///
    /// # Errors
    /// [`Refusal::Sealed`] when the stream is being deleted.
    pub fn lease(
        &mut self,
        op: &LeaseOp,
        now_ms: u64,
    ) -> Result<(Vec<LeaseVote>, Vec<Change>), Refusal> {
        self.open_for(Closes::All, op.header.record_version)?;
        let mut changes = Vec::new();
        let mut votes = Vec::with_capacity(op.dots.len());
        let mut granted = Vec::with_capacity(op.dots.len());
        for wanted in &op.dots {
            if let Some(envelope) = &wanted.envelope {
                self.keep_message(envelope, false, &mut changes);
            }
            let vote = self.judge(wanted.place.1, op, now_ms);
            if let LeaseVote::Granted { receive_count, failure_count } = vote {
                let until_ms = now_ms + held_ms(op.duration_ms);
                granted.push(Attempt {
                    place: wanted.place,
                    counter: op.counter,
                    requester: op.requester,
                    receive_count,
                    failure_count,
                    hold: Hold::Leased { until_ms },
                });
            }
            votes.push(vote);
        }
        // The very same ballot again keeps its first end: asking twice does not lengthen it.
        granted.retain(|a| !self.is_same_ballot(a));
        if !granted.is_empty() {
            self.remember(op, granted, &mut changes);
        }
        Ok((votes, changes))
    }

    fn judge(&self, dot: Dot, op: &LeaseOp, now_ms: u64) -> LeaseVote {
        if !self.context.contains(dot) {
            return LeaseVote::NeedsPayload;
        }
        if !self.present.contains(dot) {
            return LeaseVote::Settled;
        }
        let last = self.attempts.get(&dot).map(|live| &live.attempt);
        judge_lease(last, self.floor, op.requester, op.counter, now_ms)
    }

    fn is_same_ballot(&self, attempt: &Attempt) -> bool {
        self.attempts.get(&attempt.place.1).is_some_and(|live| {
            live.attempt.counter == attempt.counter && live.attempt.requester == attempt.requester
        })
    }

    /// One row per request. A row of the same request that an earlier try wrote is replaced, with
    /// what it still carries.
    fn remember(&mut self, op: &LeaseOp, granted: Vec<Attempt>, changes: &mut Vec<Change>) {
        self.top = self.top.max(op.counter);
        let open = granted.len();
        for attempt in &granted {
            self.begin(*attempt, Some(op.requester), changes);
        }
        let of_request = |live: &&Live| live.grant == Some(op.requester);
        let attempts = if self.grants.contains_key(&op.requester) {
            self.attempts.values().filter(of_request).map(|live| live.attempt).collect()
        } else {
            granted
        };
        let grant =
            self.grants.entry(op.requester).or_insert(OpenGrant { counter: op.counter, open: 0 });
        grant.open += open;
        changes.push(Change::PutGrant(op.requester, GrantRow { counter: op.counter, attempts }));
    }

    /// A lease begins: the message leaves the window and whatever attempt it was in.
    pub(super) fn begin(
        &mut self,
        attempt: Attempt,
        grant: Option<RequesterId>,
        changes: &mut Vec<Change>,
    ) {
        let dot = attempt.place.1;
        invariant!(self.present.contains(dot), "R27", "a grant of {dot} without its payload");
        self.window.remove(attempt.place);
        let live = Live { attempt, has_row: grant.is_none(), grant };
        if let Some(old) = self.attempts.insert(dot, live) {
            invariant!(old.attempt.counter < attempt.counter, "R24", "the fence of {dot} falls");
            if let Hold::Leased { until_ms } = old.attempt.hold {
                self.expiries.remove(&(until_ms, dot));
            }
            if old.has_row && grant.is_some() {
                changes.push(Change::DeleteAttempt(dot));
            }
            self.leave_grant(old.grant, changes);
        }
        if let Hold::Leased { until_ms } = attempt.hold {
            self.expiries.insert((until_ms, dot));
        }
        if grant.is_none() {
            changes.push(Change::PutAttempt(dot, attempt));
        }
    }

    /// The attempt a replica remembers of a message.
    #[must_use]
    pub fn attempt(&self, dot: Dot) -> Option<&Attempt> {
        self.attempts.get(&dot).map(|live| &live.attempt)
    }
}
