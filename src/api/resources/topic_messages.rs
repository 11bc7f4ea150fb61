//! Messages of topics: publish; receive and settle through a subscription.

use super::messages::{judge_batch, receive_from};
use super::settlements::{extend_one, settle_all, settle_one};
use crate::api::auth::Auth;
use crate::api::dto::browse::{
    BrowsedMessage, MessageInclude, MessagePage, MessageState, PurgeResult,
};
use crate::api::dto::messages::{Durability, ReceiveRequest, ReceiveResponse, SendRequest};
use crate::api::dto::publish::PublishResponse;
use crate::api::dto::settlements::{
    LeaseExtension, LeaseView, ReleaseRequest, SettlementRequest, SettlementResponse, release,
};
use crate::api::params::{
    Cursor, IdempotencyKey, Limit, MessageSegment, Path, Query, ReceiptSegment, RequireRoute,
    SubscriptionSegment, TopicSegment,
};
use crate::api::payload::{Answer, Body, Empty};
use crate::api::problem::Problem;
use crate::broker::{Action, PublishResult, Settlement, Source};
use poem_openapi::OpenApi;

/// The handlers of `/topics/{topic}/messages` and `/topics/{topic}/subscriptions/{subscription}/…`.
pub struct TopicMessages;

/// The same as for a batch that was sent.
pub(in crate::api) fn judge_published(
    published: Vec<PublishResult>,
) -> Result<PublishResponse, Problem> {
    let matched = published.iter().map(|published| published.matched).collect();
    let results = published.into_iter().map(|published| published.result).collect();
    Ok(PublishResponse::new(judge_batch(results)?, matched))
}

fn source<'a>(topic: &'a Path<TopicSegment>, name: &'a Path<SubscriptionSegment>) -> Source<'a> {
    Source::Subscription { topic: &topic.0.0, name: &name.0.0 }
}

#[OpenApi(prefix_path = "/v1")]
impl TopicMessages {
    /// Publish messages
    #[oai(path = "/topics/:topic/messages", method = "post", operation_id = "publish_messages")]
    async fn publish(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// How many copies to wait for. Default: `quorum`.
        durability: Query<Durability>,
        /// Whether a message that no subscription wants is refused. Default: false.
        require_route: Query<RequireRoute>,
        /// Names this request: sent again under the same key, within the topic's `dedup_seconds`,
        /// each message is stored once. 1 to 128 visible ASCII characters.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<SendRequest>,
    ) -> Result<Answer<PublishResponse>, Problem> {
        let durability = durability.0.unwrap_or(Durability::Quorum).into();
        let messages = body.0.messages.into_iter().map(Into::into).collect();
        let (broker, by) = (&auth.app.broker, &auth.caller);
        let (route, key) = (require_route.get(), key.0.as_deref());
        let publish =
            Box::pin(broker.publish(by, &topic.0.0, messages, durability, route, key)).await?;
        judge_published(publish).map(Answer::created)
    }

    /// Look at messages of a subscription
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription/messages",
        method = "get",
        operation_id = "browse_subscription_messages"
    )]
    #[allow(clippy::too_many_arguments, reason = "each is a parameter of the route")]
    async fn browse(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        /// Only messages that are doing this.
        state: Query<MessageState>,
        /// What else to show: `body`.
        include: Query<MessageInclude>,
        /// Items on a page. Default: 100.
        limit: Query<Limit>,
        /// Where the page before ended: its `next_cursor`.
        cursor: Query<Cursor>,
    ) -> Result<Answer<MessagePage>, Problem> {
        let (broker, source) = (&auth.app.broker, source(&topic, &subscription));
        let state = state.0.map(Into::into);
        let browsing = broker.browse(&auth.caller, source, state, cursor.text(), limit.get());
        let with_body = include.0 == Some(MessageInclude::Body);
        let item = |message| BrowsedMessage::new(message, with_body);
        Ok(Answer::ok(MessagePage::from_page(browsing.await?, item)))
    }

    /// Purge a subscription
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription/messages",
        method = "delete",
        operation_id = "purge_subscription"
    )]
    async fn purge(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
    ) -> Result<Answer<PurgeResult>, Problem> {
        let purging = auth.app.broker.purge(&auth.caller, source(&topic, &subscription));
        let purged_count = purging.await?;
        Ok(Answer::ok(PurgeResult { purged_count, approximate: false }))
    }

    /// Look at one message of a subscription
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription/messages/:message_id",
        method = "get",
        operation_id = "get_subscription_message"
    )]
    async fn get(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        /// The message's id: paste yours.
        message_id: Path<MessageSegment>,
    ) -> Result<Answer<BrowsedMessage>, Problem> {
        let (broker, source) = (&auth.app.broker, source(&topic, &subscription));
        let message = broker.get_message(&auth.caller, source, &message_id.0.0).await?;
        Ok(Answer::ok(BrowsedMessage::new(message, true)))
    }

    /// Receive messages of a subscription
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription/leases",
        method = "post",
        operation_id = "receive_subscription_messages"
    )]
    async fn receive(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        /// Names this request: sent again under the same key, it is answered with what is still
        /// leased under it. 1 to 128 visible ASCII characters; not with `auto_ack`.
        #[oai(name = "Idempotency-Key")]
        key: IdempotencyKey,
        body: Body<ReceiveRequest>,
    ) -> Result<Answer<ReceiveResponse>, Problem> {
        receive_from(&auth, source(&topic, &subscription), body.0, key.0).await
    }

    /// Acknowledge a message of a subscription
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription/leases/:receipt",
        method = "delete",
        operation_id = "ack_subscription_message"
    )]
    async fn ack(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        /// The receipt that `receive_subscription_messages` gave: paste yours.
        receipt: Path<ReceiptSegment>,
    ) -> Result<Empty, Problem> {
        settle_one(
            &auth.app.broker,
            &auth.caller,
            source(&topic, &subscription),
            Settlement::new(receipt.0.0, Action::Ack),
        )
        .await?;
        Ok(Empty::done())
    }

    /// Extend a lease of a subscription
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription/leases/:receipt",
        method = "patch",
        operation_id = "extend_subscription_lease"
    )]
    async fn extend(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        /// The receipt that `receive_subscription_messages` gave: paste yours.
        receipt: Path<ReceiptSegment>,
        body: Body<LeaseExtension>,
    ) -> Result<Answer<LeaseView>, Problem> {
        extend_one(&auth, source(&topic, &subscription), receipt.0.0, &body.0).await
    }

    /// Give a message of a subscription back
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription/leases/:receipt/releases",
        method = "post",
        operation_id = "release_subscription_message"
    )]
    async fn release(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        /// The receipt that `receive_subscription_messages` gave: paste yours.
        receipt: Path<ReceiptSegment>,
        body: Body<ReleaseRequest>,
    ) -> Result<Empty, Problem> {
        let source = source(&topic, &subscription);
        let ReleaseRequest { outcome, delay_seconds, reason } = body.0;
        let release = release(receipt.0.0, outcome, delay_seconds, reason);
        settle_one(&auth.app.broker, &auth.caller, source, release).await?;
        Ok(Empty::done())
    }

    /// Settle many leases of a subscription
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription/settlements",
        method = "post",
        operation_id = "settle_subscription_messages"
    )]
    async fn settle(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        body: Body<SettlementRequest>,
    ) -> Result<Answer<SettlementResponse>, Problem> {
        settle_all(&auth, source(&topic, &subscription), body.0).await
    }
}
