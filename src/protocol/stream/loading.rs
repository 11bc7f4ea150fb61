//! A stream as the disk has it.

use super::identities::{Identities, Identity};
use super::reader::{Live, Mark, OpenGrant, Reader};
use super::sizes::Sizes;
use super::{Place, ReaderMeta, Stream, StreamKind, StreamMeta, SubscriptionSet};
use crate::base::ids::{Boot, NodeId, RequesterId, SubscriptionId};
use crate::crdt::context::DotSet;
use crate::crdt::dot::{Dot, KeyedId};
use crate::invariant;
use crate::protocol::lease::{Attempt, GrantRow, Hold, Rules};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was read from the disk of a stream.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Its meta row.
    pub meta: StreamMeta,
    /// Its subscription set.
    pub set: SubscriptionSet,
    /// Messages whose rows are known to be damaged.
    pub holes: BTreeSet<Place>,
    /// A damaged row of a message did not tell its name.
    pub is_suspect: bool,
    /// Which messages it has, with their bytes.
    pub sizes: Sizes,
    /// Times and groups.
    pub marks: Vec<(Dot, Mark)>,
    /// Keyed messages that are remembered.
    pub identities: Vec<(KeyedId, Identity)>,
    /// Its readers, those that left and whose rows are still here among them.
    pub readers: BTreeMap<SubscriptionId, LoadedReader>,
}

/// What was read of a reader.
#[derive(Debug, Default)]
pub struct LoadedReader {
    /// Its meta row.
    pub meta: ReaderMeta,
    /// What it is not done with; unused for a queue, where all messages are.
    pub open: DotSet,
    /// The first places on its disk, rising.
    pub head: Vec<Place>,
    /// How far the disk was read for these; `None`: to its end.
    pub read_to: Option<Place>,
    /// Its grants.
    pub grants: Vec<(RequesterId, GrantRow)>,
    /// Attempts with rows of their own.
    pub attempts: Vec<Attempt>,
    /// Messages with a reason for their last failure.
    pub reasons: Vec<Dot>,
}

impl Stream {
    /// A stream as the disk has it. `rules`: what the settings of each reader mean.
    ///
    /// # Panics
    /// When a message is present that the context does not know [R12].
    #[must_use]
    pub fn load(
        (me, boot): (NodeId, Boot),
        kind: StreamKind,
        loaded: Loaded,
        now_ms: u64,
        rules: &dyn Fn(SubscriptionId) -> Rules,
    ) -> Self {
        let Loaded { meta, set, holes, is_suspect, sizes, marks, identities, mut readers } = loaded;
        let mut stream = Self {
            me,
            boot,
            kind,
            context: meta.context,
            identities: Identities::default(),
            seal: meta.seal,
            set: Arc::new(set),
            readers: BTreeMap::new(),
            marks: marks.into_iter().collect(),
            holes,
            is_suspect,
            is_alone: true,
            dedup_ms: u64::MAX,
            sizes,
        };
        for (id, identity) in identities {
            stream.identities.insert(id, identity);
        }
        let present = stream.sizes.dots();
        let mut unknown = present.clone();
        unknown.subtract(&stream.context);
        for dot in unknown.iter() {
            invariant!(stream.is_known(dot), "R12", "{dot} is here and not in the context");
        }
        if kind == StreamKind::Queue {
            readers.entry(SubscriptionId::QUEUE).or_default().open = present;
        }
        let known: BTreeSet<SubscriptionId> =
            readers.keys().chain(stream.set.filters.keys()).copied().collect();
        for id in known {
            let loaded = readers.remove(&id).unwrap_or_default();
            let reader = stream.load_reader(id, loaded, now_ms, rules(id));
            stream.readers.insert(id, reader);
        }
        stream
    }

