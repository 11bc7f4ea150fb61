//! The redb file: opening, reading, and one commit. Nothing above this file knows redb.
//!
//! redb does not verify what it reads and may panic on a damaged page. So a row is believed only
//! when its own checksum holds, absence only between two sound neighbours in order, and a panic
//! becomes an error.

use super::codec::{self, HEADER_BYTES, Row};
use super::disk::Backend;
use super::{Corrupt, OpenError, ReadError, Table};
use crate::base::seams::BlockFile;
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTableMetadata, TableDefinition,
    TableHandle,
};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;

type Snapshot = ReadOnlyTable<&'static [u8], &'static [u8]>;
/// A row as the tree has it, with its key; not verified.
type Entry = (redb::AccessGuard<'static, &'static [u8]>, redb::AccessGuard<'static, &'static [u8]>);

/// Turns a stored form into a row, whole or bare.
pub(super) type Decode = fn(&[u8], &[u8]) -> Option<Row>;

/// What one commit does to the rows of each table: the new tag and bytes, or `None` to remove.
pub(super) type Changes = BTreeMap<Table, BTreeMap<Vec<u8>, Option<(u8, Vec<u8>)>>>;

/// The row of `Table::Node` that names the schema.
pub(super) const SCHEMA_KEY: &[u8] = b"schema_version";
/// The tag of that row: four bytes, little endian.
const SCHEMA_TAG: u8 = 1;
/// The schema this program reads and writes.
pub(super) const SCHEMA_VERSION: u32 = 2;

/// Until redb's first commit a file is no longer than this.
const UNBORN_BYTES_MAX: u64 = 256 << 10;
/// redb's header, the only page it writes before the first commit; its magic number comes last.
const HEADER_PAGE_BYTES: usize = 4096;
const MAGIC_BYTES: usize = 9;

/// The open database; `None` inside once closed.
pub(super) struct Rows {
    database: RwLock<Option<Database>>,
}

fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

impl Rows {
    /// Opens the file, or makes a new store of an empty one.
    pub(super) fn open(file: Arc<dyn BlockFile>, cache_bytes: usize) -> Result<Self, OpenError> {
        restart_unfinished_birth(&*file)?;
        let open = || {
            let mut builder = Database::builder();
            builder.set_cache_size(cache_bytes);
            let database = builder.create_with_backend(Backend(file)).map_err(open_error)?;
            settle_tables(&database)?;
            Ok(Self { database: RwLock::new(Some(database)) })
        };
        let rows = catch_unwind(AssertUnwindSafe(open))
            .unwrap_or_else(|panic| Err(OpenError::Damaged(panic_text(&*panic))))?;
        rows.check_schema()?;
        Ok(rows)
    }

    fn check_schema(&self) -> Result<(), OpenError> {
        let row = self.get(Table::Node, SCHEMA_KEY).map_err(|error| match error {
            ReadError::Disk(error) => OpenError::Disk(error),
            other => OpenError::Damaged(other.to_string()),
        })?;
        let row = row.ok_or_else(|| OpenError::NotAStore("it names no schema".to_owned()))?;
        let found = match <[u8; 4]>::try_from(&row.bytes[..]) {
            Ok(version) if row.tag == SCHEMA_TAG => u32::from_le_bytes(version),
            _ => return Err(OpenError::NotAStore("its schema row is of no known form".to_owned())),
        };
        match found {
            SCHEMA_VERSION => Ok(()),
            0 => Err(OpenError::Damaged("schema 0 never existed".to_owned())),
            older if older < SCHEMA_VERSION => {
                Err(OpenError::NotAStore(format!("schema {older} was never released")))
            }
            _ => Err(OpenError::NewerSchema { found, known: SCHEMA_VERSION }),
        }
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, ReadError> {
        self.read(table, |rows| {
            let Some(stored) = rows.get(key).map_err(|e| read_error(table, e))? else {
                return expect_absence(table, rows, key).map(|()| None);
            };
            match codec::decode(key, stored.value()) {
                Some(row) => Ok(Some(row)),
                None => Err(Corrupt { table, key: key.to_vec() }.into()),
            }
        })
    }

    pub(super) fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
        decode: Decode,
    ) -> Result<Vec<super::ScannedRow>, ReadError> {
        self.read(table, |rows| {
            let mut found = rows_before(table, rows, (from, to), decode)?;
            collect(table, rows, (from, to), limit, decode, &mut found)?;
            Ok(found)
        })
    }

