#![allow(clippy::unwrap_used)]
use super::*;
use crate::base::ids::{Generation, RequesterId, UserId};
use crate::base::limits;
use crate::crdt::dot::{KeyedId, SendKey};
use crate::layout::view::ViewId;
use crate::message::envelope::{DeathReason, Envelope, GroupHash, Header, Kept};
use crate::protocol::lease::{GrantRow, Hold};
use crate::protocol::op::{
    LeaseDot, LeaseOp, LeaseVote, OpHeader, Purpose, ReleaseOutcome, SettleAction, SettleItem,
    SettleOp, SettleVote, StoreOp, StoreVote,
};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const ME: NodeId = NodeId(1);
const BOOT: Boot = Boot(1);

fn header(record_version: u64) -> OpHeader {
    let view = ViewId { version: 1, hash: 0 };
    OpHeader { stream: Generation([0; 16]), record_version, view }
}

const Q: SubscriptionId = SubscriptionId::QUEUE;
const FAILED: SettleAction =
    SettleAction::Release { outcome: ReleaseOutcome::Failed, delay_ms: None };
const BACK: SettleAction =
    SettleAction::Release { outcome: ReleaseOutcome::HandedBack, delay_ms: None };
const BOUNDS: Bounds = Bounds { dedup_ms: 1_000, bytes_max: 0 };

fn rules() -> Rules {
    Rules {
        max_failures: 0,
        backoff_min_ms: 0,
        backoff_max_ms: 0,
        retention_ms: u64::MAX,
        is_grouped: false,
    }
}

fn head(dot: Dot, wall_ms: u64) -> Header {
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

fn sealed(header: Header) -> Arc<Envelope> {
    Arc::new(Envelope { header, nonce: [0; 12], sealed: Bytes::from_static(b"sealed") })
}

fn envelope(dot: Dot, wall_ms: u64) -> Arc<Envelope> {
    sealed(head(dot, wall_ms))
}

fn store_op(envelopes: Vec<Arc<Envelope>>) -> StoreOp {
    StoreOp { header: header(1), envelopes, closed: Vec::new() }
}

/// A replica with a disk made of rows: what comes out as changes can be loaded again.
struct Bench {
    stream: Stream,
    kind: StreamKind,
    rules: Rules,
    meta: StreamMeta,
    set: SubscriptionSet,
    messages: BTreeMap<Place, Vec<u8>>,
    open: BTreeSet<(SubscriptionId, Place)>,
    marks: BTreeMap<Dot, Mark>,
    identities: BTreeMap<KeyedId, Identity>,
    readers: BTreeMap<SubscriptionId, ReaderMeta>,
    grants: BTreeMap<(SubscriptionId, RequesterId), GrantRow>,
    attempts: BTreeMap<(SubscriptionId, Dot), Attempt>,
    requests: u8,
    sent: u64,
}

impl Bench {
    fn new() -> Self {
        Self::of(StreamKind::Queue, rules())
    }

    fn of(kind: StreamKind, rules: Rules) -> Self {
        Self {
            stream: Stream::load((ME, BOOT), kind, Loaded::default(), 0, &|_| rules),
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
            requests: 0,
            sent: 0,
        }
    }

    fn commit(&mut self, changes: Vec<Change>) {
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
                Change::PutMeta => self.meta = self.stream.meta(),
                Change::PutReader(id) => {
                    self.readers.insert(id, self.stream.reader_meta(id));
                }
                Change::DeleteReader(id) => drop(self.readers.remove(&id)),
                Change::PutSet => self.set = (**self.stream.set()).clone(),
            }
        }
    }

    fn restart(&mut self, boot: Boot, now_ms: u64) {
        let mut readers: BTreeMap<SubscriptionId, LoadedReader> = BTreeMap::new();
        for (id, meta) in &self.readers {
            readers.entry(*id).or_default().meta = meta.clone();
        }
        for (id, place) in &self.open {
            readers.entry(*id).or_default().open.push(*place);
        }
        for ((id, requester), row) in &self.grants {
            readers.entry(*id).or_default().grants.push((*requester, row.clone()));
        }
        for ((id, _), attempt) in &self.attempts {
            readers.entry(*id).or_default().attempts.push(*attempt);
        }
        let loaded = Loaded {
            meta: self.meta.clone(),
            set: self.set.clone(),
            places: self.messages.iter().map(|(p, bytes)| (*p, bytes.len())).collect(),
            marks: self.marks.iter().map(|(dot, mark)| (*dot, *mark)).collect(),
            identities: self.identities.iter().map(|(id, it)| (*id, *it)).collect(),
            readers,
        };
        let rules = self.rules;
        self.stream = Stream::load((ME, boot), self.kind, loaded, now_ms, &|_| rules);
    }

    fn send(&mut self, wall_ms: u64) -> Dot {
        self.send_with(wall_ms, 0, |_| {})
    }

    fn send_with(&mut self, wall_ms: u64, now_ms: u64, edit: impl FnOnce(&mut Header)) -> Dot {
        let mut header = head(self.stream.mint(0), wall_ms);
        edit(&mut header);
        let dot = header.dot;
        self.sent += 1;
        let op = store_op(vec![sealed(header)]);
        let (_, changes) = self.stream.store(&op, BOUNDS, now_ms, true).unwrap();
        self.commit(changes);
        dot
    }

    fn receive(&mut self, max: usize, duration_ms: u64, now_ms: u64) -> Vec<SettleItem> {
        self.receive_by(Q, max, duration_ms, now_ms)
    }

    fn receive_by(
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

    fn lease(
        &mut self,
        reader: SubscriptionId,
        places: Vec<Place>,
        purpose: Purpose,
        duration_ms: u64,
        now_ms: u64,
    ) -> Vec<SettleItem> {
        self.requests = self.requests.wrapping_add(1);
        let requester = RequesterId([self.requests; 16]);
        let dots = places.into_iter().map(|place| LeaseDot { place, envelope: None }).collect();
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

    fn settle(&mut self, item: SettleItem, action: SettleAction, now_ms: u64) -> SettleVote {
        self.settle_by(Q, item, action, now_ms)
    }

    fn settle_by(
        &mut self,
        reader: SubscriptionId,
        mut item: SettleItem,
        action: SettleAction,
        now_ms: u64,
    ) -> SettleVote {
        item.action = action;
        let op = SettleOp { header: header(1), reader, check_only: false, items: vec![item] };
        let (votes, changes) = self.stream.settle(&op, now_ms, now_ms).unwrap();
        self.commit(changes);
        votes[0]
    }

    /// What the broker's worker does.
    fn attend(&mut self, id: SubscriptionId, now_ms: u64) {
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
            let mut changes = self.stream.sweep(id, &places);
            changes.extend(self.stream.swept(id));
            self.commit(changes);
        }
    }

    /// No row is left of anything that is over.
    fn is_clean(&self) -> bool {
        self.messages.is_empty()
            && self.grants.is_empty()
            && self.attempts.is_empty()
            && self.open.is_empty()
            && self.marks.is_empty()
    }
}

