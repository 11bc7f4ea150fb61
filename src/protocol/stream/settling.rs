//! Settling: an attempt's holder says what became of the message.

use super::{Place, Stream, push_once};
use crate::base::ids::SubscriptionId;
use crate::base::rules::{Rule, rule_on};
use crate::crdt::dot::Dot;
use crate::message::envelope::DeathReason;
use crate::protocol::lease::{Attempt, Death, Hold, judge_settle};
use crate::protocol::op::{
    Change, Closes, Reasons, Refusal, ReleaseOutcome, SettleAction, SettleItem, SettleOp,
    SettleVote,
};
use crate::protocol::stream::held_ms;

/// A settlement under way.
pub(super) struct Settling<'a> {
    id: SubscriptionId,
    now_ms: u64,
    wall_ms: u64,
    reasons: &'a Reasons,
    changes: &'a mut Vec<Change>,
}

impl<'a> Settling<'a> {
    /// One that was counted elsewhere: nothing of it is told in wall time.
    pub(super) fn of_repair(id: SubscriptionId, now_ms: u64, changes: &'a mut Vec<Change>) -> Self {
        static NONE: Reasons = Reasons::new();
        Self { id, now_ms, wall_ms: 0, reasons: &NONE, changes }
    }
}

impl Stream {
    /// Votes on a settlement, item by item, and remembers what it counted.
    ///
    /// # Errors
    /// [`Refusal::Sealed`] when the stream is being deleted; [`Refusal::NoReader`].
    pub fn settle(
        &mut self,
        op: &SettleOp,
        now_ms: u64,
        wall_ms: u64,
    ) -> Result<(Vec<SettleVote>, Vec<Change>), Refusal> {
        self.open_for(Closes::All, op.header.record_version)?;
        if !self.has_reader(op.reader) {
            return Err(Refusal::NoReader);
        }
        let mut changes = Vec::new();
        let mut votes = Vec::with_capacity(op.items.len());
        let (id, reasons) = (op.reader, &op.reasons);
        let mut settling = Settling { id, now_ms, wall_ms, reasons, changes: &mut changes };
        for item in &op.items {
            let item = SettleItem { place: self.own_place(item.place), ..*item };
            let vote = self.judge_item(op.reader, &item, now_ms);
            if vote == SettleVote::Counted && !op.check_only {
                self.carry_out(&item, &mut settling);
            }
            votes.push(vote);
        }
        Ok((votes, changes))
    }

    fn judge_item(&self, id: SubscriptionId, item: &SettleItem, now_ms: u64) -> SettleVote {
        let dot = item.place.1;
        // An ack of a message that never came here would have to be remembered without it: a queue
        // can, by its context. Of a topic's message the context speaks for every reader, and a
        // keyed one has no identity without its content [F1, F23].
        if self.is_new(dot, now_ms) && (self.is_topic() || matches!(dot, Dot::Keyed(_))) {
            return SettleVote::Lacking;
        }
        let open = self.is_open(id, dot);
        let settled = self.is_known(dot) && !open;
        // A lease that lapsed is not taken up again over one of its group that goes before it.
        if matches!(item.action, SettleAction::Extend { .. })
            && self.readers.get(&id).is_some_and(|reader| {
                let held = reader.attempts.get(&dot).is_some_and(|it| it.attempt.is_held(now_ms));
                !held && reader.is_blocked(item.place, self.marks.get(&dot), now_ms)
            })
        {
            return SettleVote::Lost;
        }
        judge_settle(self.attempt(id, dot), open, settled, item, now_ms)
    }

    fn carry_out(&mut self, item: &SettleItem, settling: &mut Settling<'_>) {
        match item.action {
            SettleAction::Ack | SettleAction::Remove => self.finish(item.place, settling),
            SettleAction::Extend { duration_ms } => {
                let until_ms = settling.now_ms.saturating_add(held_ms(duration_ms));
                let counts = (item.receive_count, item.failure_count);
                self.overwrite(item, Hold::Leased { until_ms }, counts, None, settling);
            }
            SettleAction::Release { outcome, delay_ms } => {
                self.release(item, outcome, delay_ms, settling);
            }
            SettleAction::Withdraw => self.withdraw(item, settling),
            SettleAction::Redrive => self.redrive(item.place, settling),
        }
    }

