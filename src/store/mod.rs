//! Layer 4: the one file in which a node keeps everything.
//!
//! Knows: rows by table and key, batches that become durable together and in the order in which
//! they were submitted, checksums, free space. Must not know: what a row means.
//! Way in: [`Store::admit`] then [`Store::submit`] to write, [`Store::get`] and [`Store::scan`] to
//! read. Way out: `base::seams::BlockFile` (the disk) and `Spawn` (the writer's thread). No other
//! module names redb.
//!
//! What it promises: a resolved [`Ticket`] means its rows are durable, with all that was submitted
//! before; a submission is stored whole or not at all; a value that is not what was put is never
//! returned. What it does not: a page that is whole but old (a disk that lost a write it had
//! acknowledged) is not noticed; after an error nobody knows whether the last batch is stored.

mod codec;
mod database;
mod disk;
mod space;
mod writer;

pub use codec::Row;
pub use disk::{FileDisk, LockedOrIo};
pub use space::{Admission, Refused, WriteClass};

use crate::base::seams::{BlockFile, Spawn};
use database::Rows;
use space::Space;
use std::future::Future;
use std::io;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use writer::{Message, Meters, Shared, Submission, Writer};

/// The tables. Each maps bytes to bytes, in the order of the keys' bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The node's own facts. The key `schema_version` is the store's.
    Node,
    /// Metadata records.
    Records,
    /// Facts of streams.
    Streams,
    /// Messages.
    Messages,
    /// Which messages are there and how many bytes each has, many to a row.
    Sizes,
    /// Granted leases.
    Grants,
    /// Delivery attempts.
    Attempts,
    /// Messages that a reader of a topic is not done with.
    Open,
    /// Times and groups of messages.
    Marks,
    /// Keyed messages that are remembered.
    Identities,
}

impl Table {
    const ALL: [Self; 10] = [
        Self::Node,
        Self::Records,
        Self::Streams,
        Self::Messages,
        Self::Sizes,
        Self::Grants,
        Self::Attempts,
        Self::Open,
        Self::Marks,
        Self::Identities,
    ];

    /// Its name in the file.
    const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Records => "records",
            Self::Streams => "streams",
            Self::Messages => "messages",
            Self::Sizes => "sizes",
            Self::Grants => "grants",
            Self::Attempts => "attempts",
            Self::Open => "open",
            Self::Marks => "marks",
            Self::Identities => "identities",
        }
    }
}

/// One change of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowOp {
    /// Writes the row, over an old one if there is one.
    Put {
        /// Where.
        table: Table,
        /// Under which key.
        key: Vec<u8>,
        /// The format of `bytes`.
        tag: u8,
        /// What.
        bytes: Vec<u8>,
    },
    /// Removes the row if it is there.
    Delete {
        /// Where.
        table: Table,
        /// Which key.
        key: Vec<u8>,
    },
}

impl RowOp {
    /// What it weighs, in bytes, for [`Store::admit`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put { key, bytes, .. } => codec::HEADER_BYTES + key.len() + bytes.len(),
            Self::Delete { key, .. } => key.len(),
        }
    }
}

/// Makes the row that every commit carries, from the commit's number.
pub type Stamp = Arc<dyn Fn(u64) -> RowOp + Send + Sync>;

/// How a store writes.
#[derive(Clone)]
pub struct StoreOptions {
    /// Bytes of the disk that growth leaves free (`limits::DISK_RESERVE_BYTES`).
    pub reserve_bytes: u64,
    /// One row added to every commit; it wins over a submitted row of the same key.
    pub stamp: Stamp,
}

/// A row that is not what was put there. What it covers is unknown; it is neither a value nor an
/// absence.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a row of table {} is corrupt", table.name())]
pub struct Corrupt {
    /// Its table.
    pub table: Table,
    /// The key asked for, or the one found (which may be what is wrong).
    pub key: Vec<u8>,
}

/// Why nothing could be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The row, or one next to where it would be, is corrupt.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// More than a row is.
    #[error("table {} is damaged: {why}", table.name())]
    Damaged {
        /// The table being read.
        table: Table,
        /// What was seen.
        why: String,
    },
    /// The disk failed.
    #[error("the disk failed to read: {0}")]
    Disk(#[from] io::Error),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a store cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A later version of the program wrote it.
    #[error("the store has schema {found}, newer than {known}; start the version that wrote it")]
    NewerSchema {
        /// The schema of the file.
        found: u32,
        /// The newest this program knows.
        known: u32,
    },
    /// It is something else.
    #[error("the file is no store of Tertulia ({0}); set the data directory to the right one")]
    NotAStore(String),
    /// It is a store whose insides are broken.
    #[error(
        "the store is damaged ({0}); restore a copy, or move it away and start with an empty one"
    )]
    Damaged(String),
    /// The disk failed.
    #[error("the disk failed: {0}")]
    Disk(#[from] io::Error),
}

/// The store stopped before this was known to be durable: it may or may not be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the store is closed")]
pub struct StoreClosed;

/// A key and its row, or that it is corrupt.
pub type ScannedRow = (Vec<u8>, Result<Row, Corrupt>);

/// A key and how many bytes its row has, if it is sound.
pub type ScannedKey = (Vec<u8>, Option<usize>);

/// A store that is open and not yet written to: what its caller needs to go on is read from it
/// first (among it the stamp row, which carries the last commit's number).
pub struct OpenStore {
    file: Arc<dyn BlockFile>,
    rows: Rows,
}

impl OpenStore {
    /// As [`Store::get`].
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, ReadError> {
        self.rows.get(table, key)
    }