#[test]
fn r10_dots_are_dense_and_a_new_boot_mints_under_its_own_number() {
    let mut bench = Bench::new();
    let seqs: Vec<Dot> = (1..=3).map(|n| bench.send(n)).collect();
    assert_eq!(seqs[2], Dot::Minted { node: ME, boot: BOOT, seq: 3 });
    bench.restart(Boot(2), 0);
    assert_eq!(bench.send(4), Dot::Minted { node: ME, boot: Boot(2), seq: 1 });
}

#[test]
fn r17_a_store_from_an_earlier_life_of_its_node_is_refused() {
    let mut bench = Bench::new();
    bench.send(1);
    bench.restart(Boot(2), 0);
    let stale = envelope(Dot::Minted { node: ME, boot: BOOT, seq: 9 }, 5);
    assert_eq!(
        bench.stream.store(&store_op(vec![stale]), BOUNDS, 0, true),
        Err(Refusal::StaleBoot)
    );
}

#[test]
fn r12_a_message_is_in_the_context_exactly_with_its_payload_and_stays_after_it() {
    let mut bench = Bench::new();
    let dot = bench.send(1);
    assert!(bench.meta.context.contains(dot) && bench.messages.len() == 1);
    let items = bench.receive(1, 1_000, 0);
    assert_eq!(bench.settle(items[0], SettleAction::Ack, 1), SettleVote::Counted);
    assert!(bench.meta.context.contains(dot) && bench.is_clean());
    // A late copy of the same Store does not bring it back [H16].
    let again = store_op(vec![envelope(dot, 1)]);
    let (votes, changes) = bench.stream.store(&again, BOUNDS, 0, true).unwrap();
    assert_eq!((votes, changes), (vec![StoreVote::Known], vec![]));
    assert!(bench.receive(1, 1_000, 2).is_empty());
}

#[test]
#[should_panic(expected = "R12")]
fn r12_a_message_the_context_does_not_know_stops_the_load() {
    let mut bench = Bench::new();
    bench.send(1);
    bench.meta = StreamMeta::default();
    bench.restart(Boot(2), 0);
}