    /// The reader is done with the message, for ever: its dot stays in the context, which is the
    /// tombstone. When no reader is left, the message goes.
    pub(super) fn finish(&mut self, place: Place, settling: &mut Settling<'_>) {
        let (id, dot) = (settling.id, place.1);
        if !matches!(dot, Dot::Keyed(_)) && self.context.insert(dot) {
            push_once(settling.changes, Change::PutMeta);
        }
        let mark = self.marks.get(&dot).copied();
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if !reader.close(dot, u64::from(self.sizes.get(dot))) {
            return;
        }
        reader.unseat(place);
        if let Some(mark) = mark {
            reader.ends.remove(&(mark.ends_ms, dot));
        }
        if let Some(live) = reader.attempts.remove(&dot) {
            if live.has_row {
                settling.changes.push(Change::DeleteAttempt(id, dot));
            }
            if live.has_reason {
                settling.changes.push(Change::DeleteReason(id, dot));
            }
            reader.leave_grant(live.grant, settling.changes);
        }
        if let Some(next) = reader.leave_group(place, mark.as_ref()) {
            reader.seat(next, None, self.marks.get(&next.1), settling.now_ms);
        }
        if id != SubscriptionId::QUEUE {
            settling.changes.push(Change::DeleteOpen(id, place));
        }
        self.drop_if_settled(place, settling.changes);
    }

    /// Drops a message that no reader has open [R36].
    pub(super) fn drop_if_settled(&mut self, place: Place, changes: &mut Vec<Change>) {
        let dot = place.1;
        if self.readers.values().any(|reader| reader.open.contains(dot)) {
            return;
        }
        if self.sizes.remove(dot) > 0 {
            self.holes.remove(&place);
            changes.push(Change::DeleteMessage(place));
        }
        if self.marks.remove(&dot).is_some() {
            changes.push(Change::DeleteMark(dot));
        }
        if let Dot::Keyed(key) = dot
            && self.is_alone
            && self.identities.settled(key)
        {
            changes.push(Change::DeleteIdentity(key));
        }
    }

    fn release(
        &mut self,
        item: &SettleItem,
        outcome: ReleaseOutcome,
        delay_ms: Option<u64>,
        settling: &mut Settling<'_>,
    ) {
        let same = self.same_attempt(settling.id, item);
        if same.is_some_and(|last| !matches!(last.hold, Hold::Leased { .. })) {
            return;
        }
        let rules = self.readers[&settling.id].rules;
        let failures = item.failure_count + u32::from(outcome != ReleaseOutcome::HandedBack);
        let was_dead = same.and_then(|last| last.death);
        let reason = match outcome {
            ReleaseOutcome::Poison => Some(DeathReason::Poison),
            ReleaseOutcome::Failed if rules.is_too_many(failures) => Some(DeathReason::MaxFailures),
            ReleaseOutcome::Failed | ReleaseOutcome::HandedBack => None,
        };
        let new = reason.map(|reason| Death { reason, died_ms: settling.wall_ms });
        let death = was_dead.or(new);
        let pause_ms = delay_ms.unwrap_or_else(|| match (outcome, same) {
            (ReleaseOutcome::Failed, Some(last)) => rules.backoff_ms(failures, &last),
            _ => 0,
        });
        let hold = if death.is_some() {
            Hold::Dead
        } else {
            Hold::Released { ready_ms: settling.now_ms.saturating_add(pause_ms) }
        };
        self.overwrite(item, hold, (item.receive_count, failures), death, settling);
        // What a message died of does not change while it is looked at among the dead.
        if outcome != ReleaseOutcome::HandedBack && was_dead.is_none() {
            self.explain(item, settling);
        }
    }

    /// Keeps why the message failed, if its holder says so; else what was said before stays.
    fn explain(&mut self, item: &SettleItem, settling: &mut Settling<'_>) {
        let (id, dot) = (settling.id, item.place.1);
        let Some(reason) = settling.reasons.get(&(dot, item.counter)) else { return };
        let reader = self.readers.get_mut(&id);
        if let Some(live) = reader.and_then(|reader| reader.attempts.get_mut(&dot)) {
            live.has_reason = true;
            settling.changes.push(Change::PutReason(id, dot, reason.clone()));
        }
    }

