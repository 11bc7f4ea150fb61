//! Settings: what an operator may say, where it comes from, and what of it makes sense.
//!
//! Knows: `config/default.toml`, the keys, the order of sources: defaults, file, environment,
//! flags.
//! Must not know: what the rooms make of a setting.
//! Way in: [`load`]. Way out: [`Settings`], or a refusal that names the key and the fix.

mod settings;
mod sources;

pub use settings::{
    Advertise, AuthSettings, CertificateFiles, ClusterSettings, FirstAdmin, HttpSettings,
    LogFormat, LogSettings, Registration, Settings, ShutdownSettings, StoreSettings,
};
pub use sources::{
    DEFAULTS, Overrides, RawAuth, RawCluster, RawHttp, RawLog, RawSettings, RawShutdown, RawStore,
    SECRET_VARIABLE, known_keys,
};

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Why there are no settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// No setting has this name.
    #[error("{origin}: there is no setting `{key}`; the settings are {}", known_keys().join(", "))]
    UnknownKey {
        /// The name.
        key: String,
        /// Where it was given.
        origin: String,
    },
    /// The value cannot be used.
    #[error("{key} ({origin}): {wrong}; {fix}")]
    Nonsense {
        /// The setting.
        key: String,
        /// Where its value was given.
        origin: String,
        /// What is wrong with the value.
        wrong: String,
        /// What to do.
        fix: String,
    },
    /// A settings file cannot be read.
    #[error("the settings file {} cannot be read: {why}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system or the TOML parser says.
        why: String,
    },
}

/// Reads the settings. `config_file` is the `--config` flag; `environment` is
/// `std::env::vars_os()`.
///
/// # Errors
/// [`SettingsError`] names the key and the fix.
pub fn load(
    config_file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    overrides: &Overrides,
) -> Result<Settings, SettingsError> {
    let figment = sources::layers(config_file, environment, overrides)?;
    let raw = sources::extract(&figment)?;
    Settings::check(&raw).map_err(|fault| sources::refusal(&figment, fault))
}

#[cfg(test)]
mod tests;
