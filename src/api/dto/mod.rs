//! What travels in bodies: one file per resource. A request's type carries its bounds as a table
//! (`BOUNDS`), which both the check and the document use, so that they cannot disagree.

pub mod api_keys;
pub mod grants;
pub mod messages;
pub mod objects;
pub mod operations;
pub mod queues;
pub mod scalars;
pub mod sessions;
pub mod settlements;
pub mod subscriptions;
pub mod topics;
pub mod users;
pub mod validate;

use poem_openapi::types::Type;
use serde::{Deserialize, Deserializer};
use validate::{Bound, Validate};

/// For optional request fields: absent is fine, null is not.
///
/// # Errors
/// When the value is not a `T`; null is none.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The bounds of every request's type, with its name in the document.
#[must_use]
pub fn bounds() -> Vec<(String, &'static [Bound])> {
    fn of<T: Validate + Type>() -> (String, &'static [Bound]) {
        (T::name().into_owned(), T::BOUNDS)
    }
    vec![
        of::<users::Registration>(),
        of::<users::UserPatch>(),
        of::<sessions::SessionRequest>(),
        of::<api_keys::ApiKeyRequest>(),
        of::<queues::QueueConfig>(),
        of::<grants::GrantRequest>(),
        of::<topics::TopicConfig>(),
        of::<subscriptions::SubscriptionConfig>(),
        of::<subscriptions::SubscriptionFilter>(),
        of::<messages::SendRequest>(),
        of::<messages::OutgoingMessage>(),
        of::<messages::ReceiveRequest>(),
        of::<settlements::LeaseExtension>(),
        of::<settlements::ReleaseRequest>(),
        of::<settlements::SettlementRequest>(),
        of::<settlements::ExtendItem>(),
        of::<settlements::ReleaseItem>(),
    ]
}

/// Defines a page of a list.
macro_rules! page {
    ($(#[$doc:meta])* $name:ident of $item:ty) => {
        $(#[$doc])*
        #[derive(Debug, poem_openapi::Object, serde::Serialize)]
        pub struct $name {
            /// The items, in order.
            pub items: Vec<$item>,
            /// Asks for the next page as `cursor`; absent on the last one.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub next_cursor: Option<String>,
        }

        impl $name {
            /// A page of the broker's, item by item.
            pub fn from_page<T>(
                page: crate::broker::Page<T>,
                item: impl FnMut(T) -> $item,
            ) -> Self {
                let next_cursor = page.next;
                Self { items: page.items.into_iter().map(item).collect(), next_cursor }
            }
        }
    };
}
pub(crate) use page;

#[cfg(test)]
#[path = "bounds_tests.rs"]
mod tests;
