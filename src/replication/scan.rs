//! Reading streams from the disk. Blocking: callers run it where that is allowed.

use super::rows::{
    marked_dot, message_key, open_key, open_of, place_of, reader_of, reason_key, reason_of,
    set_key, sized_name, whole, whole_of_reader,
};
use crate::base::ids::{Generation, RequesterId, SubscriptionId};
use crate::base::limits;
use crate::crdt::dot::{Dot, KeyedId};
use crate::message::envelope::Kept;
use crate::protocol::lease::{Attempt, GrantRow};
use crate::protocol::stream::{
    Identity, Loaded, Mark, Place, ReaderMeta, Sizes, StreamKind, StreamMeta,
};
use crate::store::{ReadError, Row, RowOp, Store, Table};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::ops::Bound;

/// Rows read in one go.
const CHUNK: usize = 1_024;
/// Places read of each reader when a stream is loaded.
const HEAD: usize = limits::WINDOW_MESSAGES_MAX / 8;

/// A stream cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store says so.
    #[error("the store cannot be read: {0}")]
    Read(#[from] ReadError),
    /// A row that is needed whole is damaged; it is repaired from a peer, never guessed [R8].
    #[error("a row of table {0:?} is damaged")]
    Damaged(Table),
}

fn decode<T: DeserializeOwned>(table: Table, row: &Row) -> Result<T, LoadError> {
    postcard::from_bytes(&row.bytes).map_err(|_| LoadError::Damaged(table))
}