#[test]
fn order_is_kept_by_released_failed_and_lapsed_messages() {
    let mut bench = Bench::new();
    let dots: Vec<Dot> = (1..=3).map(|n| bench.send(n)).collect();
    let first = bench.receive(2, 1_000, 0);
    assert_eq!(first.iter().map(|i| i.place.1).collect::<Vec<_>>(), dots[..2]);
    bench.settle(first[1], FAILED, 1);
    let lapsed_at = 1_025;
    let again = bench.receive(9, 1_000, lapsed_at);
    assert_eq!(again.iter().map(|i| i.place.1).collect::<Vec<_>>(), dots);
    let counts: Vec<_> = again.iter().map(|i| (i.receive_count, i.failure_count)).collect();
    assert_eq!(counts, [(2, 1), (2, 1), (1, 0)], "lapse and failure count, each once [F19]");
}

#[test]
fn g5_fences_rise_over_release_lapse_settle_and_restart() {
    let mut bench = Bench::new();
    bench.send(1);
    let mut last = 0;
    for round in 0..6u64 {
        let now = round * 10_000;
        let item = bench.receive(1, 1_000, now)[0];
        assert!(item.counter > last, "round {round}");
        last = item.counter;
        match round % 3 {
            0 => {
                bench.settle(item, BACK, now);
            }
            1 => bench.restart(Boot(2 + round), now + 9_000),
            _ => {}
        }
    }
    let item = bench.receive(1, 1_000, 90_000)[0];
    bench.settle(item, SettleAction::Ack, 90_000);
    assert!(bench.is_clean());
    bench.restart(Boot(50), 90_000);
    bench.send(2);
    assert!(bench.receive(1, 1_000, 90_001)[0].counter > item.counter, "the floor survives [F9]");
}

#[test]
fn h21_a_restart_forgets_no_lease_and_counts_its_remainder() {
    let mut bench = Bench::new();
    bench.send(1);
    let item = bench.receive(1, 10_000, 100)[0];
    bench.restart(Boot(2), 5_000);
    assert!(bench.receive(1, 1_000, 5_000).is_empty());
    assert_eq!(bench.stream.in_flight(Q), 1);
    assert_eq!(bench.stream.next_wake_ms(), Some(100 + 10_250));
    let again = bench.receive(1, 1_000, 10_350)[0];
    assert!(again.counter > item.counter);
    assert_eq!(bench.settle(item, SettleAction::Ack, 10_400), SettleVote::Lost);
    assert_eq!(bench.settle(again, SettleAction::Ack, 10_500), SettleVote::Counted);
}

#[test]
fn an_extended_lease_outlives_its_first_end_also_over_a_restart() {
    let mut bench = Bench::new();
    bench.send(1);
    bench.send(2);
    let items = bench.receive(2, 1_000, 0);
    let longer = SettleAction::Extend { duration_ms: 60_000 };
    assert_eq!(bench.settle(items[0], longer, 500), SettleVote::Counted);
    bench.restart(Boot(2), 2_000);
    let lapsed = bench.receive(9, 1_000, 2_000);
    assert_eq!(lapsed.iter().map(|i| i.place.1).collect::<Vec<_>>(), [items[1].place.1]);
    assert_eq!(bench.settle(items[0], SettleAction::Ack, 3_000), SettleVote::Counted);
    assert_eq!(bench.settle(lapsed[0], SettleAction::Ack, 3_000), SettleVote::Counted);
    assert!(bench.is_clean(), "{:?} {:?}", bench.grants, bench.attempts);
}

#[test]
fn a_withdrawn_grant_leaves_no_trace_in_the_counts() {
    let mut bench = Bench::new();
    bench.send(1);
    let item = bench.receive(1, 1_000, 0)[0];
    assert_eq!(bench.settle(item, SettleAction::Withdraw, 1), SettleVote::Counted);
    let again = bench.receive(1, 1_000, 2)[0];
    assert_eq!((again.receive_count, again.failure_count), (1, 0));
    assert!(again.counter > item.counter);
}

#[test]
fn r27_a_replica_without_the_payload_asks_for_it() {
    let mut bench = Bench::new();
    let dot = Dot::Minted { node: NodeId(2), boot: Boot(1), seq: 1 };
    let message = envelope(dot, 3);
    let place = (message.header.hlc, dot);
    let mut op = LeaseOp {
        header: header(1),
        reader: Q,
        requester: RequesterId([9; 16]),
        holder: "bob".into(),
        purpose: Purpose::Deliver,
        counter: 1,
        duration_ms: 1_000,
        dots: vec![LeaseDot { place, envelope: None }],
    };
    assert_eq!(bench.stream.lease(&op, 0, 0).unwrap().0, [LeaseVote::NeedsPayload]);
    op.dots[0].envelope = Some(message);
    let (votes, changes) = bench.stream.lease(&op, 0, 0).unwrap();
    assert_eq!(votes, [LeaseVote::Granted { receive_count: 1, failure_count: 0 }]);
    bench.commit(changes);
    assert_eq!((bench.messages.len(), bench.grants.len()), (1, 1), "payload and grant together");
}

