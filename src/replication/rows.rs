//! Keys and rows of streams in the store. Keys are made so that their byte order is the dispatch
//! order: a head-of-queue read never walks over what is gone.

use crate::base::hlc::Hlc;
use crate::base::ids::{Boot, Generation, LinkId, NodeId, RequesterId, SubscriptionId};
use crate::crdt::dot::{Dot, KeyedId};
use crate::protocol::op::Change;
use crate::protocol::stream::{Place, Sizes, Stream};
use crate::store::{RowOp, Table};
use serde::Serialize;
use std::collections::BTreeSet;

/// Format tag of today's rows.
pub const TAG: u8 = 1;
/// Bytes of a row beside what it carries, for the bound on waiting writes.
pub const ROW_BYTES: usize = 160;

const MINTED: u8 = 0;
const KEYED: u8 = 1;
const DERIVED: u8 = 2;

/// `dot` in an order-preserving form.
fn push_dot(key: &mut Vec<u8>, dot: Dot) {
    let numbers = |node: NodeId, boot: Boot, seq: u64, key: &mut Vec<u8>| {
        key.extend(node.0.to_be_bytes());
        key.extend(boot.0.to_be_bytes());
        key.extend(seq.to_be_bytes());
    };
    match dot {
        Dot::Minted { node, boot, seq } => {
            key.push(MINTED);
            numbers(node, boot, seq, key);
        }
        Dot::Keyed(id) => {
            key.push(KEYED);
            key.extend(id.0);
        }
        Dot::Derived { link, hop, node, boot, seq } => {
            key.push(DERIVED);
            key.extend(link.0);
            key.push(hop);
            numbers(node, boot, seq, key);
        }
    }
}

/// Reads numbers off a key.
struct Reading<'a>(&'a [u8]);

impl Reading<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn dot(&mut self) -> Option<Dot> {
        let [kind] = self.take()?;
        match kind {
            MINTED => {
                let (node, boot) = (NodeId(self.number()?), Boot(self.number()?));
                Some(Dot::Minted { node, boot, seq: self.number()? })
            }
            KEYED => Some(Dot::Keyed(KeyedId(self.take()?))),
            DERIVED => {
                let (link, [hop]) = (LinkId(self.take()?), self.take()?);
                let (node, boot) = (NodeId(self.number()?), Boot(self.number()?));
                Some(Dot::Derived { link, hop, node, boot, seq: self.number()? })
            }
            _ => None,
        }
    }

    fn place(&mut self) -> Option<Place> {
        let wall_ms = self.number()?;
        let logical = u32::from_be_bytes(self.take()?);
        let hlc = Hlc { wall_ms, logical, node: NodeId(self.number()?) };
        Some((hlc, self.dot()?))
    }
}

fn push_place(key: &mut Vec<u8>, (hlc, dot): Place) {
    key.extend(hlc.wall_ms.to_be_bytes());
    key.extend(hlc.logical.to_be_bytes());
    key.extend(hlc.node.0.to_be_bytes());
    push_dot(key, dot);
}

/// The key of a message.
pub fn message_key(stream: Generation, place: Place) -> Vec<u8> {
    let mut key = Vec::with_capacity(80);
    key.extend(stream.0);
    push_place(&mut key, place);
    key
}

/// The key of a message that a reader of a topic is not done with.
pub fn open_key(stream: Generation, reader: SubscriptionId, place: Place) -> Vec<u8> {
    let mut key = Vec::with_capacity(96);
    key.extend(stream.0);
    key.extend(reader.0);
    push_place(&mut key, place);
    key
}

/// The place that follows a key's first bytes; `None` when they name none.
fn place_after(key: &[u8], skip: usize) -> Option<Place> {
    let mut rest = Reading(key.get(skip..)?);
    let place = rest.place()?;
    rest.0.is_empty().then_some(place)
}

/// The place that a message's key names; `None` when it names none.
pub fn place_of(key: &[u8]) -> Option<Place> {
    place_after(key, 16)
}

/// The reader and place that an open message's key names; `None` when it names none.
pub fn open_of(key: &[u8]) -> Option<(SubscriptionId, Place)> {
    Some((reader_of(key)?, place_after(key, 32)?))
}

