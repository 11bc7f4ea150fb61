//! Request bodies: read before the handler runs, bounded in size, time and memory. A body that is
//! refused is answered at once; what a client still sends of it is then read and thrown away for
//! a while, because a socket closed over unread bytes takes the answer with it.

use crate::base::limits;
use crate::base::seams::Spawn;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use poem::error::ResponseError;
use poem::http::{StatusCode, header};
use poem::{Endpoint, IntoResponse, Middleware, Request, Response};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The body is larger than this listener takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request body is larger than {limit} bytes")]
pub struct BodyTooLarge {
    /// The most it takes, in bytes.
    pub limit: usize,
}

/// The body was not there in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request body did not arrive within {} s", .within.as_secs())]
pub struct BodyTimeout {
    /// The time it had.
    pub within: Duration,
}

/// The memory for request bodies is used up for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node holds as many request bodies as it can")]
pub struct BodiesFull;

/// The body ended early or was framed wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request body broke off")]
pub struct BodyBroken;

impl ResponseError for BodyTooLarge {
    fn status(&self) -> StatusCode {
        StatusCode::PAYLOAD_TOO_LARGE
    }
}

impl ResponseError for BodyTimeout {
    fn status(&self) -> StatusCode {
        StatusCode::REQUEST_TIMEOUT
    }
}

impl ResponseError for BodiesFull {
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

impl ResponseError for BodyBroken {
    fn status(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }
}

/// A tighter bound on this request's body, in bytes, that whoever knows its route set on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimit(pub usize);

/// Bounds on request bodies.
#[derive(Clone, Copy, Debug)]
pub struct BodyOptions {
    /// Bytes of one body.
    pub body_bytes_max: usize,
    /// Time for one body.
    pub body_time: Duration,
    /// Bytes of all bodies held at once.
    pub bodies_bytes_max: usize,
    /// Bytes of a refused body that are read and thrown away.
    pub discard_bytes_max: usize,
    /// Time for which a refused body is read and thrown away.
    pub discard_time: Duration,
}

impl Default for BodyOptions {
    fn default() -> Self {
        Self {
            body_bytes_max: limits::BODY_BYTES_MAX,
            body_time: limits::BODY_TIME,
            bodies_bytes_max: limits::BODIES_BYTES_MAX,
            discard_bytes_max: limits::BODY_DISCARD_BYTES_MAX,
            discard_time: limits::BODY_DISCARD_TIME,
        }
    }
}

/// Middleware: replaces the request's body with its bytes, or fails with one of this file's
/// errors. Clones share the memory that bodies may take, which a body gives back when its request
/// is answered.
#[derive(Clone)]
pub struct ReadBody {
    options: BodyOptions,
    /// In KiB.
    memory: Arc<Semaphore>,
    spawn: Arc<dyn Spawn>,
}

impl ReadBody {
    /// Reads bodies within the given bounds.
    #[must_use]
    pub fn new(options: BodyOptions, spawn: Arc<dyn Spawn>) -> Self {
        let memory = Arc::new(Semaphore::new(options.bodies_bytes_max >> 10));
        Self { options, memory, spawn }
    }

    /// Puts the body's bytes into the request. The answer is held until the request is over.
    async fn fill(&self, request: &mut Request) -> Result<Held, Refusal> {
        let body = request.take_body();
        let mut held = Held::none(&self.memory);
        if body.is_empty() {
            return Ok(held);
        }
        let own = request.data::<BodyLimit>().map_or(usize::MAX, |limit| limit.0);
        let limit = self.options.body_bytes_max.min(own);
        let mut frames: Frames = Box::pin(body.into_bytes_stream());
        let declared = declared_bytes(request);
        if declared.is_some_and(|bytes| bytes > limit) {
            // Who asks before sending (`Expect: 100-continue`) has been answered: nothing comes.
            if !request.headers().contains_key(header::EXPECT) {
                self.discard(frames);
            }
            return Err(Refusal::TooLarge(BodyTooLarge { limit }));
        }
        let within = self.options.body_time;
        let reading = collect(&mut frames, declared, limit, &mut held);
        let outcome = match tokio::time::timeout(within, reading).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Refusal::Timeout(BodyTimeout { within })),
        };
        match outcome {
            Ok(bytes) => request.set_body(bytes),
            Err(refusal) => {
                if matches!(refusal, Refusal::TooLarge(_) | Refusal::Full) {
                    self.discard(frames);
                }
                return Err(refusal);
            }
        }
        Ok(held)
    }

    /// Reads on beside the answer, within bounds, so that the client gets to read the answer.
    fn discard(&self, mut frames: Frames) {
        let (time, mut left) = (self.options.discard_time, self.options.discard_bytes_max);
        let reading = async move {
            while let Some(Ok(frame)) = frames.next().await {
                match left.checked_sub(frame.len()) {
                    Some(rest) => left = rest,
                    None => return,
                }
            }
        };
        self.spawn.task(Box::pin(async move {
            let _ = tokio::time::timeout(time, reading).await;
        }));
    }
}

