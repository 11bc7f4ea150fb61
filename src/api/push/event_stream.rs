//! Server-sent events: one stream, one consumer. Its messages are settled by the other routes.

use super::Place;
use crate::api::auth::Auth;
use crate::api::dto::messages::ReceivedMessage;
use crate::api::params::{
    InFlightMax, LeaseSeconds, Path, Query, QueueSegment, SubscriptionSegment, TopicSegment,
};
use crate::api::payload::EventStream;
use crate::api::problem::Problem;
use crate::base::limits;
use crate::broker::consumers::Terms;
use crate::broker::{Consumer, End, Farewell, SourceName, Window};
use bytes::Bytes;
use futures_util::Stream;
use poem::Body;
use poem_openapi::OpenApi;
use std::io;

/// The handlers of `…/stream`.
pub struct Streams;

#[OpenApi(prefix_path = "/v1")]
impl Streams {
    /// Receive messages as they come
    #[oai(path = "/queues/:queue/stream", method = "get", operation_id = "stream_messages")]
    async fn stream(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// Seconds of each lease. Default: the queue's.
        lease_seconds: Query<LeaseSeconds>,
        /// Unsettled messages at a time. Default: 10.
        max_in_flight: Query<InFlightMax>,
    ) -> Result<EventStream, Problem> {
        open(&auth, SourceName::Queue(queue.0.0), &lease_seconds, &max_in_flight)
    }

    /// Receive messages of a subscription as they come
    #[oai(
        path = "/topics/:topic/subscriptions/:subscription/stream",
        method = "get",
        operation_id = "stream_subscription_messages"
    )]
    async fn stream_subscription(
        &self,
        auth: Auth,
        /// The topic's name.
        topic: Path<TopicSegment>,
        /// The subscription's name.
        subscription: Path<SubscriptionSegment>,
        /// Seconds of each lease. Default: the subscription's.
        lease_seconds: Query<LeaseSeconds>,
        /// Unsettled messages at a time. Default: 10.
        max_in_flight: Query<InFlightMax>,
    ) -> Result<EventStream, Problem> {
        let source = SourceName::Subscription { topic: topic.0.0, name: subscription.0.0 };
        open(&auth, source, &lease_seconds, &max_in_flight)
    }
}

fn open(
    auth: &Auth,
    source: SourceName,
    lease_seconds: &Query<LeaseSeconds>,
    max_in_flight: &Query<InFlightMax>,
) -> Result<EventStream, Problem> {
    let default = limits::STREAM_IN_FLIGHT_DEFAULT;
    let max = max_in_flight.0.as_ref().map_or(default, |max| max.get());
    let terms = Terms {
        source,
        lease_seconds: lease_seconds.0.as_ref().map(|seconds| seconds.get()),
        window: Window::Unsettled(usize::try_from(max).unwrap_or(1)),
    };
    let broker = &auth.app.broker;
    let consumer = broker.consume(broker.standing(auth.caller.clone()), terms)?;
    let place = auth.app.places.take("event_stream")?;
    let feed = Feed { consumer, at: At::Beginning, _place: place };
    Ok(EventStream(Body::from_bytes_stream(events(feed))))
}

struct Feed {
    consumer: Consumer,
    at: At,
    _place: Place,
}

enum At {
    Beginning,
    Open,
    /// Told that it ends.
    Closing,
}

/// The stream's text, piece by piece. Dropped with the connection, its messages count as failed.
fn events(feed: Feed) -> impl Stream<Item = io::Result<Bytes>> + Send {
    futures_util::stream::unfold(feed, |mut feed| async move {
        let text = match feed.at {
            // Something at once, so that the client sees the header's end through any proxy.
            At::Beginning => {
                feed.at = At::Open;
                ": open\n\n".to_owned()
            }
            At::Open => {
                let period = limits::STREAM_COMMENT_PERIOD;
                match tokio::time::timeout(period, feed.consumer.next()).await {
                    Err(_) => ":\n\n".to_owned(),
                    Ok(Ok(message)) => message_event(&message.into()),
                    Ok(Err(end)) => {
                        feed.at = At::Closing;
                        closing_event(end)
                    }
                }
            }
            At::Closing => {
                feed.consumer.end(Farewell::Failed).await;
                return None;
            }
        };
        Some((Ok(Bytes::from(text)), feed))
    })
}

fn message_event(message: &ReceivedMessage) -> String {
    // JSON escapes its line ends: it is one line.
    let json = serde_json::to_string(message).expect("a message is plain data");
    format!("event: message\nid: {}\ndata: {json}\n\n", message.id)
}

fn closing_event(end: End) -> String {
    let reason = match end {
        End::Stopping | End::Cancelled => "stopping".to_owned(),
        End::Refused(refusal) => Problem::from(refusal).code,
    };
    format!("event: closing\ndata: {{\"reason\":\"{reason}\"}}\n\n")
}