/// The reader that a key names after its stream.
pub fn reader_of(key: &[u8]) -> Option<SubscriptionId> {
    key.get(16..32)?.try_into().ok().map(SubscriptionId)
}

/// The dot that a mark's key names.
pub fn marked_dot(key: &[u8]) -> Option<Dot> {
    let mut rest = Reading(key.get(16..)?);
    let dot = rest.dot()?;
    rest.0.is_empty().then_some(dot)
}

/// The name that the key of a row of sizes names.
pub fn sized_name(key: &[u8]) -> Option<Dot> {
    marked_dot(key)
}

/// The key of a message's times and group.
pub fn mark_key(stream: Generation, dot: Dot) -> Vec<u8> {
    let mut key = stream.0.to_vec();
    push_dot(&mut key, dot);
    key
}

/// The key of a row of sizes.
pub fn sizes_key(stream: Generation, name: Dot) -> Vec<u8> {
    mark_key(stream, name)
}

/// The key of a keyed message's identity.
pub fn identity_key(stream: Generation, id: KeyedId) -> Vec<u8> {
    [stream.0, id.0].concat()
}

/// The key of a grant.
pub fn grant_key(stream: Generation, reader: SubscriptionId, requester: RequesterId) -> Vec<u8> {
    [stream.0, reader.0, requester.0].concat()
}

/// The key of an attempt.
pub fn attempt_key(stream: Generation, reader: SubscriptionId, dot: Dot) -> Vec<u8> {
    let mut key = [stream.0, reader.0].concat();
    push_dot(&mut key, dot);
    key
}

/// Ends the key of a reason: it lies right behind its attempt.
const REASON: u8 = 0xff;

/// The key of why a message failed last.
pub fn reason_key(stream: Generation, reader: SubscriptionId, dot: Dot) -> Vec<u8> {
    let mut key = attempt_key(stream, reader, dot);
    key.push(REASON);
    key
}

/// The reader and message that a reason's key names; `None`: it is an attempt's.
pub fn reason_of(key: &[u8]) -> Option<(SubscriptionId, Dot)> {
    let mut rest = Reading(key.get(32..)?);
    let dot = rest.dot()?;
    (rest.0 == [REASON]).then_some((reader_of(key)?, dot))
}

/// The key of what is kept of a reader.
pub fn reader_key(stream: Generation, reader: SubscriptionId) -> Vec<u8> {
    [stream.0, reader.0].concat()
}

/// The key of a stream's subscription set.
pub fn set_key(stream: Generation) -> Vec<u8> {
    [&stream.0[..], b"set"].concat()
}

/// The bounds of all rows of a stream in a table keyed by it.
pub fn whole(stream: Generation) -> (Vec<u8>, Vec<u8>) {
    let mut end = stream.0.to_vec();
    end.extend([0xff; 96]);
    (stream.0.to_vec(), end)
}

/// The bounds of all rows of a reader in a table keyed by stream and reader.
pub fn whole_of_reader(stream: Generation, reader: SubscriptionId) -> (Vec<u8>, Vec<u8>) {
    let first = reader_key(stream, reader);
    let mut end = first.clone();
    end.extend([0xff; 80]);
    (first, end)
}

fn put(table: Table, key: Vec<u8>, row: &impl Serialize) -> RowOp {
    let bytes = postcard::to_stdvec(row).expect("a row always encodes");
    RowOp::Put { table, key, tag: TAG, bytes }
}

fn delete(table: Table, key: Vec<u8>) -> RowOp {
    RowOp::Delete { table, key }
}

