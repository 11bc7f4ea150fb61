//! Users: register, look up, change, delete.

use crate::api::auth::{Auth, Visitor};
use crate::api::dto::users::{Owned, Registration, UserPage, UserPatch, UserView};
use crate::api::params::{Cursor, IfMatch, Limit, NewOwner, Path, Prefix, Query, UserSegment};
use crate::api::payload::{Answer, Body, Empty};
use crate::api::problem::Problem;
use crate::base::names::UserName;
use crate::broker;
use poem_openapi::OpenApi;

/// The handlers of `/users`.
pub struct Users;

#[OpenApi(prefix_path = "/v1")]
impl Users {
    /// Register a user
    #[oai(path = "/users", method = "post", operation_id = "register_user")]
    async fn register(
        &self,
        visitor: Visitor,
        body: Body<Registration>,
    ) -> Result<Answer<UserView>, Problem> {
        let (broker, by) = (&visitor.app.broker, visitor.caller.as_ref());
        let Registration { username, password } = body.0;
        let user = broker.register(by, visitor.origin(), &username, password.as_str()).await?;
        Ok(view(Answer::created, user))
    }

    /// List users
    #[oai(path = "/users", method = "get", operation_id = "list_users")]
    async fn list(
        &self,
        auth: Auth,
        /// Only names that begin so.
        prefix: Query<Prefix>,
        /// Items on a page. Default: 100.
        limit: Query<Limit>,
        /// Where the page before ended: its `next_cursor`.
        cursor: Query<Cursor>,
    ) -> Result<Answer<UserPage>, Problem> {
        let prefix = prefix.text().unwrap_or_default();
        let broker = &auth.app.broker;
        let page = broker.list_users(&auth.caller, prefix, cursor.text(), limit.get()).await?;
        Ok(Answer::ok(UserPage::from_page(page, UserView::from)))
    }

    /// Look at yourself
    #[oai(path = "/users/me", method = "get", operation_id = "get_current_user")]
    async fn me(&self, auth: Auth) -> Result<Answer<UserView>, Problem> {
        let user = auth.app.broker.get_user(&auth.caller, auth.caller.name.as_str()).await?;
        Ok(view(Answer::ok, user))
    }

    /// Look at a user
    #[oai(path = "/users/:username", method = "get", operation_id = "get_user")]
    async fn get(
        &self,
        auth: Auth,
        /// The user's name.
        username: Path<UserSegment>,
    ) -> Result<Answer<UserView>, Problem> {
        let user = auth.app.broker.get_user(&auth.caller, &username.0.0).await?;
        Ok(view(Answer::ok, user))
    }

    /// Change a user
    #[oai(path = "/users/:username", method = "patch", operation_id = "update_user")]
    async fn update(
        &self,
        auth: Auth,
        /// The user's name.
        username: Path<UserSegment>,
        /// Only if its etag is still this one.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
        body: Body<UserPatch>,
    ) -> Result<Answer<UserView>, Problem> {
        let (broker, name) = (&auth.app.broker, &username.0.0);
        let (patch, etag) = (body.0.into(), if_match.etag());
        let user = broker.update_user(&auth.caller, name, patch, etag).await?;
        Ok(view(Answer::ok, user))
    }

    /// Delete a user
    #[oai(path = "/users/:username", method = "delete", operation_id = "delete_user")]
    async fn delete(
        &self,
        auth: Auth,
        /// The user's name.
        username: Path<UserSegment>,
        /// What becomes of the user's queues. Default: `refuse`.
        owned: Query<Owned>,
        /// Who gets them, with `owned=transfer`.
        new_owner: Query<NewOwner>,
        /// Only if its etag is still this one.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
    ) -> Result<Empty, Problem> {
        let owned = heirs(owned.0.unwrap_or(Owned::Refuse), new_owner.text())?;
        let broker = &auth.app.broker;
        broker.delete_user(&auth.caller, &username.0.0, owned, if_match.etag()).await?;
        Ok(Empty::done())
    }
}

/// A user as an answer with its etag.
fn view(
    answer: fn(UserView) -> Answer<UserView>,
    user: broker::Entry<crate::protocol::record::User>,
) -> Answer<UserView> {
    let view = UserView::from(user);
    let etag = view.etag.clone();
    answer(view).etag(&etag)
}

/// What becomes of the queues; the two parameters must fit each other.
fn heirs(owned: Owned, new_owner: Option<&str>) -> Result<broker::Owned, Problem> {
    let fault = |message, code| Problem::invalid("query.new_owner", message, code);
    match (owned, new_owner) {
        (Owned::Refuse, None) => Ok(broker::Owned::Refuse),
        (Owned::Delete, None) => Ok(broker::Owned::Delete),
        (Owned::Transfer, Some(name)) => UserName::parse(name)
            .map(broker::Owned::Transfer)
            .map_err(|error| fault(error.to_string(), "name")),
        (Owned::Transfer, None) => Err(fault("it is required to transfer".into(), "required")),
        (_, Some(_)) => Err(fault("only with owned=transfer".into(), "conflict")),
    }
}
