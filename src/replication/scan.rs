//! Reading streams from the disk. Blocking: callers run it where that is allowed.

use super::rows::{message_key, place_of, whole};
use crate::base::ids::{Generation, RequesterId};
use crate::message::envelope::Envelope;
use crate::protocol::lease::{Attempt, GrantRow};
use crate::protocol::stream::{Loaded, Place, StreamMeta};
use crate::store::{ReadError, Row, RowOp, Store, Table};
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
    let meta = match store.get(Table::Streams, &stream.0)? {
        Some(row) => decode::<StreamMeta>(Table::Streams, &row)?,
        None => StreamMeta::default(),
    };
    let mut loaded = Loaded { meta, ..Loaded::default() };
    load_places(store, stream, &mut loaded)?;
    walk(store, Table::Grants, stream, |key, row| {
        let row = row.ok_or(LoadError::Damaged(Table::Grants))?;
        let id = key[16..].try_into().map_err(|_| LoadError::Damaged(Table::Grants))?;
        loaded.grants.push((RequesterId(id), decode::<GrantRow>(Table::Grants, row)?));
        Ok(())
    })?;
    walk(store, Table::Attempts, stream, |_, row| {
        let row = row.ok_or(LoadError::Damaged(Table::Attempts))?;
        loaded.attempts.push(decode::<Attempt>(Table::Attempts, row)?);
        Ok(())
    })?;
    Ok(loaded)
}

/// The places of all messages: keys only, as the payloads may be many times the memory.
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
        for (key, is_sound) in keys {
            let place = place_of(&key).filter(|_| key.starts_with(&stream.0));
            match place {
                Some(place) if is_sound => loaded.places.push(place),
                // Its name is known, so it is a hole: here, unsettled, and it will not open [R13].
                Some(place) if loaded.meta.context.contains(place.1) => loaded.places.push(place),
                _ if is_sound => return Err(LoadError::Damaged(Table::Messages)),
                _ => tracing::error!(%stream, "a damaged message does not tell its name [R13]"),
            }
            if is_sound {
                sound += 1;
                from = Bound::Excluded(key);
            }
        }
        // Only sound rows count against the limit.
        if sound < CHUNK {
            loaded.places.sort_unstable();
            loaded.places.dedup();
            return Ok(());
        }
    }
}

/// Up to `limit` places after one, rising.
///
/// # Errors
/// [`LoadError`].
pub fn places(
    store: &Store,
    stream: Generation,
    after: Place,
    limit: usize,
) -> Result<Vec<Place>, LoadError> {
    let (_, last) = whole(stream);
    let from = message_key(stream, after);
    let keys =
        store.keys(Table::Messages, Bound::Excluded(&from), Bound::Included(&last), limit)?;
    let of_stream = |key: &[u8]| place_of(key).filter(|_| key.starts_with(&stream.0));
    let mut places: Vec<Place> =
        keys.iter().filter_map(|(key, _)| of_stream(key)).filter(|place| *place > after).collect();
    places.sort_unstable();
    places.dedup();
    // A damaged key may lie anywhere: nothing is taken from beyond the last sound one.
    let end = keys.iter().filter(|(_, sound)| *sound).filter_map(|(key, _)| place_of(key)).max();
    if keys.iter().filter(|(_, sound)| *sound).count() >= limit {
        places.retain(|place| end.is_some_and(|end| *place <= end));
    }
    Ok(places)
}

/// One message; `None` when its row is gone or damaged.
///
/// # Errors
/// [`ReadError`] when the disk cannot be asked: then nothing is known of the message.
pub fn envelope(
    store: &Store,
    stream: Generation,
    place: Place,
) -> Result<Option<Envelope>, ReadError> {
    match store.get(Table::Messages, &message_key(stream, place)) {
        Ok(row) => Ok(row.and_then(|row| Envelope::from_bytes(&row.bytes))),
        Err(ReadError::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Up to `limit` deletions of a stream's rows; the last one removes the stream itself. Empty:
/// nothing is left.
///
/// # Errors
/// [`LoadError`].
pub fn deletions(store: &Store, stream: Generation, limit: usize) -> Result<Vec<RowOp>, LoadError> {
    let (first, last) = whole(stream);
    let mut ops = Vec::new();
    for table in [Table::Messages, Table::Grants, Table::Attempts, Table::Streams] {
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

/// All streams with a row of their own, in pieces: those after one.
///
/// # Errors
/// [`LoadError`].
pub fn streams(
    store: &Store,
    after: Option<Generation>,
) -> Result<Vec<(Generation, StreamMeta)>, LoadError> {
    let from = after.map_or(Bound::Unbounded, |g| Bound::Excluded(g.0));
    let from = from.as_ref().map(<[u8; 16]>::as_slice);
    let rows = store.scan(Table::Streams, from, Bound::Unbounded, CHUNK)?;
    let read = |(key, row): (Vec<u8>, Result<Row, _>)| {
        let meta = row.ok().and_then(|row| decode(Table::Streams, &row).ok());
        if meta.is_none() {
            tracing::error!("a stream's row is damaged");
        }
        Some((Generation(key.try_into().ok()?), meta?))
    };
    Ok(rows.into_iter().filter_map(read).collect())
}
