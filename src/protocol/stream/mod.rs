//! One replica's state of one stream, and every rule that changes it.
//!
//! Pure: what is to be written comes out as [`Change`]s, which the replica commits together. The
//! state in memory runs ahead of the disk by what is queued for it; that is sound because all
//! commits happen in the order of the decisions and no answer leaves before its commit [R6].
//!
//! A stream is a set of messages and its readers: a queue has one, a topic one for each
//! subscription. A reader is done with a dot when it is in the context and not in its `open` set;
//! a message goes when no reader has it open.

mod identities;
mod keyed;
mod leasing;
mod loading;
mod orphans;
mod purging;
mod reader;
mod repair;
mod settling;
mod sizes;
mod storing;
#[cfg(test)]
mod tests;
mod waits;
mod window;

pub use identities::Identity;
pub use keyed::KeyedFact;
pub use leasing::{Picked, held_ms};
pub use loading::{Loaded, LoadedReader};
pub use reader::{Mark, Standing};
pub use repair::{Repaired, Summary};
pub use sizes::Sizes;
pub use storing::Bounds;

use super::filter::matches;
use super::lease::{Attempt, Rules};
use super::op::{Change, Closes, Refusal, Seal};
use super::record::Filter;
use crate::base::hlc::Hlc;
use crate::base::ids::{Boot, NodeId, SubscriptionId};
use crate::base::rules::{Rule, rule_on};
use crate::crdt::context::DotSet;
use crate::crdt::dot::Dot;
use crate::message::envelope::Content;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identities::Identities;
use reader::Reader;
use repair::fnv;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Where a message stands in the dispatch order: by stamp, then by name.
pub type Place = (Hlc, Dot);

/// A message's name as clients see it. A keyed message is found by its dot alone, as who stored
/// it first is not known to all; of the others the stamp comes along, so that they are found
/// without a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageId {
    /// By dot.
    Keyed(Dot),
    /// By place.
    At(Place),
}

impl MessageId {
    /// The name of the message at a place.
    #[must_use]
    pub fn of(place: Place) -> Self {
        if matches!(place.1, Dot::Keyed(_)) { Self::Keyed(place.1) } else { Self::At(place) }
    }

    /// Its dot.
    #[must_use]
    pub fn dot(self) -> Dot {
        match self {
            Self::Keyed(dot) | Self::At((_, dot)) => dot,
        }
    }

    /// Parses what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let id = match postcard::take_from_bytes::<Dot>(&bytes).ok()? {
            (dot @ Dot::Keyed(_), []) => Self::Keyed(dot),
            (Dot::Keyed(_), _) => return None,
            (dot, rest) => Self::At((postcard::from_bytes::<Hlc>(rest).ok()?, dot)),
        };
        // One text per name: padding bytes or longer encodings name nothing.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match self {
            Self::Keyed(dot) => dot.to_bytes(),
            Self::At((hlc, dot)) => {
                postcard::to_stdvec(&(dot, hlc)).expect("a place always encodes")
            }
        };
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

/// What a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// One reader, who gets everything.
    Queue,
    /// Readers by subscription, who get what was matched for them.
    Topic,
}

/// The readers of a topic: changed as a whole, by version [R36].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionSet {
    /// Rises by one with every change; 0: nobody ever subscribed.
    pub version: u64,
    /// What each wants.
    pub filters: BTreeMap<SubscriptionId, Filter>,
}

/// What tells whether two replicas have the very same set: its version, and a hash of it all.
pub type SetMark = (u64, u64);

impl SubscriptionSet {
    /// Its version and its hash. Equal versions with different hashes: two sets were decided under
    /// one version, which must never be [R36].
    #[must_use]
    pub fn mark(&self) -> SetMark {
        (self.version, fnv(&postcard::to_stdvec(self).expect("a set always encodes")))
    }

    /// The readers that want a message.
    #[must_use]
    pub fn matched(&self, content: &Content) -> Vec<SubscriptionId> {
        let wants = |(id, filter): (&SubscriptionId, &Filter)| {
            matches(filter, content.routing_key.as_deref(), &content.attributes).then_some(*id)
        };
        self.filters.iter().filter_map(wants).collect()
    }
}

/// What is persisted of a stream beside its messages and readers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamMeta {
    /// Every minted and derived dot seen; the keyed ones have rows of their own.
    pub context: DotSet,
    /// Closed to sends, or to everything.
    pub seal: Option<Seal>,
}

/// What is persisted of a reader beside its grants and attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderMeta {
    /// No counter at or below it is granted any more [R24].
    pub floor: u64,
    /// Settled at once by a purge; their rows are still being removed.
    pub purged: DotSet,
}

