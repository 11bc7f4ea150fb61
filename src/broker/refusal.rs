//! Why the broker says no: one fact each. `api/problem.rs` turns each into a problem.

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No, unknown, expired or revoked credentials.
    #[error("no valid credentials")]
    Unauthenticated,
    /// The name and password do not belong together (or the user is unknown or disabled).
    #[error("the user name or the password is wrong")]
    BadCredentials,
    /// The caller lacks a right.
    #[error("this needs: {needs}")]
    Forbidden {
        /// The right, or who may.
        needs: &'static str,
    },
    /// The caller came by an API key whose scopes leave this out.
    #[error("the API key is limited to its scopes, which do not cover: {needs}")]
    OutOfScope {
        /// The right, or what no key with scopes reaches.
        needs: &'static str,
    },
    /// Only owner or administrator may.
    #[error("only the owner of the {what} or an administrator may do this")]
    NotOwner {
        /// The kind of object.
        what: &'static str,
    },
    /// Only administrators make users here.
    #[error("registration is closed")]
    RegistrationClosed,
    /// There is no such user.
    #[error("there is no such user")]
    UserNotFound,
    /// The caller has no such session.
    #[error("there is no such session")]
    SessionNotFound,
    /// The caller has no such API key.
    #[error("there is no such API key")]
    ApiKeyNotFound,
    /// There is no such queue.
    #[error("there is no such queue")]
    QueueNotFound,
    /// There is no such topic.
    #[error("there is no such topic")]
    TopicNotFound,
    /// There is no such subscription.
    #[error("there is no such subscription")]
    SubscriptionNotFound,
    /// The name belongs to somebody else.
    #[error("the name of the {what} is taken")]
    NameTaken {
        /// The kind of object.
        what: &'static str,
    },
    /// It exists with other settings.
    #[error("it exists with other settings")]
    ConfigDiffers(
        /// The settings that differ.
        Vec<Difference>,
    ),
    /// The lease is over and another began.
    #[error("the lease is lost")]
    LeaseLost,
    /// The queue or topic still has messages.
    #[error("it is not empty")]
    NotEmpty,
    /// The user still owns objects.
    #[error("the user still owns {count} objects")]
    StillOwns {
        /// How many.
        count: usize,
    },
    /// The queue takes nothing any more: it ends with its last message.
    #[error("the queue is draining")]
    Draining,
    /// `If-Match` names another version.
    #[error("it has changed since that etag")]
    PreconditionFailed,
    /// Fields, headers or parameters are wrong.
    #[error("the request is not valid")]
    Invalid(
        /// What is wrong; at least the first.
        Vec<Fault>,
    ),
    /// The message is larger than the queue takes.
    #[error("a message may have at most {limit} bytes here")]
    TooLarge {
        /// Bytes of body, attributes and content type.
        limit: i32,
    },
    /// The subscription's messages go into a queue: they are received there.
    #[error("the subscription delivers into a queue")]
    DeliversToQueue,
    /// No subscription wants the message, and its sender required one.
    #[error("no subscription matches")]
    Unroutable,
    /// The key is known, with another message.
    #[error("another message was sent under this key")]
    IdempotencyMismatch,
    /// The receipt is not of this queue.
    #[error("the receipt is not valid here")]
    ReceiptInvalid,
    /// Too often in a minute.
    #[error("too many attempts; try again in {retry_after_seconds} s")]
    RateLimited {
        /// When to try again, in seconds.
        retry_after_seconds: i32,
    },
    /// Too many messages are leased.
    #[error("too many messages are leased")]
    InFlightLimit,
    /// The caller has as many as may be.
    #[error("at most {limit} {what}")]
    Quota {
        /// What there are too many of.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// No majority confirmed.
    #[error("not enough replicas confirmed")]
    NotEnoughReplicas {
        /// What became of the operation.
        outcome: Outcome,
    },
    /// The node takes no more at the moment; nothing was written.
    #[error("overloaded: {why}")]
    Overloaded {
        /// What there is too much of.
        why: &'static str,
    },
    /// A bug.
    #[error("internal error")]
    Internal,
}

/// What is wrong with one field, header or parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which: `username`, `messages[3].body`, `query.limit`, `header.If-Match`, `path.queue`.
    pub field: String,
    /// What is wrong, for people.
    pub message: String,
    /// What is wrong, for programs.
    pub code: &'static str,
}

/// A setting that is not as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub field: &'static str,
    /// As asked for.
    pub wanted: String,
    /// As it is.
    pub actual: String,
}

/// What is known of an operation that was not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Refused everywhere before any write.
    NotStored,
    /// It may or may not have happened.
    Unknown,
}

impl Refusal {
    /// One wrong field.
    pub(crate) fn invalid(field: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid(vec![Fault::new(field, code, message)])
    }
}

impl Fault {
    /// A fault from its parts.
    pub(crate) fn new(field: &str, code: &'static str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), message: message.into(), code }
    }
}
