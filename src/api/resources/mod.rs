//! The handlers: one file per resource. A handler reads a body's type, asks the broker, writes a
//! body's type; rules of the product live in the broker.

pub mod api_keys;
pub mod browse;
pub mod grants;
pub mod messages;
pub mod operations;
pub mod queues;
pub mod sessions;
pub mod settlements;
pub mod subscriptions;
pub mod topic_messages;
pub mod topics;
pub mod users;

use super::push::event_stream::Streams;

/// All handlers, as one description of the API.
pub type Resources = (
    users::Users,
    sessions::Sessions,
    api_keys::ApiKeys,
    queues::Queues,
    grants::Grants,
    messages::Messages,
    browse::Browsing,
    Streams,
    settlements::Settlements,
    topics::Topics,
    topics::Grants,
    subscriptions::Subscriptions,
    topic_messages::TopicMessages,
    operations::Operations,
);

/// All handlers.
pub const RESOURCES: Resources = (
    users::Users,
    sessions::Sessions,
    api_keys::ApiKeys,
    queues::Queues,
    grants::Grants,
    messages::Messages,
    browse::Browsing,
    Streams,
    settlements::Settlements,
    topics::Topics,
    topics::Grants,
    subscriptions::Subscriptions,
    topic_messages::TopicMessages,
    operations::Operations,
);