/// A replica's state of a stream.
#[derive(Debug)]
pub struct Stream {
    me: NodeId,
    boot: Boot,
    kind: StreamKind,
    /// Every minted and derived dot seen. Grows only in the batch that stores the payload or
    /// settles it [R12].
    context: DotSet,
    /// Every keyed dot that is remembered.
    identities: Identities,
    seal: Option<Seal>,
    set: Arc<SubscriptionSet>,
    readers: BTreeMap<SubscriptionId, Reader>,
    /// Times and groups of the messages that have some.
    marks: BTreeMap<Dot, Mark>,
    /// Bytes of every message here.
    sizes: Sizes,
    /// Messages here that do not open: known, not settled, left to repair [R13].
    holes: BTreeSet<Place>,
    /// A damaged row did not tell its name: what is missing need not be settled.
    is_suspect: bool,
    /// No other replica keeps this stream: what is settled here is settled.
    is_alone: bool,
    /// How long keyed messages are remembered, in ms, as of the last word about it.
    dedup_ms: u64,
}

/// How many messages of a reader are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Waiting to be received, or for an older one of their group.
    pub ready: u64,
    /// Under a running lease.
    pub leased: u64,
    /// Not due yet.
    pub delayed: u64,
    /// Dead.
    pub dead: u64,
    /// Bytes of all of them, sealed.
    pub bytes: u64,
}

impl Stream {
    /// What is to be persisted beside messages and readers.
    #[must_use]
    pub fn meta(&self) -> StreamMeta {
        StreamMeta { context: self.context.clone(), seal: self.seal.clone() }
    }

    /// What is to be persisted of a reader.
    #[must_use]
    pub fn reader_meta(&self, id: SubscriptionId) -> ReaderMeta {
        let meta = |r: &Reader| ReaderMeta { floor: r.floor, purged: r.purged.clone() };
        self.readers.get(&id).map(meta).unwrap_or_default()
    }

    /// The readers and their filters.
    #[must_use]
    pub fn set(&self) -> &Arc<SubscriptionSet> {
        &self.set
    }

    /// Says that other replicas keep this stream too: what they have not settled is not over.
    pub fn share(&mut self) {
        self.is_alone = false;
    }

    /// Whether a dot names no message that was here, as far as it is remembered.
    fn is_new(&self, dot: Dot, now_ms: u64) -> bool {
        match dot {
            Dot::Keyed(id) => !self.identities.contains(id) || self.is_retiring(id, now_ms),
            _ => !self.is_known(dot),
        }
    }

    /// Whether it is a topic.
    #[must_use]
    pub fn is_topic(&self) -> bool {
        self.kind == StreamKind::Topic
    }

    /// The readers.
    #[must_use]
    pub fn readers(&self) -> Vec<SubscriptionId> {
        self.readers.keys().copied().collect()
    }

    /// Whether there is such a reader.
    #[must_use]
    pub fn has_reader(&self, id: SubscriptionId) -> bool {
        self.readers.contains_key(&id)
    }