    fn load_reader(
        &self,
        id: SubscriptionId,
        loaded: LoadedReader,
        now_ms: u64,
        rules: Rules,
    ) -> Reader {
        let mut reader = Reader::new(id, rules);
        let LoadedReader { meta, mut open, head, read_to, grants, attempts, reasons } = loaded;
        (reader.floor, reader.top, reader.purged) = (meta.floor, meta.floor, meta.purged);
        open.subtract(&reader.purged);
        (reader.open_count, reader.bytes) = (open.len(), self.sizes.of(&open));
        reader.open = open;
        let marked = self.marked(&reader);
        for (dot, mark) in &marked {
            reader.join_group((mark.hlc, *dot), mark);
            if mark.ends_ms != 0 {
                reader.ends.insert((mark.ends_ms, *dot));
            }
        }
        for (requester, row) in grants {
            load_grant(&mut reader, requester, &row, now_ms);
        }
        for attempt in attempts {
            load_attempt(&mut reader, attempt);
        }
        reader.window.scanned_to(read_to);
        let marked = marked.into_iter().map(|(dot, mark)| (mark.hlc, dot));
        let held: Vec<Attempt> = reader.attempts.values().map(|live| live.attempt).collect();
        for attempt in held.iter().filter(|attempt| attempt.is_held(now_ms)) {
            reader.goes_out(attempt, self.marks.get(&attempt.place.1), now_ms);
        }
        for dot in reasons {
            if let Some(live) = reader.attempts.get_mut(&dot) {
                live.has_reason = true;
            }
        }
        self.seat_all(&mut reader, marked.chain(head), now_ms);
        reader
    }

    /// What a reader has open of the messages with times or a group.
    fn marked(&self, reader: &Reader) -> Vec<(Dot, Mark)> {
        if reader.open_count < self.marks.len() as u64 {
            let of = |dot| self.marks.get(&dot).map(|mark| (dot, *mark));
            return reader.open.iter().filter_map(of).collect();
        }
        let is_open = |(dot, _): &(&Dot, &Mark)| reader.open.contains(**dot);
        self.marks.iter().filter(is_open).map(|(dot, mark)| (*dot, *mark)).collect()
    }

    fn seat_all(&self, reader: &mut Reader, places: impl Iterator<Item = Place>, now_ms: u64) {
        // The dead first: they hold nobody back.
        let dead: Vec<Place> = reader
            .attempts
            .values()
            .filter(|live| live.attempt.hold == Hold::Dead)
            .map(|live| live.attempt.place)
            .collect();
        for place in dead {
            reader.leave_group(place, self.marks.get(&place.1));
        }
        // All but the ready ones have marks or attempts; what is ready behind the head is read when
        // it is its turn.
        let attempted = reader.attempts.values().map(|live| live.attempt.place);
        let attempted: Vec<Place> = attempted.collect();
        for place in attempted.into_iter().chain(places) {
            reader.seat(place, None, self.marks.get(&place.1), now_ms);
        }
    }
}

fn load_grant(reader: &mut Reader, requester: RequesterId, row: &GrantRow, now_ms: u64) {
    reader.top = reader.top.max(row.counter);
    let mut open = 0;
    for attempt in &row.attempts {
        let dot = attempt.place.1;
        let newer = reader.attempts.get(&dot).is_none_or(|l| l.attempt.counter < row.counter);
        if reader.open.contains(dot) && newer {
            let live = Live {
                attempt: *attempt,
                has_row: false,
                has_reason: false,
                grant: Some(requester),
            };
            let old = reader.attempts.insert(dot, live).and_then(|old| old.grant);
            if let Some(old) = old.and_then(|r| reader.grants.get_mut(&r)) {
                old.open = old.open.saturating_sub(1);
            }
            open += 1;
        }
    }
    // A row whose messages have all gone on is left for the next settle to overwrite: it
    // governs nothing, and its counter is remembered.
    let holder = row.holder.as_str().into();
    let unchecked_since_ms = Some(now_ms);
    reader
        .grants
        .insert(requester, OpenGrant { counter: row.counter, open, holder, unchecked_since_ms });
}

fn load_attempt(reader: &mut Reader, attempt: Attempt) {
    let dot = attempt.place.1;
    reader.top = reader.top.max(attempt.counter);
    if !reader.open.contains(dot) {
        return;
    }
    match reader.attempts.get_mut(&dot) {
        Some(live) if attempt.counter < live.attempt.counter => live.has_row = true,
        Some(live) => {
            live.attempt = attempt;
            live.has_row = true;
        }
        None => {
            let live = Live { attempt, has_row: true, has_reason: false, grant: None };
            reader.attempts.insert(dot, live);
        }
    }
}
