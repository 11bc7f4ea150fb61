//! Every code a problem can carry: one row each, with its status and what never changes about it.

use poem::http::StatusCode;

/// A code: the word clients branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code {
    /// The word.
    pub word: &'static str,
    /// Its HTTP status.
    pub status: u16,
    /// What it means, for people; the same at each occurrence.
    pub title: &'static str,
    /// The same request may succeed later.
    pub retryable: bool,
}

impl Code {
    /// The status as HTTP has it.
    #[must_use]
    pub fn http_status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).expect("the table has valid statuses")
    }

    /// Whether the answer tells when to come back.
    #[must_use]
    pub fn has_retry_after(&self) -> bool {
        matches!(self.status, 429 | 503)
    }
}

macro_rules! codes {
    ($($name:ident = $word:literal, $status:literal, $title:literal $(, $retry:ident)?;)*) => {
        $(
            #[doc = $title]
            pub const $name: Code =
                Code { word: $word, status: $status, title: $title, retryable: codes!(@ $($retry)?) };
        )*
        /// All of them, by status.
        pub const ALL: &[Code] = &[$($name),*];
    };
    (@ retry) => { true };
    (@) => { false };
}

codes! {
    MALFORMED = "malformed", 400, "The request or its body cannot be read";
    UNAUTHENTICATED = "unauthenticated", 401, "No valid credentials";
    BAD_CREDENTIALS = "bad-credentials", 401, "Wrong user name or password";
    FORBIDDEN = "forbidden", 403, "The right is missing";
    NOT_OWNER = "not-owner", 403, "Only the owner may do this";
    REGISTRATION_CLOSED = "registration-closed", 403, "Only administrators register users here";
    NOT_FOUND = "not-found", 404, "No such route";
    USER_NOT_FOUND = "user-not-found", 404, "No such user";
    SESSION_NOT_FOUND = "session-not-found", 404, "No such session";
    API_KEY_NOT_FOUND = "api-key-not-found", 404, "No such API key";
    QUEUE_NOT_FOUND = "queue-not-found", 404, "No such queue";
    TOPIC_NOT_FOUND = "topic-not-found", 404, "No such topic";
    SUBSCRIPTION_NOT_FOUND = "subscription-not-found", 404, "No such subscription";
    METHOD_NOT_ALLOWED = "method-not-allowed", 405, "The route does not take this method";
    BODY_TIMEOUT = "body-timeout", 408, "The body did not arrive in time", retry;
    NAME_TAKEN = "name-taken", 409, "The name is taken";
    CONFIG_DIFFERS = "config-differs", 409, "It exists with other settings";
    LEASE_LOST = "lease-lost", 409, "The lease has ended and another may have begun";
    NOT_EMPTY = "not-empty", 409, "The queue or topic is not empty";
    STILL_OWNS = "still-owns", 409, "The user still owns queues or topics";
    DRAINING = "draining", 409, "The queue is being drained";
    DELIVERS_TO_QUEUE = "delivers-to-queue", 409, "The subscription delivers into a queue";
    PRECONDITION_FAILED = "precondition-failed", 412, "It has changed since it was read";
    TOO_LARGE = "too-large", 413, "The request or a message is too large";
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type", 415, "The body must be application/json";
    VALIDATION = "validation", 422, "A field, header or parameter is wrong";
    IDEMPOTENCY_MISMATCH = "idempotency-mismatch", 422, "Another message was sent under this key";
    UNROUTABLE = "unroutable", 422, "No subscription wants the message";
    RECEIPT_INVALID = "receipt-invalid", 422, "This is no receipt of this queue";
    RATE_LIMITED = "rate-limited", 429, "Too many attempts", retry;
    IN_FLIGHT_LIMIT = "in-flight-limit", 429, "Too many messages are under lease", retry;
    QUOTA = "quota", 429, "A limit is reached", retry;
    INTERNAL = "internal", 500, "Something is broken here", retry;
    NOT_ENOUGH_REPLICAS = "not-enough-replicas", 503, "Not enough replicas answered", retry;
    OVERLOADED = "overloaded", 503, "Too much work at once", retry;
    STARTING = "starting", 503, "The node is starting", retry;
    NOT_READY = "not-ready", 503, "The node is not ready", retry;
    NOT_A_MEMBER = "not-a-member", 503, "The node is no member of the cluster", retry;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_ordered_by_status() {
        for pair in ALL.windows(2) {
            assert!(pair[0].status <= pair[1].status, "{}", pair[1].word);
        }
        let words: std::collections::BTreeSet<_> = ALL.iter().map(|c| c.word).collect();
        assert_eq!(words.len(), ALL.len());
    }
}