    /// Messages present, leased ones included.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self.kind {
            StreamKind::Queue => self.readers.values().map(|r| r.open_count).sum(),
            StreamKind::Topic => self.sizes.len(),
        }
    }

    /// Bytes of all messages, sealed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sizes.total()
    }

    /// The sizes of all messages.
    #[must_use]
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Times and groups remembered.
    #[must_use]
    pub fn marks(&self) -> usize {
        self.marks.len()
    }

    /// How many messages of a reader are in which state, as of the last [`Stream::wake`].
    #[must_use]
    pub fn counts(&self, id: SubscriptionId) -> Counts {
        self.readers.get(&id).map(Reader::counts).unwrap_or_default()
    }

    /// Whether a message is here, unsettled for some reader.
    #[must_use]
    pub fn is_present(&self, dot: Dot) -> bool {
        self.sizes.contains(dot)
    }

    /// Whether a message is unsettled for a reader.
    #[must_use]
    pub fn is_open(&self, id: SubscriptionId, dot: Dot) -> bool {
        self.readers.get(&id).is_some_and(|reader| reader.open.contains(dot))
    }

    /// Whether a dot was ever seen, as far as it is remembered.
    #[must_use]
    pub fn is_known(&self, dot: Dot) -> bool {
        match dot {
            Dot::Keyed(id) => self.identities.contains(id),
            Dot::Minted { .. } | Dot::Derived { .. } => self.context.contains(dot),
        }
    }

    /// Every dot seen, as far as it is remembered: what a purge settles.
    #[must_use]
    pub fn seen(&self) -> DotSet {
        let mut seen = self.context.clone();
        for id in self.identities.ids() {
            seen.insert(Dot::Keyed(id));
        }
        seen
    }

    /// The place of a keyed message.
    #[must_use]
    pub fn place_of(&self, id: MessageId) -> Option<Place> {
        match id {
            MessageId::At(place) => Some(place),
            MessageId::Keyed(dot @ Dot::Keyed(key)) => {
                self.identities.get(key).map(|identity| (identity.hlc, dot))
            }
            MessageId::Keyed(_) => None,
        }
    }

    /// A message's place here. Two coordinators may have stamped a keyed message: each replica
    /// keeps it under the stamp it saw first.
    #[must_use]
    pub fn own_place(&self, place: Place) -> Place {
        match place.1 {
            Dot::Keyed(key) => self.identities.get(key).map_or(place, |it| (it.hlc, place.1)),
            Dot::Minted { .. } | Dot::Derived { .. } => place,
        }
    }

    /// Up to which number of a dot's origin nothing more can come from this reader [F16]: as far
    /// as this replica knows. With several replicas a majority has to say so.
    #[must_use]
    pub fn closed_below(&self, id: SubscriptionId, dot: Dot) -> u64 {
        let Some((origin, _)) = dot.origin() else { return 0 };
        let Some(reader) = self.readers.get(&id) else { return 0 };
        match reader.open.low(origin) {
            Some(low) => low - 1,
            None if origin.road.is_none() => self.context.high(origin.node, origin.boot),
            None => 0,
        }
    }

    /// Messages under a running lease, as of the last [`Stream::wake`].
    #[must_use]
    pub fn in_flight(&self, id: SubscriptionId) -> usize {
        self.readers.get(&id).map_or(0, |reader| reader.leases.len())
    }

    /// When something of a reader changes by itself, on the service clock.
    #[must_use]
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.readers.values().filter_map(Reader::next_wake_ms).min()
    }

    /// The seal, when the stream is closed to something.
    #[must_use]
    pub fn seal(&self) -> Option<&Seal> {
        self.seal.as_ref()
    }

    /// Whether a message waits in a reader's memory.
    #[must_use]
    pub fn has_ready(&self, id: SubscriptionId) -> bool {
        self.readers.get(&id).is_some_and(|reader| !reader.window.is_empty())
    }

    /// From where a reader's disk has to be read on; `None`: there is nothing more on it.
    #[must_use]
    pub fn unread_after(&self, id: SubscriptionId) -> Option<Place> {
        self.readers.get(&id).and_then(|reader| reader.window.unread_after())
    }

    /// Bytes of payloads held in memory.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.readers.values().map(|reader| reader.window.bytes()).sum()
    }

    /// What the reader's settings say now. What they change about messages that were judged
    /// before shows when these are judged again.
    pub fn govern(&mut self, id: SubscriptionId, rules: Rules) {
        if let Some(reader) = self.readers.get_mut(&id) {
            reader.rules = rules;
        }
    }

    /// The attempt a replica remembers of a message.
    #[must_use]
    pub fn attempt(&self, id: SubscriptionId, dot: Dot) -> Option<&Attempt> {
        self.readers.get(&id)?.attempts.get(&dot).map(|live| &live.attempt)
    }

    /// Whether somebody said why a message failed.
    #[must_use]
    pub fn has_reason(&self, id: SubscriptionId, dot: Dot) -> bool {
        let live = self.readers.get(&id).and_then(|reader| reader.attempts.get(&dot));
        live.is_some_and(|live| live.has_reason)
    }

    /// The name of the user to whom a message is leased.
    #[must_use]
    pub fn holder(&self, id: SubscriptionId, dot: Dot) -> Option<&str> {
        let reader = self.readers.get(&id)?;
        let grant = reader.attempts.get(&dot)?.grant?;
        reader.grants.get(&grant).map(|grant| &*grant.holder)
    }

    /// A message's times and group.
    #[must_use]
    pub fn mark(&self, dot: Dot) -> Option<&Mark> {
        self.marks.get(&dot)
    }

    /// From when on a reader's message is due, on the service clock, in ms.
    #[must_use]
    pub fn due_ms(&self, id: SubscriptionId, dot: Dot) -> u64 {
        self.readers.get(&id).map_or(0, |reader| reader.due_ms(dot, self.marks.get(&dot)))
    }

    /// Where a reader's message stands now.
    #[must_use]
    pub fn standing(&self, id: SubscriptionId, place: Place, now_ms: u64) -> Standing {
        let mark = self.marks.get(&place.1);
        self.readers
            .get(&id)
            .map_or(Standing::Settled, |reader| reader.standing(place, mark, now_ms))
    }

    /// Closes the stream. A seal is lifted by a record version above its own, so an older one
    /// than the stored is void, and a wider one stays [F5].
    pub fn close(&mut self, seal: Seal) -> Vec<Change> {
        let stays = self.seal.as_ref().is_some_and(|old| {
            old.record_version > seal.record_version
                || (old.record_version == seal.record_version && old.closes >= seal.closes)
        });
        if stays {
            return Vec::new();
        }
        self.seal = Some(seal);
        vec![Change::PutMeta]
    }

    /// Whether an operation that acts on this record version may do what `closes` would close.
    fn open_for(&self, closes: Closes, record_version: u64) -> Result<(), Refusal> {
        match &self.seal {
            Some(seal)
                if rule_on(Rule::F5)
                    && seal.closes >= closes
                    && record_version <= seal.record_version =>
            {
                Err(Refusal::Sealed)
            }
            _ => Ok(()),
        }
    }
}

/// A row is written once per decision, however many reasons there are.
fn push_once(changes: &mut Vec<Change>, change: Change) {
    if !changes.contains(&change) {
        changes.push(change);
    }
}
