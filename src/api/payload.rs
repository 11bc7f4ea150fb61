//! Bodies in and out: JSON bytes straight into types and back, without a detour through a tree.

use super::codes;
use super::dto::objects::Strict;
use super::dto::validate::{Faults, Validate};
use super::problem::{Problem, cut};
use super::scope::Here;
use poem::http::StatusCode;
use poem::http::header::{CONTENT_TYPE, ETAG, HeaderValue};
use poem::{IntoResponse, Request, RequestBody, Response};
use poem_openapi::registry::{
    MetaMediaType, MetaRequest, MetaResponse, MetaResponses, MetaSchema, MetaSchemaRef, Registry,
};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

/// The one content type of request bodies and of successful answers.
const JSON: &str = "application/json";

/// A request's body: checked against the schema and the bounds.
pub struct Body<T>(pub T);

impl<'a, T: DeserializeOwned + Validate + Type> ApiExtractor<'a> for Body<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = vec![MetaMediaType { content_type: JSON, schema: T::schema_ref() }];
        Some(MetaRequest { description: None, content, required: !T::MAY_BE_ABSENT })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let here = Here::of(request);
        let content_type = request.headers().get(CONTENT_TYPE);
        let json = content_type.map(|value| value.to_str().is_ok_and(is_json));
        if json == Some(false) {
            return Err(unsupported().into());
        }
        // Boxed: the futures around it would each be larger by it, and are moved.
        let bytes = Box::pin(body.take()?.into_bytes_limit(here.app.max_body_bytes)).await?;
        if json.is_none() && !bytes.is_empty() {
            return Err(unsupported().into());
        }
        Ok(Self(decode(&bytes)?))
    }
}

fn unsupported() -> Problem {
    Problem::new(codes::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json, in UTF-8")
}

/// Whether a content type is JSON in UTF-8.
fn is_json(content_type: &str) -> bool {
    let mut parts = content_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    essence.eq_ignore_ascii_case(JSON)
        && parts.all(|part| match part.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
                let value = value.trim().trim_matches('"');
                value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8")
            }
            _ => true,
        })
}

/// Reads and checks a body.
///
/// # Errors
/// 400 `malformed` when it is not JSON at all, 422 `validation` when a field is wrong.
pub fn decode<T: DeserializeOwned + Validate>(bytes: &[u8]) -> Result<T, Problem> {
    let bytes = if bytes.is_empty() && T::MAY_BE_ABSENT { b"{}" } else { bytes };
    match serde_json::from_slice::<Strict<T>>(bytes) {
        Ok(Strict(value)) => {
            let mut faults = Faults::default();
            value.validate(&mut faults);
            faults.into_result().map(|()| value)
        }
        Err(_) => Err(explain::<T>(bytes)),
    }
}

