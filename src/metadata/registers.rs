//! Compare-and-swap on records: durable before it is answered, then published to the catalog.
//!
//! On one node the register is a row and the store's order of commits decides. A version is
//! *accepted* when its write was handed to the store, *published* once that write is durable;
//! between the two nobody sees it, but whoever would write the same version loses already.

use super::catalog::Catalog;
use super::index::is_single_use;
use super::rows;
use crate::base::ids::Generation;
use crate::protocol::record::{Ending, Kind, Record, RecordKey, State, Value};
use crate::store::{ReadError, Refused, RowOp, Store, Table, Ticket, WriteClass};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Rows read at once when the catalog is built.
const OPEN_STRIDE: usize = 1_000;
/// Bytes that a row costs the store besides its key and value, about.
const ROW_OVERHEAD_BYTES: usize = 64;

/// What a change makes of a record; its version follows from the one it replaces.
#[derive(Clone, Debug)]
pub struct Draft {
    /// This creation of the name.
    pub generation: Generation,
    /// Live, sealed or free.
    pub state: State,
    /// What it says.
    pub value: Value,
}

/// Why a change was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// The record is at another version: this one, durable. `None`: there is none.
    #[error("the record has changed meanwhile")]
    Conflict(Option<Arc<Record>>),
    /// Refused before any write; says why.
    #[error("the change was not stored: {0}")]
    NotStored(&'static str),
    /// It may or may not be stored.
    #[error("whether the change was stored is not known")]
    Unknown,
}

/// Why the catalog cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store does not read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A row is damaged. It is not treated as absent: a name must not come free that way.
    #[error("a stored record of kind {kind:?} is damaged")]
    Corrupt {
        /// The record's kind.
        kind: Kind,
    },
    /// A row was written by a later release.
    #[error("a stored record of kind {kind:?} has the unknown format {format}")]
    UnknownFormat {
        /// The record's kind.
        kind: Kind,
        /// The format's number.
        format: u8,
    },
    /// A row's key names no kind of this release.
    #[error("a stored record is of an unknown kind ({byte:?})")]
    UnknownKind {
        /// The key's first byte; `None`: the key is empty.
        byte: Option<u8>,
    },
}

/// All registers of this node.
pub struct Registers {
    store: Store,
    catalog: Arc<Catalog>,
    /// Accepted and not yet published, by key, in the order of versions. Each is handed to the
    /// store under this lock, so the store's order is this order. Taken before the catalog's lock.
    accepted: Mutex<BTreeMap<RecordKey, Vec<Arc<Record>>>>,
}

/// What became of a change at its acceptance.
enum Accepted {
    /// It will be the next version.
    Ours(Ticket),
    /// Another has the version, and is durable once the ticket is done.
    Theirs(u64, Ticket),
}

impl Registers {
    /// Builds the catalog from the store.
    ///
    /// # Errors
    /// [`OpenError`] when any record cannot be read.
    pub fn open(store: Store) -> Result<(Arc<Self>, Arc<Catalog>), OpenError> {
        let catalog = Arc::new(Catalog::new());
        let mut last: Option<Vec<u8>> = None;
        loop {
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let rows = store.scan(Table::Records, from, Bound::Unbounded, OPEN_STRIDE)?;
            let Some((row_key, _)) = rows.last() else { break };
            last = Some(row_key.clone());
            for (row_key, row) in rows {
                let key = rows::record_key(&row_key)?;
                let row = row.map_err(|_| OpenError::Corrupt { kind: key.kind })?;
                let record = rows::decode(key.kind, &row)?;
                catalog.publish(&key, Arc::new(record));
            }
        }
        let registers =
            Self { store, catalog: Arc::clone(&catalog), accepted: Mutex::new(BTreeMap::new()) };
        Ok((Arc::new(registers), catalog))
    }

    /// This node's copy of the decided records.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// Replaces version `expected_version` (0: the name never existed) by the next one, and
    /// answers it once it is durable and in the catalog. Dropped before that, the change may
    /// still be made; the next change of the same key or [`Registers::publish_accepted`] then
    /// publishes it.
    ///
    /// # Errors
    /// [`ChangeError`]: `Conflict` when the version is another, `NotStored` when the store takes
    /// no more, `Unknown` when the store closed under it.
    pub async fn change(
        &self,
        key: RecordKey,
        expected_version: u64,
        next: Draft,
    ) -> Result<Arc<Record>, ChangeError> {
        let Draft { generation, state, value } = next;
        let version = expected_version + 1;
        let record = Arc::new(Record { generation, version, state, value });
        match self.accept(&key, &record)? {
            Accepted::Ours(ticket) => {
                ticket.await.map_err(|_| ChangeError::Unknown)?;
                self.publish(&key, version);
                Ok(record)
            }
            Accepted::Theirs(version, ticket) => {
                let closed = ChangeError::NotStored("the store is closed");
                ticket.await.map_err(|_| closed)?;
                self.publish(&key, version);
                Err(ChangeError::Conflict(self.catalog.get(&key)))
            }
        }
    }

