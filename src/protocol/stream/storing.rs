//! Storing: a message enters the context in the same batch as its payload [R12].

use super::identities::Identity;
use super::reader::Mark;
use super::{Place, Stream, StreamKind, push_once};
use crate::base::ids::{Boot, NodeId, SubscriptionId};
use crate::base::limits;
use crate::base::rules::{Rule, rule_on};
use crate::crdt::dot::Dot;
use crate::message::envelope::{Envelope, Kept};
use crate::protocol::op::{Change, Closes, Refusal, StoreOp, StoreVote};
use std::sync::Arc;

/// Identities looked at in one Store: more than one can bring.
const FORGET_MAX: usize = 2 * limits::SEND_BATCH_MAX;

/// What bounds a stream and how long it remembers, as its settings say now.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long keys are remembered, in ms.
    pub dedup_ms: u64,
    /// Bytes of all messages; 0: no limit.
    pub bytes_max: u64,
    /// Keyed messages that are remembered at once.
    pub keys_max: usize,
}

impl Stream {
    /// Whether a send may be coordinated here under this record version.
    ///
    /// # Errors
    /// [`Refusal::Sealed`] when the stream is closed to sends.
    pub fn may_store(&self, record_version: u64) -> Result<(), Refusal> {
        self.open_for(Closes::Sends, record_version)
    }

    /// The dot that this replica mints `index` messages from now. Dense: a number is drawn in
    /// the very decision that stores it, so a running origin has no holes [R10].
    #[must_use]
    pub fn mint(&self, index: u64) -> Dot {
        let seq = self.context.high(self.me, self.boot) + 1 + index;
        let boot = if rule_on(Rule::R10) { self.boot } else { Boot(1) };
        Dot::Minted { node: self.me, boot, seq }
    }

    /// Stores messages; each gets its own verdict. Known minted and derived dots are answered
    /// [`StoreVote::Known`]: the caller has compared their content macs [R11]. `keep`: hold the
    /// payloads in memory until they are delivered.
    ///
    /// # Errors
    /// [`Refusal`], and nothing has changed.
    pub fn store(
        &mut self,
        op: &StoreOp,
        bounds: Bounds,
        now_ms: u64,
        keep: bool,
    ) -> Result<(Vec<StoreVote>, Vec<Change>), Refusal> {
        self.may_store(op.header.record_version)?;
        self.dedup_ms = bounds.dedup_ms;
        self.check(op, bounds, now_ms)?;
        let mut changes = Vec::with_capacity(op.envelopes.len() + 1);
        let mut votes = Vec::with_capacity(op.envelopes.len());
        for envelope in &op.envelopes {
            votes.push(self.keep_message(envelope, (0, now_ms), keep, &mut changes));
        }
        for (origin, up_to) in &op.closed {
            self.context.fill(*origin, *up_to);
            push_once(&mut changes, Change::PutMeta);
        }
        if self.is_alone {
            let sizes = &self.sizes;
            let forgotten = self
                .identities
                .forget(now_ms, bounds.dedup_ms, FORGET_MAX, |id| !sizes.contains(Dot::Keyed(id)));
            changes.extend(forgotten.into_iter().map(Change::DeleteIdentity));
        }
        Ok((votes, changes))
    }

    /// Whether a message was evaluated on a subscription set that this replica does not have yet.
    pub(super) fn is_ahead(&self, envelope: &Envelope) -> bool {
        self.kind == StreamKind::Topic && envelope.header.set_version > self.set.version
    }

    /// All refusals come before the first change.
    fn check(&self, op: &StoreOp, bounds: Bounds, now_ms: u64) -> Result<(), Refusal> {
        let (mut keyed, mut bytes) = (0, 0);
        for envelope in &op.envelopes {
            let header = &envelope.header;
            // Evaluated on an older set than this replica's: a subscription may be missing [R36].
            if self.kind == StreamKind::Topic && header.set_version < self.set.version {
                return Err(Refusal::StaleSet);
            }
            // Evaluated on a newer one: who is not known here would count as done with it.
            if self.is_ahead(envelope) {
                return Err(Refusal::Behind);
            }
            self.check_boot(header.dot)?;
            if !self.is_known(header.dot) {
                bytes += envelope.sealed.len() as u64;
                keyed += usize::from(matches!(header.dot, Dot::Keyed(_)));
            }
        }
        if bounds.bytes_max > 0 && bytes > 0 && self.sizes.total() + bytes > bounds.bytes_max {
            return Err(Refusal::Full);
        }
        if keyed > 0 && self.identities.len() + keyed > bounds.keys_max {
            // What this Store forgets makes room for what it brings.
            let is_settled = |id| !self.sizes.contains(Dot::Keyed(id));
            let room = match self.is_alone {
                true => {
                    self.identities.forgettable(now_ms, bounds.dedup_ms, FORGET_MAX, is_settled)
                }
                false => 0,
            };
            if self.identities.len() + keyed > bounds.keys_max + room {
                return Err(Refusal::TooManyKeys);
            }
        }
        Ok(())
    }

    /// Stores from a boot below the highest seen of that node are refused: they come from before
    /// a crash, and their numbers may have been lost with it [R17].
    fn check_boot(&self, dot: Dot) -> Result<(), Refusal> {
        let Dot::Minted { node, boot, .. } = dot else { return Ok(()) };
        match self.highest_boot(node) {
            // Who mints under another number must not refuse itself.
            _ if !rule_on(Rule::R10) => Ok(()),
            Some(highest) if rule_on(Rule::R17) && boot < highest => Err(Refusal::StaleBoot),
            _ => Ok(()),
        }
    }

