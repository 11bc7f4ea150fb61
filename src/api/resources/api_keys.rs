//! API keys: make, list, delete.

use crate::api::auth::Auth;
use crate::api::dto::api_keys::{ApiKeyCreated, ApiKeyPage, ApiKeyRequest, ApiKeyView};
use crate::api::dto::scalars::Secret;
use crate::api::params::{ApiKeySegment, Cursor, Limit, Path, Query};
use crate::api::payload::{Answer, Body, Empty};
use crate::api::problem::Problem;
use crate::protocol::record::Right;
use poem_openapi::OpenApi;

/// The handlers of `/api-keys`.
pub struct ApiKeys;

#[OpenApi(prefix_path = "/v1")]
impl ApiKeys {
    /// Make an API key
    #[oai(path = "/api-keys", method = "post", operation_id = "create_api_key")]
    async fn create(
        &self,
        auth: Auth,
        body: Body<ApiKeyRequest>,
    ) -> Result<Answer<ApiKeyCreated>, Problem> {
        let ApiKeyRequest { name, expires_at, scopes } = body.0;
        let expires_ms = expires_at.map(|time| time.0);
        let scopes = scopes.map(|scopes| scopes.into_iter().map(Right::from).collect());
        let broker = &auth.app.broker;
        let (secret, key) = broker.create_api_key(&auth.caller, &name, expires_ms, scopes).await?;
        Ok(Answer::created(ApiKeyCreated::new(Secret::new(secret.as_str()), key)))
    }

    /// List your API keys
    #[oai(path = "/api-keys", method = "get", operation_id = "list_api_keys")]
    async fn list(
        &self,
        auth: Auth,
        /// Items on a page. Default: 100.
        limit: Query<Limit>,
        /// Where the page before ended: its `next_cursor`.
        cursor: Query<Cursor>,
    ) -> Result<Answer<ApiKeyPage>, Problem> {
        let broker = &auth.app.broker;
        let page = broker.list_api_keys(&auth.caller, cursor.text(), limit.get()).await?;
        Ok(Answer::ok(ApiKeyPage::from_page(page, ApiKeyView::from)))
    }

    /// Delete an API key
    #[oai(path = "/api-keys/:api_key_id", method = "delete", operation_id = "delete_api_key")]
    async fn delete(
        &self,
        auth: Auth,
        /// The key's id, from `list_api_keys`.
        api_key_id: Path<ApiKeySegment>,
    ) -> Result<Empty, Problem> {
        auth.app.broker.delete_api_key(&auth.caller, &api_key_id.0.0).await?;
        Ok(Empty::done())
    }
}