    /// Takes over a record that was decided elsewhere, durably; the greater version stays [F8].
    ///
    /// # Errors
    /// [`ChangeError::NotStored`] when the store takes no more, or a change of the same record is
    /// under way here; [`ChangeError::Unknown`] when the store closed under it.
    pub async fn learn(&self, key: RecordKey, record: Arc<Record>) -> Result<(), ChangeError> {
        let op = row_op(&key, &record);
        let ticket = {
            let accepted = self.lock();
            if accepted.contains_key(&key) {
                return Err(ChangeError::NotStored("the record is being changed here"));
            }
            let current = self.catalog.get(&key);
            if current.is_some_and(|current| current.version >= record.version) {
                return Ok(());
            }
            let admission = self.store.admit(WriteClass::Reserve, op_bytes(&op));
            let full = |_| ChangeError::NotStored("too many writes are waiting for the disk");
            self.store.submit(admission.map_err(full)?, vec![op])
        };
        ticket.await.map_err(|_| ChangeError::Unknown)?;
        self.catalog.publish(&key, record);
        Ok(())
    }

    /// Publishes what became durable after its caller had gone. For a worker, now and then.
    pub async fn publish_accepted(&self) {
        let (versions, ticket) = {
            let accepted = self.lock();
            let latest = |(key, records): (&RecordKey, &Vec<Arc<Record>>)| {
                Some((key.clone(), records.last()?.version))
            };
            let versions: Vec<_> = accepted.iter().filter_map(latest).collect();
            (versions, self.store.barrier())
        };
        if !versions.is_empty() && ticket.await.is_ok() {
            for (key, version) in versions {
                self.publish(&key, version);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RecordKey, Vec<Arc<Record>>>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(&self, key: &RecordKey, next: &Arc<Record>) -> Result<Accepted, ChangeError> {
        let op = row_op(key, next);
        let bytes = op_bytes(&op);
        let mut accepted = self.lock();
        if let Some(waiting) = accepted.get(key).and_then(|records| records.last())
            && waiting.version + 1 != next.version
        {
            return Ok(Accepted::Theirs(waiting.version, self.store.barrier()));
        }
        let current = match accepted.get(key).and_then(|records| records.last()) {
            Some(waiting) => Some(Arc::clone(waiting)),
            None => self.catalog.get(key),
        };
        if current.as_ref().map_or(0, |record| record.version) + 1 != next.version {
            return Err(ChangeError::Conflict(current));
        }
        let admission = self.store.admit(class_of(current.as_deref(), next), bytes);
        let admission = admission.map_err(|refused| match refused {
            Refused::DiskFull => ChangeError::NotStored("the disk is full"),
            _ => ChangeError::NotStored("too many writes are waiting for the disk"),
        })?;
        let ticket = self.store.submit(admission, vec![op]);
        accepted.entry(key.clone()).or_default().push(Arc::clone(next));
        Ok(Accepted::Ours(ticket))
    }

    /// Publishes the accepted versions of a key up to one that is durable: so are those before.
    fn publish(&self, key: &RecordKey, durable_version: u64) {
        let mut accepted = self.lock();
        let Some(waiting) = accepted.get_mut(key) else { return };
        let count = waiting.partition_point(|record| record.version <= durable_version);
        for record in waiting.drain(..count) {
            self.catalog.publish(key, record);
        }
        if waiting.is_empty() {
            accepted.remove(key);
        }
    }
}

fn row_op(key: &RecordKey, next: &Record) -> RowOp {
    let (table, row_key) = (Table::Records, rows::row_key(key));
    if next.state == State::Free && is_single_use(key.kind) {
        return RowOp::Delete { table, key: row_key };
    }
    RowOp::Put { table, key: row_key, tag: rows::FORMAT, bytes: rows::encode(next) }
}

fn op_bytes(op: &RowOp) -> usize {
    ROW_OVERHEAD_BYTES
        + match op {
            RowOp::Put { key, bytes, .. } => key.len() + bytes.len(),
            RowOp::Delete { key, .. } => key.len(),
        }
}

/// What ends something must go on when the disk is full [R9]: it may use the reserve.
fn class_of(current: Option<&Record>, next: &Record) -> WriteClass {
    let ends = match &next.value {
        _ if next.state != State::Live => true,
        // A refused deletion: the queue must live on, or nobody can empty it.
        _ if current.is_some_and(|current| current.state == State::Sealed) => true,
        Value::User(user) => user.disabled,
        Value::Queue(queue) => {
            let grants = current.and_then(Record::queue).map_or(0, |queue| queue.grants.len());
            queue.ending != Ending::No || queue.grants.len() < grants
        }
        Value::Topic(topic) => {
            let grants = current.and_then(Record::topic).map_or(0, |topic| topic.grants.len());
            topic.grants.len() < grants
        }
        _ => false,
    };
    if ends { WriteClass::Reserve } else { WriteClass::Growth }
}

#[cfg(test)]
mod tests;