    /// Makes all changes durable, or none. Returns how long the commit took, without the changes.
    /// After an error nobody knows which of the two it was [R7].
    pub(super) fn commit(&self, changes: &Changes) -> Result<Duration, redb::Error> {
        let transaction = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            database.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_write()
        };
        let mut transaction = transaction?;
        transaction.set_durability(Durability::Immediate)?;
        for (table, rows) in changes {
            let mut open = transaction.open_table(definition(*table))?;
            for (key, row) in rows {
                let Some((tag, bytes)) = row else {
                    open.remove(key.as_slice())?;
                    continue;
                };
                let mut stored = open.insert_reserve(key.as_slice(), HEADER_BYTES + bytes.len())?;
                codec::encode_into(stored.as_mut(), key, *tag, bytes);
            }
        }
        let began = Instant::now();
        transaction.commit()?;
        Ok(began.elapsed())
    }

    /// Writes what makes the next opening quick, and lets go of the file; reads end. After a failed
    /// write redb leaves the file as it is [R7].
    pub(super) fn close(&self) -> Result<(), String> {
        let database = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        let Some(database) = database else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| database.close())) {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(panic) => Err(panic_text(&*panic)),
        }
    }

    /// Runs `work` on a snapshot of the table; a panic in it is damage.
    fn read<T>(
        &self,
        table: Table,
        work: impl FnOnce(&Snapshot) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let guarded = || {
            let transaction = {
                let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
                database.as_ref().ok_or(ReadError::Closed)?.begin_read()
            };
            let transaction = transaction.map_err(|e| read_error(table, e))?;
            let rows =
                transaction.open_table(definition(table)).map_err(|e| read_error(table, e))?;
            work(&rows)
        };
        catch_unwind(AssertUnwindSafe(guarded))
            .unwrap_or_else(|panic| Err(ReadError::Damaged { table, why: panic_text(&*panic) }))
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            // All commits are durable; the next opening only takes longer.
            tracing::warn!(error, "the store did not close cleanly");
        }
    }
}

/// A power cut while redb made the file leaves one without its magic number, which nobody would
/// open again. Such a file holds no commit and begins anew; any other byte in it forbids that.
fn restart_unfinished_birth(file: &dyn BlockFile) -> Result<(), OpenError> {
    let len = file.len()?;
    if len == 0 || len > UNBORN_BYTES_MAX {
        return Ok(());
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    file.read(0, &mut bytes)?;
    let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let (header, pages) = bytes.split_at(HEADER_PAGE_BYTES.min(bytes.len()));
    if is_zero(&header[..MAGIC_BYTES.min(header.len())]) && is_zero(pages) {
        file.set_len(0)?;
        file.sync()?;
    }
    Ok(())
}

/// Makes all tables and the schema row in a new store; in an old one they must all be there, so
/// that a damaged directory of tables is not taken for empty tables.
fn settle_tables(database: &Database) -> Result<(), OpenError> {
    let names = || -> Result<Vec<String>, redb::Error> {
        Ok(database.begin_read()?.list_tables()?.map(|table| table.name().to_owned()).collect())
    };
    let names = names().map_err(open_error)?;
    if names.is_empty() {
        return make_tables(database).map_err(open_error);
    }
    match Table::ALL.iter().filter(|table| names.iter().any(|name| name == table.name())).count() {
        0 => Err(OpenError::NotAStore("it is a redb file of another program".to_owned())),
        n if n < Table::ALL.len() => {
            Err(OpenError::Damaged(format!("{n} of {} tables are left", Table::ALL.len())))
        }
        _ => Ok(()),
    }
}

fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    for table in Table::ALL {
        transaction.open_table(definition(table))?;
    }
    {
        let version = SCHEMA_VERSION.to_le_bytes();
        let mut node = transaction.open_table(definition(Table::Node))?;
        let mut stored = node.insert_reserve(SCHEMA_KEY, HEADER_BYTES + version.len())?;
        codec::encode_into(stored.as_mut(), SCHEMA_KEY, SCHEMA_TAG, &version);
    }
    Ok(transaction.commit()?)
}

/// The row next to a place of the tree: the last one up to it, or the first one from it.
fn neighbour(
    table: Table,
    rows: &Snapshot,
    range: (Bound<&[u8]>, Bound<&[u8]>),
    last: bool,
) -> Result<Option<Entry>, ReadError> {
    let mut range = rows.range::<&[u8]>(range).map_err(|e| read_error(table, e))?;
    let entry = if last { range.next_back() } else { range.next() };
    entry.transpose().map_err(|e| read_error(table, e))
}

