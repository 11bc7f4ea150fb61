//! What went wrong, as RFC 9457 `application/problem+json`: the one translation of the broker's
//! refusals and of everything the framework refuses. No internal detail leaves in a 500.

use super::codes::{self, Code};
use super::httpd::refusal::HeadRefused;
use crate::base::limits;
use crate::broker::refusal::{Fault, Outcome, Refusal};
use poem::error::{MethodNotAllowedError, NotFoundError, ResponseError};
use poem::http::StatusCode;
use poem::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use poem::{IntoResponse, Response};
use poem_openapi::Object;
use poem_openapi::error as openapi;
use serde::Serialize;

/// The content type of every problem.
pub const CONTENT_TYPE: &str = "application/problem+json";
/// What a problem's `type` begins with.
const TYPE_BASE: &str = "https://tertulia.dev/problems/";
/// Seconds after which to come back where nothing better is known.
const RETRY_AFTER_SECONDS: i32 = 1;

/// RFC 9457 problem details: the body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Object, Serialize)]
pub struct Problem {
    /// Names the kind of problem; ends in `code`.
    #[oai(rename = "type")]
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means; the same at each occurrence.
    pub title: String,
    /// The HTTP status.
    pub status: i32,
    /// What happened this time, for people.
    pub detail: String,
    /// The word to branch on; more may come.
    pub code: String,
    /// Names the request in the node's log.
    pub request_id: String,
    /// The node that answered.
    pub node: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// What became of a write: `not_stored` (it will never be seen) or `unknown` (it may or may
    /// not have happened); more may come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// When to come back, in whole seconds; the same as the header `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<i32>,
    /// The fields, headers and parameters at fault, at least the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Vec<FieldError>>,
}

/// One fault of a request.
#[derive(Clone, Debug, PartialEq, Eq, Object, Serialize)]
pub struct FieldError {
    /// Where: `messages[3].body`, `query.limit`, `header.If-Match`, `path.queue`.
    pub field: String,
    /// What is wrong with it, for people.
    pub message: String,
    /// A word to branch on; more may come.
    pub code: String,
}

impl Problem {
    /// A problem of a code. The request's id and the node are filled in as it leaves.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{TYPE_BASE}{}", code.word),
            title: code.title.to_owned(),
            status: i32::from(code.status),
            detail: detail.into(),
            code: code.word.to_owned(),
            request_id: String::new(),
            node: String::new(),
            retryable: code.retryable,
            outcome: None,
            retry_after_seconds: code.has_retry_after().then_some(RETRY_AFTER_SECONDS),
            errors: None,
        }
    }

    /// A 422 `validation` for one field.
    #[must_use]
    pub fn invalid(
        field: impl Into<String>,
        message: impl Into<String>,
        code: &'static str,
    ) -> Self {
        Self::faults(vec![Fault { field: field.into(), message: message.into(), code }])
    }

    /// A 422 `validation` for some fields.
    #[must_use]
    pub fn faults(mut faults: Vec<Fault>) -> Self {
        // What a client sent comes back in part only, however much it was.
        for fault in &mut faults {
            fault.field = cut(&fault.field, 200);
            fault.message = cut(&fault.message, 300);
        }
        let detail = faults.first().map_or_else(
            || "the request is not valid".to_owned(),
            |first| match first.field.as_str() {
                "" => first.message.clone(),
                field => format!("{field}: {}", first.message),
            },
        );
        let errors = faults.into_iter().map(FieldError::from).collect();
        Self { errors: Some(errors), ..Self::new(codes::VALIDATION, detail) }
    }

    /// A 503 `not-enough-replicas`. Writes tell what became of them, reads have no outcome.
    #[must_use]
    pub fn not_enough_replicas(outcome: Option<Outcome>) -> Self {
        let detail = match outcome {
            Some(Outcome::NotStored) => "nothing was stored: not enough replicas can be reached",
            Some(Outcome::Unknown) => {
                "it may or may not have happened: no majority confirmed it in time; repeat it"
            }
            None => "not enough replicas answered in time",
        };
        Self {
            outcome: outcome.map(|o| outcome_word(o).to_owned()),
            ..Self::new(codes::NOT_ENOUGH_REPLICAS, detail)
        }
    }

    /// Another wait than a second until the client should come back.
    #[must_use]
    pub fn retry_after(mut self, seconds: i32) -> Self {
        self.retry_after_seconds = Some(seconds.max(1));
        self
    }

    /// The answer, with the headers that its status needs.
    #[must_use]
    pub fn respond(&self) -> Response {
        let body = serde_json::to_vec(self).expect("a problem is plain text");
        let status = u16::try_from(self.status).ok().and_then(|s| StatusCode::from_u16(s).ok());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::builder().status(status).content_type(CONTENT_TYPE).body(body);
        if status == StatusCode::UNAUTHORIZED {
            // Never Basic: a browser would open its own login box and keep the password.
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The outcome's word.
fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::NotStored => "not_stored",
        Outcome::Unknown => "unknown",
    }
}

