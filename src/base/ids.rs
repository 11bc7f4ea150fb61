//! Identifiers as types, so that one kind is never passed for another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::fmt;

use super::rng::Rng;

/// A data directory's identity: 64 random bits minted with it. An empty disk is a new node [R1].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// How often a data directory was started, fsynced before the node does anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Boot(pub u64);

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Draws a fresh id of 128 random bits.
            #[must_use]
            pub fn random(rng: &dyn Rng) -> Self {
                Self(rng.bytes())
            }

            /// Parses the 22 characters of base64url that `Display` writes.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

random_id!(
    /// One creation of a name; all data is keyed by it, never by the name [R39].
    Generation
);
random_id!(
    /// A user. A re-created user of the same name has another id and inherits nothing [H55].
    UserId
);
random_id!(
    /// A session, as its owner sees it in lists. No credential.
    SessionId
);
random_id!(
    /// An API key, as its owner sees it in lists. No credential.
    ApiKeyId
);
random_id!(
    /// One receive request; only its own extends, confirmations and retries reuse it [F9].
    RequesterId
);
random_id!(
    /// A reader of a stream: the generation of a subscription's record, or [`Self::QUEUE`].
    SubscriptionId
);
random_id!(
    /// A one-way road between two streams on which the broker copies messages.
    LinkId
);

impl SubscriptionId {
    /// The one reader of a queue.
    pub const QUEUE: Self = Self([0; 16]);

    /// The reader that a subscription's record names.
    #[must_use]
    pub fn of(subscription: Generation) -> Self {
        Self(subscription.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::SystemRng;

    #[test]
    fn an_id_survives_its_text() {
        let id = Generation::random(&SystemRng);
        assert_eq!(Generation::parse(&id.to_string()), Some(id));
        assert_eq!(id.to_string().len(), 22);
        assert_eq!(Generation::parse("short"), None);
    }
}
