//! One connection: handshake, protocol, requests, end.

use super::io::{Answering, Answers, Guarded, Refuse};
use super::upgraded::Upgrades;
use super::{App, Options, refusal, tls};
use crate::base::seams::{Spawn, Stream};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint as _, Request};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all connections of one listener share.
pub(super) struct Door {
    pub(super) app: App,
    pub(super) tls: Option<tokio_rustls::TlsAcceptor>,
    pub(super) options: Options,
    pub(super) local: SocketAddr,
    pub(super) spawn: Arc<dyn Spawn>,
    /// Connections, and the requests of HTTP/2 connections.
    pub(super) tasks: TaskTracker,
    /// Finish what runs, begin nothing new.
    pub(super) stop: CancellationToken,
    /// End now.
    pub(super) cut: CancellationToken,
}

/// An open connection: counted, and holding one of the listener's places.
pub(super) struct Place {
    _slot: OwnedSemaphorePermit,
}

impl Place {
    fn new(slot: OwnedSemaphorePermit) -> Arc<Self> {
        metrics::gauge!("tertulia_http_connections").increment(1.0);
        Arc::new(Self { _slot: slot })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::gauge!("tertulia_http_connections").decrement(1.0);
    }
}

impl Door {
    /// Serves one connection to its end.
    pub(super) async fn serve(
        self: Arc<Self>,
        stream: Box<dyn Stream>,
        far: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) {
        let place = Place::new(slot);
        // Before its first bytes a connection has asked for nothing: a stop ends it at once.
        let opened = tokio::select! {
            opened = self.open(stream) => opened,
            () = self.stop.cancelled() => return,
        };
        let ended = match opened {
            Ok((Protocol::Http1, stream)) => self.serve_http1(stream, far, &place).await,
            Ok((Protocol::Http2, stream)) => self.serve_http2(stream, far).await,
            Err(error) => {
                let reason = if self.tls.is_some() { "handshake" } else { "silent" };
                metrics::counter!("tertulia_http_refused_total", "reason" => reason).increment(1);
                Err(error.into())
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%far, error, "the connection broke");
        }
    }

    async fn open(&self, stream: Box<dyn Stream>) -> io::Result<(Protocol, Guests)> {
        let stream = match &self.tls {
            Some(acceptor) => {
                tls::shake_hands(acceptor, stream, self.options.handshake_time).await?
            }
            None => stream,
        };
        // hyper's own look at the first bytes has no time limit, and with HTTP/2 agreed on in the
        // handshake it waits for the preface without one.
        let first = first_bytes(stream, self.options.stall_time);
        tokio::time::timeout(self.options.header_time, first).await?
    }

    async fn serve_http1(
        self: &Arc<Self>,
        mut stream: Guests,
        far: SocketAddr,
        place: &Arc<Place>,
    ) -> Ended {
        let answering = Answering::default();
        let app = self.app.clone();
        let refuse: Refuse = Box::new(move |bare| Box::pin(refusal::answer(app.clone(), bare)));
        stream.watch_headers(self.options.header_time, answering.clone(), refuse);
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.options.idle_time)
            .max_buf_size(self.options.header_bytes_max);
        let (door, scheme) = (self.clone(), self.scheme());
        let place = place.clone();
        let service = service_fn(move |r| {
            // Shared with an upgraded connection, whose bytes are no header either.
            let began = Arc::new(answering.begin());
            let upgrades =
                Upgrades { door: door.clone(), hold: Arc::new((place.clone(), began.clone())) };
            let answer = door.clone().answer(r, far, scheme.clone(), Some(upgrades));
            async move {
                let answer = answer.await?;
                Ok::<_, Infallible>(answer.map(|body| Answer { body, _answers: began }))
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        self.drive(connection, http1::UpgradeableConnection::graceful_shutdown).await
    }

    async fn serve_http2(self: &Arc<Self>, stream: Guests, far: SocketAddr) -> Ended {
        let mut builder = http2::Builder::new(Executor(self.clone()));
        // Up to twice the bound there is an answer with a body, above it a bare one.
        let header_bytes_max = self.options.header_bytes_max.saturating_mul(2);
        let header_bytes_max = u32::try_from(header_bytes_max).unwrap_or(u32::MAX);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.options.http2_streams_max)
            .max_header_list_size(header_bytes_max)
            .keep_alive_interval(HTTP2_PING_PERIOD)
            .keep_alive_timeout(HTTP2_PING_TIME);
        let (door, scheme) = (self.clone(), self.scheme());
        let service = service_fn(move |r| door.clone().answer(r, far, scheme.clone(), None));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        self.drive(connection, http2::Connection::graceful_shutdown).await
    }

    /// Drives a connection to its end, its graceful end on `stop`, or until it is cut.
    async fn drive<C>(&self, connection: C, graceful: impl FnOnce(Pin<&mut C>)) -> Ended
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut connection = pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = self.stop.cancelled() => graceful(connection.as_mut()),
        }
        tokio::select! {
            ended = connection => Ok(ended?),
            () = self.cut.cancelled() => Ok(()),
        }
    }

    fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }

    async fn answer(
        self: Arc<Self>,
        request: hyper::Request<Incoming>,
        far: SocketAddr,
        scheme: Scheme,
        upgrades: Option<Upgrades>,
    ) -> Result<hyper::Response<BoxBody<Bytes, io::Error>>, Infallible> {
        let local = LocalAddr(Addr::SocketAddr(self.local));
        let remote = RemoteAddr(Addr::SocketAddr(far));
        let mut request = Request::from((request, local, remote, scheme));
        if let Some(upgrades) = upgrades {
            request.set_data(upgrades);
        }
        if let Some(refused) = refusal::judge(&request, self.options.header_bytes_max) {
            request.set_data(refused);
        }
        Ok(self.app.get_response(request).await.into())
    }
}

/// How often a silent HTTP/2 client is asked for a sign of life.
const HTTP2_PING_PERIOD: Duration = Duration::from_secs(20);
/// How long it has for the sign.
const HTTP2_PING_TIME: Duration = Duration::from_secs(10);

type Guests = Guarded<Box<dyn Stream>>;
type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

enum Protocol {
    Http1,
    Http2,
}

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads until the bytes tell HTTP/1.1 from HTTP/2, and puts them back.
async fn first_bytes(
    mut stream: Box<dyn Stream>,
    stall_time: Duration,
) -> io::Result<(Protocol, Guests)> {
    let mut seen = Vec::with_capacity(HTTP2_PREFACE.len());
    let protocol = loop {
        let mut rest = [0; HTTP2_PREFACE.len()];
        let n = stream.read(&mut rest[seen.len()..]).await?;
        let at = seen.len();
        seen.extend_from_slice(&rest[at..at + n]);
        if n == 0 || !HTTP2_PREFACE.starts_with(&seen) {
            break Protocol::Http1;
        }
        if seen.len() == HTTP2_PREFACE.len() {
            break Protocol::Http2;
        }
    };
    Ok((protocol, Guarded::new(Bytes::from(seen), stream, stall_time)))
}

/// The body of an HTTP/1.1 answer: the request is being answered until it is handed over.
struct Answer {
    body: BoxBody<Bytes, io::Error>,
    _answers: Arc<Answers>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs the requests of an HTTP/2 connection as tasks of their own, counted and cut like it.
#[derive(Clone)]
struct Executor(Arc<Door>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, request: F) {
        let cut = self.0.cut.clone();
        let task = async move {
            tokio::select! {
                () = request => {}
                () = cut.cancelled() => {}
            }
        };
        self.0.spawn.task(Box::pin(self.0.tasks.track_future(task)));
    }
}