#[test]
fn f5_a_seal_closes_and_a_greater_live_version_lifts_it() {
    let mut bench = Bench::new();
    bench.send(1);
    let seal = |record_version, closes| Seal { record_version, closes, name: "q".into() };
    let changes = bench.stream.close(seal(4, Closes::Sends));
    bench.commit(changes);
    assert_eq!(bench.stream.may_store(4), Err(Refusal::Sealed));
    assert!(!bench.receive(1, 1_000, 0).is_empty(), "a drain goes on receiving");
    assert_eq!(bench.stream.close(seal(3, Closes::All)), [], "an older seal is void");
    bench.stream.close(seal(6, Closes::All));
    let op = SettleOp { header: header(6), reader: Q, check_only: false, items: vec![] };
    assert_eq!(bench.stream.settle(&op, 0, 0), Err(Refusal::Sealed));
    assert_eq!(bench.stream.may_store(7), Ok(()));
}

#[test]
fn a_long_queue_keeps_its_head_in_memory_and_reads_the_rest_in_order() {
    let mut bench = Bench::new();
    let total = limits::WINDOW_MESSAGES_MAX as u64 + 10;
    for n in 0..total {
        bench.send(n);
    }
    let after = bench.stream.unread_after(Q).expect("the rest is on disk");
    let head = bench.stream.pick(Q, usize::MAX, 0);
    assert_eq!(head.len(), limits::WINDOW_MESSAGES_MAX);
    let rest: Vec<Place> = bench.messages.keys().copied().filter(|p| *p > after).collect();
    bench.stream.refill(Q, &rest, None, 0);
    assert_eq!(bench.stream.pick(Q, usize::MAX, 0).len(), 10);
    assert_eq!(bench.stream.unread_after(Q), None);
    for (place, payload) in head {
        bench.stream.unpick(Q, place, payload, 0);
    }
    assert_eq!(bench.receive(1, 1_000, 0)[0].place.0.wall_ms, 0, "put back at its place [F34]");
}

#[derive(Clone, Debug)]
enum Step {
    Send,
    Receive { max: usize, duration_ms: u64 },
    Settle { which: usize, action: u8 },
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Send),
        3 => (1..4usize, 1..3_000u64).prop_map(|(max, duration_ms)| Step::Receive { max, duration_ms }),
        5 => (any::<usize>(), 0..5u8).prop_map(|(which, action)| Step::Settle { which, action }),
        2 => (1..4_000u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    /// Whatever happens on one replica: leases exclude each other [G3], acknowledged messages
    /// never come back [G4], fences rise [G5], nothing unacknowledged is lost [G1], and no row
    /// outlives its message.
    #[test]
    fn one_replica_keeps_its_promises(steps in prop::collection::vec(step(), 1..120)) {
        let mut bench = Bench::new();
        let (mut now, mut wall, mut boot) = (0u64, 0u64, 1u64);
        let mut unsettled: BTreeSet<Dot> = BTreeSet::new();
        let mut acked: BTreeSet<Dot> = BTreeSet::new();
        let mut fences: BTreeMap<Dot, u64> = BTreeMap::new();
        // What each holder believes: until when its lease runs.
        let mut leases: Vec<(SettleItem, u64, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Send => { wall += 1; unsettled.insert(bench.send(wall)); }
                Step::Wait(ms) => now += ms,
                Step::Restart => { boot += 1; bench.restart(Boot(boot), now); }
                Step::Receive { max, duration_ms } => {
                    for item in bench.receive(max, duration_ms, now) {
                        let dot = item.place.1;
                        prop_assert!(!acked.contains(&dot), "delivered after its ack");
                        let fence = fences.entry(dot).or_default();
                        prop_assert!(item.counter > *fence, "the fence fell");
                        *fence = item.counter;
                        let held = leases.iter().any(|(other, until, open)| {
                            *open && other.place == item.place && *until > now
                        });
                        prop_assert!(!held, "two holders");
                        leases.push((item, now + duration_ms, true));
                    }
                }
                Step::Settle { which, action } if !leases.is_empty() => {
                    let which = which % leases.len();
                    let (item, until, open) = leases[which];
                    let action = match action {
                        0 | 1 => SettleAction::Ack,
                        2 => SettleAction::Extend { duration_ms: 500 },
                        3 => FAILED,
                        _ => BACK,
                    };
                    let vote = bench.settle(item, action, now);
                    let running = open && until > now && !acked.contains(&item.place.1);
                    prop_assert!(!running || vote == SettleVote::Counted, "a holder was refused");
                    if vote == SettleVote::Counted {
                        match action {
                            SettleAction::Ack => {
                                unsettled.remove(&item.place.1);
                                acked.insert(item.place.1);
                                leases[which].2 = false;
                            }
                            SettleAction::Extend { duration_ms } => leases[which].1 = now + duration_ms,
                            _ => leases[which].2 = false,
                        }
                    }
                }
                Step::Settle { .. } => {}
            }
            prop_assert_eq!(bench.stream.count(), unsettled.len() as u64);
            prop_assert_eq!(bench.messages.len(), unsettled.len());
        }
        now += 100_000;
        for item in bench.receive(usize::MAX, 1_000, now) {
            prop_assert!(unsettled.remove(&item.place.1));
            prop_assert_eq!(bench.settle(item, SettleAction::Ack, now), SettleVote::Counted);
        }
        prop_assert!(unsettled.is_empty(), "lost: {:?}", unsettled);
        prop_assert!(bench.is_clean(), "{:?} {:?}", bench.attempts, bench.grants);
    }
}

