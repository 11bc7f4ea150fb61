//! Whether a connection that lasts may go on.

use super::{Broker, Caller, Credential};

/// A caller and what it was authenticated by, as of a moment: judged again and again while its
/// connection lasts.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Who it is.
    pub by: Caller,
    /// The version of the password, where that is the credential: a new one ends the connection.
    password_version: Option<u64>,
}

impl Broker {
    /// What the caller's connection rests on.
    #[must_use]
    pub fn standing(&self, by: Caller) -> Standing {
        let password_version = match by.credential {
            Credential::Password => self.password_version(&by),
            Credential::Session { .. } | Credential::ApiKey { .. } => None,
        };
        Standing { by, password_version }
    }

    /// Whether the connection may go on [R45].
    #[must_use]
    pub fn stands(&self, standing: &Standing) -> bool {
        let by = &standing.by;
        let same = |version| self.password_version(by) == Some(version);
        self.is_current(by) && standing.password_version.is_none_or(same)
    }

    fn password_version(&self, by: &Caller) -> Option<u64> {
        let (_, record) = self.catalog.user_by_id(by.user)?;
        record.user().map(|user| user.password_version)
    }
}
