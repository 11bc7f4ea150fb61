//! The data folder: made with care, accepted if empty or ours, never tidied.

use crate::base::rng::Rng;
use crate::security::ClusterSecret;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The store's file within the folder.
pub const STORE: &str = "tertulia.redb";
/// What clients trust.
pub const CA: &str = "ca.pem";
/// The cluster secret, where none is configured.
pub const SECRET: &str = "secret";
/// The decimal id of the serving process.
pub const PID: &str = "pid";

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The operating system says no.
    #[error("{path}: {error}; check that the path is right and may be written")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// It holds other things.
    #[error("{0} is not empty and holds no Tertulia data; choose another data_dir or empty it")]
    Foreign(PathBuf),
    /// The secret cannot be used.
    #[error("{path}: {reason}")]
    Secret {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    move |error| FolderError::Io { path, error }
}

/// Makes the folder (mode 0700) or accepts one that is empty or ours.
///
/// # Errors
/// [`FolderError`].
pub fn prepare(folder: &Path) -> Result<(), FolderError> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))
        }
        Err(error) => Err(io(folder)(error)),
        Ok(entries) => {
            let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
            // A folder in which a start was cut short, or that was prepared with settings or a
            // secret, is ours too.
            let known = [STORE, CA, SECRET, PID, "tertulia.toml"];
            let ours = names.iter().any(|name| known.iter().any(|k| *name == **k));
            if names.is_empty() || ours {
                let private = Permissions::from_mode(0o700);
                return fs::set_permissions(folder, private).map_err(io(folder));
            }
            Err(FolderError::Foreign(folder.to_owned()))
        }
    }
}

/// Writes a file so that a reader sees the old one or the whole new one, and a crash leaves one
/// of the two.
///
/// # Errors
/// [`FolderError`].
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FolderError> {
    let beside = path.with_extension("new");
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(io(path))
}

/// The cluster secret: from `configured` text (`TERTULIA_SECRET`), else from `file`, else from
/// the folder, where one is made if there is none.
///
/// # Errors
/// [`FolderError::Secret`] says what is wrong with it and never shows it.
pub fn secret(
    folder: &Path,
    configured: Option<Zeroizing<String>>,
    file: Option<&Path>,
    rng: &dyn Rng,
) -> Result<ClusterSecret, FolderError> {
    if let Some(text) = configured {
        return parse(&text, Path::new("TERTULIA_SECRET"));
    }
    let path = file.map_or_else(|| folder.join(SECRET), Path::to_owned);
    match fs::read_to_string(&path) {
        Ok(text) => parse(&Zeroizing::new(text), &path),
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {
            let data = fs::metadata(folder.join(STORE)).is_ok_and(|store| store.len() > 0);
            if data {
                let reason = "it is missing, and the data beside it cannot be read without it; \
                              put it back";
                return Err(FolderError::Secret { path, reason: reason.to_owned() });
            }
            let secret = ClusterSecret::generate(rng);
            let mut text = secret.to_base64();
            text.push('\n');
            replace(&path, text.as_bytes(), 0o600)?;
            Ok(secret)
        }
        Err(error) => Err(io(&path)(error)),
    }
}

fn parse(text: &str, from: &Path) -> Result<ClusterSecret, FolderError> {
    ClusterSecret::parse(text.trim())
        .map_err(|error| FolderError::Secret { path: from.to_owned(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::rng::SystemRng;

    #[test]
    fn an_empty_or_missing_folder_is_taken_a_foreign_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a/b");
        prepare(&missing).unwrap();
        assert_eq!(fs::metadata(&missing).unwrap().permissions().mode() & 0o777, 0o700);
        prepare(&missing).unwrap();
        fs::write(missing.join("notes.txt"), "mine").unwrap();
        assert!(matches!(prepare(&missing), Err(FolderError::Foreign(_))));
        fs::write(missing.join(STORE), "").unwrap();
        prepare(&missing).unwrap();
        assert_eq!(fs::read_to_string(missing.join("notes.txt")).unwrap(), "mine");
    }

    #[test]
    fn a_secret_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = secret(dir.path(), None, None, &SystemRng).unwrap();
        let again = secret(dir.path(), None, None, &SystemRng).unwrap();
        assert_eq!(*first.to_base64(), *again.to_base64());
        let mode = fs::metadata(dir.path().join(SECRET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let missing = dir.path().join("elsewhere");
        assert!(secret(dir.path(), None, Some(&missing), &SystemRng).is_err());
        let short = Zeroizing::new("c2hvcnQ=".to_owned());
        let refused = secret(dir.path(), Some(short), None, &SystemRng).err().unwrap();
        assert!(!refused.to_string().contains("c2hvcnQ"), "{refused}");
    }
}