#[test]
fn the_rows_of_leases_have_golden_bytes() {
    let place =
        (Hlc { wall_ms: 1, logical: 2, node: ME }, Dot::Minted { node: ME, boot: BOOT, seq: 3 });
    let attempt = Attempt {
        place,
        counter: 4,
        requester: RequesterId([5; 16]),
        receive_count: 6,
        failure_count: 7,
        hold: Hold::Leased { until_ms: 8 },
        death: None,
        redrives: 9,
    };
    let mut bytes = vec![1, 2, 1, 0, 1, 1, 3, 4];
    bytes.extend([5; 16]);
    bytes.extend([6, 7, 0, 8, 0, 9]);
    assert_eq!(postcard::to_stdvec(&attempt).unwrap(), bytes);
    let row = GrantRow { counter: 4, holder: "b".into(), attempts: vec![attempt] };
    assert_eq!(postcard::to_stdvec(&row).unwrap(), [&[4, 1, b'b', 1], &bytes[..]].concat());
    assert_eq!(postcard::to_stdvec(&StreamMeta::default()).unwrap(), [0, 0, 0]);
    assert_eq!(postcard::to_stdvec(&ReaderMeta::default()).unwrap(), [0, 0, 0]);
    let mark = Mark { hlc: place.0, ready_ms: 1, ends_ms: 2, group: Some(GroupHash([3; 16])) };
    let bytes = [&[1, 2, 1, 1, 2, 1], &[3; 16][..]].concat();
    assert_eq!(postcard::to_stdvec(&mark).unwrap(), bytes);
}

#[test]
fn f11_a_delayed_message_is_nobodys_before_its_time_also_over_a_restart() {
    let mut bench = Bench::new();
    bench.send_with(1, 100, |h| h.delay_ms = 1_000);
    assert!(bench.receive(1, 500, 1_099).is_empty());
    assert_eq!(bench.stream.counts(Q).delayed, 1);
    bench.restart(Boot(2), 1_050);
    assert!(bench.receive(1, 500, 1_099).is_empty());
    let place = *bench.messages.keys().next().unwrap();
    let forced = bench.lease(Q, vec![place], Purpose::Deliver, 500, 1_099);
    assert!(forced.is_empty(), "the replica itself refuses: the lease majority is the delay's");
    let item = bench.receive(1, 500, 1_100)[0];
    bench.settle(item, SettleAction::Ack, 1_100);
    assert!(bench.is_clean());
}

#[test]
fn f18_a_message_whose_life_is_over_is_not_delivered_and_dropped_by_the_broker() {
    let mut bench = Bench::new();
    bench.send_with(1, 0, |h| h.ttl_ms = 1_000);
    bench.send_with(2, 0, |h| h.ttl_ms = 1_000);
    let held = bench.receive(1, 5_000, 10)[0];
    assert!(bench.receive(1, 500, 1_000).is_empty(), "the second is over");
    bench.attend(Q, 1_000);
    assert_eq!(bench.stream.count(), 1, "the first is held: its holder may still settle it");
    assert_eq!(bench.settle(held, SettleAction::Ack, 1_200), SettleVote::Counted);
    assert!(bench.is_clean());
}

