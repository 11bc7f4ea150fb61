//! A stream as the disk has it.

use super::identities::{Identities, Identity};
use super::reader::{Live, Mark, OpenGrant, Reader};
use super::sizes::Sizes;
use super::window::Window;
use super::{Place, ReaderMeta, Stream, StreamKind, StreamMeta, SubscriptionSet};
use crate::base::ids::{Boot, NodeId, RequesterId, SubscriptionId};
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
    /// The places of all its messages, rising, with their bytes.
    pub places: Vec<(Place, usize)>,
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
    /// The places it is not done with, rising; unused for a queue, where all messages are.
    pub open: Vec<Place>,
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
        let Loaded { meta, set, places, marks, identities, mut readers } = loaded;
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
            sizes: Sizes::default(),
            stored: 0,
        };
        for (id, identity) in identities {
            stream.identities.insert(id, identity);
        }
        for ((_, dot), bytes) in &places {
            invariant!(stream.is_known(*dot), "R12", "{dot} is here and not in the context");
            stream.sizes.insert(*dot, *bytes);
        }
        if kind == StreamKind::Queue {
            let queue = readers.entry(SubscriptionId::QUEUE).or_default();
            queue.open = places.iter().map(|(place, _)| *place).collect();
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
        let LoadedReader { meta, open, grants, attempts, reasons } = loaded;
        (reader.floor, reader.top, reader.purged) = (meta.floor, meta.floor, meta.purged);
        let open: Vec<Place> =
            open.into_iter().filter(|(_, dot)| !reader.purged.contains(*dot)).collect();
        for place in &open {
            let dot = place.1;
            reader.open(dot, u64::from(self.sizes.get(dot)));
            if let Some(mark) = self.marks.get(&dot) {
                reader.join_group(*place, mark);
                if mark.ends_ms != 0 {
                    reader.ends.insert((mark.ends_ms, dot));
                }
            }
        }
        for (requester, row) in grants {
            load_grant(&mut reader, requester, &row);
        }
        for attempt in attempts {
            load_attempt(&mut reader, attempt);
        }
        for dot in reasons {
            if let Some(live) = reader.attempts.get_mut(&dot) {
                live.has_reason = true;
            }
        }
        self.seat_all(&mut reader, open, now_ms);
        reader
    }

    fn seat_all(&self, reader: &mut Reader, open: Vec<Place>, now_ms: u64) {
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
        let mut ready = Vec::new();
        for place in open {
            let mark = self.marks.get(&place.1);
            // Most messages have neither: they are ready.
            let plain = mark.is_none() && !reader.attempts.contains_key(&place.1);
            let is_ready = plain || reader.seat(place, None, mark, now_ms);
            if is_ready {
                ready.push(place);
            }
        }
        reader.window = Window::of(ready.into_iter());
    }
}

fn load_grant(reader: &mut Reader, requester: RequesterId, row: &GrantRow) {
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
    reader.grants.insert(requester, OpenGrant { counter: row.counter, open, holder });
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
