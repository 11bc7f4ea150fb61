//! The front door: every request passes it, every answer leaves by it. Gives the request its
//! scope and its time, catches panics, turns errors into problems, sets the headers that every
//! answer has, counts and logs.

use super::codes;
use super::cors;
use super::httpd::body::BodyLimit;
use super::httpd::refusal::HeadRefused;
use super::mom::{self, MomCall};
use super::problem::{self, Problem};
use super::scope::{Deadline, Here, Scope};
use super::spec::operations::Operation;
use super::spec::routes::{self, Route};
use super::{Shared, spec};
use crate::base::ids::RequesterId;
use crate::broker::refusal::Outcome;
use futures_util::FutureExt;
use poem::http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use poem::http::{Method, StatusCode, Version};
use poem::{Addr, Endpoint, Request, Response};
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;

/// The header that names a request.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of a caller's request id, at most.
const REQUEST_ID_CHARS_MAX: usize = 64;
/// The template in logs and metrics of a path that has none.
const UNMATCHED: &str = "unmatched";

/// The endpoint around all others.
pub struct Front<E> {
    /// What lies behind.
    pub inner: E,
    /// The node's parts.
    pub app: Arc<Shared>,
}

impl<E: Endpoint<Output = Response>> Endpoint for Front<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let started = Instant::now();
        let method = request.method().clone();
        let route = routes::route(method.as_str(), request.uri().path());
        let origin = cors::origin(&self.app.cors_origins, &request);
        let here = Here(Arc::new(self.scope(&request, route)));
        request.set_data(here.clone());
        if let Some(bytes) = here.body_bytes_max() {
            request.set_data(BodyLimit(bytes));
        }
        let mut response = match cors::preflight(origin.as_ref(), &request, route) {
            Some(response) => response,
            None => self.answer(request, &here, route).await,
        };
        finish(&mut response, &here, origin);
        observe(&method, route, &here, response.status(), started);
        Ok(response)
    }
}