/// `Ok` when the key's absence can be believed: its place lies between rows that are sound and in
/// order. A wrong key in a leaf misleads a search only to a place next to itself; one in a branch
/// only to the edge of a wrong leaf, where the order shows it.
fn expect_absence(table: Table, rows: &Snapshot, key: &[u8]) -> Result<(), ReadError> {
    if rows.is_empty().map_err(|e| read_error(table, e))? {
        return Ok(());
    }
    let before = neighbour(table, rows, (Bound::Unbounded, Bound::Excluded(key)), true)?;
    let after = neighbour(table, rows, (Bound::Included(key), Bound::Unbounded), false)?;
    if before.is_none() && after.is_none() {
        return Err(out_of_order(table));
    }
    for (entry, is_before) in [(before, true), (after, false)] {
        let Some((near, stored)) = entry else { continue };
        if !codec::is_sound(near.value(), stored.value()) {
            return Err(Corrupt { table, key: key.to_vec() }.into());
        }
        if near.value() == key || (near.value() < key) != is_before {
            return Err(out_of_order(table));
        }
    }
    Ok(())
}

/// What a search for the bound jumped over: where the first row is was found by comparing keys, and
/// a wrong one may have misled it. Walks back by place to the first sound row before the range.
fn rows_before(
    table: Table,
    rows: &Snapshot,
    (from, to): (Bound<&[u8]>, Bound<&[u8]>),
    decode: Decode,
) -> Result<Vec<super::ScannedRow>, ReadError> {
    let mut found = Vec::new();
    let before = rows.range::<&[u8]>((Bound::Unbounded, gap_before(from)));
    for entry in before.map_err(|e| read_error(table, e))?.rev() {
        let (key, stored) = entry.map_err(|e| read_error(table, e))?;
        let key = key.value();
        match decode(key, stored.value()) {
            None => found.push((key.to_vec(), Err(Corrupt { table, key: key.to_vec() }))),
            Some(_) if !is_from(from, key) => break,
            Some(row) if is_below(to, key) => found.push((key.to_vec(), Ok(row))),
            Some(_) => {}
        }
    }
    found.reverse();
    Ok(found)
}

/// Walks forward from the bound by place, not by key, until a sound row lies beyond the end.
fn collect(
    table: Table,
    rows: &Snapshot,
    (from, to): (Bound<&[u8]>, Bound<&[u8]>),
    limit: usize,
    decode: Decode,
    found: &mut Vec<super::ScannedRow>,
) -> Result<(), ReadError> {
    let mut taken = found.iter().filter(|(_, row)| row.is_ok()).count();
    let mut last: Option<Vec<u8>> = None;
    for entry in rows.range::<&[u8]>((from, Bound::Unbounded)).map_err(|e| read_error(table, e))? {
        if taken >= limit {
            return Ok(());
        }
        let (key, stored) = entry.map_err(|e| read_error(table, e))?;
        let key = key.value();
        let Some(row) = decode(key, stored.value()) else {
            found.push((key.to_vec(), Err(Corrupt { table, key: key.to_vec() })));
            continue;
        };
        if last.as_deref().is_some_and(|last| key <= last) {
            return Err(out_of_order(table));
        }
        last = Some(key.to_vec());
        if !is_below(to, key) {
            return Ok(());
        }
        if is_from(from, key) {
            found.push((key.to_vec(), Ok(row)));
            taken += 1;
        }
    }
    Ok(())
}

fn out_of_order(table: Table) -> ReadError {
    ReadError::Damaged { table, why: "its rows are out of order".to_owned() }
}

/// The upper bound of what lies before a lower bound.
fn gap_before(from: Bound<&[u8]>) -> Bound<&[u8]> {
    match from {
        Bound::Included(key) => Bound::Excluded(key),
        Bound::Excluded(key) => Bound::Included(key),
        // Nothing does; the empty key is the least of all.
        Bound::Unbounded => Bound::Excluded(&[]),
    }
}

fn is_below(to: Bound<&[u8]>, key: &[u8]) -> bool {
    match to {
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
        Bound::Unbounded => true,
    }
}

fn is_from(from: Bound<&[u8]>, key: &[u8]) -> bool {
    match from {
        Bound::Included(start) => key >= start,
        Bound::Excluded(start) => key > start,
        Bound::Unbounded => true,
    }
}

fn read_error(table: Table, error: impl Into<redb::Error>) -> ReadError {
    match error.into() {
        redb::Error::Io(error) => ReadError::Disk(error),
        redb::Error::DatabaseClosed => ReadError::Closed,
        other => ReadError::Damaged { table, why: other.to_string() },
    }
}

fn open_error(error: impl Into<redb::Error>) -> OpenError {
    match error.into() {
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            OpenError::NotAStore(error.to_string())
        }
        redb::Error::Io(error) => OpenError::Disk(error),
        other => OpenError::Damaged(other.to_string()),
    }
}

/// What a caught panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}
