//! Messages by hand: look at one, delete it, redrive. What shares its path with sends is there.

use crate::api::auth::Auth;
use crate::api::dto::browse::{BrowsedMessage, RedriveRequest, RedriveResult};
use crate::api::params::{MessageSegment, Path, QueueSegment};
use crate::api::payload::{Answer, Body, Empty};
use crate::api::problem::Problem;
use crate::base::limits;
use crate::broker::Source;
use poem_openapi::OpenApi;

/// The handlers of `/queues/{queue}/messages/{message_id}` and `/queues/{queue}/redrives`.
pub struct Browsing;

#[OpenApi(prefix_path = "/v1")]
impl Browsing {
    /// Look at one message
    #[oai(
        path = "/queues/:queue/messages/:message_id",
        method = "get",
        operation_id = "get_message"
    )]
    async fn get(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// The message's id: paste yours.
        message_id: Path<MessageSegment>,
    ) -> Result<Answer<BrowsedMessage>, Problem> {
        let (broker, source) = (&auth.app.broker, Source::Queue(&queue.0.0));
        let message = broker.get_message(&auth.caller, source, &message_id.0.0).await?;
        Ok(Answer::ok(BrowsedMessage::new(message, true)))
    }

    /// Take one message out
    #[oai(
        path = "/queues/:queue/messages/:message_id",
        method = "delete",
        operation_id = "delete_message"
    )]
    async fn delete(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// The message's id: paste yours.
        message_id: Path<MessageSegment>,
    ) -> Result<Empty, Problem> {
        let (broker, source) = (&auth.app.broker, Source::Queue(&queue.0.0));
        broker.delete_message(&auth.caller, source, &message_id.0.0).await?;
        Ok(Empty::done())
    }

    /// Make dead letters ready again
    #[oai(path = "/queues/:queue/redrives", method = "post", operation_id = "redrive_queue")]
    async fn redrive(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        body: Body<RedriveRequest>,
    ) -> Result<Answer<RedriveResult>, Problem> {
        let (broker, source) = (&auth.app.broker, Source::Queue(&queue.0.0));
        let max = body.0.max_messages.unwrap_or(limits::REDRIVE_BATCH_DEFAULT);
        Ok(Answer::ok(broker.redrive(&auth.caller, source, max).await?.into()))
    }
}
