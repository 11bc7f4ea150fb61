//! Messages: send, receive, and what shares their paths.

use crate::api::auth::Auth;
use crate::api::dto::browse::{
    BrowsedMessage, MessageInclude, MessagePage, MessageState, PurgeResult,
};
use crate::api::dto::messages::{
    Durability, ReceiveRequest, ReceiveResponse, ReceivedMessage, SendRequest, SendResponse,
    SendResult,
};
use crate::api::httpd::in_flight::InFlight;
use crate::api::params::{Cursor, IdempotencyKey, Limit, Path, Query, QueueSegment};
use crate::api::payload::{Answer, Body};
use crate::api::problem::{FieldError, Problem};
use crate::base::limits;
use crate::broker::{self, Source};
use poem_openapi::OpenApi;
use std::time::Duration;

/// The handlers of `/queues/{queue}/messages` and `/queues/{queue}/leases`.
pub struct Messages;

#[OpenApi(prefix_path = "/v1")]
impl Messages {
    /// Send messages
    #[oai(path = "/queues/:queue/messages", method = "post", operation_id = "send_messages")]
    async fn send(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// How many copies to wait for. Default: `quorum`.
        durability: Query<Durability>,
        /// Names this request: sent again under the same key, within the queue's `dedup_seconds`,
        /// each message is stored once. 1 to 128 visible ASCII characters.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<SendRequest>,
    ) -> Result<Answer<SendResponse>, Problem> {
        let durability = durability.0.unwrap_or(Durability::Quorum).into();
        let messages = body.0.messages.into_iter().map(Into::into).collect();
        let (broker, by) = (&auth.app.broker, &auth.caller);
        judge_batch(
            Box::pin(broker.send(by, &queue.0.0, messages, durability, key.0.as_deref())).await?,
        )
        .map(Answer::created)
    }

    /// Look at messages
    #[oai(path = "/queues/:queue/messages", method = "get", operation_id = "browse_messages")]
    async fn browse(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// Only messages that are doing this.
        state: Query<MessageState>,
        /// What else to show: `body`.
        include: Query<MessageInclude>,
        /// Items on a page. Default: 100.
        limit: Query<Limit>,
        /// Where the page before ended: its `next_cursor`.
        cursor: Query<Cursor>,
    ) -> Result<Answer<MessagePage>, Problem> {
        let (broker, source) = (&auth.app.broker, Source::Queue(&queue.0.0));
        let state = state.0.map(Into::into);
        let browsing = broker.browse(&auth.caller, source, state, cursor.text(), limit.get());
        let with_body = include.0 == Some(MessageInclude::Body);
        let item = |message| BrowsedMessage::new(message, with_body);
        Ok(Answer::ok(MessagePage::from_page(browsing.await?, item)))
    }

    /// Purge a queue
    #[oai(path = "/queues/:queue/messages", method = "delete", operation_id = "purge_queue")]
    async fn purge(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
    ) -> Result<Answer<PurgeResult>, Problem> {
        let purging = auth.app.broker.purge(&auth.caller, Source::Queue(&queue.0.0));
        let purged_count = purging.await?;
        Ok(Answer::ok(PurgeResult { purged_count, approximate: false }))
    }

    /// Receive messages
    #[oai(path = "/queues/:queue/leases", method = "post", operation_id = "receive_messages")]
    async fn receive(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// Names this request: sent again under the same key, it is answered with what is still
        /// leased under it. 1 to 128 visible ASCII characters; not with `auto_ack`.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<ReceiveRequest>,
    ) -> Result<Answer<ReceiveResponse>, Problem> {
        receive_from(&auth, Source::Queue(&queue.0.0), body.0, key.0).await
    }
}

