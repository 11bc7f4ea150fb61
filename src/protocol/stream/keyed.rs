//! What replicas tell each other of keyed messages, and when these are forgotten: when their window
//! is over and no replica has them open [F1].

use super::identities::Identity;
use super::repair::fnv;
use super::{Place, SetMark, Stream};
use crate::base::hlc::Hlc;
use crate::base::ids::SubscriptionId;
use crate::base::rules::{Rule, rule_on};
use crate::crdt::context::DotSet;
use crate::crdt::dot::{Dot, KeyedId};
use crate::protocol::op::Change;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A keyed message, as replicas tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyedFact {
    /// Its name.
    pub id: KeyedId,
    /// Its identity's content [F2].
    pub content_mac: [u8; 32],
    /// Its stamp.
    pub hlc: Hlc,
    /// A copy made by a link.
    pub is_copy: bool,
    /// Who is not done with it; nobody: it is settled.
    pub open: Vec<SubscriptionId>,
    /// How long ago it was stored, in ms.
    pub age_ms: u64,
}

impl Stream {
    /// Says how long keyed messages are remembered at least, in ms, as the settings are now.
    pub fn remember_for(&mut self, dedup_ms: u64) {
        self.dedup_ms = dedup_ms;
    }

    fn is_window_over(&self, age_ms: u64) -> bool {
        age_ms >= self.dedup_ms
    }

    /// Whether nobody has a keyed message open, and its window is over.
    fn is_ended(&self, id: KeyedId, identity: &Identity, now_ms: u64) -> bool {
        !identity.is_copy
            && self.is_window_over(identity.age_ms(now_ms))
            && !self.sizes.contains(Dot::Keyed(id))
    }

    /// Whether a key is only remembered because another replica may still have its message open: a
    /// send by it is a new message [F1].
    pub(super) fn is_retiring(&self, id: KeyedId, now_ms: u64) -> bool {
        let ended = |identity: &Identity| self.is_ended(id, identity, now_ms);
        !self.is_alone && self.identities.get(id).is_some_and(ended)
    }

    /// Whether of two messages by one key the first was sent when the other's window was over.
    /// Two stamps of one message are closer.
    pub(super) fn is_later(&self, hlc: Hlc, than: Hlc) -> bool {
        hlc.wall_ms.saturating_sub(than.wall_ms) >= self.dedup_ms.max(1)
    }

    /// A digest per bucket that is not empty. Messages that are settled and whose window is over
    /// are not told: they are on their way out, at every replica's own pace.
    #[must_use]
    pub fn keyed_digests(&self, now_ms: u64) -> BTreeMap<u8, u64> {
        let mut buckets: BTreeMap<u8, u64> = BTreeMap::new();
        for (id, identity) in self.identities.iter() {
            if !self.is_ended(id, identity, now_ms) {
                let ground = (id, identity.content_mac, self.open_for_whom(Dot::Keyed(id)));
                let bytes = postcard::to_stdvec(&ground).expect("a digest's ground always encodes");
                let bucket = buckets.entry(id.0[0]).or_default();
                *bucket = bucket.wrapping_add(fnv(&bytes));
            }
        }
        buckets
    }

    /// Which content stands under the name of a keyed message.
    #[must_use]
    pub fn content_mac(&self, dot: Dot) -> Option<[u8; 32]> {
        let Dot::Keyed(id) = dot else { return None };
        self.identities.get(id).map(|identity| identity.content_mac)
    }

    /// Up to `max` keyed messages of a bucket after one, rising.
    #[must_use]
    pub fn keyed_facts(
        &self,
        bucket: u8,
        after: Option<KeyedId>,
        max: usize,
        now_ms: u64,
    ) -> Vec<KeyedFact> {
        let fact = |(id, identity): (KeyedId, &Identity)| KeyedFact {
            id,
            content_mac: identity.content_mac,
            hlc: identity.hlc,
            is_copy: identity.is_copy,
            open: self.open_for_whom(Dot::Keyed(id)),
            age_ms: identity.age_ms(now_ms),
        };
        self.identities.bucket(bucket, after).take(max).map(fact).collect()
    }