impl From<Fault> for FieldError {
    fn from(fault: Fault) -> Self {
        Self { field: fault.field, message: fault.message, code: fault.code.to_owned() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        u16::try_from(self.status)
            .ok()
            .and_then(|s| StatusCode::from_u16(s).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn as_response(&self) -> Response {
        self.respond()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.respond()
    }
}

/// The spec takes problems from the table of operations, not from the handlers' types.
impl poem_openapi::ApiResponse for Problem {
    fn meta() -> poem_openapi::registry::MetaResponses {
        poem_openapi::registry::MetaResponses { responses: Vec::new() }
    }

    fn register(registry: &mut poem_openapi::registry::Registry) {
        <Self as poem_openapi::types::Type>::register(registry);
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unauthenticated => {
                Self::new(codes::UNAUTHENTICATED, "the credentials are unknown, expired or revoked")
            }
            Refusal::BadCredentials => {
                Self::new(codes::BAD_CREDENTIALS, "the user name or the password is wrong")
            }
            Refusal::Forbidden { needs } => {
                Self::new(codes::FORBIDDEN, format!("this needs the right or role `{needs}`"))
            }
            Refusal::OutOfScope { .. } => Self::new(codes::FORBIDDEN, refusal.to_string()),
            Refusal::NotOwner { what } => {
                let detail = format!("only the owner of this {what} or an administrator may");
                Self::new(codes::NOT_OWNER, detail)
            }
            Refusal::RegistrationClosed => Self::new(
                codes::REGISTRATION_CLOSED,
                "registration is closed: an administrator registers users",
            ),
            Refusal::UserNotFound => Self::new(codes::USER_NOT_FOUND, "there is no such user"),
            Refusal::SessionNotFound => {
                Self::new(codes::SESSION_NOT_FOUND, "you have no such session")
            }
            Refusal::ApiKeyNotFound => {
                Self::new(codes::API_KEY_NOT_FOUND, "you have no such API key")
            }
            Refusal::QueueNotFound => Self::new(codes::QUEUE_NOT_FOUND, "there is no such queue"),
            Refusal::TopicNotFound => Self::new(codes::TOPIC_NOT_FOUND, "there is no such topic"),
            Refusal::SubscriptionNotFound => {
                Self::new(codes::SUBSCRIPTION_NOT_FOUND, "the topic has no such subscription")
            }
            other => from_state(other),
        }
    }
}

/// Refusals that depend on what state things are in.
fn from_state(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::NameTaken { what } => {
            Problem::new(codes::NAME_TAKEN, format!("another {what} has this name"))
        }
        Refusal::ConfigDiffers(differences) => {
            let message = |d: &crate::broker::refusal::Difference| {
                format!("wanted {}, is {}", d.wanted, d.actual)
            };
            let errors = differences
                .iter()
                .map(|d| FieldError {
                    field: d.field.to_owned(),
                    message: message(d),
                    code: "differs".to_owned(),
                })
                .collect();
            let problem = Problem::new(codes::CONFIG_DIFFERS, "it exists with other settings");
            Problem { errors: Some(errors), ..problem }
        }
        Refusal::LeaseLost => Problem::new(
            codes::LEASE_LOST,
            "the lease has ended; nothing was recorded, and somebody else may have the message",
        ),
        Refusal::NotEmpty => {
            Problem::new(codes::NOT_EMPTY, "it still has messages, leased ones counted")
        }
        Refusal::StillOwns { count } => {
            let detail =
                format!("the user owns {count} queues or topics; see the parameter `owned`");
            Problem::new(codes::STILL_OWNS, detail)
        }
        Refusal::Draining => {
            Problem::new(codes::DRAINING, "the queue is being drained: it takes no messages")
        }
        Refusal::PreconditionFailed => {
            Problem::new(codes::PRECONDITION_FAILED, "its etag is another by now; nothing changed")
        }
        other => from_load(other),
    }
}

/// Refusals for what was asked, or for how much of it.
fn from_load(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Invalid(faults) => Problem::faults(faults),
        Refusal::TooLarge { limit } => Problem::new(
            codes::TOO_LARGE,
            format!(
                "body, attributes and content type of one message may have {limit} bytes together \
                 (the queue's max_message_bytes)"
            ),
        ),
        Refusal::ReceiptInvalid => {
            Problem::new(codes::RECEIPT_INVALID, "the receipt is none of this queue")
        }
        Refusal::RateLimited { retry_after_seconds } => {
            Problem::new(codes::RATE_LIMITED, "too many attempts; come back later")
                .retry_after(retry_after_seconds)
        }
        Refusal::DeliversToQueue => Problem::new(
            codes::DELIVERS_TO_QUEUE,
            "its messages go into the queue named by deliver_to: receive them there",
        ),
        Refusal::Unroutable => {
            Problem::new(codes::UNROUTABLE, "no subscription of the topic matches; nothing is kept")
        }
        Refusal::IdempotencyMismatch => Problem::new(
            codes::IDEMPOTENCY_MISMATCH,
            "this key is known with another message; use a new key, or send the same message",
        ),
        Refusal::InFlightLimit => {
            Problem::new(codes::IN_FLIGHT_LIMIT, "too many messages of this queue are under lease")
        }
        Refusal::Quota { what, limit } => {
            Problem::new(codes::QUOTA, format!("at most {limit} {what}"))
        }
        Refusal::NotEnoughReplicas { outcome } => Problem::not_enough_replicas(Some(outcome)),
        Refusal::Overloaded { why } => {
            Problem { outcome: None, ..Problem::new(codes::OVERLOADED, why) }
        }
        // Everything else was taken by the two functions before.
        _ => Problem::new(codes::INTERNAL, "internal error"),
    }
}

