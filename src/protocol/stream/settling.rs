//! Settling, extending, releasing: what a holder may still say of its message.

use super::leasing::held_ms;
use super::{Stream, push_meta};
use crate::protocol::lease::{Attempt, Hold, judge_settle};
use crate::protocol::op::{
    Change, Closes, Refusal, SettleAction, SettleItem, SettleOp, SettleVote,
};

impl Stream {
    /// Votes on a settlement, item by item, and remembers what it counted.
    ///
    /// # Errors
    /// [`Refusal::Sealed`] when the stream is being deleted.
    pub fn settle(
        &mut self,
        op: &SettleOp,
        now_ms: u64,
    ) -> Result<(Vec<SettleVote>, Vec<Change>), Refusal> {
        self.open_for(Closes::All, op.header.record_version)?;
        let mut changes = Vec::new();
        let mut votes = Vec::with_capacity(op.items.len());
        for item in &op.items {
            let vote = self.judge_item(item, now_ms);
            if vote == SettleVote::Counted && !op.check_only {
                self.carry_out(item, now_ms, &mut changes);
            }
            votes.push(vote);
        }
        Ok((votes, changes))
    }

    fn judge_item(&self, item: &SettleItem, now_ms: u64) -> SettleVote {
        let dot = item.place.1;
        let present = self.present.contains(dot);
        let settled = self.context.contains(dot) && !present;
        judge_settle(self.attempt(dot), present, settled, item, now_ms)
    }

    fn carry_out(&mut self, item: &SettleItem, now_ms: u64, changes: &mut Vec<Change>) {
        match item.action {
            SettleAction::Ack => self.finish(item, changes),
            SettleAction::Extend { duration_ms } => {
                self.extend(item, now_ms + held_ms(duration_ms), changes);
            }
            SettleAction::Release { failed } => self.release(item, failed, false, changes),
            SettleAction::Withdraw => self.release(item, false, true, changes),
        }
    }

    /// The message is done with, for ever: its dot stays in the context, which is the tombstone.
    fn finish(&mut self, item: &SettleItem, changes: &mut Vec<Change>) {
        let dot = item.place.1;
        if self.context.insert(dot) {
            push_meta(changes);
        }
        if !self.present.remove(dot) {
            return;
        }
        self.window.remove(item.place);
        changes.push(Change::DeleteMessage(item.place));
        if let Some(live) = self.attempts.remove(&dot) {
            if let Hold::Leased { until_ms } = live.attempt.hold {
                self.expiries.remove(&(until_ms, dot));
            }
            if live.has_row {
                changes.push(Change::DeleteAttempt(dot));
            }
            self.leave_grant(live.grant, changes);
        }
    }

    /// A new end for the same attempt. The attempt gets a row of its own: the grant's row is
    /// shared with messages that were not extended.
    fn extend(&mut self, item: &SettleItem, until_ms: u64, changes: &mut Vec<Change>) {
        let hold = Hold::Leased { until_ms };
        self.overwrite(item, hold, item.receive_count, item.failure_count, changes);
        self.window.remove(item.place);
        self.expiries.insert((until_ms, item.place.1));
    }

    fn release(
        &mut self,
        item: &SettleItem,
        failed: bool,
        never_handed_out: bool,
        changes: &mut Vec<Change>,
    ) {
        let last = self.attempt(item.place.1).copied();
        let same = last.filter(|last| last.counter == item.counter);
        if same.is_some_and(|last| last.hold == Hold::Released) {
            return;
        }
        let (receive_count, failure_count) = if never_handed_out {
            // What the replica itself counted: the requester may not have heard of it.
            let known = same.or(last).map_or((0, 0), |a| (a.receive_count, a.failure_count));
            (known.0.saturating_sub(u32::from(same.is_some())), known.1)
        } else {
            (item.receive_count, item.failure_count + u32::from(failed))
        };
        self.overwrite(item, Hold::Released, receive_count, failure_count, changes);
        self.window.put_back(item.place, None);
    }

    fn overwrite(
        &mut self,
        item: &SettleItem,
        hold: Hold,
        receive_count: u32,
        failure_count: u32,
        changes: &mut Vec<Change>,
    ) {
        let SettleItem { place, requester, counter, .. } = *item;
        let attempt = Attempt { place, counter, requester, receive_count, failure_count, hold };
        let dot = place.1;
        self.top = self.top.max(counter);
        let same = self.attempt(dot).is_some_and(|last| last.counter == counter);
        if !same {
            // This replica missed the grant: the attempt begins here with what follows it.
            self.begin(attempt, None, changes);
            return;
        }
        let Some(live) = self.attempts.get_mut(&dot) else { return };
        if let Hold::Leased { until_ms } = live.attempt.hold {
            self.expiries.remove(&(until_ms, dot));
        }
        live.attempt = attempt;
        live.has_row = true;
        changes.push(Change::PutAttempt(dot, attempt));
        if hold == Hold::Released {
            let grant = live.grant.take();
            self.leave_grant(grant, changes);
        }
    }
}
