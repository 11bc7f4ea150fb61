//! Subscriptions: declare, look up, change, delete.

use crate::api::auth::Auth;
use crate::api::dto::subscriptions::{SubscriptionConfig, SubscriptionPage, SubscriptionView};
use crate::api::params::{Cursor, IfMatch, Limit, Path, Query, SubscriptionSegment, TopicSegment};
use crate::api::payload::{Answer, Body, Empty};
use crate::api::problem::Problem;
use crate::broker::Entry;
use crate::protocol::record::Subscription;
use poem_openapi::OpenApi;

/// The handlers of `/topics/{topic}/subscriptions`.
pub struct Subscriptions;

#[OpenApi(prefix_path = "/v1")]
impl Subscriptions {
    /// Subscribe to a topic, or compare the subscription with what you want
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription",
        method = "put",
        operation_id = "put_subscription"
    )]
    async fn put(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        body: Body<SubscriptionConfig>,
    ) -> Result<Answer<SubscriptionView>, Problem> {
        let (topic, name, given) = (&topic.0.0, &subscription.0.0, body.0.into());
        let broker = &auth.app.broker;
        let (created, entry) = broker.put_subscription(&auth.caller, topic, name, &given).await?;
        Ok(view(if created { Answer::created } else { Answer::ok }, &auth, topic, entry))
    }

    /// List a topic's subscriptions
    #[oai(
        path = "/topics/:topic/subscriptions",
        method = "get",
        operation_id = "list_subscriptions"
    )]
    async fn list(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// Items on a page. Default: 100.
        limit: Query<Limit>,
        /// Where the page before ended: its `next_cursor`.
        cursor: Query<Cursor>,
    ) -> Result<Answer<SubscriptionPage>, Problem> {
        let (broker, topic) = (&auth.app.broker, &topic.0.0);
        let by = &auth.caller;
        let page = broker.list_subscriptions(by, topic, cursor.text(), limit.get()).await?;
        let item = |entry| SubscriptionView::new(broker, topic, entry);
        Ok(Answer::ok(SubscriptionPage::from_page(page, item)))
    }

    /// Look at a subscription
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription",
        method = "get",
        operation_id = "get_subscription"
    )]
    async fn get(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
    ) -> Result<Answer<SubscriptionView>, Problem> {
        let (topic, name) = (&topic.0.0, &subscription.0.0);
        let broker = &auth.app.broker;
        let entry = broker.get_subscription(&auth.caller, topic, name).await?;
        let stats = Some(broker.subscription_stats(&entry).await?.into());
        let view = SubscriptionView { stats, ..SubscriptionView::new(broker, topic, entry) };
        let etag = view.etag.clone();
        Ok(Answer::ok(view).etag(&etag))
    }

    /// Change a subscription
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription",
        method = "patch",
        operation_id = "update_subscription"
    )]
    async fn update(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        /// Only if its etag is still this one.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
        body: Body<SubscriptionConfig>,
    ) -> Result<Answer<SubscriptionView>, Problem> {
        let (topic, name, change) = (&topic.0.0, &subscription.0.0, body.0.into());
        let (broker, by) = (&auth.app.broker, &auth.caller);
        let entry = broker.update_subscription(by, topic, name, &change, if_match.etag()).await?;
        Ok(view(Answer::ok, &auth, topic, entry))
    }

    /// Delete a subscription
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription",
        method = "delete",
        operation_id = "delete_subscription"
    )]
    async fn delete(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        /// Only if its etag is still this one.
        #[oai(name = "If-Match")]
        if_match: IfMatch,
    ) -> Result<Empty, Problem> {
        let (topic, name) = (&topic.0.0, &subscription.0.0);
        let broker = &auth.app.broker;
        broker.delete_subscription(&auth.caller, topic, name, if_match.etag()).await?;
        Ok(Empty::done())
    }
}

/// A subscription as an answer with its etag.
fn view(
    answer: fn(SubscriptionView) -> Answer<SubscriptionView>,
    auth: &Auth,
    topic: &str,
    entry: Entry<Subscription>,
) -> Answer<SubscriptionView> {
    let view = SubscriptionView::new(&auth.app.broker, topic, entry);
    let etag = view.etag.clone();
    answer(view).etag(&etag)
}