/// Reads a body that did not fit once more, slowly, to name what is wrong with it.
fn explain<T: DeserializeOwned>(bytes: &[u8]) -> Problem {
    if bytes.is_empty() {
        return Problem::new(codes::MALFORMED, "the body is empty");
    }
    if std::str::from_utf8(bytes).is_err() {
        return Problem::new(codes::MALFORMED, "the body is not UTF-8");
    }
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(bytes) {
        return Problem::new(codes::MALFORMED, format!("the body is not JSON: {error}"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize::<_, Strict<T>>(&mut deserializer) {
        // It is JSON, so it is the shape that is wrong, whatever the parser calls it.
        Err(error) => {
            let path = error.path().to_string();
            field_fault(&path, &error.into_inner().to_string())
        }
        Ok(_) => Problem::new(codes::MALFORMED, "the body is not JSON"),
    }
}

/// The fault that a deserializer's message tells of, at its field.
fn field_fault(path: &str, message: &str) -> Problem {
    let message = message.rsplit_once(" at line ").map_or(message, |(text, _)| text);
    let message = &cut(message, 300);
    let path = if path == "." { "" } else { path };
    let quoted = |prefix: &str| message.strip_prefix(prefix)?.split('`').next();
    let inside = |name: &str| match path {
        "" => name.to_owned(),
        parent if parent == name || parent.ends_with(&format!(".{name}")) => parent.to_owned(),
        parent => format!("{parent}.{name}"),
    };
    if let Some(name) = quoted("missing field `") {
        return Problem::invalid(inside(name), "it is required", "required");
    }
    if let Some(name) = quoted("unknown field `") {
        return Problem::invalid(inside(name), "there is no such field", "unknown");
    }
    if let Some(name) = quoted("duplicate field `") {
        return Problem::invalid(inside(name), "it is given twice", "repeated");
    }
    Problem::invalid(path, message, "type")
}

/// A successful answer with a body.
pub struct Answer<T> {
    status: StatusCode,
    etag: Option<String>,
    value: T,
}

impl<T> Answer<T> {
    /// 200.
    pub fn ok(value: T) -> Self {
        Self { status: StatusCode::OK, etag: None, value }
    }

    /// 201.
    pub fn created(value: T) -> Self {
        Self { status: StatusCode::CREATED, etag: None, value }
    }

    /// With the header `ETag`.
    #[must_use]
    pub fn etag(mut self, etag: &str) -> Self {
        self.etag = Some(format!("\"{etag}\""));
        self
    }
}

impl<T: Serialize + Send> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.value).expect("answers are plain data");
        let mut response = Response::builder().status(self.status).content_type(JSON).body(body);
        if let Some(etag) = self.etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
            response.headers_mut().insert(ETAG, etag);
        }
        response
    }
}

impl<T: Type> ApiResponse for Answer<T> {
    fn meta() -> MetaResponses {
        success(200, vec![MetaMediaType { content_type: JSON, schema: T::schema_ref() }])
    }

    fn register(registry: &mut Registry) {
        T::register(registry);
    }
}

/// A successful answer without a body.
pub struct Empty(StatusCode);

impl Empty {
    /// 204: done.
    #[must_use]
    pub fn done() -> Self {
        Self(StatusCode::NO_CONTENT)
    }

    /// 202: begun.
    #[must_use]
    pub fn begun() -> Self {
        Self(StatusCode::ACCEPTED)
    }
}

impl IntoResponse for Empty {
    fn into_response(self) -> Response {
        Response::builder().status(self.0).finish()
    }
}

impl ApiResponse for Empty {
    fn meta() -> MetaResponses {
        success(204, Vec::new())
    }

    fn register(_registry: &mut Registry) {}
}

/// A successful answer in Prometheus' text format.
pub struct Exposition(pub String);

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        Response::builder().content_type("text/plain; version=0.0.4; charset=utf-8").body(self.0)
    }
}

impl ApiResponse for Exposition {
    fn meta() -> MetaResponses {
        let schema = MetaSchemaRef::Inline(Box::new(MetaSchema::new("string")));
        success(200, vec![MetaMediaType { content_type: "text/plain", schema }])
    }

    fn register(_registry: &mut Registry) {}
}

/// A successful answer in server-sent events, which goes on.
pub struct EventStream(pub poem::Body);

impl EventStream {
    /// Its content type.
    pub const CONTENT_TYPE: &'static str = "text/event-stream";
}

impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        Response::builder()
            .content_type(Self::CONTENT_TYPE)
            // What lies in a proxy's buffer is not received.
            .header("x-accel-buffering", "no")
            .body(self.0)
    }
}

impl ApiResponse for EventStream {
    fn meta() -> MetaResponses {
        let schema = MetaSchemaRef::Inline(Box::new(MetaSchema::new("string")));
        success(200, vec![MetaMediaType { content_type: Self::CONTENT_TYPE, schema }])
    }

    fn register(_registry: &mut Registry) {}
}

/// The one success that the handlers' types tell of; the operations table knows the statuses.
fn success(status: u16, content: Vec<MetaMediaType>) -> MetaResponses {
    let response = MetaResponse {
        description: "",
        status: Some(status),
        status_range: None,
        content,
        headers: Vec::new(),
    };
    MetaResponses { responses: vec![response] }
}

#[cfg(test)]
#[path = "payload_tests.rs"]
mod tests;
