//! Reading streams from the disk. Blocking: callers run it where that is allowed.

use super::rows::{
    marked_dot, message_key, open_key, open_of, place_of, reader_of, reason_key, reason_of,
    set_key, whole, whole_of_reader,
};
use crate::base::ids::{Generation, RequesterId, SubscriptionId};
use crate::crdt::dot::{Dot, KeyedId};
use crate::message::envelope::Kept;
use crate::protocol::lease::{Attempt, GrantRow};
use crate::protocol::stream::{Identity, Loaded, Mark, Place, ReaderMeta, StreamMeta};
use crate::store::{ReadError, Row, RowOp, Store, Table};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use std::ops::Bound;

/// Rows read in one go.
const CHUNK: usize = 1_024;

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
/// [`LoadError`]. A damaged message is no error: its place is known, so it is a hole.
pub fn load(store: &Store, stream: Generation) -> Result<Loaded, LoadError> {
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
    load_places(store, stream, &mut loaded)?;
    load_open(store, stream, &mut loaded)?;
    load_leases(store, stream, &mut loaded)?;
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

/// The places and sizes of all messages: keys only, as the payloads may be many times the memory.
fn load_places(store: &Store, stream: Generation, loaded: &mut Loaded) -> Result<(), LoadError> {
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
                (Some(place), Some(size)) => loaded.places.push((place, size)),
                // Its name is known, so it is a hole: here, unsettled, and it will not open [R13].
                (Some(place), None) if is_known(loaded, place) => loaded.places.push((place, 1)),
                (None, Some(_)) => return Err(LoadError::Damaged(Table::Messages)),
                _ => tracing::error!(%stream, "a damaged message does not tell its name [R13]"),
            }
            if size.is_some() {
                sound += 1;
                from = Bound::Excluded(key);
            }
        }
        // Only sound rows count against the limit.
        if sound < CHUNK {
            loaded.places.sort_unstable();
            loaded.places.dedup_by_key(|(place, _)| *place);
            return Ok(());
        }
    }
}

fn load_open(store: &Store, stream: Generation, loaded: &mut Loaded) -> Result<(), LoadError> {
    walk(store, Table::Open, stream, |key, row| {
        row.ok_or(LoadError::Damaged(Table::Open))?;
        let (reader, place) = open_of(key).ok_or(LoadError::Damaged(Table::Open))?;
        loaded.readers.entry(reader).or_default().open.push(place);
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
