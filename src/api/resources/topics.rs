//! Topics: declare, look up, change, delete; and who else may use them.

use crate::api::auth::Auth;
use crate::api::dto::grants::{GrantPage, GrantRequest, GrantView};
use crate::api::dto::topics::{TopicConfig, TopicDeletionMode, TopicInclude, TopicPage, TopicView};
use crate::api::params::{
    Cursor, GranteeSegment, IfMatch, Limit, Owner, Path, Prefix, Query, TopicSegment,
};
use crate::api::payload::{Answer, Body, Empty};
use crate::api::problem::Problem;
use crate::broker::Entry;
use crate::protocol::record::{Right, Topic};
use poem_openapi::OpenApi;

/// The handlers of `/topics`.
pub struct Topics;

#[OpenApi(prefix_path = "/v1")]
impl Topics {
    /// Create a topic, or compare it with what you want
    #[oai(path = "/topics/:topic", method = "put", operation_id = "put_topic")]
    async fn put(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        body: Body<TopicConfig>,
    ) -> Result<Answer<TopicView>, Problem> {
        let broker = &auth.app.broker;
        let (created, entry) = broker.put_topic(&auth.caller, &topic.0.0, body.0.into()).await?;
        Ok(view(if created { Answer::created } else { Answer::ok }, &auth, entry))
    }

    /// List topics
    #[oai(path = "/topics", method = "get", operation_id = "list_topics")]
    async fn list(
        &self,
        auth: Auth,
        /// Only topics of this user; `me` means yourself.
        owner: Query<Owner>,
        /// Only names that begin so.
        prefix: Query<Prefix>,
        /// What else to show: `stats`.
        include: Query<TopicInclude>,
        /// Items on a page. Default: 100.
        limit: Query<Limit>,
        /// Where the page before ended: its `next_cursor`.
        cursor: Query<Cursor>,
    ) -> Result<Answer<TopicPage>, Problem> {
        let owner = match owner.text() {
            Some("me") => Some(auth.caller.name.as_str()),
            other => other,
        };
        let (broker, by) = (&auth.app.broker, &auth.caller);
        let prefix = prefix.text().unwrap_or_default();
        let page = broker.list_topics(by, owner, prefix, cursor.text(), limit.get()).await?;
        let mut stats = Vec::new();
        if include.0 == Some(TopicInclude::Stats) {
            for entry in &page.items {
                // One that cannot be counted now is listed without.
                stats.push(broker.topic_stats(entry).await.ok());
            }
        }
        let mut stats = stats.into_iter();
        let item = |entry| TopicView {
            stats: stats.next().flatten().map(Into::into),
            ..TopicView::new(broker, by, entry)
        };
        Ok(Answer::ok(TopicPage::from_page(page, item)))
    }

    /// Look at a topic
    #[oai(path = "/topics/:topic", method = "get", operation_id = "get_topic")]
    async fn get(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
    ) -> Result<Answer<TopicView>, Problem> {
        let broker = &auth.app.broker;
        let entry = broker.get_topic(&auth.caller, &topic.0.0).await?;
        let stats = Some(broker.topic_stats(&entry).await?.into());
        let view = TopicView { stats, ..TopicView::new(broker, &auth.caller, entry) };
        let etag = view.etag.clone();
        Ok(Answer::ok(view).etag(&etag))
    }

    /// Change a topic
    #[oai(path = "/topics/:topic", method = "patch", operation_id = "update_topic")]
    async fn update(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// Only if its etag is still this one.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
        body: Body<TopicConfig>,
    ) -> Result<Answer<TopicView>, Problem> {
        let (broker, name) = (&auth.app.broker, &topic.0.0);
        let change = body.0.into();
        let entry = broker.update_topic(&auth.caller, name, change, if_match.etag()).await?;
        Ok(view(Answer::ok, &auth, entry))
    }

    /// Delete a topic
    #[oai(path = "/topics/:topic", method = "delete", operation_id = "delete_topic")]
    async fn delete(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// Whether it goes though it has messages. Default: `discard`.
        messages: Query<TopicDeletionMode>,
        /// Only if its etag is still this one.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
    ) -> Result<Empty, Problem> {
        let only_empty = messages.0 == Some(TopicDeletionMode::Refuse);
        let (broker, name) = (&auth.app.broker, &topic.0.0);
        broker.delete_topic(&auth.caller, name, only_empty, if_match.etag()).await?;
        Ok(Empty::done())
    }
}

/// The handlers of `/topics/{topic}/grants`.
pub struct Grants;

#[OpenApi(prefix_path = "/v1")]
impl Grants {
    /// List a topic's grants
    #[oai(path = "/topics/:topic/grants", method = "get", operation_id = "list_topic_grants")]
    async fn list(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// Items on a page. Default: 100.
        limit: Query<Limit>,
        /// Where the page before ended: its `next_cursor`.
        cursor: Query<Cursor>,
    ) -> Result<Answer<GrantPage>, Problem> {
        let (broker, name) = (&auth.app.broker, &topic.0.0);
        let page = broker.list_topic_grants(&auth.caller, name, cursor.text(), limit.get()).await?;
        Ok(Answer::ok(GrantPage::from_page(page, GrantView::from)))
    }

    /// Grant rights on a topic
    #[oai(
        path = "/topics/:topic/grants/:username",
        method = "put",
        operation_id = "put_topic_grant"
    )]
    async fn put(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The user's name, or `*` for every user.
        username: Path<GranteeSegment>,
        body: Body<GrantRequest>,
    ) -> Result<Answer<GrantView>, Problem> {
        let rights = body.0.rights.into_iter().map(Right::from);
        let (broker, by) = (&auth.app.broker, &auth.caller);
        let grant = broker.put_topic_grant(by, &topic.0.0, &username.0.0, rights).await?;
        Ok(Answer::ok(grant.into()))
    }

    /// Take rights on a topic back
    #[oai(
        path = "/topics/:topic/grants/:username",
        method = "delete",
        operation_id = "delete_topic_grant"
    )]
    async fn delete(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The user's name, or `*` for every user.
        username: Path<GranteeSegment>,
    ) -> Result<Empty, Problem> {
        let (broker, by) = (&auth.app.broker, &auth.caller);
        broker.delete_topic_grant(by, &topic.0.0, &username.0.0).await?;
        Ok(Empty::done())
    }
}

/// A topic as an answer with its etag.
fn view(
    answer: fn(TopicView) -> Answer<TopicView>,
    auth: &Auth,
    entry: Entry<Topic>,
) -> Answer<TopicView> {
    let view = TopicView::new(&auth.app.broker, &auth.caller, entry);
    let etag = view.etag.clone();
    answer(view).etag(&etag)
}