    fn highest_boot(&self, node: NodeId) -> Option<Boot> {
        let mine = (node == self.me).then_some(self.boot);
        self.context.highest_boot(node).max(mine)
    }

    /// Keeps a message that another replica had before: the window of a keyed one goes on from
    /// there, so that all replicas forget it about then.
    pub(super) fn keep_brought(
        &mut self,
        envelope: &Arc<Envelope>,
        received_ms: u64,
        now_ms: u64,
        changes: &mut Vec<Change>,
    ) {
        // What was here before is over, unless another message was sent by its key since.
        if let Dot::Keyed(id) = envelope.header.dot
            && self
                .identities
                .get(id)
                .is_some_and(|own| !self.is_later(envelope.header.hlc, own.hlc))
        {
            return;
        }
        let age_ms = now_ms.saturating_sub(received_ms);
        let stored = self.keep_message(envelope, (age_ms, now_ms), false, changes);
        if let (StoreVote::Stored, Dot::Keyed(id)) = (stored, envelope.header.dot) {
            let identity = self.identities.backdate(id, received_ms);
            changes.extend(identity.map(|identity| Change::PutIdentity(id, identity)));
        }
    }

    pub(super) fn keep_message(
        &mut self,
        envelope: &Arc<Envelope>,
        (age_ms, now_ms): (u64, u64),
        keep: bool,
        changes: &mut Vec<Change>,
    ) -> StoreVote {
        let header = &envelope.header;
        let dot = header.dot;
        // "Known" is no reason to skip a message whose payload is gone [F23].
        if self.fill_hole(envelope, (age_ms, now_ms), changes) {
            return StoreVote::Stored;
        }
        if let Dot::Keyed(id) = dot {
            if let Some(known) = self.identities.get(id).filter(|_| !self.is_retiring(id, now_ms)) {
                let same = !rule_on(Rule::F2) || known.content_mac == header.content_mac;
                return if same { StoreVote::Known } else { StoreVote::OtherContent };
            }
            let (content_mac, hlc) = (header.content_mac, header.hlc);
            let is_copy = header.hop > 0;
            let identity = Identity { content_mac, hlc, received_ms: now_ms, is_copy };
            self.identities.remove(id);
            self.identities.insert(id, identity);
            changes.push(Change::PutIdentity(id, identity));
        } else {
            if !self.context.insert(dot) {
                return StoreVote::Known;
            }
            push_once(changes, Change::PutMeta);
        }
        let received_ms = now_ms.saturating_sub(age_ms);
        let kept = Kept { received_ms, envelope: envelope.clone() };
        let wanted = self.wanted_by(envelope);
        // Nobody wants it: it was stored, and settled in the same breath.
        if !wanted.is_empty() {
            self.keep_for(&wanted, kept, (age_ms, now_ms), keep, changes);
        }
        StoreVote::Stored
    }

    fn wanted_by(&self, envelope: &Envelope) -> Vec<SubscriptionId> {
        match self.kind {
            StreamKind::Queue => vec![SubscriptionId::QUEUE],
            StreamKind::Topic => {
                let here = |id: &&SubscriptionId| self.set.filters.contains_key(id);
                envelope.header.matched.iter().filter(here).copied().collect()
            }
        }
    }

    fn keep_for(
        &mut self,
        wanted: &[SubscriptionId],
        kept: Kept,
        (age_ms, now_ms): (u64, u64),
        keep: bool,
        changes: &mut Vec<Change>,
    ) {
        let header = &kept.envelope.header;
        let place: Place = (header.hlc, header.dot);
        let row = kept.to_bytes();
        let bytes = row.len();
        let is_plain = header.delay_ms == 0 && header.ttl_ms == 0 && header.group.is_none();
        let mark = (!is_plain).then(|| Mark {
            hlc: header.hlc,
            ready_ms: match header.delay_ms {
                0 => 0,
                delay_ms => (now_ms + delay_ms).saturating_sub(sure_ms(age_ms)),
            },
            // Of a time that is over something is left: 0 means that it has no end of its own.
            ends_ms: match header.ttl_ms {
                0 => 0,
                ttl_ms => (now_ms + ttl_ms).saturating_sub(age_ms).max(1),
            },
            group: header.group,
        });
        self.sizes.insert(place.1, bytes);
        if let Some(mark) = mark {
            self.marks.insert(place.1, mark);
            changes.push(Change::PutMark(place.1, mark));
        }
        for id in wanted {
            let Some(reader) = self.readers.get_mut(id) else { continue };
            reader.open(place.1, bytes as u64);
            if *id != SubscriptionId::QUEUE {
                changes.push(Change::PutOpen(*id, place));
            }
            let payload = keep.then(|| kept.clone());
            match &mark {
                None => reader.window.push(place, payload),
                Some(mark) => {
                    reader.join_group(place, mark);
                    if mark.ends_ms != 0 {
                        reader.ends.insert((mark.ends_ms, place.1));
                    }
                    reader.seat(place, payload, Some(mark), now_ms);
                }
            }
        }
        changes.push(Change::PutMessage(place, row));
    }
}

/// How much of an age that one other replica tells has surely passed, in ms: its clock may run
/// fast, and late is allowed where early is not [F11].
fn sure_ms(age_ms: u64) -> u64 {
    (age_ms - age_ms / 50).saturating_sub(1_000)
}
