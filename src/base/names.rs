//! Validated names: parsed once, at the door; every later room takes the type.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The pattern of every name, as the API document prints it.
pub const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$";

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not 1 to 128 characters.
    #[error("a name has 1 to 128 characters")]
    Length,
    /// Does not begin with a letter or digit.
    #[error("a name begins with a letter or a digit")]
    FirstCharacter,
    /// Has a character outside `A–Z a–z 0–9 . _ -`.
    #[error("a name has only letters, digits, '.', '_' and '-'")]
    Character,
    /// `me` always means the caller.
    #[error("'me' is no user name: it always means the caller")]
    Reserved,
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 128 {
        return Err(NameError::Length);
    }
    if !text.as_bytes()[0].is_ascii_alphanumeric() {
        return Err(NameError::FirstCharacter);
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !text.bytes().all(allowed) {
        return Err(NameError::Character);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $reserved:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(String);

        impl $name {
            /// Checks the text against the rule of names.
            ///
            /// # Errors
            /// [`NameError`] names the part of the rule that the text breaks.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check(text)?;
                if $reserved.contains(&text) {
                    return Err(NameError::Reserved);
                }
                Ok(Self(text.to_owned()))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A user's name, case-sensitive, unique among users.
    UserName,
    ["me"]
);
name!(
    /// A queue's name, case-sensitive, unique among queues.
    QueueName,
    [""; 0]
);
name!(
    /// A topic's name, case-sensitive, unique among topics.
    TopicName,
    [""; 0]
);
name!(
    /// A subscription's name, case-sensitive, unique among those of its topic.
    SubscriptionName,
    [""; 0]
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "A-1._x", &"x".repeat(128), "0"] {
            assert!(QueueName::parse(good).is_ok(), "{good}");
        }
        assert_eq!(QueueName::parse(""), Err(NameError::Length));
        assert_eq!(QueueName::parse(&"x".repeat(129)), Err(NameError::Length));
        assert_eq!(QueueName::parse(".a"), Err(NameError::FirstCharacter));
        assert_eq!(QueueName::parse("a b"), Err(NameError::Character));
        assert_eq!(QueueName::parse("añ"), Err(NameError::Character));
        assert_eq!(UserName::parse("me"), Err(NameError::Reserved));
        assert!(QueueName::parse("me").is_ok());
    }
}