#[test]
fn a_message_that_fails_too_often_is_dead_and_a_hand_back_is_no_failure() {
    let mut bench = Bench::of(StreamKind::Queue, Rules { max_failures: 2, ..rules() });
    bench.send(1);
    let first = bench.receive(1, 1_000, 0)[0];
    bench.settle(first, BACK, 1);
    let second = bench.receive(1, 1_000, 2)[0];
    bench.settle(second, FAILED, 3);
    let third = bench.receive(1, 1_000, 4)[0];
    assert_eq!(third.failure_count, 1);
    bench.settle(third, FAILED, 5);
    assert!(bench.receive(1, 1_000, 6).is_empty());
    assert_eq!(bench.stream.counts(Q).dead, 1);
    bench.restart(Boot(2), 7);
    assert_eq!(bench.stream.counts(Q).dead, 1);
    let place = bench.stream.dead(Q, None, 9)[0];
    let death = bench.stream.attempt(Q, place.1).unwrap().death.unwrap();
    assert_eq!((death.reason, death.died_ms), (DeathReason::MaxFailures, 5));
}

#[test]
fn f19_lapses_count_and_the_broker_buries_what_lapsed_too_often() {
    let mut bench = Bench::of(StreamKind::Queue, Rules { max_failures: 2, ..rules() });
    bench.send(1);
    bench.receive(1, 1_000, 0);
    bench.receive(1, 1_000, 2_000);
    assert!(bench.receive(1, 1_000, 4_000).is_empty(), "it failed twice");
    assert!(bench.stream.has_doomed(Q));
    bench.attend(Q, 4_000);
    assert_eq!((bench.stream.counts(Q).dead, bench.stream.has_doomed(Q)), (1, false));
    bench.restart(Boot(2), 5_000);
    assert_eq!(bench.stream.counts(Q).dead, 1);
}

#[test]
fn the_dead_are_leased_on_demand_and_dead_again_unless_acknowledged_or_redriven() {
    let mut bench = Bench::of(StreamKind::Queue, Rules { max_failures: 9, ..rules() });
    bench.send(1);
    let item = bench.receive(1, 1_000, 0)[0];
    let poison = SettleAction::Release { outcome: ReleaseOutcome::Poison, delay_ms: None };
    assert_eq!(bench.settle(item, poison, 1), SettleVote::Counted);
    assert_eq!(bench.settle(item, poison, 1), SettleVote::Counted, "repeated");
    assert_eq!(bench.settle(item, SettleAction::Ack, 1), SettleVote::Lost);
    let dead = bench.stream.dead(Q, None, 9);
    for (end, now) in [(BACK, 10), (FAILED, 20), (SettleAction::Withdraw, 30)] {
        let item = bench.lease(Q, dead.clone(), Purpose::DeliverDead, 1_000, now)[0];
        assert_eq!((bench.stream.counts(Q).dead, bench.stream.counts(Q).leased), (0, 1));
        bench.settle(item, end, now + 1);
        assert_eq!(bench.stream.counts(Q).dead, 1, "{end:?}");
    }
    bench.lease(Q, dead.clone(), Purpose::DeliverDead, 1_000, 100);
    bench.restart(Boot(2), 500);
    bench.stream.wake(Q, 5_000);
    assert_eq!(bench.stream.counts(Q).dead, 1, "the lease lapsed");
    let redrive = SettleItem { action: SettleAction::Redrive, ..item };
    assert_eq!(bench.settle(redrive, SettleAction::Redrive, 5_001), SettleVote::Counted);
    let back = bench.receive(1, 1_000, 5_002)[0];
    assert_eq!(back.failure_count, 0, "failures count anew");
    assert!(back.counter > item.counter);
    bench.settle(back, SettleAction::Ack, 5_003);
    assert!(bench.is_clean());
}

#[test]
fn a_pause_after_a_failure_grows_and_a_given_delay_goes_before_it() {
    let rules = Rules { backoff_min_ms: 1_000, backoff_max_ms: 60_000, ..rules() };
    let mut bench = Bench::of(StreamKind::Queue, rules);
    bench.send(1);
    let first = bench.receive(1, 500, 0)[0];
    bench.settle(first, FAILED, 0);
    assert!(bench.receive(1, 500, 999).is_empty());
    let second = bench.receive(1, 500, 1_101)[0];
    bench.settle(second, FAILED, 2_000);
    assert!(bench.receive(1, 500, 3_999).is_empty());
    let third = bench.receive(1, 500, 4_201)[0];
    let soon = SettleAction::Release { outcome: ReleaseOutcome::Failed, delay_ms: Some(5) };
    bench.settle(third, soon, 5_000);
    assert!(bench.receive(1, 500, 5_004).is_empty());
    assert_eq!(bench.receive(1, 500, 5_005).len(), 1);
}

