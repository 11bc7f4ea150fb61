//! Layer 8: the REST API.
//!
//! Knows: HTTP, JSON, the OpenAPI document, and the broker it asks.
//! Must not know: replication, the store, how anything is decided.
//! Way in: the HTTP layer calls [`endpoint`]. Way out: `broker`.
//!
//! A request passes `front` (scope, deadline, headers, log), then the router, then a handler of
//! `resources`: `auth` first, then `params`, then the body (`payload`, `dto`). What goes wrong
//! anywhere becomes a `problem`. `spec` makes the document from the handlers and its table.

// A problem is built once per failed request: its size costs nothing that a box would save.
#![allow(clippy::result_large_err)]

pub mod auth;
pub mod codes;
mod cors;
mod docs;
pub mod dto;
mod front;
pub mod httpd;
pub mod mom;
pub mod params;
pub mod payload;
pub mod problem;
pub mod push;
pub mod readiness;
pub mod resources;
mod run_to_end;
pub mod scope;
pub mod spec;

pub use readiness::Readiness;

use crate::base::ids::NodeId;
use crate::base::seams::{Clock, Rng, Spawn};
use crate::broker::Broker;
use httpd::body::{BodyOptions, ReadBody};
use httpd::in_flight::CapInFlight;
use poem::endpoint::{BoxEndpoint, make};
use poem::{EndpointExt, IntoEndpoint as _, Response, Route, get};
use poem_openapi::OpenApiService;
use run_to_end::RunToEnd;
use std::sync::Arc;
use tokio::sync::watch;

/// What the API is made of.
pub struct Api {
    /// Answers everything.
    pub broker: Arc<Broker>,
    /// This node, named in problems.
    pub node: NodeId,
    /// Whether this node takes requests.
    pub ready: watch::Receiver<Readiness>,
    /// Writes the metrics in Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Draws request ids.
    pub rng: Arc<dyn Rng>,
    /// The machine's clocks.
    pub clock: Arc<dyn Clock>,
    /// Bytes of a request's body, at most.
    pub max_body_bytes: usize,
    /// Origins of web pages whose scripts may call.
    pub cors_origins: Vec<String>,
}

/// The same, as requests share it.
pub struct Shared {
    /// Answers everything.
    pub broker: Arc<Broker>,
    /// This node's name in problems.
    pub node: String,
    /// Whether this node takes requests.
    pub ready: watch::Receiver<Readiness>,
    /// Writes the metrics.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Draws request ids.
    pub rng: Arc<dyn Rng>,
    /// The machine's clocks.
    pub clock: Arc<dyn Clock>,
    /// Bytes of a request's body, at most.
    pub max_body_bytes: usize,
    /// Origins of web pages whose scripts may call.
    pub cors_origins: Vec<String>,
    /// Places for event streams and WebSockets.
    pub places: push::Places,
}

/// The whole API as one endpoint: it answers everything itself and returns no errors.
#[must_use]
pub fn endpoint(app: Api) -> BoxEndpoint<'static> {
    endpoint_behind(app, |routes| routes)
}

/// The same with something between the front door and the routes (limits of the HTTP layer): the
/// errors it returns become problems too.
#[must_use]
pub fn endpoint_behind(
    app: Api,
    gate: impl FnOnce(BoxEndpoint<'static>) -> BoxEndpoint<'static>,
) -> BoxEndpoint<'static> {
    let service = OpenApiService::new(resources::RESOURCES, spec::TITLE, spec::VERSION);
    let routes: BoxEndpoint<'static, Response> = mom::routes(docs::routes(Route::new()))
        .at("/v1/connect", get(make(push::connect::connect)))
        .nest("/", service.into_endpoint())
        .map_to_response()
        .boxed();
    let app = Shared {
        broker: app.broker,
        node: app.node.to_string(),
        ready: app.ready,
        metrics: app.metrics,
        rng: app.rng,
        clock: app.clock,
        max_body_bytes: app.max_body_bytes,
        cors_origins: app.cors_origins,
        places: push::Places::default(),
    };
    front::Front { inner: gate(routes), app: Arc::new(app) }.boxed()
}

/// The whole API behind the limits of the HTTP layer, as the node serves it.
#[must_use]
pub fn served(app: Api, spawn: Arc<dyn Spawn>) -> httpd::App {
    let options = BodyOptions { body_bytes_max: app.max_body_bytes, ..BodyOptions::default() };
    let (bodies, cap) = (ReadBody::new(options, spawn.clone()), CapInFlight::default());
    let run = RunToEnd(spawn);
    // A slow body costs memory but no slot.
    let gate = |routes: BoxEndpoint<'static>| {
        routes.with(run).with(cap).with(bodies).map_to_response().boxed()
    };
    httpd::App::from(endpoint_behind(app, gate))
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
