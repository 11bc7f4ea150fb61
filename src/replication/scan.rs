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
    let context = loaded.meta.context.clone();
    walk(store, Table::Messages, stream, |key, row| {
        match (place_of(key), row) {
            (Some(place), Some(_)) => loaded.places.push(place),
            // Its name is known, so it is a hole: here, unsettled, and it will not open [R13].
            (Some(place), None) if context.contains(place.1) => loaded.places.push(place),
            (_, None) => {
                metrics::gauge!("tertulia_holes").increment(1.0);
                tracing::error!(%stream, "a damaged message does not tell its name [R13]");
            }
            (None, Some(_)) => return Err(LoadError::Damaged(Table::Messages)),
        }
        Ok(())
    })?;
    loaded.places.sort_unstable();
    loaded.places.dedup();
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
    let rows =
        store.scan(Table::Messages, Bound::Excluded(&from), Bound::Included(&last), limit)?;
    let mut places: Vec<Place> = rows
        .iter()
        .filter(|(key, row)| row.is_ok() || key.starts_with(&stream.0))
        .filter_map(|(key, _)| place_of(key))
        .filter(|place| *place > after)
        .collect();
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

/// One message; `None` when its row is gone or damaged (a hole, which the caller counts).
#[must_use]
pub fn envelope(store: &Store, stream: Generation, place: Place) -> Option<Envelope> {
    match store.get(Table::Messages, &message_key(stream, place)) {
        Ok(Some(row)) => Envelope::from_bytes(&row.bytes),
        Ok(None) => None,
        Err(error) => {
            tracing::error!(%error, %stream, dot = %place.1, "a message cannot be read");
            None
        }
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
        let rows = store.scan(table, Bound::Included(&first), Bound::Included(&last), room)?;
        ops.extend(rows.into_iter().map(|(key, _)| RowOp::Delete { table, key }));
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
        let damaged = || LoadError::Damaged(Table::Streams);
        let id = key.try_into().map_err(|_| damaged())?;
        let row = row.map_err(|_| damaged())?;
        Ok((Generation(id), decode(Table::Streams, &row)?))
    };
    rows.into_iter().map(read).collect()
}
