//! Queues: declare, look up, change, delete.

use crate::api::auth::Auth;
use crate::api::dto::queues::{DeletionMode, QueueConfig, QueueInclude, QueuePage, QueueView};
use crate::api::params::{Cursor, IfMatch, Limit, Owner, Path, Prefix, Query, QueueSegment};
use crate::api::payload::{Answer, Body, Empty};
use crate::api::problem::Problem;
use crate::broker::{Deleted, Entry, Messages};
use crate::protocol::record::Queue;
use poem_openapi::OpenApi;

/// The handlers of `/queues`.
pub struct Queues;

#[OpenApi(prefix_path = "/v1")]
impl Queues {
    /// Create a queue, or compare it with what you want
    #[oai(path = "/queues/:queue", method = "put", operation_id = "put_queue")]
    async fn put(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        body: Body<QueueConfig>,
    ) -> Result<Answer<QueueView>, Problem> {
        let broker = &auth.app.broker;
        let (created, entry) = broker.put_queue(&auth.caller, &queue.0.0, body.0.into()).await?;
        Ok(view(if created { Answer::created } else { Answer::ok }, &auth, entry))
    }

    /// List queues
    #[oai(path = "/queues", method = "get", operation_id = "list_queues")]
    async fn list(
        &self,
        auth: Auth,
        /// Only queues of this user; `me` means yourself.
        owner: Query<Owner>,
        /// Only names that begin so.
        prefix: Query<Prefix>,
        /// What else to show: `stats`.
        include: Query<QueueInclude>,
        /// Items on a page. Default: 100.
        limit: Query<Limit>,
        /// Where the page before ended: its `next_cursor`.
        cursor: Query<Cursor>,
    ) -> Result<Answer<QueuePage>, Problem> {
        let owner = match owner.text() {
            Some("me") => Some(auth.caller.name.as_str()),
            other => other,
        };
        let (broker, by) = (&auth.app.broker, &auth.caller);
        let prefix = prefix.text().unwrap_or_default();
        let page = broker.list_queues(by, owner, prefix, cursor.text(), limit.get()).await?;
        let mut stats = Vec::new();
        if include.0 == Some(QueueInclude::Stats) {
            for entry in &page.items {
                // One that cannot be counted now is listed without.
                stats.push(broker.queue_stats(entry).await.ok());
            }
        }
        let mut stats = stats.into_iter();
        let item = |entry| QueueView {
            stats: stats.next().flatten().map(Into::into),
            ..QueueView::new(broker, by, entry)
        };
        Ok(Answer::ok(QueuePage::from_page(page, item)))
    }

    /// Look at a queue
    #[oai(path = "/queues/:queue", method = "get", operation_id = "get_queue")]
    async fn get(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
    ) -> Result<Answer<QueueView>, Problem> {
        let broker = &auth.app.broker;
        let entry = broker.get_queue(&auth.caller, &queue.0.0).await?;
        let stats = Some(broker.queue_stats(&entry).await?.into());
        let view = QueueView { stats, ..QueueView::new(broker, &auth.caller, entry) };
        let etag = view.etag.clone();
        Ok(Answer::ok(view).etag(&etag))
    }

    /// Change a queue
    #[oai(path = "/queues/:queue", method = "patch", operation_id = "update_queue")]
    async fn update(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// Only if its etag is still this one.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
        body: Body<QueueConfig>,
    ) -> Result<Answer<QueueView>, Problem> {
        let (broker, name) = (&auth.app.broker, &queue.0.0);
        let change = body.0.into();
        let entry = broker.update_queue(&auth.caller, name, change, if_match.etag()).await?;
        Ok(view(Answer::ok, &auth, entry))
    }

    /// Delete a queue
    #[oai(path = "/queues/:queue", method = "delete", operation_id = "delete_queue")]
    async fn delete(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// What becomes of its messages. Default: `discard`.
        messages: Query<DeletionMode>,
        /// Only if its etag is still this one.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
    ) -> Result<Empty, Problem> {
        let messages = match messages.0.unwrap_or(DeletionMode::Discard) {
            DeletionMode::Discard => Messages::Discard,
            DeletionMode::Drain => Messages::Drain,
            DeletionMode::Refuse => Messages::Refuse,
        };
        let (broker, name) = (&auth.app.broker, &queue.0.0);
        match broker.delete_queue(&auth.caller, name, messages, if_match.etag()).await? {
            Deleted::Gone => Ok(Empty::done()),
            Deleted::Draining => Ok(Empty::begun()),
        }
    }
}

/// A queue as an answer with its etag.
fn view(
    answer: fn(QueueView) -> Answer<QueueView>,
    auth: &Auth,
    entry: Entry<Queue>,
) -> Answer<QueueView> {
    let view = QueueView::new(&auth.app.broker, &auth.caller, entry);
    let etag = view.etag.clone();
    answer(view).etag(&etag)
}