/// Calls `each` with every row of a stream in a table; damaged rows come without a value.
fn walk(
    store: &Store,
    table: Table,
    stream: Generation,
    mut each: impl FnMut(&[u8], Option<&Row>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let (first, last) = whole(stream);
    let mut from = Bound::Included(first);
    loop {
        let as_slice = from.as_ref().map(Vec::as_slice);
        let rows = store.scan(table, as_slice, Bound::Included(&last), CHUNK)?;
        let mut sound = 0;
        for (key, row) in rows {
            match row {
                Ok(row) => {
                    sound += 1;
                    each(&key, Some(&row))?;
                    from = Bound::Excluded(key);
                }
                // Of a damaged row the key may be what is damaged: it can lie anywhere.
                Err(_) if key.starts_with(&stream.0) => each(&key, None)?,
                Err(_) => {}
            }
        }
        // Only sound rows count against the limit.
        if sound < CHUNK {
            return Ok(());
        }
    }
}

/// Everything that a stream's state in memory is made of.
///
/// # Errors
/// [`LoadError`]. A damaged message is no error: it is known to be there, so it is a hole.
pub fn load(store: &Store, stream: Generation, kind: StreamKind) -> Result<Loaded, LoadError> {
    let mut loaded = Loaded::default();
    walk(store, Table::Streams, stream, |key, row| {
        let row = row.ok_or(LoadError::Damaged(Table::Streams))?;
        if key.len() == 16 {
            loaded.meta = decode::<StreamMeta>(Table::Streams, row)?;
        } else if key == set_key(stream) {
            loaded.set = decode(Table::Streams, row)?;
        } else {
            let reader = reader_of(key).ok_or(LoadError::Damaged(Table::Streams))?;
            loaded.readers.entry(reader).or_default().meta =
                decode::<ReaderMeta>(Table::Streams, row)?;
        }
        Ok(())
    })?;
    walk(store, Table::Identities, stream, |key, row| {
        let row = row.ok_or(LoadError::Damaged(Table::Identities))?;
        let id = key[16..].try_into().map_err(|_| LoadError::Damaged(Table::Identities))?;
        loaded.identities.push((KeyedId(id), decode::<Identity>(Table::Identities, row)?));
        Ok(())
    })?;
    walk(store, Table::Marks, stream, |key, row| {
        let row = row.ok_or(LoadError::Damaged(Table::Marks))?;
        let dot = marked_dot(key).ok_or(LoadError::Damaged(Table::Marks))?;
        loaded.marks.push((dot, decode::<Mark>(Table::Marks, row)?));
        Ok(())
    })?;
    load_sizes(store, stream, &mut loaded)?;
    load_open(store, stream, &mut loaded)?;
    load_leases(store, stream, &mut loaded)?;
    if kind == StreamKind::Queue {
        load_head(store, stream, &mut loaded)?;
    }
    Ok(loaded)
}

fn load_leases(store: &Store, stream: Generation, loaded: &mut Loaded) -> Result<(), LoadError> {
    walk(store, Table::Grants, stream, |key, row| {
        let row = row.ok_or(LoadError::Damaged(Table::Grants))?;
        let reader = reader_of(key).ok_or(LoadError::Damaged(Table::Grants))?;
        let id = key[32..].try_into().map_err(|_| LoadError::Damaged(Table::Grants))?;
        let grant = (RequesterId(id), decode::<GrantRow>(Table::Grants, row)?);
        loaded.readers.entry(reader).or_default().grants.push(grant);
        Ok(())
    })?;
    walk(store, Table::Attempts, stream, |key, row| {
        let row = row.ok_or(LoadError::Damaged(Table::Attempts))?;
        if let Some((reader, dot)) = reason_of(key) {
            loaded.readers.entry(reader).or_default().reasons.push(dot);
            return Ok(());
        }
        let reader = reader_of(key).ok_or(LoadError::Damaged(Table::Attempts))?;
        let attempt = decode::<Attempt>(Table::Attempts, row)?;
        loaded.readers.entry(reader).or_default().attempts.push(attempt);
        Ok(())
    })
}

/// Whether a message of this name may be here.
fn is_known(loaded: &Loaded, place: Place) -> bool {
    let id = |(id, _): &(KeyedId, Identity)| *id;
    match place.1 {
        crate::crdt::dot::Dot::Keyed(key) => {
            loaded.identities.binary_search_by_key(&key, id).is_ok()
        }
        dot => loaded.meta.context.contains(dot),
    }
}

/// The sizes of all messages. A damaged row says nothing of its messages, and nobody knows where
/// one with a wrong key belongs: then the messages themselves are asked [R8, R13].
fn load_sizes(store: &Store, stream: Generation, loaded: &mut Loaded) -> Result<(), LoadError> {
    let (first, last) = whole(stream);
    let mut from = Bound::Included(first);
    loop {
        let as_slice = from.as_ref().map(Vec::as_slice);
        let rows = store.scan(Table::Sizes, as_slice, Bound::Included(&last), CHUNK)?;
        let count = rows.len();
        for (key, row) in rows {
            let name = sized_name(&key).filter(|_| key.starts_with(&stream.0));
            let read = |row: Row| name.is_some_and(|name| loaded.sizes.read_row(name, &row.bytes));
            if !row.is_ok_and(read) {
                tracing::error!(%stream, "a row of sizes is damaged: all messages are read [R13]");
                metrics::counter!("tertulia_sizes_damaged_total").increment(1);
                loaded.sizes = Sizes::default();
                return load_sizes_of_messages(store, stream, loaded);
            }
            from = Bound::Excluded(key);
        }
        if count < CHUNK {
            return Ok(());
        }
    }
}

/// The first places of a queue: payloads may be many times the memory, and are left where they are.
fn load_head(store: &Store, stream: Generation, loaded: &mut Loaded) -> Result<(), LoadError> {
    let id = SubscriptionId::QUEUE;
    let reader = loaded.readers.entry(id).or_default();
    reader.head = places(store, stream, id, None, HEAD)?;
    reader.read_to = reader.head.last().copied().filter(|_| reader.head.len() >= HEAD);
    Ok(())
}

/// The sizes of all messages by the rows of the messages themselves: reads all of them.
fn load_sizes_of_messages(
    store: &Store,
    stream: Generation,
    loaded: &mut Loaded,
) -> Result<(), LoadError> {
    let (first, last) = whole(stream);
    let mut from = Bound::Included(first);
    loop {
        let keys = store.keys(
            Table::Messages,
            from.as_ref().map(Vec::as_slice),
            Bound::Included(&last),
            CHUNK,
        )?;
        let mut sound = 0;
        for (key, size) in keys {
            let place = place_of(&key).filter(|_| key.starts_with(&stream.0));
            match (place, size) {
                (Some(place), Some(size)) => loaded.sizes.insert(place.1, size),
                // Its name is known, so it is a hole: here, unsettled, and it will not open [R13].
                (Some(place), None) if is_known(loaded, place) => {
                    loaded.sizes.insert(place.1, 1);
                    loaded.holes.insert(place);
                }
                (None, Some(_)) => return Err(LoadError::Damaged(Table::Messages)),
                _ => {
                    loaded.is_suspect = true;
                    tracing::error!(%stream, "a damaged message does not tell its name [R13]");
                }
            }
            if size.is_some() {
                sound += 1;
                from = Bound::Excluded(key);
            }
        }
        // Only sound rows count against the limit.
        if sound < CHUNK {
            return Ok(());
        }
    }
}

fn load_open(store: &Store, stream: Generation, loaded: &mut Loaded) -> Result<(), LoadError> {
    walk(store, Table::Open, stream, |key, row| {
        row.ok_or(LoadError::Damaged(Table::Open))?;
        let (reader, place) = open_of(key).ok_or(LoadError::Damaged(Table::Open))?;
        let reader = loaded.readers.entry(reader).or_default();
        reader.open.insert(place.1);
        // Rows come in the order of places.
        if reader.head.len() < HEAD {
            reader.head.push(place);
        } else {
            reader.read_to = reader.head.last().copied();
        }
        Ok(())
    })
}

/// Up to `limit` places of a reader after one (none: from its first), rising.
///
/// # Errors
/// [`LoadError`].
pub fn places(
    store: &Store,
    stream: Generation,
    reader: SubscriptionId,
    after: Option<Place>,
    limit: usize,
) -> Result<Vec<Place>, LoadError> {
    let queue = reader == SubscriptionId::QUEUE;
    let (table, (first, last)) = if queue {
        (Table::Messages, whole(stream))
    } else {
        (Table::Open, whole_of_reader(stream, reader))
    };
    let key_of = |place| {
        if queue { message_key(stream, place) } else { open_key(stream, reader, place) }
    };
    let from = after.map(key_of);
    let from = from.as_ref().map_or(Bound::Included(&first[..]), |key| Bound::Excluded(&key[..]));
    let keys = store.keys(table, from, Bound::Included(&last), limit)?;
    let named = |key: &[u8]| {
        if queue { place_of(key) } else { open_of(key).map(|(_, place)| place) }
    };
    let own = |key: &[u8]| named(key).filter(|_| key.starts_with(&first));
    let is_after = |place: &Place| after.is_none_or(|after| *place > after);
    let mut places: Vec<Place> =
        keys.iter().filter_map(|(key, _)| own(key)).filter(is_after).collect();
    places.sort_unstable();
    places.dedup();
    // A damaged key may lie anywhere: nothing is taken from beyond the last sound one.
    let end =
        keys.iter().filter(|(_, size)| size.is_some()).filter_map(|(key, _)| named(key)).max();
    if keys.iter().filter(|(_, size)| size.is_some()).count() >= limit {
        places.retain(|place| end.is_some_and(|end| *place <= end));
    }
    Ok(places)
}

/// One message; `None` when its row is gone or damaged.
///
/// # Errors
/// [`ReadError`] when the disk cannot be asked: then nothing is known of the message.
pub fn message(store: &Store, stream: Generation, place: Place) -> Result<Option<Kept>, ReadError> {
    match store.get(Table::Messages, &message_key(stream, place)) {
        Ok(row) => Ok(row.and_then(|row| Kept::from_bytes(&row.bytes))),
        Err(ReadError::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why a message failed last, sealed; `None` when nobody said so, or the row is damaged.
///
/// # Errors
/// [`ReadError`] when the disk cannot be asked.
pub fn reason(
    store: &Store,
    stream: Generation,
    reader: SubscriptionId,
    dot: Dot,
) -> Result<Option<Bytes>, ReadError> {
    match store.get(Table::Attempts, &reason_key(stream, reader, dot)) {
        Ok(row) => Ok(row.map(|row| row.bytes)),
        Err(ReadError::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Up to `limit` deletions of a stream's rows; the last ones remove the stream itself. Empty:
/// nothing is left.
///
/// # Errors
/// [`LoadError`].
pub fn deletions(store: &Store, stream: Generation, limit: usize) -> Result<Vec<RowOp>, LoadError> {
    let (first, last) = whole(stream);
    let mut ops = Vec::new();
    let tables = [
        Table::Messages,
        Table::Sizes,
        Table::Open,
        Table::Marks,
        Table::Identities,
        Table::Grants,
        Table::Attempts,
        Table::Streams,
    ];
    for table in tables {
        let room = limit - ops.len();
        if room == 0 {
            break;
        }
        let keys = store.keys(table, Bound::Included(&first), Bound::Included(&last), room)?;
        // Damaged rows beside the range come along: they are a neighbour's.
        let own = keys.into_iter().map(|(key, _)| key).filter(|key| key.starts_with(&stream.0));
        ops.extend(own.map(|key| RowOp::Delete { table, key }));
    }
    Ok(ops)
}

/// All streams with a row of their own, in pieces: those after one. Empty: there are no more.
///
/// # Errors
/// [`LoadError`].
pub fn streams(
    store: &Store,
    after: Option<Generation>,
) -> Result<Vec<(Generation, StreamMeta)>, LoadError> {
    let mut from = after.map_or(Bound::Unbounded, |g| Bound::Excluded(whole(g).1));
    loop {
        let rows = store.scan(
            Table::Streams,
            from.as_ref().map(Vec::as_slice),
            Bound::Unbounded,
            CHUNK,
        )?;
        let Some((last, _)) = rows.last() else { return Ok(Vec::new()) };
        from = Bound::Excluded(last.clone());
        let read = |(key, row): (Vec<u8>, Result<Row, _>)| {
            // The other rows are of readers and sets.
            let generation = Generation(key.try_into().ok()?);
            let meta = row.ok().and_then(|row| decode(Table::Streams, &row).ok());
            if meta.is_none() {
                tracing::error!("a stream's row is damaged");
            }
            Some((generation, meta?))
        };
        let found: Vec<_> = rows.into_iter().filter_map(read).collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::rows::{TAG, sizes_key};
    use super::*;
    use crate::base::hlc::Hlc;
    use crate::base::ids::{Boot, NodeId};
    use crate::crdt::dot::Dot;
    use crate::store::{WriteClass, scratch};

    const STREAM: Generation = Generation([7; 16]);

    fn put(table: Table, key: Vec<u8>, bytes: Vec<u8>) -> RowOp {
        RowOp::Put { table, key, tag: TAG, bytes }
    }

    async fn write(store: &Store, ops: Vec<RowOp>) {
        let admission = store.admit(WriteClass::Growth, 1 << 20).unwrap();
        store.submit(admission, ops).await.unwrap();
    }

    #[tokio::test]
    async fn r13_a_damaged_row_of_sizes_is_no_absence_of_its_messages() {
        let store = scratch();
        let dot = |seq| Dot::Minted { node: NodeId(1), boot: Boot(1), seq };
        let (mut sizes, mut meta) = (Sizes::default(), StreamMeta::default());
        let mut ops = Vec::new();
        for seq in 1..=700 {
            let place = (Hlc { wall_ms: seq, logical: 0, node: NodeId(1) }, dot(seq));
            ops.push(put(Table::Messages, message_key(STREAM, place), vec![0; 10]));
            sizes.insert(dot(seq), 10);
            meta.context.insert(dot(seq));
        }
        let bytes = postcard::to_stdvec(&meta).unwrap();
        ops.push(put(Table::Streams, STREAM.0.to_vec(), bytes));
        for block in [1, 300, 600].map(|seq| Sizes::row_of(dot(seq))) {
            ops.push(put(Table::Sizes, sizes_key(STREAM, block), sizes.row(block).unwrap()));
        }
        write(&store, ops).await;
        let whole = load(&store, STREAM, StreamKind::Queue).unwrap();
        assert_eq!(format!("{:?}", whole.sizes), format!("{sizes:?}"));
        let reader = &whole.readers[&SubscriptionId::QUEUE];
        assert_eq!((reader.head.len(), reader.read_to), (HEAD, reader.head.last().copied()));
        let key = sizes_key(STREAM, Sizes::row_of(dot(300)));
        write(&store, vec![put(Table::Sizes, key, vec![1, 2, 3])]).await;
        let again = load(&store, STREAM, StreamKind::Queue).unwrap();
        assert_eq!(format!("{:?}", again.sizes), format!("{sizes:?}"));
    }
}
