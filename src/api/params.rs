//! Parameters of the path, the query and the header. A wrong value is a 422 `validation` that
//! names the parameter, never a framework's text.

use super::dto::browse::{MessageInclude, MessageState};
use super::dto::messages::Durability;
use super::dto::queues::{DeletionMode, QueueInclude};
use super::dto::topics::{TopicDeletionMode, TopicInclude};
use super::dto::users::Owned;
use super::problem::Problem;
use super::scope::Here;
use crate::base::limits;
use crate::base::names::{NAME_PATTERN, QueueName, SubscriptionName, TopicName, UserName};
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaParamIn, MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseFromParameter, Type};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};

/// What opaque strings (ids, receipts, cursors, etags) look like.
pub const OPAQUE_PATTERN: &str = "^[A-Za-z0-9_-]+$";
/// Characters of an id or an etag, at most.
const ID_CHARS_MAX: usize = 128;
/// Characters of a cursor, at most.
const CURSOR_CHARS_MAX: usize = 1_024;

/// A text of `[A-Za-z0-9_-]`.
#[must_use]
pub fn is_opaque(text: &str, chars_max: usize) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    !text.is_empty() && text.len() <= chars_max && text.bytes().all(allowed)
}

/// The schema of a text with a pattern.
fn text(pattern: &str, min: usize, max: usize) -> MetaSchema {
    MetaSchema {
        pattern: Some(pattern.to_owned()),
        min_length: Some(min),
        max_length: Some(max),
        ..MetaSchema::new("string")
    }
}

/// One segment of a path.
pub trait Segment: Sized + Send {
    /// Reads it.
    ///
    /// # Errors
    /// A problem that names the segment.
    fn read(text: &str) -> Result<Self, Problem>;
    /// What the document says of it.
    fn schema() -> MetaSchema;
}

/// A path parameter.
pub struct Path<T>(pub T);

impl<'a, T: Segment> ApiExtractor<'a> for Path<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    const PARAM_IS_REQUIRED: bool = true;
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Path)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(MetaSchemaRef::Inline(Box::new(T::schema())))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let text = request.raw_path_param(options.name).unwrap_or_default();
        Ok(Self(T::read(text)?))
    }
}

macro_rules! segments {
    ($($(#[$doc:meta])* $name:ident, $read:expr, $schema:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name(pub String);

        impl Segment for $name {
            fn read(text: &str) -> Result<Self, Problem> {
                let read: fn(&str) -> Result<(), Problem> = $read;
                read(text).map(|()| Self(text.to_owned()))
            }

            fn schema() -> MetaSchema {
                $schema
            }
        }
    )*};
}

fn name_fault(field: &str, error: crate::base::names::NameError) -> Problem {
    Problem::invalid(field, error.to_string(), "name")
}

fn opaque(field: &str, text: &str) -> Result<(), Problem> {
    let fault = || Problem::invalid(field, "this is no id", "pattern");
    is_opaque(text, ID_CHARS_MAX).then_some(()).ok_or_else(fault)
}

segments! {
    /// A queue's name.
    QueueSegment,
        |text| QueueName::parse(text).map(drop).map_err(|e| name_fault("path.queue", e)),
        text(NAME_PATTERN, 1, 128);
    /// A topic's name.
    TopicSegment,
        |text| TopicName::parse(text).map(drop).map_err(|e| name_fault("path.topic", e)),
        text(NAME_PATTERN, 1, 128);
    /// A subscription's name.
    SubscriptionSegment,
        |text| {
            let name = SubscriptionName::parse(text);
            name.map(drop).map_err(|e| name_fault("path.subscription", e))
        },
        text(NAME_PATTERN, 1, 128);
    /// A user's name.
    UserSegment,
        |text| UserName::parse(text).map(drop).map_err(|e| name_fault("path.username", e)),
        text(NAME_PATTERN, 1, 128);
    /// A user's name, or `*` for every user.
    GranteeSegment,
        |text| match text {
            "*" => Ok(()),
            name => UserName::parse(name).map(drop).map_err(|e| name_fault("path.username", e)),
        },
        text("^(\\*|[A-Za-z0-9][A-Za-z0-9._-]{0,127})$", 1, 128);
    /// A session's id.
    SessionSegment, |text| opaque("path.session_id", text), text(OPAQUE_PATTERN, 1, ID_CHARS_MAX);
    /// An API key's id.
    ApiKeySegment, |text| opaque("path.api_key_id", text), text(OPAQUE_PATTERN, 1, ID_CHARS_MAX);
    /// A message's id. What does not look like one names no message, whatever it is.
    MessageSegment,
        |text| match is_opaque(text, ID_CHARS_MAX) {
            true => Ok(()),
            false => Err(crate::broker::refusal::Refusal::MessageNotFound.into()),
        },
        text(OPAQUE_PATTERN, 1, ID_CHARS_MAX);
    /// A receipt. What does not look like one is an invalid receipt, whatever it is.
    ReceiptSegment,
        |text| match is_opaque(text, limits::RECEIPT_CHARS_MAX) {
            true => Ok(()),
            false => Err(crate::broker::refusal::Refusal::ReceiptInvalid.into()),
        },
        text(OPAQUE_PATTERN, 1, limits::RECEIPT_CHARS_MAX);
}

/// Defines a whole number in the query, from 1.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident $max:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name(i32);

        impl $name {
            /// The number.
            #[must_use]
            pub fn get(&self) -> i32 {
                self.0
            }
        }

        impl QueryValue for $name {
            fn read(text: &str) -> Result<Self, String> {
                match text.parse::<i32>() {
                    Ok(number @ 1..=$max) => Ok(Self(number)),
                    _ => Err(format!("a number from 1 to {}", $max)),
                }
            }

            fn schema() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new(MetaSchema {
                    minimum: Some(1.0),
                    maximum: Some(f64::from($max)),
                    ..MetaSchema::new_with_format("integer", "int32")
                }))
            }
        }
    )*};
}

