//! What may still be written: bytes waiting for the disk, and bytes free on it.
//!
//! The one guard before every write. It refuses early, so that memory stays bounded and a full disk
//! never reaches a commit [R9].

use crate::base::limits::{
    COMMIT_BYTES_MAX, COMMIT_ROWS_MAX, STORE_WAITING_BYTES_MAX, STORE_WAITING_BYTES_RESERVE,
};
use crate::base::seams::BlockFile;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// Bytes one commit may add to the file at worst: its values rounded up to pages of twice their
/// size, and for each row two rewritten tree pages of 4 KiB.
pub(super) const BATCH_WORST_BYTES: u64 =
    2 * COMMIT_BYTES_MAX as u64 + COMMIT_ROWS_MAX as u64 * 2 * 4096;
/// The writer asks for the free bytes no more often than this.
pub(super) const REFRESH_BUSY: Duration = Duration::from_millis(50);
/// While nothing is written, callers ask no more often than this.
const REFRESH_IDLE: Duration = Duration::from_secs(1);

/// What a write is for, which decides how far it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteClass {
    /// Adds to what is stored: sends. Refused first.
    Growth,
    /// Settles, releases, deletes, promises: may use the reserves of memory and disk.
    Reserve,
}

/// Why a write was not admitted. Nothing of it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Too many bytes wait for the disk.
    #[error("too many writes wait for the disk")]
    Full,
    /// The disk is nearly full.
    #[error("the disk is nearly full")]
    DiskFull,
}

/// Counts waiting and free bytes.
pub(super) struct Space {
    file: Arc<dyn BlockFile>,
    reserve_bytes: u64,
    /// Sum of all living admissions; never above `STORE_WAITING_BYTES_MAX`.
    waiting: AtomicUsize,
    /// As last read; 0 when the disk would not say.
    free: AtomicU64,
    read_at: Mutex<Instant>,
}

/// Leave to submit a write of so many bytes; given back when its batch is committed, or on drop.
#[must_use]
pub struct Admission {
    space: Arc<Space>,
    bytes: usize,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.space.waiting.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Space {
    pub(super) fn new(file: Arc<dyn BlockFile>, reserve_bytes: u64) -> Self {
        let free = AtomicU64::new(read_free(&*file));
        let read_at = Mutex::new(Instant::now());
        Self { file, reserve_bytes, waiting: AtomicUsize::new(0), free, read_at }
    }

    pub(super) fn admit(
        self: &Arc<Self>,
        class: WriteClass,
        bytes: usize,
    ) -> Result<Admission, Refused> {
        let max = match class {
            WriteClass::Growth => STORE_WAITING_BYTES_MAX - STORE_WAITING_BYTES_RESERVE,
            WriteClass::Reserve => STORE_WAITING_BYTES_MAX,
        };
        let more = |waiting: usize| waiting.checked_add(bytes).filter(|sum| *sum <= max);
        let before = self
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .map_err(|_| Refused::Full)?;
        let admission = Admission { space: self.clone(), bytes };
        if class == WriteClass::Growth {
            self.refresh(REFRESH_IDLE);
            // Waiting bytes are spoken for, and so is the batch that is being written now.
            let spoken_for = (before + bytes) as u64 + BATCH_WORST_BYTES;
            if self.free_bytes() < self.reserve_bytes.saturating_add(spoken_for) {
                return Err(Refused::DiskFull);
            }
        }
        Ok(admission)
    }

    /// Reads the free bytes anew when the last reading is older than `age`.
    pub(super) fn refresh(&self, age: Duration) {
        // Whoever finds it taken goes on with the last reading: another is at it.
        let Ok(mut read_at) = self.read_at.try_lock() else { return };
        let now = Instant::now();
        if now.duration_since(*read_at) >= age {
            *read_at = now;
            self.free.store(read_free(&*self.file), Ordering::Release);
        }
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.free.load(Ordering::Acquire)
    }
}

/// A disk that does not tell counts as full: growth stops, settling goes on.
fn read_free(file: &dyn BlockFile) -> u64 {
    file.free_bytes().unwrap_or_else(|error| {
        tracing::warn!(%error, "the disk does not tell its free bytes; sends are refused");
        0
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io;

    #[derive(Debug)]
    struct Free(AtomicU64, AtomicUsize);

    impl BlockFile for Free {
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn read(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
            Ok(())
        }
        fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
        fn free_bytes(&self) -> io::Result<u64> {
            self.1.fetch_add(1, Ordering::Relaxed);
            match self.0.load(Ordering::Relaxed) {
                u64::MAX => Err(io::Error::other("no answer")),
                free => Ok(free),
            }
        }
    }

    fn space(free: u64, reserve: u64) -> (Arc<Free>, Arc<Space>) {
        let file = Arc::new(Free(AtomicU64::new(free), AtomicUsize::new(0)));
        (file.clone(), Arc::new(Space::new(file, reserve)))
    }

    #[test]
    fn growth_may_not_use_the_reserve_of_waiting_bytes() {
        let (_, space) = space(1 << 40, 0);
        let growth = STORE_WAITING_BYTES_MAX - STORE_WAITING_BYTES_RESERVE;
        let all = space.admit(WriteClass::Growth, growth).unwrap();
        assert_eq!(space.admit(WriteClass::Growth, 1).unwrap_err(), Refused::Full);
        let rest = space.admit(WriteClass::Reserve, STORE_WAITING_BYTES_RESERVE).unwrap();
        assert_eq!(space.admit(WriteClass::Reserve, 1).unwrap_err(), Refused::Full);
        assert_eq!(space.admit(WriteClass::Reserve, usize::MAX).unwrap_err(), Refused::Full);
        drop((all, rest));
        assert_eq!(space.waiting_bytes(), 0);
        let _again = space.admit(WriteClass::Growth, growth).unwrap();
    }

    #[test]
    fn r9_growth_stops_where_the_reserve_of_the_disk_begins() {
        let (_, space) = space(BATCH_WORST_BYTES + 1000 + 10, 1000);
        let ten = space.admit(WriteClass::Growth, 10).unwrap();
        assert_eq!(space.admit(WriteClass::Growth, 1).unwrap_err(), Refused::DiskFull);
        let settles = space.admit(WriteClass::Reserve, 1 << 20).unwrap();
        drop((ten, settles));
        assert_eq!(space.waiting_bytes(), 0, "a refusal keeps nothing");
        let _ten = space.admit(WriteClass::Growth, 10).unwrap();
    }

    #[test]
    fn r9_a_disk_that_does_not_answer_counts_as_full() {
        let (_, space) = space(u64::MAX, 0);
        assert_eq!(space.admit(WriteClass::Growth, 1).unwrap_err(), Refused::DiskFull);
        let _settle = space.admit(WriteClass::Reserve, 1).unwrap();
    }

    #[test]
    fn the_disk_is_asked_rarely() {
        let (file, space) = space(1 << 40, 0);
        (0..1000).for_each(|_| drop(space.admit(WriteClass::Growth, 1)));
        (0..1000).for_each(|_| space.refresh(REFRESH_BUSY));
        assert!(file.1.load(Ordering::Relaxed) <= 3, "{file:?}");
        file.0.store(5, Ordering::Relaxed);
        space.refresh(Duration::ZERO);
        assert_eq!(space.free_bytes(), 5);
    }
}
