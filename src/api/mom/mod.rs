//! The MOM routes: the interface of the original middleware for its clients, at the root and with
//! parameters in the query string, thin over the same broker. A second document describes them.
//!
//! Knows: `table` (a row per route, from which routing, answers and document are made). Answers
//! carry a sentence in Spanish, errors too: they are no problems, because old clients show them.

mod answers;
mod bindings;
mod document;
mod handlers;
mod parameters;
mod schemas;
mod session;
mod table;

pub use document::{json, yaml};
pub use table::{ROWS, Row, row};

pub(super) use answers::speak;
pub(super) use session::has_credentials;

use super::scope::Here;
use poem::http::header::ACCEPT;
use poem::{Endpoint, Request, Response, Route, delete, get, post};

/// What is known of a request to these routes.
#[derive(Clone, Copy, Debug)]
pub struct MomCall {
    /// Its row; absent where the route does not take the method.
    pub row: Option<&'static Row>,
    /// Whether it wants the bare text.
    pub is_plain: bool,
}

impl MomCall {
    /// The same, if the request is one.
    #[must_use]
    pub fn of(request: &Request) -> Option<Self> {
        let path = request.uri().path();
        if !ROWS.iter().any(|row| row.path == path) {
            return None;
        }
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        let is_plain = accept.is_some_and(|types| {
            let first = types.split(',').next().unwrap_or_default();
            first.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("text/plain"))
        });
        Some(Self { row: row(request.method().as_str(), path), is_plain })
    }

    /// Whether it changes something.
    #[must_use]
    pub fn writes(self) -> bool {
        self.row.is_some_and(|row| row.method != "GET")
    }
}

/// Adds the routes.
pub(super) fn routes(route: Route) -> Route {
    ROWS.iter().fold(route, |route, row| match row.method {
        "GET" => route.at(row.path, get(Answers(row))),
        "DELETE" => route.at(row.path, delete(Answers(row))),
        _ => route.at(row.path, post(Answers(row))),
    })
}

/// The endpoint of a row.
struct Answers(&'static Row);

impl Endpoint for Answers {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let (request, mut body) = request.split();
        let here = Here::of(&request);
        let is_plain = here.mom.is_some_and(|call| call.is_plain);
        Ok(match Box::pin(handlers::answer(self.0, &request, &mut body, &here)).await {
            Ok(said) => said.respond(is_plain),
            Err(refused) => refused.respond(is_plain),
        })
    }
}

#[cfg(test)]
mod tests;
