//! Users.

use super::scalars::{Secret, Time};
use super::validate::{Bound, Faults, Rule, Validate, bound};
use super::{page, present};
use crate::broker::{self, Entry};
use crate::protocol::record::User;
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};

/// Characters of a password.
const PASSWORD: Rule = Rule::Text(8, 128);

/// What a user may be beside a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May do all that an owner may, and administer users.
    Admin,
}

/// A new user.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The name, unique in the cluster; not `me`.
    pub username: String,
    /// 8 to 128 characters, and not the name.
    pub password: Secret,
}

impl Validate for Registration {
    const BOUNDS: &'static [Bound] = &[bound("username", Rule::Name), bound("password", PASSWORD)];

    fn validate(&self, faults: &mut Faults) {
        faults.text::<Self>("username", Some(&self.username));
        faults.text::<Self>("password", Some(self.password.as_str()));
    }
}

/// Changes to a user: what is absent stays. Yourself: the password only, with `current_password`.
/// A new password, or `disabled`, ends the user's other sessions.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserPatch {
    /// The new password: 8 to 128 characters, and not the name.
    #[serde(default, deserialize_with = "present")]
    pub password: Option<Secret>,
    /// The password until now; administrators changing others do without it.
    #[serde(default, deserialize_with = "present")]
    pub current_password: Option<Secret>,
    /// All roles from now on (administrators only).
    #[serde(default, deserialize_with = "present")]
    pub roles: Option<Vec<Role>>,
    /// Whether no credential of the user is accepted (administrators only).
    #[serde(default, deserialize_with = "present")]
    pub disabled: Option<bool>,
}

impl Validate for UserPatch {
    const MAY_BE_ABSENT: bool = true;
    const BOUNDS: &'static [Bound] = &[
        bound("password", PASSWORD),
        bound("current_password", Rule::Text(1, 128)),
        bound("roles", Rule::Items(0, 1)),
    ];

    fn validate(&self, faults: &mut Faults) {
        faults.text::<Self>("password", self.password.as_ref().map(Secret::as_str));
        faults.text::<Self>("current_password", self.current_password.as_ref().map(Secret::as_str));
        faults.items::<Self>("roles", self.roles.as_ref().map_or(0, Vec::len));
    }
}

impl From<UserPatch> for broker::UserPatch {
    fn from(patch: UserPatch) -> Self {
        let text = |secret: Secret| secret.as_str().to_owned();
        Self {
            password: patch.password.map(text),
            current_password: patch.current_password.map(text),
            admin: patch.roles.map(|roles| roles.contains(&Role::Admin)),
            disabled: patch.disabled,
        }
    }
}

/// A user.
#[derive(Debug, Object, Serialize)]
pub struct UserView {
    /// The name.
    pub username: String,
    /// What the user is beside a user.
    pub roles: Vec<Role>,
    /// Whether no credential of the user is accepted.
    pub disabled: bool,
    /// When the user was registered.
    pub created_at: Time,
    /// When the user was last changed.
    pub updated_at: Time,
    /// Names this version of the user, for `If-Match`.
    pub etag: String,
}

impl From<Entry<User>> for UserView {
    fn from(entry: Entry<User>) -> Self {
        let user = entry.value;
        Self {
            username: entry.name,
            roles: if user.admin { vec![Role::Admin] } else { Vec::new() },
            disabled: user.disabled,
            created_at: Time(user.created_ms),
            updated_at: Time(user.updated_ms),
            etag: broker::etag(&entry.record),
        }
    }
}

page!(
    /// Users, by name.
    UserPage of UserView
);

/// What becomes of the queues of a user who is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Owned {
    /// The user is not deleted while there are any.
    Refuse,
    /// They are deleted with the user.
    Delete,
    /// They go to `new_owner`.
    Transfer,
}