numbers! {
    /// Seconds of a lease.
    LeaseSeconds limits::LEASE_SECONDS_MAX;
    /// Unsettled messages of an event stream.
    InFlightMax limits::STREAM_IN_FLIGHT_MAX;
}

/// The value of a query parameter.
pub trait QueryValue: Sized + Send {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong, for people.
    fn read(text: &str) -> Result<Self, String>;
    /// What the document says of it.
    fn schema() -> MetaSchemaRef;
    /// Adds the schema to the document where it has a name.
    fn register(_registry: &mut Registry) {}
}

/// An optional query parameter.
pub struct Query<T>(pub Option<T>);

impl<'a, T: QueryValue> ApiExtractor<'a> for Query<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Query)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        Some(T::schema())
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let here = Here::of(request);
        let mut values = here.query.iter().filter(|(name, _)| name == options.name);
        let field = || format!("query.{}", options.name);
        match (values.next(), values.next()) {
            (None, _) => Ok(Self(None)),
            (Some((_, text)), None) => match T::read(text) {
                Ok(value) => Ok(Self(Some(value))),
                Err(message) => Err(Problem::invalid(field(), message, "invalid").into()),
            },
            (Some(_), Some(_)) => {
                Err(Problem::invalid(field(), "it is given twice", "repeated").into())
            }
        }
    }
}

/// Whether a message that no subscription wants is refused.
pub struct RequireRoute(bool);

impl QueryValue for RequireRoute {
    fn read(text: &str) -> Result<Self, String> {
        match text {
            "true" => Ok(Self(true)),
            "false" => Ok(Self(false)),
            _ => Err("true or false".to_owned()),
        }
    }

    fn schema() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema::new("boolean")))
    }
}

impl Query<RequireRoute> {
    /// Whether, or the default.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.as_ref().is_some_and(|required| required.0)
    }
}

/// Items wanted on a page.
pub struct Limit(i32);

impl QueryValue for Limit {
    fn read(text: &str) -> Result<Self, String> {
        match text.parse::<i32>() {
            Ok(limit @ 1..=limits::PAGE_MAX) => Ok(Self(limit)),
            _ => Err(format!("a number from 1 to {}", limits::PAGE_MAX)),
        }
    }

    fn schema() -> MetaSchemaRef {
        MetaSchemaRef::Inline(Box::new(MetaSchema {
            minimum: Some(1.0),
            maximum: Some(f64::from(limits::PAGE_MAX)),
            ..MetaSchema::new_with_format("integer", "int32")
        }))
    }
}

impl Query<Limit> {
    /// The number, or the default.
    #[must_use]
    pub fn get(&self) -> i32 {
        self.0.as_ref().map_or(limits::PAGE_DEFAULT, |limit| limit.0)
    }
}