    /// Of some keyed messages those whose payload this replica lacks.
    #[must_use]
    pub fn lacks_keyed(&self, facts: &[KeyedFact]) -> Vec<KeyedId> {
        let lacks = |fact: &&KeyedFact| !fact.open.is_empty() && self.may_take(fact.id, fact.hlc);
        facts.iter().filter(lacks).map(|fact| fact.id).collect()
    }

    /// Where those of some keyed messages stand that are known here, in the order given.
    #[must_use]
    pub fn keyed_places(&self, ids: &[KeyedId]) -> Vec<Place> {
        let place = |id: &KeyedId| Some((self.identities.get(*id)?.hlc, Dot::Keyed(*id)));
        ids.iter().filter_map(place).collect()
    }

    /// Whether a keyed message of that stamp is none that was here before.
    pub(super) fn may_take(&self, id: KeyedId, hlc: Hlc) -> bool {
        let Some(own) = self.identities.get(id) else { return true };
        self.is_later(hlc, own.hlc) && !self.sizes.contains(Dot::Keyed(id))
    }

    /// Takes in which keyed messages another replica has settled, for which readers; nothing, when
    /// it has another set of readers [R36].
    pub fn merge_keyed(&mut self, set: SetMark, facts: &[KeyedFact], now_ms: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        if set != self.set.mark() {
            return changes;
        }
        let ids: Vec<SubscriptionId> = self.readers.keys().copied().collect();
        for fact in facts {
            let dot = Dot::Keyed(fact.id);
            match self.identities.get(fact.id) {
                // What is over was forgotten here.
                None if fact.open.is_empty()
                    && !fact.is_copy
                    && self.is_window_over(fact.age_ms) => {}
                None if fact.open.is_empty() => {
                    let (content_mac, hlc, is_copy) = (fact.content_mac, fact.hlc, fact.is_copy);
                    let received_ms = now_ms.saturating_sub(fact.age_ms);
                    let identity = Identity { content_mac, hlc, received_ms, is_copy };
                    self.identities.insert(fact.id, identity);
                    changes.push(Change::PutIdentity(fact.id, identity));
                }
                // It tells of an earlier message by this key. Stamps alone do not say so: between
                // two nodes whose wall clocks are apart a send and its repeat are far from each
                // other. The teller takes a send for a new one when its window is over [F1, F11].
                Some(own)
                    if !fact.is_copy
                        && self.is_window_over(fact.age_ms)
                        && self.is_later(own.hlc, fact.hlc) => {}
                Some(own) if own.content_mac == fact.content_mac => {
                    for id in ids.iter().filter(|id| !fact.open.contains(id)) {
                        let one = DotSet::from_iter([dot]);
                        self.settle_dots(*id, &one, now_ms, &mut changes);
                    }
                }
                // Unknown and open: it comes with its payload. Another content: the majority's
                // stays [F1].
                _ => {}
            }
        }
        changes
    }

    /// Keyed messages that could be forgotten, if no other replica has them open [F1].
    #[must_use]
    pub fn retirable(&self, now_ms: u64, max: usize) -> Vec<KeyedId> {
        let is_settled = |id| !self.sizes.contains(Dot::Keyed(id));
        self.identities.retirable(now_ms, self.dedup_ms, max, is_settled)
    }

    /// Whether each of some keyed messages is open here for nobody.
    #[must_use]
    pub fn are_settled(&self, ids: &[KeyedId]) -> Vec<bool> {
        let is_settled = |id: &KeyedId| !self.sizes.contains(Dot::Keyed(*id));
        ids.iter().map(|id| !rule_on(Rule::F1) || is_settled(id)).collect()
    }

    /// Forgets keyed messages that no replica has open and whose window is over.
    pub fn retire(&mut self, ids: &[KeyedId], now_ms: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for id in ids {
            let ended = |identity: &Identity| self.is_ended(*id, identity, now_ms);
            if self.identities.get(*id).is_some_and(ended) && self.identities.remove(*id) {
                changes.push(Change::DeleteIdentity(*id));
            }
        }
        changes
    }
}