    /// As [`Store::scan`].
    ///
    /// # Errors
    /// As [`Store::scan`].
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<ScannedRow>, ReadError> {
        self.rows.scan(table, from, to, limit, codec::decode)
    }

    /// Begins to write: the next commit is `last_commit + 1`.
    #[must_use]
    pub fn start(self, spawn: &dyn Spawn, options: StoreOptions, last_commit: u64) -> Store {
        let (messages, queue) = mpsc::unbounded_channel();
        let (ended_sender, ended) = watch::channel(());
        let shared = Arc::new(Shared {
            rows: self.rows,
            space: Arc::new(Space::new(self.file, options.reserve_bytes)),
            last_commit: AtomicU64::new(last_commit),
            failed: watch::Sender::new(false),
        });
        let writer = Writer {
            shared: shared.clone(),
            queue,
            stamp: options.stamp,
            held: None,
            meters: Meters::new(),
            _ended: ended_sender,
        };
        spawn.dedicated("store-writer", Box::pin(writer.run()));
        Store { shared, messages, ended }
    }
}

/// The store. Clones are the same store; when the last one is dropped, what was submitted is
/// committed and the file closed.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    messages: mpsc::UnboundedSender<Message>,
    ended: watch::Receiver<()>,
}

impl Store {
    /// Opens the file, or makes a new store of an empty one. After an unclean end it is repaired,
    /// which reads all of it. Blocks on the disk.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(file: Arc<dyn BlockFile>, cache_bytes: usize) -> Result<OpenStore, OpenError> {
        let rows = Rows::open(file.clone(), cache_bytes)?;
        Ok(OpenStore { file, rows })
    }

    /// Leave to submit ops of so many bytes ([`RowOp::bytes`]). Never waits.
    ///
    /// # Errors
    /// [`Refused`], and then nothing was done.
    pub fn admit(&self, class: WriteClass, bytes: usize) -> Result<Admission, Refused> {
        self.shared.space.admit(class, bytes)
    }

    /// Queues ops that become durable together. Never waits; the order of calls is the order of
    /// commits. Of two ops on one key the later wins.
    pub fn submit(&self, admission: Admission, ops: Vec<RowOp>) -> Ticket {
        self.send(Some(admission), ops)
    }

    /// A ticket that resolves when all that was submitted before is durable.
    pub fn barrier(&self) -> Ticket {
        self.send(None, Vec::new())
    }

    fn send(&self, admission: Option<Admission>, ops: Vec<RowOp>) -> Ticket {
        let (done, ticket) = oneshot::channel();
        let bytes = ops.iter().map(RowOp::bytes).sum();
        let submission = Submission { ops, bytes, admission, done };
        // A writer that stopped drops it, which resolves the ticket.
        let _ = self.messages.send(Message::Submit(submission));
        Ticket(ticket)
    }

    /// The row under a key as of the last commit. Blocks on the disk when it is not cached.
    ///
    /// # Errors
    /// [`ReadError`]. `Ok(None)` is said only when the rows around the key's place are sound.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Row>, ReadError> {
        self.shared.rows.get(table, key)
    }

    /// The first `limit` sound rows between two bounds, in key order, as of the last commit, and
    /// the corrupt ones found on the way. To go on, start behind the last sound key.
    ///
    /// A corrupt row may have a wrong key: ones next to the range are given too, with the key
    /// found, because nobody knows where they belong.
    ///
    /// # Errors
    /// [`ReadError`], when more than rows is damaged.
    pub fn scan(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<ScannedRow>, ReadError> {
        self.shared.rows.scan(table, from, to, limit, codec::decode)
    }

    /// The same as [`Store::scan`], without what the rows carry: each key, and how many bytes its
    /// row has, if it is sound. Costs no memory for payloads.
    ///
    /// # Errors
    /// [`ReadError`], when more than rows is damaged.
    pub fn keys(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<ScannedKey>, ReadError> {
        let rows = self.shared.rows.scan(table, from, to, limit, codec::decode_bare)?;
        Ok(rows
            .into_iter()
            .map(|(key, row)| (key, row.ok().as_ref().map(codec::bare_size)))
            .collect())
    }

    /// The number of the last durable commit.
    #[must_use]
    pub fn commit_number(&self) -> u64 {
        self.shared.last_commit.load(Ordering::Acquire)
    }

    /// True once a write or fsync failed: the process must end [R7].
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<bool> {
        self.shared.failed.subscribe()
    }

    /// Commits what was submitted and closes the file. Later submissions and reads of other clones
    /// are refused.
    pub async fn close(mut self) {
        // An error means that it is closing already; its end is waited for all the same.
        let _ = self.messages.send(Message::Close);
        while self.ended.changed().await.is_ok() {}
    }
}

/// Resolves with the commit's number once the submission is durable.
#[must_use]
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<u64>);

impl Future for Ticket {
    type Output = Result<u64, StoreClosed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|number| number.map_err(|_| StoreClosed))
    }
}

/// A running store on a real file that goes with its last handle, for tests of the rooms above.
#[cfg(test)]
pub(crate) fn scratch() -> Store {
    let named = tempfile::NamedTempFile::new().expect("a temporary file");
    let disk = FileDisk::open(named.path()).expect("nobody else has it");
    let open = Store::open(Arc::new(disk), 1 << 20).expect("an empty file becomes a store");
    let stamp =
        || RowOp::Put { table: Table::Node, key: b"stamp".to_vec(), tag: 1, bytes: vec![0] };
    let options = StoreOptions { reserve_bytes: 0, stamp: Arc::new(move |_| stamp()) };
    open.start(&crate::base::seams::SystemSpawn, options, 0)
}

#[cfg(test)]
mod tests;