macro_rules! text_values {
    ($($(#[$doc:meta])* $name:ident, $accept:expr, $message:literal, $schema:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name(pub String);

        impl QueryValue for $name {
            fn read(text: &str) -> Result<Self, String> {
                let accept: fn(&str) -> bool = $accept;
                if accept(text) { Ok(Self(text.to_owned())) } else { Err($message.to_owned()) }
            }

            fn schema() -> MetaSchemaRef {
                MetaSchemaRef::Inline(Box::new($schema))
            }
        }

        impl Query<$name> {
            /// The text, if given.
            #[must_use]
            pub fn text(&self) -> Option<&str> {
                self.0.as_ref().map(|value| value.0.as_str())
            }
        }
    )*};
}

text_values! {
    /// Where the page before ended.
    Cursor, |text| is_opaque(text, CURSOR_CHARS_MAX), "this is no cursor of ours",
        text(OPAQUE_PATTERN, 1, CURSOR_CHARS_MAX);
    /// What names begin with.
    Prefix, |text| text.is_empty() || QueueName::parse(text).is_ok(), "no name begins so",
        text("^([A-Za-z0-9][A-Za-z0-9._-]{0,127})?$", 0, 128);
    /// A user's name, or `me`.
    Owner, |text| QueueName::parse(text).is_ok(), "a user's name, or me",
        text(NAME_PATTERN, 1, 128);
    /// A user's name.
    NewOwner, |text| UserName::parse(text).is_ok(), "a user's name", text(NAME_PATTERN, 1, 128);
}

/// Makes an enum a query parameter.
macro_rules! enum_values {
    ($($name:ty),*) => {$(
        impl QueryValue for $name {
            fn read(text: &str) -> Result<Self, String> {
                let wrong = |_| "none of the values it may have".to_owned();
                Self::parse_from_parameter(text).map_err(wrong)
            }

            fn schema() -> MetaSchemaRef {
                Self::schema_ref()
            }

            fn register(registry: &mut Registry) {
                <Self as Type>::register(registry);
            }
        }
    )*};
}
enum_values!(
    Durability,
    DeletionMode,
    TopicDeletionMode,
    MessageInclude,
    MessageState,
    Owned,
    QueueInclude,
    TopicInclude
);

/// The header `If-Match`: the etag that the caller read, without quotes. `*` asks for nothing.
pub struct IfMatch(pub Option<String>);

impl IfMatch {
    /// The etag, if given.
    #[must_use]
    pub fn etag(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

/// The opaque part of an etag as HTTP writes it; `None` for `*`.
fn parse_if_match(header: &str) -> Result<Option<String>, Problem> {
    let text = header.trim();
    if text == "*" {
        return Ok(None);
    }
    let text = text.strip_prefix("W/").unwrap_or(text);
    let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    if is_opaque(bare, ID_CHARS_MAX) {
        Ok(Some(bare.to_owned()))
    } else {
        Err(Problem::invalid("header.If-Match", "one etag, as an answer gave it", "pattern"))
    }
}

impl<'a> ApiExtractor<'a> for IfMatch {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        let schema = MetaSchema { max_length: Some(ID_CHARS_MAX + 4), ..MetaSchema::new("string") };
        Some(MetaSchemaRef::Inline(Box::new(schema)))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let Some(header) = request.headers().get("if-match") else { return Ok(Self(None)) };
        Ok(Self(parse_if_match(header.to_str().unwrap_or("\u{fffd}"))?))
    }
}

/// The header `Idempotency-Key`: names a request, so that its repeat is known.
pub struct IdempotencyKey(pub Option<String>);

impl IdempotencyKey {
    /// Whether a request may be named so.
    pub(super) fn is_fit(key: &[u8]) -> bool {
        (1..=limits::KEY_CHARS_MAX).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic)
    }

    /// What a key has to be.
    pub(super) fn rule() -> String {
        format!("one key of 1 to {} visible ASCII characters", limits::KEY_CHARS_MAX)
    }
}

/// The key, if the header's values are one.
fn parse_key(values: &[&[u8]]) -> Result<Option<String>, Problem> {
    match values {
        [] => Ok(None),
        [key] if IdempotencyKey::is_fit(key) => Ok(Some(String::from_utf8_lossy(key).into_owned())),
        _ => {
            let message = IdempotencyKey::rule();
            Err(Problem::invalid("header.Idempotency-Key", message, "pattern"))
        }
    }
}

impl<'a> ApiExtractor<'a> for IdempotencyKey {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::Parameter];
    type ParamType = ();
    type ParamRawType = ();

    fn param_in() -> Option<MetaParamIn> {
        Some(MetaParamIn::Header)
    }

    fn param_schema_ref() -> Option<MetaSchemaRef> {
        let schema = text("^[!-~]+$", 1, limits::KEY_CHARS_MAX);
        Some(MetaSchemaRef::Inline(Box::new(schema)))
    }

    async fn from_request(
        request: &'a Request,
        _body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let values = request.headers().get_all("idempotency-key");
        let values: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
        Ok(Self(parse_key(&values)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_key_is_one_visible_text() {
        assert_eq!(parse_key(&[]).unwrap(), None);
        let long = [b'~'; 129];
        for fine in [b"!".as_slice(), b"order-1/\"x\"", &long[1..]] {
            assert_eq!(parse_key(&[fine]).unwrap().unwrap().as_bytes(), fine);
        }
        for wrong in [b"".as_slice(), b"a b", b"\x7f", "é".as_bytes(), &long] {
            let problem = parse_key(&[wrong]).unwrap_err();
            assert_eq!(problem.errors.unwrap()[0].field, "header.Idempotency-Key", "{wrong:?}");
        }
        assert!(parse_key(&[b"a", b"a"]).is_err(), "which of the two?");
    }

    #[test]
    fn etags_lose_their_wrapping() {
        for text in ["abc", "\"abc\"", "W/\"abc\"", "  \"abc\" "] {
            assert_eq!(parse_if_match(text).unwrap().as_deref(), Some("abc"), "{text}");
        }
        assert_eq!(parse_if_match("*").unwrap(), None);
        for text in ["", "\"a\", \"b\"", "\"", "a b"] {
            assert_eq!(parse_if_match(text).unwrap_err().code, "validation", "{text}");
        }
    }
}
