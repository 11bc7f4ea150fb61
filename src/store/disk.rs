//! The file under the store: a real one, and what redb sees of any.

use crate::base::seams::BlockFile;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// A real file, locked against other processes for as long as this lives.
///
/// The lock is advisory (`flock`): it keeps a second node off the file, not a copying tool.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
}

/// Why a file could not be opened.
#[derive(Debug, Error)]
pub enum LockedOrIo {
    /// Another process has the file open as its store.
    #[error("{} is in use by another process; stop that one first", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl FileDisk {
    /// Opens the file, makes it when there is none (readable by its owner only), and locks it.
    ///
    /// # Errors
    /// When another process holds the lock, or as the operating system says.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, LockedOrIo> {
        let path = path.as_ref();
        let failed = |source| LockedOrIo::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockedOrIo::Locked { path: path.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        sync_directory_of(path).map_err(failed)?;
        Ok(Self { file })
    }
}

/// A new file's name is as durable as its directory; without this a power cut could take the whole
/// file, synced or not.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}

impl BlockFile for FileDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::fstatvfs(&self.file)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// What redb sees of a block file.
#[derive(Debug)]
pub(super) struct Backend(pub(super) Arc<dyn BlockFile>);

impl redb::StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    // The file itself is locked (see `FileDisk`): redb asks for nothing finer from one process.
    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, redb::BackendError> {
        Err(redb::BackendError::Unsupported)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_it_wrote_and_nothing_past_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(directory.path().join("store")).unwrap();
        assert!(disk.is_empty().unwrap());
        disk.set_len(8).unwrap();
        disk.write(6, b"abcd").unwrap();
        disk.sync().unwrap();
        let mut out = [9; 10];
        disk.read(0, &mut out).unwrap();
        assert_eq!(&out, b"\0\0\0\0\0\0abcd");
        assert_eq!(disk.len().unwrap(), 10);
        assert!(disk.read(1, &mut out).is_err());
        assert!(disk.free_bytes().unwrap() > 0);
    }

    #[test]
    fn a_second_opener_is_told_that_the_file_is_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let first = FileDisk::open(&path).unwrap();
        assert!(matches!(FileDisk::open(&path), Err(LockedOrIo::Locked { .. })));
        drop(first);
        FileDisk::open(&path).unwrap();
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let lost = FileDisk::open(directory.path().join("no/store"));
        assert!(matches!(lost, Err(LockedOrIo::Io { .. })));
    }
}
