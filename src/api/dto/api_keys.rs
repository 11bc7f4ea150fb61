//! API keys.

use super::scalars::{Secret, Time};
use super::validate::{Bound, Faults, Rule, Validate, bound};
use super::{page, present};
use crate::protocol::record::ApiKey;
use poem_openapi::Object;
use serde::{Deserialize, Serialize};

/// A new API key.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyRequest {
    /// What you call it: 1 to 128 characters.
    pub name: String,
    /// When it ends. Default: never.
    #[serde(default, deserialize_with = "present")]
    pub expires_at: Option<Time>,
}

impl Validate for ApiKeyRequest {
    const BOUNDS: &'static [Bound] = &[bound("name", Rule::Text(1, 128))];

    fn validate(&self, faults: &mut Faults) {
        faults.text::<Self>("name", Some(&self.name));
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
            created_at: Time(key.created_ms),
            expires_at: key.expires_ms.map(Time),
        }
    }
}

page!(
    /// API keys.
    ApiKeyPage of ApiKeyView
);
