//! The HTTP server: our own accept loop around hyper, driving a poem endpoint.
//!
//! Knows: connections, TLS handshakes, HTTP/1.1 and HTTP/2, the time and the memory a client may
//! take before its request is worth an answer.
//! Must not know: routes, problems, users. Failures leave as typed errors, see [`body`] and
//! [`in_flight`], refused heads as requests that carry a [`refusal::HeadRefused`]; `api::problem`
//! puts them into words.
//! Way in: [`Httpd::serve`]. Way out: the endpoint. The middleware goes around it in this order,
//! outermost first: the translation of errors, [`body::ReadBody`] (it reads before a slot is
//! taken, so that a slow body costs no slot), [`in_flight::CapInFlight`], the routes.

pub mod body;
mod connection;
pub mod in_flight;
mod io;
pub mod refusal;
mod tls;
pub mod upgraded;

use crate::base::limits;
use crate::base::seams::{Listener, Spawn, Stream};
use connection::Door;
use poem::Response;
use poem::endpoint::DynEndpoint;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What answers requests. A `poem::endpoint::BoxEndpoint` turns into one.
pub type App = Arc<dyn DynEndpoint<Output = Response>>;

/// What a listener allows its clients.
#[derive(Clone, Debug)]
pub struct Options {
    /// Open connections; above it clients wait in the kernel's queue.
    pub connections_max: usize,
    /// Bytes of a request's header; above it the request carries a refusal.
    pub header_bytes_max: usize,
    /// Time for a request's header, from its first byte; for the first request from the
    /// connection's beginning.
    pub header_time: Duration,
    /// Time an HTTP/1.1 connection may stay open between two requests.
    pub idle_time: Duration,
    /// Time for the TLS handshake.
    pub handshake_time: Duration,
    /// Time for which a client may take none of the bytes that are ready for it.
    pub stall_time: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub http2_streams_max: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections_max: limits::CONNECTIONS_MAX,
            header_bytes_max: limits::HEADER_BYTES_MAX,
            header_time: limits::HEADER_TIME,
            idle_time: limits::IDLE_TIME,
            handshake_time: limits::HANDSHAKE_TIME,
            // As long as the other direction gets for a body.
            stall_time: limits::BODY_TIME,
            http2_streams_max: limits::HTTP2_STREAMS_MAX,
        }
    }
}

/// The HTTP server.
#[derive(Clone, Copy, Debug)]
pub struct Httpd;

impl Httpd {
    /// Serves until `stop`, then drains: no new connections, idle ones end, running requests have
    /// `grace`, then the rest is cut. Returns when no connection and no request is left.
    /// Without `tls` it speaks plain HTTP.
    pub async fn serve(
        listener: Box<dyn Listener>,
        tls: Option<Arc<rustls::ServerConfig>>,
        endpoint: impl Into<App> + Send,
        options: Options,
        spawn: Arc<dyn Spawn>,
        stop: CancellationToken,
        grace: Duration,
    ) {
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        let slots = Arc::new(Semaphore::new(options.connections_max));
        let door = Arc::new(Door {
            app: endpoint.into(),
            tls: tls.map(tokio_rustls::TlsAcceptor::from),
            options,
            local: listener.local_addr(),
            spawn,
            tasks: tasks.clone(),
            stop: stop.clone(),
            cut: cut.clone(),
        });
        let accepting = accept_all(listener, &door, &slots);
        tokio::select! {
            () = accepting => {}
            () = stop.cancelled() => {}
        }
        tasks.close();
        tracing::info!(at = %door.local, connections = tasks.len(), "no new connections");
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!(connections = tasks.len(), "the grace period is over: cut");
            cut.cancel();
            tasks.wait().await;
        }
    }
}

/// Accepts for ever. Owns the listener: it closes when this is dropped.
async fn accept_all(listener: Box<dyn Listener>, door: &Arc<Door>, slots: &Arc<Semaphore>) {
    loop {
        // Taken before the accept: a client that finds no slot waits in the kernel's queue and
        // costs this process nothing.
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (stream, far) = next_stream(listener.as_ref()).await;
        let guests = door.clone();
        let served = async move {
            guests.serve(stream, far, slot).await;
        };
        door.spawn.task(Box::pin(door.tasks.track_future(served)));
    }
}

const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The next connection. A failing accept (file descriptors used up, say) is tried again ever more
/// slowly instead of burning a core.
async fn next_stream(listener: &dyn Listener) -> (Box<dyn Stream>, SocketAddr) {
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                metrics::counter!("tertulia_http_refused_total", "reason" => "accept").increment(1);
                tracing::warn!(%error, pause_ms = pause.as_millis(), "no connection accepted");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests;