/// The memory of all bodies, for whoever reads bodies of another kind; in each request's data.
#[derive(Clone)]
pub struct BodyMemory(Arc<Semaphore>);

impl BodyMemory {
    /// Holds none of it yet.
    #[must_use]
    pub fn hold(&self) -> Held {
        Held::none(&self.0)
    }
}

type Frames = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

fn declared_bytes(request: &Request) -> Option<usize> {
    let text = request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?;
    // hyper has refused what is no number; one too large for this machine is above every limit.
    Some(text.parse().unwrap_or(usize::MAX))
}

/// The first allocation for a body, in bytes, where it is declared to be as large: memory follows
/// what was sent, not what was announced.
const FIRST_BYTES: usize = 64 << 10;

async fn collect(
    frames: &mut Frames,
    declared: Option<usize>,
    limit: usize,
    held: &mut Held,
) -> Result<Bytes, Refusal> {
    let most = declared.unwrap_or(limit).min(limit);
    let mut body = Vec::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|_| Refusal::Broken)?;
        let needed = body.len() + frame.len();
        if needed > limit {
            return Err(Refusal::TooLarge(BodyTooLarge { limit }));
        }
        if needed > body.capacity() {
            let roomy = (body.capacity() * 2).max(declared.unwrap_or(0).min(FIRST_BYTES));
            let capacity = roomy.min(most).max(needed);
            held.grow_to(capacity).map_err(|BodiesFull| Refusal::Full)?;
            body.reserve_exact(capacity - body.len());
        }
        body.extend_from_slice(&frame);
    }
    Ok(Bytes::from(body))
}

/// The memory one body takes, until this is dropped.
pub struct Held {
    memory: Arc<Semaphore>,
    kib: usize,
    permits: Vec<OwnedSemaphorePermit>,
}

impl Held {
    fn none(memory: &Arc<Semaphore>) -> Self {
        Self { memory: memory.clone(), kib: 0, permits: Vec::new() }
    }

    /// Holds so many bytes.
    ///
    /// # Errors
    /// [`BodiesFull`], and it holds what it held.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), BodiesFull> {
        let more = bytes.div_ceil(1 << 10).saturating_sub(self.kib);
        if more == 0 {
            return Ok(());
        }
        let permits = u32::try_from(more).map_err(|_| BodiesFull)?;
        let taken = self.memory.clone().try_acquire_many_owned(permits).map_err(|_| BodiesFull)?;
        match self.permits.first_mut() {
            Some(permits) => permits.merge(taken),
            None => self.permits.push(taken),
        }
        self.kib += more;
        metrics::gauge!("tertulia_http_body_bytes").increment((more << 10) as f64);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics::gauge!("tertulia_http_body_bytes").decrement((self.kib << 10) as f64);
    }
}

/// Why a body is not taken.
enum Refusal {
    TooLarge(BodyTooLarge),
    Timeout(BodyTimeout),
    Full,
    Broken,
}

