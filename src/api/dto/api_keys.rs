//! API keys.

use super::grants::{Right, rights};
use super::objects::present_list;
use super::scalars::{Secret, Time};
use super::validate::{Bound, Faults, Rule, Validate, bound};
use super::{page, present};
use crate::protocol::record::{self, ApiKey};
use poem_openapi::Object;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How many rights there are.
const RIGHTS: usize = record::Right::ALL.len();

/// A new API key.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyRequest {
    /// What you call it: 1 to 128 characters.
    pub name: String,
    /// When it ends. Default: never.
    #[serde(default, deserialize_with = "present")]
    pub expires_at: Option<Time>,
    /// All that the key may do, of what you may do yourself; each right once. Such a key never
    /// reaches users, sessions, API keys and administration, even with all rights given. Creating
    /// and deleting queues and granting on them need `manage`. Default: the key is you.
    #[serde(default, deserialize_with = "present_list::<_, _, RIGHTS>")]
    pub scopes: Option<Vec<Right>>,
}

impl Validate for ApiKeyRequest {
    const BOUNDS: &'static [Bound] =
        &[bound("name", Rule::Text(1, 128)), bound("scopes", Rule::Items(1, RIGHTS))];

    fn validate(&self, faults: &mut Faults) {
        faults.text::<Self>("name", Some(&self.name));
        if let Some(scopes) = &self.scopes {
            faults.items::<Self>("scopes", scopes.len());
            if scopes.iter().collect::<BTreeSet<_>>().len() < scopes.len() {
                faults.add("scopes", "each right once", "repeated");
            }
        }
    }
}

/// A new API key, with its secret.
#[derive(Debug, Object, Serialize)]
pub struct ApiKeyCreated {
    /// Names the key in lists.
    pub api_key_id: String,
    /// What its owner calls it.
    pub name: String,
    /// The secret to send as `Authorization: Bearer`; begins with `ttk_`. Shown once.
    pub secret: Secret,
    /// All that it may do, of what its owner may.
    pub scopes: Vec<Right>,
    /// Whether it is limited to `scopes`; else it is its owner, in users and administration too.
    pub limited: bool,
    /// When it was made.
    pub created_at: Time,
    /// When it ends; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

impl ApiKeyCreated {
    /// A key with its secret.
    #[must_use]
    pub fn new(secret: Secret, key: ApiKey) -> Self {
        let view = ApiKeyView::from(key);
        Self {
            api_key_id: view.api_key_id,
            name: view.name,
            secret,
            scopes: view.scopes,
            limited: view.limited,
            created_at: view.created_at,
            expires_at: view.expires_at,
        }
    }
}

/// An API key.
#[derive(Debug, Object, Serialize)]
pub struct ApiKeyView {
    /// Names the key.
    pub api_key_id: String,
    /// What its owner calls it.
    pub name: String,
    /// All that it may do, of what its owner may.
    pub scopes: Vec<Right>,
    /// Whether it is limited to `scopes`; else it is its owner, in users and administration too.
    pub limited: bool,
    /// When it was made.
    pub created_at: Time,
    /// When it ends; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
}

impl From<ApiKey> for ApiKeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            api_key_id: key.id.to_string(),
            name: key.name,
            limited: key.scopes.is_some(),
            scopes: rights(key.scopes.unwrap_or_else(|| record::Right::ALL.into())),
            created_at: Time(key.created_ms),
            expires_at: key.expires_ms.map(Time),
        }
    }
}

page!(
    /// API keys.
    ApiKeyPage of ApiKeyView
);
