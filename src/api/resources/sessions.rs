//! Sessions: log in, list, log out.

use crate::api::auth::Auth;
use crate::api::dto::sessions::{SessionCreated, SessionPage, SessionRequest, SessionView};
use crate::api::params::{Cursor, Limit, Path, Query, SessionSegment};
use crate::api::payload::{Answer, Body, Empty};
use crate::api::problem::Problem;
use crate::api::scope::Here;
use crate::broker::{Credential, Terms};
use poem_openapi::OpenApi;

/// The handlers of `/sessions`.
pub struct Sessions;

#[OpenApi(prefix_path = "/v1")]
impl Sessions {
    /// Log in
    #[oai(path = "/sessions", method = "post", operation_id = "create_session")]
    async fn create(
        &self,
        here: Here,
        body: Body<SessionRequest>,
    ) -> Result<Answer<SessionCreated>, Problem> {
        let (request, broker) = (body.0, &here.app.broker);
        let terms = Terms { ttl_seconds: request.ttl(), bound: request.bind_ip.unwrap_or(false) };
        let (name, password) = (&request.username, request.password.as_str());
        let session = broker.log_in(name, password, terms, here.origin()).await?;
        let _ = here.user.set(session.user_name.clone());
        Ok(Answer::created(session.into()))
    }

    /// List your sessions
    #[oai(path = "/sessions", method = "get", operation_id = "list_sessions")]
    async fn list(
        &self,
        auth: Auth,
        /// Items on a page. Default: 100.
        limit: Query<Limit>,
        /// Where the page before ended: its `next_cursor`.
        cursor: Query<Cursor>,
    ) -> Result<Answer<SessionPage>, Problem> {
        let current = match &auth.caller.credential {
            Credential::Session { id, .. } => Some(*id),
            _ => None,
        };
        let broker = &auth.app.broker;
        let page = broker.list_sessions(&auth.caller, cursor.text(), limit.get()).await?;
        Ok(Answer::ok(SessionPage::from_page(page, |session| SessionView::new(session, current))))
    }

    /// Log out
    #[oai(path = "/sessions/current", method = "delete", operation_id = "delete_current_session")]
    async fn delete_current(&self, auth: Auth) -> Result<Empty, Problem> {
        auth.app.broker.log_out_current(&auth.caller).await?;
        Ok(Empty::done())
    }

    /// End a session
    #[oai(path = "/sessions/:session_id", method = "delete", operation_id = "delete_session")]
    async fn delete(
        &self,
        auth: Auth,
        /// The session's id, from `list_sessions`.
        session_id: Path<SessionSegment>,
    ) -> Result<Empty, Problem> {
        auth.app.broker.delete_session(&auth.caller, &session_id.0.0).await?;
        Ok(Empty::done())
    }
}