impl<E: Endpoint<Output = Response>> Front<E> {
    fn scope(&self, request: &Request, route: Option<Route>) -> Scope {
        let query = request.uri().query().is_some().then(|| request.params().unwrap_or_default());
        let address = match request.remote_addr().0 {
            Addr::SocketAddr(address) => address.ip(),
            _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        Scope {
            app: self.app.clone(),
            request_id: request_id(&self.app, request),
            operation: route.and_then(|route| route.operation),
            // One of their paths is a template without a row of the other table.
            mom: route.filter(|route| route.operation.is_none()).and_then(|_| MomCall::of(request)),
            query: query.unwrap_or_default(),
            address,
            user: OnceLock::new(),
            deadline: Deadline::default(),
        }
    }

    /// The answer, whatever happens behind.
    async fn answer(&self, request: Request, here: &Here, route: Option<Route>) -> Response {
        if let Some(refused) = request.data::<HeadRefused>() {
            return closing(respond(problem::head_refused(*refused), here, None), &request);
        }
        if let Some(problem) = misspelt(request.uri().path(), route) {
            return closing(respond(problem, here, None), &request);
        }
        if let Some(problem) = here.operation.and_then(|row| unknown_parameter(row, here)) {
            return closing(settle(problem, here, route), &request);
        }
        // No stranger's body is read.
        let is_known = match here.mom {
            Some(_) => mom::has_credentials(&request),
            None => request.headers().contains_key(AUTHORIZATION),
        };
        if !is_known && here.is_private() {
            return closing(settle(problem::no_credentials(), here, route), &request);
        }
        let work = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        let result = tokio::select! {
            result = work => result,
            () = here.deadline.passed() => return settle(too_late(here), here, route),
        };
        match result {
            Ok(Ok(response)) => check_success(response, here, route),
            Ok(Err(error)) => {
                let problem = problem::from_error(&error);
                if problem.status >= 500 && problem.code == codes::INTERNAL.word {
                    tracing::error!(request_id = here.request_id, %error, "internal error");
                }
                settle(problem, here, route)
            }
            Err(panic) => {
                let why = panic_text(panic.as_ref());
                tracing::error!(request_id = here.request_id, why, "a handler panicked");
                settle(Problem::new(codes::INTERNAL, "internal error"), here, route)
            }
        }
    }
}

/// The caller's request id if it is short and visible, else a fresh one.
fn request_id(app: &Shared, request: &Request) -> String {
    let given = request.headers().get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
    let fine = |text: &&str| {
        (1..=REQUEST_ID_CHARS_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let fresh = || RequesterId::random(app.rng.as_ref()).to_string();
    given.filter(fine).map_or_else(fresh, str::to_owned)
}

/// What is wrong with a path that cannot name anything: an empty segment, or one that is no text.
fn misspelt(path: &str, route: Option<Route>) -> Option<Problem> {
    let bad = path.split('/').position(|segment| !is_text(segment));
    if bad.is_none() && !path.contains("//") {
        return None;
    }
    let parameter = bad.zip(route).and_then(|(at, route)| route.template.split('/').nth(at));
    let name = parameter.and_then(|name| name.strip_prefix('{')?.strip_suffix('}'));
    Some(match name {
        Some("receipt") => Problem::new(codes::RECEIPT_INVALID, "this is no receipt"),
        Some("message_id") => Problem::new(codes::MESSAGE_NOT_FOUND, "this is no message's id"),
        Some(name) => Problem::invalid(format!("path.{name}"), "it is no text", "name"),
        None => Problem::new(codes::NOT_FOUND, "there is no such route"),
    })
}

/// Whether a segment of a path is UTF-8 once its escapes are undone.
fn is_text(segment: &str) -> bool {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        let hex = |b: u8| char::from(b).to_digit(16);
        match byte {
            b'%' => match (rest.next().and_then(hex), rest.next().and_then(hex)) {
                (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
                _ => return false,
            },
            other => bytes.push(other),
        }
    }
    std::str::from_utf8(&bytes).is_ok()
}

/// An answer that is given before the body was read ends an HTTP/1.1 connection: it says so.
fn closing(mut response: Response, request: &Request) -> Response {
    let headers = request.headers();
    let has_body = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    if request.version() == Version::HTTP_11 && has_body {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A query parameter that the operation does not have: a typo never passes silently.
fn unknown_parameter(row: &Operation, here: &Here) -> Option<Problem> {
    if !row.is_versioned() || here.query.is_empty() {
        return None;
    }
    let known = spec::query_parameters(row.id);
    let (name, _) = here.query.iter().find(|(name, _)| !known.contains(name))?;
    let field = format!("query.{:.64}", name);
    Some(Problem::invalid(field, "there is no such parameter", "unknown"))
}

/// An operation whose time is over [R54]. A write may have happened.
fn too_late(here: &Here) -> Problem {
    Problem::not_enough_replicas(here.writes().then_some(Outcome::Unknown))
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text")
}

/// A problem as it leaves. One that its operation's row does not have is a mistake of ours.
fn settle(problem: Problem, here: &Here, route: Option<Route>) -> Response {
    if let Some(row) = here.operation {
        debug_assert!(
            row.expects(&problem.code),
            "`{}` answers `{}`, which its row does not list",
            row.id,
            problem.code
        );
    }
    respond(problem, here, route)
}

/// The problem as an answer to this request.
fn respond(mut problem: Problem, here: &Here, route: Option<Route>) -> Response {
    problem.request_id.clone_from(&here.request_id);
    problem.node.clone_from(&here.app.node);
    let mut response = problem.respond();
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allow = routes::allowed(route.map_or("", |route| route.template));
        if let Ok(allow) = HeaderValue::try_from(allow) {
            response.headers_mut().insert(ALLOW, allow);
        }
    }
    match here.mom {
        Some(call) => mom::speak(problem, call, response),
        None => response,
    }
}

/// A success passes; a bare status that some part of the framework made becomes a problem.
fn check_success(response: Response, here: &Here, route: Option<Route>) -> Response {
    let status = response.status();
    if here.mom.is_some() {
        return response;
    }
    if status.is_client_error() || status.is_server_error() {
        return settle(problem::from_status(status, ""), here, route);
    }
    if let Some(row) = here.operation {
        debug_assert!(
            row.success.iter().any(|(listed, _)| *listed == status.as_u16()),
            "`{}` answers {status}, which its row does not list",
            row.id
        );
    }
    response
}

/// The headers that every answer has.
fn finish(response: &mut Response, here: &Here, origin: Option<HeaderValue>) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(&here.request_id) {
        headers.insert(X_REQUEST_ID, id);
    }
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(origin) = origin {
        cors::allow(headers, origin);
    }
}

/// Counts and logs. The template only: paths hold receipts.
fn observe(
    method: &Method,
    route: Option<Route>,
    here: &Here,
    status: StatusCode,
    started: Instant,
) {
    let route = route.map_or(UNMATCHED, |route| route.template);
    let elapsed = started.elapsed();
    let method = known_method(method);
    let status = status.as_u16();
    metrics::counter!(
        "tertulia_http_requests_total",
        "method" => method, "route" => route, "status" => status.to_string()
    )
    .increment(1);
    metrics::histogram!("tertulia_http_request_seconds", "route" => route)
        .record(elapsed.as_secs_f64());
    let user = here.user.get().map_or("-", String::as_str);
    let duration_us = elapsed.as_micros();
    let request_id = here.request_id.as_str();
    // Messages that go as they should are the broker's breath: metrics count them, a line for
    // each would cost more than the work.
    if status < 400 && here.is_about_messages() {
        tracing::debug!(method, route, status, user, duration_us, request_id, "request");
    } else {
        tracing::info!(method, route, status, user, duration_us, request_id, "request");
    }
}

/// The method's name, as long as it is one of HTTP's: labels must not grow without bound.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}