    /// What the replica itself counted stands: the requester may not have heard of it.
    fn withdraw(&mut self, item: &SettleItem, settling: &mut Settling<'_>) {
        let last = self.attempt(settling.id, item.place.1).copied();
        let same = self.same_attempt(settling.id, item);
        if same.is_some_and(|last| !matches!(last.hold, Hold::Leased { .. })) {
            return;
        }
        let known = same.or(last).map_or((0, 0), |a| (a.receive_count, a.failure_count));
        let failures = known.1 + u32::from(!rule_on(Rule::R28));
        let counts = (known.0.saturating_sub(u32::from(same.is_some())), failures);
        let death = same.and_then(|last| last.death);
        let alive = Hold::Released { ready_ms: settling.now_ms };
        let hold = if death.is_some() { Hold::Dead } else { alive };
        self.overwrite(item, hold, counts, death, settling);
    }

    fn redrive(&mut self, place: Place, settling: &mut Settling<'_>) {
        let (id, dot, now_ms) = (settling.id, place.1, settling.now_ms);
        let mark = self.marks.get(&dot).copied();
        let Some(reader) = self.readers.get_mut(&id) else { return };
        if !reader.attempts.contains_key(&dot) {
            return;
        }
        reader.unseat(place);
        if let Some(live) = reader.attempts.get_mut(&dot) {
            live.attempt.hold = Hold::Released { ready_ms: now_ms };
            live.attempt.death = None;
            live.attempt.failure_count = 0;
            live.attempt.redrives += 1;
            live.has_row = true;
            settling.changes.push(Change::PutAttempt(id, dot, live.attempt));
            if std::mem::take(&mut live.has_reason) {
                settling.changes.push(Change::DeleteReason(id, dot));
            }
            let grant = live.grant.take();
            reader.leave_grant(grant, settling.changes);
        }
        if let Some(mark) = &mark {
            reader.join_group(place, mark);
        }
        self.reseat(id, place, now_ms);
    }

    fn same_attempt(&self, id: SubscriptionId, item: &SettleItem) -> Option<Attempt> {
        let last = self.attempt(id, item.place.1).copied();
        last.filter(|last| last.counter == item.counter && last.requester == item.requester)
    }

    /// The attempt gets a row of its own: the grant's row is shared with messages of which
    /// nothing was said.
    fn overwrite(
        &mut self,
        item: &SettleItem,
        hold: Hold,
        (receive_count, failure_count): (u32, u32),
        death: Option<Death>,
        settling: &mut Settling<'_>,
    ) {
        let SettleItem { place, requester, counter, .. } = *item;
        let (id, dot) = (settling.id, place.1);
        let last = self.attempt(id, dot).copied();
        let kept = last.filter(|_| matches!(hold, Hold::Leased { .. })).and_then(|it| it.death);
        let attempt = Attempt {
            place,
            counter,
            requester,
            receive_count,
            failure_count,
            hold,
            death: death.or(kept),
            redrives: last.map_or(0, |last| last.redrives),
        };
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.top = reader.top.max(counter);
        }
        if last.is_none_or(|last| last.counter != counter) {
            // This replica missed the grant: the attempt begins here with what follows it.
            self.begin(id, attempt, None, settling.now_ms, settling.changes);
            return;
        }
        let Some(reader) = self.readers.get_mut(&id) else { return };
        reader.unseat(place);
        reader.goes_out(&attempt, self.marks.get(&dot), settling.now_ms);
        let Some(live) = reader.attempts.get_mut(&dot) else { return };
        live.attempt = attempt;
        live.has_row = true;
        settling.changes.push(Change::PutAttempt(id, dot, attempt));
        if !matches!(hold, Hold::Leased { .. }) {
            let grant = live.grant.take();
            reader.leave_grant(grant, settling.changes);
        }
        self.reseat(id, place, settling.now_ms);
    }
}
