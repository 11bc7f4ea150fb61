//! A replica whose disk is made of rows in memory: what it wants written can be loaded again.
use crate::base::ids::{Generation, RequesterId, UserId};
use crate::crdt::dot::KeyedId;
use crate::layout::view::ViewId;
use crate::message::envelope::{Envelope, Header};
use crate::protocol::lease::GrantRow;
use crate::protocol::op::{
    LeaseDot, LeaseOp, LeaseVote, OpHeader, Purpose, ReleaseOutcome, SettleAction, SettleItem,
    SettleOp, SettleVote, StoreOp,
};
use crate::protocol::stream::*;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) const ME: NodeId = NodeId(1);
pub(super) const BOOT: Boot = Boot(1);

pub(super) fn header(record_version: u64) -> OpHeader {
    let view = ViewId { version: 1, hash: 0 };
    OpHeader { stream: Generation([0; 16]), record_version, view }
}

pub(super) const Q: SubscriptionId = SubscriptionId::QUEUE;
pub(super) const FAILED: SettleAction =
    SettleAction::Release { outcome: ReleaseOutcome::Failed, delay_ms: None };
pub(super) const BACK: SettleAction =
    SettleAction::Release { outcome: ReleaseOutcome::HandedBack, delay_ms: None };
pub(super) const BOUNDS: Bounds = Bounds { dedup_ms: 1_000, bytes_max: 0, keys_max: 100 };

pub(super) fn rules() -> Rules {
    Rules {
        max_failures: 0,
        backoff_min_ms: 0,
        backoff_max_ms: 0,
        retention_ms: u64::MAX,
        is_grouped: false,
    }
}

pub(super) fn head(dot: Dot, wall_ms: u64) -> Header {
    Header {
        dot,
        sender: UserId([0; 16]),
        sender_name: "alice".to_owned(),
        hlc: Hlc { wall_ms, logical: 0, node: ME },
        sent_ms: wall_ms,
        content_mac: [0; 32],
        delay_ms: 0,
        ttl_ms: 0,
        group: None,
        hop: 0,
        set_version: 0,
        matched: Vec::new(),
    }
}

pub(super) fn sealed(header: Header) -> Arc<Envelope> {
    Arc::new(Envelope { header, nonce: [0; 12], sealed: Bytes::from_static(b"sealed") })
}

pub(super) fn envelope(dot: Dot, wall_ms: u64) -> Arc<Envelope> {
    sealed(head(dot, wall_ms))
}

pub(super) fn store_op(envelopes: Vec<Arc<Envelope>>) -> StoreOp {
    StoreOp { header: header(1), envelopes, closed: Vec::new() }
}

