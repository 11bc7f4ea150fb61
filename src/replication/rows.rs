//! Keys and rows of streams in the store. Keys are made so that their byte order is the dispatch
//! order: a head-of-queue read never walks over what is gone.

use crate::base::hlc::Hlc;
use crate::base::ids::{Boot, Generation, NodeId, RequesterId};
use crate::crdt::dot::Dot;
use crate::protocol::op::Change;
use crate::protocol::stream::{Place, Stream};
use crate::store::{RowOp, Table};
use serde::Serialize;

/// Format tag of today's rows.
pub const TAG: u8 = 1;
/// Bytes of a row beside what it carries, for the bound on waiting writes.
pub const ROW_BYTES: usize = 160;

const MINTED: u8 = 0;

/// `dot` in an order-preserving form.
fn push_dot(key: &mut Vec<u8>, dot: Dot) {
    let Dot::Minted { node, boot, seq } = dot;
    key.push(MINTED);
    key.extend(node.0.to_be_bytes());
    key.extend(boot.0.to_be_bytes());
    key.extend(seq.to_be_bytes());
}

/// The key of a message.
pub fn message_key(stream: Generation, (hlc, dot): Place) -> Vec<u8> {
    let mut key = Vec::with_capacity(61);
    key.extend(stream.0);
    key.extend(hlc.wall_ms.to_be_bytes());
    key.extend(hlc.logical.to_be_bytes());
    key.extend(hlc.node.0.to_be_bytes());
    push_dot(&mut key, dot);
    key
}

/// The place that a message's key names; `None` when it names none.
pub fn place_of(key: &[u8]) -> Option<Place> {
    let mut rest = key.get(16..)?;
    let mut take = |n: usize| -> Option<u64> {
        let (head, tail) = rest.split_at_checked(n)?;
        rest = tail;
        Some(head.iter().fold(0, |v, b| v << 8 | u64::from(*b)))
    };
    let hlc =
        Hlc { wall_ms: take(8)?, logical: u32::try_from(take(4)?).ok()?, node: NodeId(take(8)?) };
    (take(1)? == u64::from(MINTED)).then_some(())?;
    let dot = Dot::Minted { node: NodeId(take(8)?), boot: Boot(take(8)?), seq: take(8)? };
    rest.is_empty().then_some((hlc, dot))
}

/// The key of a grant.
pub fn grant_key(stream: Generation, requester: RequesterId) -> Vec<u8> {
    [stream.0, requester.0].concat()
}

/// The key of an attempt.
pub fn attempt_key(stream: Generation, dot: Dot) -> Vec<u8> {
    let mut key = stream.0.to_vec();
    push_dot(&mut key, dot);
    key
}

/// The bounds of all rows of a stream in a table keyed by it.
pub fn whole(stream: Generation) -> (Vec<u8>, Vec<u8>) {
    let mut end = stream.0.to_vec();
    end.extend([0xff; 48]);
    (stream.0.to_vec(), end)
}

fn put(table: Table, key: Vec<u8>, row: &impl Serialize) -> RowOp {
    let bytes = postcard::to_stdvec(row).expect("a row always encodes");
    RowOp::Put { table, key, tag: TAG, bytes }
}

/// The writes of a decision.
pub fn row_ops(generation: Generation, stream: &Stream, changes: Vec<Change>) -> Vec<RowOp> {
    let op = |change| match change {
        Change::PutMessage(envelope) => {
            let key = message_key(generation, (envelope.header.hlc, envelope.header.dot));
            RowOp::Put { table: Table::Messages, key, tag: TAG, bytes: envelope.to_bytes() }
        }
        Change::DeleteMessage(place) => {
            RowOp::Delete { table: Table::Messages, key: message_key(generation, place) }
        }
        Change::PutGrant(requester, row) => {
            put(Table::Grants, grant_key(generation, requester), &row)
        }
        Change::DeleteGrant(requester) => {
            RowOp::Delete { table: Table::Grants, key: grant_key(generation, requester) }
        }
        Change::PutAttempt(dot, attempt) => {
            put(Table::Attempts, attempt_key(generation, dot), &attempt)
        }
        Change::DeleteAttempt(dot) => {
            RowOp::Delete { table: Table::Attempts, key: attempt_key(generation, dot) }
        }
        Change::PutMeta => put(Table::Streams, generation.0.to_vec(), &stream.meta()),
    };
    changes.into_iter().map(op).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> impl Strategy<Value = Place> {
        let hlc = (any::<u64>(), any::<u32>(), any::<u64>());
        (hlc, any::<(u64, u64, u64)>()).prop_map(|((wall_ms, logical, node), (n, b, seq))| {
            let hlc = Hlc { wall_ms, logical, node: NodeId(node) };
            (hlc, Dot::Minted { node: NodeId(n), boot: Boot(b), seq })
        })
    }

    proptest! {
        #[test]
        fn the_order_of_keys_is_the_dispatch_order(a in place(), b in place()) {
            let stream = Generation([7; 16]);
            let (x, y) = (message_key(stream, a), message_key(stream, b));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(place_of(&x), Some(a));
            let (from, to) = whole(stream);
            prop_assert!(from <= x && x <= to);
        }

        #[test]
        fn a_damaged_key_names_no_place(a in place(), cut in 0..61usize) {
            prop_assert_eq!(place_of(&message_key(Generation([7; 16]), a)[..cut]), None);
        }
    }
}