#[test]
fn g8_a_repeat_under_the_same_key_adds_nothing_and_another_content_is_refused() {
    let mut bench = Bench::new();
    let keyed = Dot::keyed(Generation([0; 16]), UserId([0; 16]), SendKey::Dedup("a"));
    let dot = bench.send_with(1, 0, |h| h.dot = keyed);
    let again = |bench: &mut Bench, wall_ms, mac, now_ms| {
        let header = Header { content_mac: [mac; 32], ..head(keyed, wall_ms) };
        let op = store_op(vec![sealed(header)]);
        let (votes, changes) = bench.stream.store(&op, BOUNDS, now_ms, true).unwrap();
        bench.commit(changes);
        votes[0]
    };
    assert_eq!(again(&mut bench, 2, 0, 10), StoreVote::Known, "a fresh seal, the same message");
    assert_eq!(again(&mut bench, 3, 1, 10), StoreVote::OtherContent);
    bench.restart(Boot(2), 10);
    assert_eq!(again(&mut bench, 4, 0, 20), StoreVote::Known);
    let item = bench.receive(1, 1_000, 20)[0];
    assert_eq!(item.place.1, dot);
    bench.settle(item, SettleAction::Ack, 30);
    assert_eq!(again(&mut bench, 5, 0, 40), StoreVote::Known, "settled, and remembered");
    assert_eq!(again(&mut bench, 6, 0, 1_001), StoreVote::Known, "forgotten after this look");
    assert!(bench.identities.is_empty());
    assert_eq!(again(&mut bench, 7, 0, 1_002), StoreVote::Stored, "its window is over");
}

#[test]
fn r32_a_purge_takes_exactly_what_was_seen_whoever_holds_it() {
    let mut bench = Bench::new();
    let old: Vec<Dot> = (1..=5).map(|n| bench.send(n)).collect();
    let held = bench.receive(2, 60_000, 0);
    bench.settle(held[1], FAILED, 0);
    let seen = bench.stream.seen();
    let new = bench.send(6);
    let (count, changes) = bench.stream.purge(1, Q, &seen, 0).unwrap();
    bench.commit(changes);
    assert_eq!(count, 5);
    assert_eq!((bench.stream.count(), bench.stream.counts(Q).leased), (1, 0));
    // A crash before the rows are removed brings nothing back.
    bench.restart(Boot(2), 1);
    assert_eq!((bench.stream.count(), bench.messages.len()), (1, 6));
    bench.attend(Q, 1);
    assert_eq!(bench.messages.len(), 1);
    assert!(bench.stream.unswept().is_empty() && bench.attempts.is_empty());
    assert!(old.iter().all(|dot| bench.meta.context.contains(*dot)), "the tombstone stays [R12]");
    assert_eq!(bench.settle(held[0], SettleAction::Ack, 2), SettleVote::Counted, "204 as ever");
    let left = bench.receive(9, 1_000, 2);
    assert_eq!(left.iter().map(|i| i.place.1).collect::<Vec<_>>(), [new]);
    bench.settle(left[0], SettleAction::Ack, 3);
    assert!(bench.is_clean(), "{:?}", bench.grants);
}

#[test]
fn f25_one_message_of_a_group_at_a_time_in_order_and_a_failed_one_holds_its_group() {
    let mut bench =
        Bench::of(StreamKind::Queue, Rules { is_grouped: true, max_failures: 2, ..rules() });
    let a = |h: &mut Header| h.group = Some(GroupHash([1; 16]));
    let b = |h: &mut Header| h.group = Some(GroupHash([2; 16]));
    let dots = [
        bench.send_with(1, 0, a),
        bench.send_with(2, 0, a),
        bench.send_with(3, 0, b),
        bench.send(4),
    ];
    let got = bench.receive(9, 1_000, 0);
    let of = |items: &[SettleItem]| items.iter().map(|i| i.place.1).collect::<Vec<_>>();
    assert_eq!(of(&got), [dots[0], dots[2], dots[3]], "the second of the first group waits");
    let second = *bench.messages.keys().nth(1).unwrap();
    assert!(bench.lease(Q, vec![second], Purpose::Deliver, 1_000, 0).is_empty());
    bench.settle(got[0], FAILED, 1);
    bench.restart(Boot(2), 2);
    let again = bench.receive(9, 1_000, 3);
    assert_eq!(of(&again), [dots[0]], "it holds its group");
    bench.settle(again[0], FAILED, 4);
    assert_eq!(of(&bench.receive(9, 1_000, 5)), [dots[1]], "the dead hold nobody back");
}