/// A replica with a disk made of rows: what comes out as changes can be loaded again.
pub(super) struct Bench {
    pub(super) me: NodeId,
    pub(super) stream: Stream,
    pub(super) kind: StreamKind,
    pub(super) rules: Rules,
    pub(super) meta: StreamMeta,
    pub(super) set: SubscriptionSet,
    pub(super) messages: BTreeMap<Place, Vec<u8>>,
    pub(super) open: BTreeSet<(SubscriptionId, Place)>,
    pub(super) marks: BTreeMap<Dot, Mark>,
    pub(super) identities: BTreeMap<KeyedId, Identity>,
    pub(super) readers: BTreeMap<SubscriptionId, ReaderMeta>,
    pub(super) grants: BTreeMap<(SubscriptionId, RequesterId), GrantRow>,
    pub(super) attempts: BTreeMap<(SubscriptionId, Dot), Attempt>,
    pub(super) reasons: BTreeMap<(SubscriptionId, Dot), Bytes>,
    pub(super) requests: u8,
    pub(super) sent: u64,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::of(StreamKind::Queue, rules())
    }

    pub(super) fn of(kind: StreamKind, rules: Rules) -> Self {
        Self::at(ME, kind, rules)
    }

    pub(super) fn at(me: NodeId, kind: StreamKind, rules: Rules) -> Self {
        Self {
            me,
            stream: Stream::load((me, BOOT), kind, Loaded::default(), 0, &|_| rules),
            kind,
            rules,
            meta: StreamMeta::default(),
            set: SubscriptionSet::default(),
            messages: BTreeMap::new(),
            open: BTreeSet::new(),
            marks: BTreeMap::new(),
            identities: BTreeMap::new(),
            readers: BTreeMap::new(),
            grants: BTreeMap::new(),
            attempts: BTreeMap::new(),
            reasons: BTreeMap::new(),
            requests: 0,
            sent: 0,
        }
    }

    pub(super) fn commit(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::PutMessage(place, bytes) => drop(self.messages.insert(place, bytes)),
                Change::DeleteMessage(place) => drop(self.messages.remove(&place)),
                Change::PutOpen(id, place) => drop(self.open.insert((id, place))),
                Change::DeleteOpen(id, place) => drop(self.open.remove(&(id, place))),
                Change::PutMark(dot, mark) => drop(self.marks.insert(dot, mark)),
                Change::DeleteMark(dot) => drop(self.marks.remove(&dot)),
                Change::PutIdentity(id, it) => drop(self.identities.insert(id, it)),
                Change::DeleteIdentity(id) => drop(self.identities.remove(&id)),
                Change::PutGrant(id, r, row) => drop(self.grants.insert((id, r), row)),
                Change::DeleteGrant(id, r) => drop(self.grants.remove(&(id, r))),
                Change::PutAttempt(id, dot, it) => drop(self.attempts.insert((id, dot), it)),
                Change::DeleteAttempt(id, dot) => drop(self.attempts.remove(&(id, dot))),
                Change::PutReason(id, dot, it) => drop(self.reasons.insert((id, dot), it)),
                Change::DeleteReason(id, dot) => {
                    assert!(self.reasons.remove(&(id, dot)).is_some(), "there is none");
                }
                Change::PutMeta => self.meta = self.stream.meta(),
                Change::PutReader(id) => {
                    self.readers.insert(id, self.stream.reader_meta(id));
                }
                Change::DeleteReader(id) => drop(self.readers.remove(&id)),
                Change::PutSet => self.set = (**self.stream.set()).clone(),
            }
        }
    }

    pub(super) fn restart(&mut self, boot: Boot, now_ms: u64) {
        let mut readers: BTreeMap<SubscriptionId, LoadedReader> = BTreeMap::new();
        for (id, meta) in &self.readers {
            readers.entry(*id).or_default().meta = meta.clone();
        }
        for (id, place) in &self.open {
            let reader = readers.entry(*id).or_default();
            reader.open.insert(place.1);
            reader.head.push(*place);
        }
        for ((id, requester), row) in &self.grants {
            readers.entry(*id).or_default().grants.push((*requester, row.clone()));
        }
        for ((id, _), attempt) in &self.attempts {
            readers.entry(*id).or_default().attempts.push(*attempt);
        }
        let mut sizes = Sizes::default();
        self.messages.iter().for_each(|(place, bytes)| sizes.insert(place.1, bytes.len()));
        if self.kind == StreamKind::Queue {
            readers.entry(Q).or_default().head = self.messages.keys().copied().collect();
        }
        for (id, dot) in self.reasons.keys() {
            readers.entry(*id).or_default().reasons.push(*dot);
        }
        let loaded = Loaded {
            meta: self.meta.clone(),
            set: self.set.clone(),
            sizes,
            marks: self.marks.iter().map(|(dot, mark)| (*dot, *mark)).collect(),
            identities: self.identities.iter().map(|(id, it)| (*id, *it)).collect(),
            readers,
            ..Loaded::default()
        };
        let rules = self.rules;
        self.stream = Stream::load((self.me, boot), self.kind, loaded, now_ms, &|_| rules);
    }

    pub(super) fn send(&mut self, wall_ms: u64) -> Dot {
        self.send_with(wall_ms, 0, |_| {})
    }

    pub(super) fn send_with(
        &mut self,
        wall_ms: u64,
        now_ms: u64,
        edit: impl FnOnce(&mut Header),
    ) -> Dot {
        let mut header = head(self.stream.mint(0), wall_ms);
        edit(&mut header);
        let dot = header.dot;
        self.sent += 1;
        let op = store_op(vec![sealed(header)]);
        let (_, changes) = self.stream.store(&op, BOUNDS, now_ms, true).unwrap();
        self.commit(changes);
        dot
    }

    pub(super) fn receive(&mut self, max: usize, duration_ms: u64, now_ms: u64) -> Vec<SettleItem> {
        self.receive_by(Q, max, duration_ms, now_ms)
    }

    pub(super) fn receive_by(
        &mut self,
        id: SubscriptionId,
        max: usize,
        duration_ms: u64,
        now_ms: u64,
    ) -> Vec<SettleItem> {
        self.stream.wake(id, now_ms);
        let picked = self.stream.pick(id, max, now_ms).into_iter().map(|(place, _)| place);
        let places = picked.collect();
        self.lease(id, places, Purpose::Deliver, duration_ms, now_ms)
    }

    pub(super) fn lease(
        &mut self,
        reader: SubscriptionId,
        places: Vec<Place>,
        purpose: Purpose,
        duration_ms: u64,
        now_ms: u64,
    ) -> Vec<SettleItem> {
        self.requests = self.requests.wrapping_add(1);
        let requester = RequesterId([self.requests; 16]);
        let dots = places
            .into_iter()
            .map(|place| LeaseDot { place, envelope: None, age_ms: 0, content_mac: None })
            .collect();
        let counter = self.stream.next_counter(reader);
        let op = LeaseOp {
            header: header(1),
            reader,
            requester,
            holder: "bob".into(),
            purpose,
            counter,
            duration_ms,
            dots,
            failures: Vec::new(),
        };
        let (votes, changes) = self.stream.lease(&op, now_ms, now_ms).unwrap();
        self.commit(changes);
        let item = |(dot, vote): (&LeaseDot, &LeaseVote)| match *vote {
            LeaseVote::Granted { receive_count, failure_count } => Some(SettleItem {
                place: dot.place,
                requester,
                counter,
                receive_count,
                failure_count,
                action: SettleAction::Ack,
            }),
            _ => None,
        };
        op.dots.iter().zip(&votes).filter_map(item).collect()
    }

    pub(super) fn settle(
        &mut self,
        item: SettleItem,
        action: SettleAction,
        now_ms: u64,
    ) -> SettleVote {
        self.settle_by(Q, item, action, now_ms)
    }

    pub(super) fn settle_by(
        &mut self,
        reader: SubscriptionId,
        item: SettleItem,
        action: SettleAction,
        now_ms: u64,
    ) -> SettleVote {
        self.settle_because(reader, SettleItem { action, ..item }, None, now_ms)
    }

    pub(super) fn settle_because(
        &mut self,
        reader: SubscriptionId,
        item: SettleItem,
        reason: Option<&'static [u8]>,
        now_ms: u64,
    ) -> SettleVote {
        let told = |reason| ((item.place.1, item.counter), Bytes::from_static(reason));
        let op = SettleOp {
            header: header(1),
            reader,
            check_only: false,
            items: vec![item],
            reasons: reason.map(told).into_iter().collect(),
        };
        let (votes, changes) = self.stream.settle(&op, now_ms, now_ms).unwrap();
        self.commit(changes);
        votes[0]
    }

    /// What the broker's worker does.
    pub(super) fn attend(&mut self, id: SubscriptionId, now_ms: u64) {
        self.stream.wake(id, now_ms);
        for (place, purpose) in self.stream.doomed(id, usize::MAX, now_ms) {
            for item in self.lease(id, vec![place], purpose, 1_000, now_ms) {
                if purpose == Purpose::Expire {
                    self.settle_by(id, item, SettleAction::Ack, now_ms);
                }
            }
        }
        for id in self.stream.unswept() {
            let places: Vec<Place> = if id == Q {
                self.messages.keys().copied().collect()
            } else {
                self.open.iter().filter(|(of, _)| *of == id).map(|(_, place)| *place).collect()
            };
            let all = self.stream.to_sweep(id);
            let mut changes = self.stream.sweep(id, &places);
            changes.extend(self.stream.swept(id, &all));
            self.commit(changes);
        }
    }

    /// No row is left of anything that is over.
    pub(super) fn is_clean(&self) -> bool {
        self.messages.is_empty()
            && self.grants.is_empty()
            && self.attempts.is_empty()
            && self.open.is_empty()
            && self.marks.is_empty()
            && self.reasons.is_empty()
    }
}