/// Leases messages of a queue or subscription.
pub(super) async fn receive_from(
    auth: &Auth,
    source: Source<'_>,
    body: ReceiveRequest,
    key: Option<String>,
) -> Result<Answer<ReceiveResponse>, Problem> {
    let request = broker::ReceiveRequest { key, ..body.into() };
    let wait = u64::try_from(request.wait_seconds).unwrap_or(0);
    // The wait asked for is not the operation's.
    auth.deadline.set(limits::OPERATION_TIME + Duration::from_secs(wait));
    let mut paused = None;
    // Who waits leaves its slot to those who have work.
    let idle = || {
        paused = paused.take().or_else(|| auth.slot.as_ref().map(InFlight::pause));
    };
    let broker = &auth.app.broker;
    let messages = broker.receive(&auth.caller, source, request, idle).await?;
    let messages = messages.into_iter().map(ReceivedMessage::from).collect();
    Ok(Answer::ok(ReceiveResponse { messages }))
}

/// A batch of which something is stored is a success that tells of each message. One of which
/// nothing is stored never is: it is the problem of its first message, and tells of each.
pub(in crate::api) fn judge_batch(
    results: Vec<broker::SendResult>,
) -> Result<SendResponse, Problem> {
    let judged = results.into_iter().enumerate();
    let judged: Vec<_> = judged.map(|(i, result)| SendResult::new(i, result.status)).collect();
    let failed_count = judged.iter().filter(|(_, problem)| problem.is_some()).count();
    if failed_count < judged.len() || judged.is_empty() {
        let failed_count = i32::try_from(failed_count).unwrap_or(i32::MAX);
        let results = judged.into_iter().map(|(result, _)| result).collect();
        return Ok(SendResponse { results, failed_count });
    }
    let problems: Vec<Problem> = judged.into_iter().filter_map(|(_, problem)| problem).collect();
    Err(all_failed(problems, |index| format!("messages[{index}]")))
}

/// The problem of a batch of which nothing succeeded. Where one item is unknown, so is the whole.
pub(super) fn all_failed(problems: Vec<Problem>, field: impl Fn(usize) -> String) -> Problem {
    let errors = problems.iter().enumerate().map(|(index, problem)| FieldError {
        field: field(index),
        message: problem.detail.clone(),
        code: problem.code.clone(),
    });
    let errors = Some(errors.collect());
    let unknown = problems.iter().find(|problem| problem.outcome.as_deref() == Some("unknown"));
    let worst = unknown.or(problems.first()).cloned();
    let worst =
        worst.unwrap_or_else(|| Problem::new(crate::api::codes::INTERNAL, "internal error"));
    Problem { errors, ..worst }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::broker::SendStatus;
    use crate::broker::refusal::Refusal;

    fn result(status: SendStatus) -> broker::SendResult {
        broker::SendResult { status }
    }

    fn failed() -> broker::SendResult {
        result(SendStatus::Failed(Refusal::Draining))
    }

    #[test]
    fn a_batch_with_one_stored_message_succeeds() {
        let stored =
            result(SendStatus::Stored { id: "a".into(), replicas: 1, is_duplicate: false });
        let response = judge_batch(vec![failed(), stored]).unwrap();
        assert_eq!(response.failed_count, 1);
        assert_eq!(response.results[0].code.as_deref(), Some("draining"));
        assert_eq!((response.results[1].index, response.results[1].status.as_str()), (1, "stored"));
    }

    #[test]
    fn a_batch_of_which_nothing_is_stored_never_succeeds() {
        let problem = judge_batch(vec![failed(), failed()]).unwrap_err();
        assert_eq!((problem.status, problem.code.as_str()), (409, "draining"));
        assert_eq!(problem.errors.unwrap()[1].field, "messages[1]");
        let mismatch = || result(SendStatus::Failed(Refusal::IdempotencyMismatch));
        let problem = judge_batch(vec![mismatch(), mismatch()]).unwrap_err();
        assert_eq!((problem.status, problem.code.as_str()), (422, "idempotency-mismatch"));
        let unknown = result(SendStatus::Unknown("late".into()));
        let problem = judge_batch(vec![failed(), unknown]).unwrap_err();
        assert_eq!((problem.status, problem.outcome.as_deref()), (503, Some("unknown")));
    }
}
