//! Grants: who else may do what with a queue.

use crate::api::auth::Auth;
use crate::api::dto::grants::{GrantPage, GrantRequest, GrantView};
use crate::api::params::{Cursor, GranteeSegment, Limit, Path, Query, QueueSegment};
use crate::api::payload::{Answer, Body, Empty};
use crate::api::problem::Problem;
use crate::protocol::record::Right;
use poem_openapi::OpenApi;

/// The handlers of `/queues/{queue}/grants`.
pub struct Grants;

#[OpenApi(prefix_path = "/v1")]
impl Grants {
    /// List a queue's grants
    #[oai(path = "/queues/:queue/grants", method = "get", operation_id = "list_queue_grants")]
    async fn list(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// Items on a page. Default: 100.
        limit: Query<Limit>,
        /// Where the page before ended: its `next_cursor`.
        cursor: Query<Cursor>,
    ) -> Result<Answer<GrantPage>, Problem> {
        let (broker, name) = (&auth.app.broker, &queue.0.0);
        let page = broker.list_grants(&auth.caller, name, cursor.text(), limit.get()).await?;
        Ok(Answer::ok(GrantPage::from_page(page, GrantView::from)))
    }

    /// Grant rights on a queue
    #[oai(
        path = "/queues/:queue/grants/:username",
        method = "put",
        operation_id = "put_queue_grant"
    )]
    async fn put(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// The user's name, or `*` for every user.
        username: Path<GranteeSegment>,
        body: Body<GrantRequest>,
    ) -> Result<Answer<GrantView>, Problem> {
        let rights = body.0.rights.into_iter().map(Right::from);
        let (broker, by) = (&auth.app.broker, &auth.caller);
        let grant = broker.put_grant(by, &queue.0.0, &username.0.0, rights).await?;
        Ok(Answer::ok(grant.into()))
    }

    /// Take rights on a queue back
    #[oai(
        path = "/queues/:queue/grants/:username",
        method = "delete",
        operation_id = "delete_queue_grant"
    )]
    async fn delete(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// The user's name, or `*` for every user.
        username: Path<GranteeSegment>,
    ) -> Result<Empty, Problem> {
        auth.app.broker.delete_grant(&auth.caller, &queue.0.0, &username.0.0).await?;
        Ok(Empty::done())
    }
}
