//! Grants.

use super::page;
use super::scalars::Time;
use super::validate::{Bound, Faults, Rule, Validate, bound};
use crate::protocol::record::{self, Grant};
use poem_openapi::{Enum, Object};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Something that one may do with a queue or a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enum, Serialize, Deserialize)]
#[oai(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Right {
    /// Send into it.
    Send,
    /// Receive from it and settle.
    Receive,
    /// Look at its messages and take none.
    Browse,
    /// Publish on it (topics).
    Publish,
    /// Subscribe to it (topics).
    Subscribe,
    /// Change its settings.
    Manage,
}

impl From<record::Right> for Right {
    fn from(right: record::Right) -> Self {
        match right {
            record::Right::Send => Self::Send,
            record::Right::Receive => Self::Receive,
            record::Right::Manage => Self::Manage,
            record::Right::Browse => Self::Browse,
            record::Right::Publish => Self::Publish,
            record::Right::Subscribe => Self::Subscribe,
        }
    }
}

impl From<Right> for record::Right {
    fn from(right: Right) -> Self {
        match right {
            Right::Send => Self::Send,
            Right::Receive => Self::Receive,
            Right::Manage => Self::Manage,
            Right::Browse => Self::Browse,
            Right::Publish => Self::Publish,
            Right::Subscribe => Self::Subscribe,
        }
    }
}

/// Rights as answers list them: in the order of the document, whatever the order on disks.
#[must_use]
pub fn rights(rights: BTreeSet<record::Right>) -> Vec<Right> {
    let sorted: BTreeSet<Right> = rights.into_iter().map(Right::from).collect();
    sorted.into_iter().collect()
}

/// What a user may do with a queue or a topic from now on; replaces what was granted before.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// The rights, each once. On a queue: `send`, `receive`, `browse`, `manage`; on a topic:
    /// `publish`, `subscribe`, `manage`.
    pub rights: Vec<Right>,
}

impl Validate for GrantRequest {
    const BOUNDS: &'static [Bound] = &[bound("rights", Rule::Items(1, 4))];

    fn validate(&self, faults: &mut Faults) {
        faults.items::<Self>("rights", self.rights.len());
        if self.rights.iter().collect::<BTreeSet<_>>().len() < self.rights.len() {
            faults.add("rights", "each right once", "repeated");
        }
    }
}

/// What a user may do with a queue or a topic.
#[derive(Debug, Object, Serialize)]
pub struct GrantView {
    /// Who: a user's name, or `*` for every user.
    pub username: String,
    /// What.
    pub rights: Vec<Right>,
    /// Who granted it.
    pub granted_by: String,
    /// When.
    pub granted_at: Time,
}

impl From<Grant> for GrantView {
    fn from(grant: Grant) -> Self {
        Self {
            username: grant.grantee_name,
            rights: rights(grant.rights),
            granted_by: grant.granted_by,
            granted_at: Time(grant.granted_ms),
        }
    }
}

page!(
    /// Grants, by user.
    GrantPage of GrantView
);