/// What the framework refused, or what a handler returned, as a problem.
#[must_use]
pub fn from_error(error: &poem::Error) -> Problem {
    if let Some(problem) = error.downcast_ref::<Problem>() {
        return problem.clone();
    }
    if error.is::<NotFoundError>() {
        return Problem::new(codes::NOT_FOUND, "there is no such route");
    }
    if error.is::<MethodNotAllowedError>() {
        return Problem::new(codes::METHOD_NOT_ALLOWED, "the header Allow lists what it takes");
    }
    if error.is::<openapi::AuthorizationError>() {
        return Refusal::Unauthenticated.into();
    }
    if let Some(error) = error.downcast_ref::<openapi::ParseParamError>() {
        return Problem::invalid(error.name, error.reason.clone(), "invalid");
    }
    if let Some(error) = error.downcast_ref::<openapi::ParsePathError>() {
        return Problem::invalid("path", error.reason.clone(), "invalid");
    }
    from_status(error.status(), &error.to_string())
}

/// A problem where only the status is known: what the HTTP layer refuses, and the framework's rest.
#[must_use]
pub fn from_status(status: StatusCode, detail: &str) -> Problem {
    let (code, fixed) = match status.as_u16() {
        400 => (codes::MALFORMED, "the body cannot be read"),
        401 => (codes::UNAUTHENTICATED, "no valid credentials"),
        403 => (codes::FORBIDDEN, "this is not allowed"),
        404 => (codes::NOT_FOUND, "there is no such route"),
        405 => (codes::METHOD_NOT_ALLOWED, "the header Allow lists what it takes"),
        408 => (codes::BODY_TIMEOUT, "the body did not arrive in time"),
        412 => (codes::PRECONDITION_FAILED, "it has changed"),
        413 => (codes::TOO_LARGE, "the body is too large"),
        415 => (codes::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json"),
        422 => (codes::VALIDATION, "the request is not valid"),
        429 => (codes::RATE_LIMITED, "too many requests"),
        503 => (codes::OVERLOADED, "too much work at once; come back later"),
        _ => return Problem::new(codes::INTERNAL, "internal error"),
    };
    // Texts of our own HTTP layer say more than ours here; a framework's bare status says less.
    let bare = detail.is_empty() || detail == status.to_string();
    Problem::new(code, if bare { fixed } else { detail })
}

/// What became of a request whose head is refused.
pub(super) fn head_refused(refused: HeadRefused) -> Problem {
    match refused {
        // The one code with two statuses: this one tells that it was the head.
        HeadRefused::TooLarge => Problem {
            status: i32::from(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.as_u16()),
            ..Problem::new(
                codes::TOO_LARGE,
                format!(
                    "request line and header may have {} bytes and {} fields",
                    limits::HEADER_BYTES_MAX,
                    limits::HEADER_FIELDS_MAX
                ),
            )
        },
        HeadRefused::Malformed => {
            Problem::new(codes::MALFORMED, "request line or header cannot be read as HTTP/1.1")
        }
    }
}

/// What a request without credentials is told.
pub fn no_credentials() -> Problem {
    let detail = "this needs HTTP Basic, or a session token or API key as Bearer";
    Problem::new(codes::UNAUTHENTICATED, detail)
}

/// At most the first characters of a text.
pub(super) fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "problem_tests.rs"]
mod tests;