/// The writes of a decision.
pub fn row_ops(generation: Generation, stream: &Stream, changes: Vec<Change>) -> Vec<RowOp> {
    let none = Vec::new();
    // What is written of a message is written of its size, in the same commit [R13].
    let of_size = |change: &Change| match change {
        Change::PutMessage((_, dot), _) | Change::DeleteMessage((_, dot)) => {
            Some(Sizes::row_of(*dot))
        }
        _ => None,
    };
    let sizes: BTreeSet<Dot> = changes.iter().filter_map(of_size).collect();
    let size_op = |name| {
        let key = sizes_key(generation, name);
        match stream.sizes().row(name) {
            Some(bytes) => RowOp::Put { table: Table::Sizes, key, tag: TAG, bytes },
            None => delete(Table::Sizes, key),
        }
    };
    let op = |change| match change {
        Change::PutMessage(place, bytes) => {
            let key = message_key(generation, place);
            RowOp::Put { table: Table::Messages, key, tag: TAG, bytes }
        }
        Change::DeleteMessage(place) => delete(Table::Messages, message_key(generation, place)),
        Change::PutOpen(reader, place) => {
            let (key, bytes) = (open_key(generation, reader, place), none.clone());
            RowOp::Put { table: Table::Open, key, tag: TAG, bytes }
        }
        Change::DeleteOpen(reader, place) => {
            delete(Table::Open, open_key(generation, reader, place))
        }
        Change::PutMark(dot, mark) => put(Table::Marks, mark_key(generation, dot), &mark),
        Change::DeleteMark(dot) => delete(Table::Marks, mark_key(generation, dot)),
        Change::PutIdentity(id, identity) => {
            put(Table::Identities, identity_key(generation, id), &identity)
        }
        Change::DeleteIdentity(id) => delete(Table::Identities, identity_key(generation, id)),
        Change::PutGrant(reader, requester, row) => {
            put(Table::Grants, grant_key(generation, reader, requester), &row)
        }
        Change::DeleteGrant(reader, requester) => {
            delete(Table::Grants, grant_key(generation, reader, requester))
        }
        Change::PutAttempt(reader, dot, attempt) => {
            put(Table::Attempts, attempt_key(generation, reader, dot), &attempt)
        }
        Change::DeleteAttempt(reader, dot) => {
            delete(Table::Attempts, attempt_key(generation, reader, dot))
        }
        Change::PutReason(reader, dot, sealed) => {
            let (key, bytes) = (reason_key(generation, reader, dot), sealed.into());
            RowOp::Put { table: Table::Attempts, key, tag: TAG, bytes }
        }
        Change::DeleteReason(reader, dot) => {
            delete(Table::Attempts, reason_key(generation, reader, dot))
        }
        Change::PutMeta => put(Table::Streams, generation.0.to_vec(), &stream.meta()),
        Change::PutReader(reader) => {
            put(Table::Streams, reader_key(generation, reader), &stream.reader_meta(reader))
        }
        Change::DeleteReader(reader) => delete(Table::Streams, reader_key(generation, reader)),
        Change::PutSet => put(Table::Streams, set_key(generation), &**stream.set()),
    };
    changes.into_iter().map(op).chain(sizes.into_iter().map(size_op)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> impl Strategy<Value = Place> {
        let hlc = (any::<u64>(), any::<u32>(), any::<u64>());
        (hlc, any::<(u64, u64, u64)>()).prop_map(|((wall_ms, logical, node), (n, b, seq))| {
            let hlc = Hlc { wall_ms, logical, node: NodeId(node) };
            let minted = Dot::Minted { node: NodeId(n), boot: Boot(b), seq };
            let dot = match seq % 3 {
                0 => minted,
                1 => minted.copied_by(LinkId([u8::try_from(n % 256).unwrap_or(0); 16]), 1),
                _ => Dot::Keyed(KeyedId([u8::try_from(n % 256).unwrap_or(0); 16])),
            };
            (hlc, dot)
        })
    }

    proptest! {
        #[test]
        fn the_order_of_keys_is_the_dispatch_order(a in place(), b in place()) {
            let stream = Generation([7; 16]);
            let (x, y) = (message_key(stream, a), message_key(stream, b));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(place_of(&x), Some(a));
            let reader = SubscriptionId([9; 16]);
            prop_assert_eq!(open_of(&open_key(stream, reader, a)), Some((reader, a)));
            prop_assert_eq!(marked_dot(&mark_key(stream, a.1)), Some(a.1));
            prop_assert_eq!(reason_of(&reason_key(stream, reader, a.1)), Some((reader, a.1)));
            prop_assert_eq!(reason_of(&attempt_key(stream, reader, a.1)), None);
            let (from, to) = whole(stream);
            prop_assert!(from <= x && x <= to);
        }

        #[test]
        fn a_damaged_key_names_no_place(a in place(), cut in 0..53usize) {
            prop_assert_eq!(place_of(&message_key(Generation([7; 16]), a)[..cut]), None);
        }
    }
}
