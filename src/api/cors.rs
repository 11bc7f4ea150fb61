//! Other web pages' scripts: only from origins that the settings list.

use super::front::X_REQUEST_ID;
use super::spec::routes::{self, Route};
use poem::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    HeaderMap, HeaderValue, ORIGIN, VARY,
};
use poem::http::{Method, StatusCode};
use poem::{Request, Response};

/// What a script may send.
const REQUEST_HEADERS: &str = "authorization, content-type, if-match, x-request-id";
/// What a script may read.
const ANSWER_HEADERS: &str = "etag, retry-after, x-request-id";
/// Seconds for which a browser remembers the permission.
const MAX_AGE: &str = "600";

/// The request's origin, if it is listed.
#[must_use]
pub fn origin(listed: &[String], request: &Request) -> Option<HeaderValue> {
    if listed.is_empty() {
        return None;
    }
    let origin = request.headers().get(ORIGIN)?;
    listed.iter().any(|one| origin == one.as_str()).then(|| origin.clone())
}

/// The answer to a browser that asks first.
#[must_use]
pub fn preflight(
    origin: Option<&HeaderValue>,
    request: &Request,
    route: Option<Route>,
) -> Option<Response> {
    origin?;
    let asks = request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() != Method::OPTIONS || !asks {
        return None;
    }
    let response = Response::builder()
        .status(StatusCode::NO_CONTENT)
        .header(ACCESS_CONTROL_ALLOW_METHODS, routes::allowed(route?.template))
        .header(ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS)
        .header(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    Some(response.finish())
}

/// Lets the origin's scripts read the answer.
pub fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    debug_assert!(ANSWER_HEADERS.contains(X_REQUEST_ID.as_str()));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(ANSWER_HEADERS));
    headers.append(VARY, HeaderValue::from_static("Origin"));
}