impl Refusal {
    fn into_error(self) -> poem::Error {
        let (reason, error) = match self {
            Self::TooLarge(e) => ("body_too_large", e.into()),
            Self::Timeout(e) => ("body_timeout", e.into()),
            Self::Full => ("bodies_full", BodiesFull.into()),
            Self::Broken => ("body_broken", BodyBroken.into()),
        };
        metrics::counter!("tertulia_http_refused_total", "reason" => reason).increment(1);
        error
    }
}

impl<E: Endpoint> Middleware<E> for ReadBody {
    type Output = BodyRead<E>;

    fn transform(&self, inner: E) -> Self::Output {
        BodyRead { inner, read: self.clone() }
    }
}

/// An endpoint behind [`ReadBody`].
pub struct BodyRead<E> {
    inner: E,
    read: ReadBody,
}

impl<E: Endpoint> Endpoint for BodyRead<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Self::Output> {
        request.set_data(BodyMemory(self.read.memory.clone()));
        let _held = self.read.fill(&mut request).await.map_err(Refusal::into_error)?;
        self.inner.call(request).await.map(IntoResponse::into_response)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::seams::SystemSpawn;
    use poem::endpoint::make;
    use poem::{Body, EndpointExt as _};

    fn small() -> BodyOptions {
        BodyOptions { body_bytes_max: 4_096, bodies_bytes_max: 8_192, ..BodyOptions::default() }
    }

    fn chunked(chunks: Vec<io::Result<&'static [u8]>>) -> Request {
        Request::builder().body(Body::from_bytes_stream(futures_util::stream::iter(chunks)))
    }

    fn echo(read: &ReadBody) -> impl Endpoint<Output = Response> + use<> {
        make(|request: Request| async move {
            Ok::<_, poem::Error>(request.into_body().into_bytes().await?.to_vec())
        })
        .with(read.clone())
    }

    #[tokio::test]
    async fn bodies_arrive_whole_and_their_memory_comes_back() {
        let read = ReadBody::new(small(), Arc::new(SystemSpawn));
        let app = echo(&read);
        for _ in 0..5 {
            let request = chunked(vec![Ok(&[1; 4_000]), Ok(&[2; 90]), Ok(&[3; 6])]);
            let body = app.call(request).await.unwrap().into_body().into_vec().await.unwrap();
            assert_eq!((body.len(), body[0], body[4_000], body[4_095]), (4_096, 1, 2, 3));
        }
        assert_eq!(read.memory.available_permits(), 8);
    }

    #[tokio::test]
    async fn chunks_are_counted_while_they_are_read() {
        let app = echo(&ReadBody::new(small(), Arc::new(SystemSpawn)));
        let error = app.call(chunked(vec![Ok(&[1; 4_096]), Ok(&[1; 1])])).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&BodyTooLarge { limit: 4_096 }));
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_broken() {
        let app = echo(&ReadBody::new(small(), Arc::new(SystemSpawn)));
        let reset = Err(io::ErrorKind::ConnectionReset.into());
        let error = app.call(chunked(vec![Ok(b"a"), reset])).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&BodyBroken));
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let within = Duration::from_millis(20);
        let read =
            ReadBody::new(BodyOptions { body_time: within, ..small() }, Arc::new(SystemSpawn));
        let silent = futures_util::stream::pending::<io::Result<Bytes>>();
        let request = Request::builder().body(Body::from_bytes_stream(silent));
        let error = echo(&read).call(request).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&BodyTimeout { within }));
        assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT);
    }

    #[tokio::test]
    async fn all_bodies_together_are_bounded() {
        let read = ReadBody::new(small(), Arc::new(SystemSpawn));
        let hold = make(|_| std::future::pending::<()>()).with(read.clone());
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut call = Box::pin(hold.call(chunked(vec![Ok(&[1; 4_096])])));
            assert!(futures_util::poll!(call.as_mut()).is_pending());
            held.push(call);
        }
        let error = echo(&read).call(chunked(vec![Ok(b"x")])).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&BodiesFull));
        assert_eq!(error.status(), StatusCode::SERVICE_UNAVAILABLE);
        // No body, no memory.
        echo(&read).call(Request::default()).await.unwrap();
        held.pop();
        echo(&read).call(chunked(vec![Ok(b"x")])).await.unwrap();
    }
}