#[test]
fn a_topic_keeps_a_message_until_every_matched_reader_is_done_with_it() {
    let mut bench = Bench::of(StreamKind::Topic, rules());
    let (x, y) = (SubscriptionId([1; 16]), SubscriptionId([2; 16]));
    bench.send(1);
    assert!(bench.messages.is_empty(), "a topic without subscriptions keeps nothing");
    let set = |version, ids: &[SubscriptionId]| SubscriptionSet {
        version,
        filters: ids.iter().map(|id| (*id, Filter::default())).collect(),
    };
    let all = rules();
    let put = |bench: &mut Bench, set: SubscriptionSet| {
        let changes = bench.stream.put_set(1, &set, &|_| all, 0)?;
        bench.commit(changes);
        Ok(())
    };
    put(&mut bench, set(1, &[x, y])).unwrap();
    let stale = store_op(vec![envelope(bench.stream.mint(0), 2)]);
    let refused = bench.stream.store(&stale, BOUNDS, 0, true);
    assert_eq!(refused, Err(Refusal::StaleSet), "filters were evaluated on an older set [R36]");
    let to = |ids: &'static [SubscriptionId]| {
        move |h: &mut Header| {
            h.set_version = 1;
            h.matched = ids.to_vec();
        }
    };
    const X: SubscriptionId = SubscriptionId([1; 16]);
    const Y: SubscriptionId = SubscriptionId([2; 16]);
    bench.send_with(2, 0, to(&[X, Y]));
    bench.send_with(3, 0, to(&[Y]));
    let got = bench.receive_by(x, 9, 1_000, 0);
    assert_eq!(got.len(), 1);
    bench.settle_by(x, got[0], SettleAction::Ack, 1);
    assert_eq!(bench.messages.len(), 2, "the other one is not done with it");
    bench.restart(Boot(2), 2);
    assert!(bench.receive_by(x, 9, 1_000, 3).is_empty());
    let got = bench.receive_by(y, 9, 1_000, 3);
    assert_eq!(got.len(), 2);
    bench.settle_by(y, got[0], SettleAction::Ack, 4);
    assert_eq!(bench.messages.len(), 1);
    assert_eq!(put(&mut bench, set(3, &[x])), Err(Refusal::StaleSet), "one version at a time");
    put(&mut bench, set(2, &[x])).unwrap();
    bench.attend(y, 5);
    assert!(bench.is_clean() && !bench.stream.has_reader(y), "who left keeps nothing");
}

#[test]
fn a_late_reader_adopts_what_is_kept_for_another() {
    let mut bench = Bench::of(StreamKind::Topic, rules());
    let (x, y) = (SubscriptionId([1; 16]), SubscriptionId([2; 16]));
    let mut set = SubscriptionSet::default();
    for (version, id) in [(1, x), (2, y)] {
        set.version = version;
        set.filters.insert(id, Filter::default());
        let changes = bench.stream.put_set(1, &set, &|_| rules(), 0).unwrap();
        bench.commit(changes);
        if version == 1 {
            bench.send_with(1, 0, |h| {
                h.set_version = 1;
                h.matched = vec![x];
            });
        }
    }
    let places: Vec<Place> = bench.messages.keys().copied().collect();
    for _ in 0..2 {
        let changes = bench.stream.adopt(1, y, &places, 0).unwrap();
        bench.commit(changes);
    }
    for id in [x, y] {
        let got = bench.receive_by(id, 9, 1_000, 1);
        assert_eq!(got.len(), 1);
        bench.settle_by(id, got[0], SettleAction::Ack, 2);
    }
    assert!(bench.is_clean());
}

#[test]
fn a_message_id_survives_its_text() {
    let hlc = Hlc { wall_ms: 1_780_000_000_000, logical: 3, node: ME };
    let minted = Dot::Minted { node: ME, boot: BOOT, seq: 9 };
    let keyed = Dot::Keyed(KeyedId([7; 16]));
    for dot in [minted, keyed, minted.copied_by(crate::base::ids::LinkId([5; 16]), 1)] {
        let id = MessageId::of((hlc, dot));
        assert_eq!(MessageId::parse(&id.to_string()), Some(id));
        assert!(id.to_string().bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
    }
    assert_eq!(MessageId::parse("AA"), None);
    let kept = Kept { received_ms: 1, envelope: envelope(minted, 1) };
    assert_eq!(kept.ends_ms(10), 11);
}
