//! Writes run to their end: a client that goes away, or a deadline, must not leave half of one. A
//! receive is different: it is dropped with its client, and what it leased is handed back.

use super::scope::Here;
use crate::base::limits;
use crate::base::seams::Spawn;
use futures_util::FutureExt as _;
use poem::{Endpoint, Middleware, Request, Response};
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The operation that ends with its client.
const ENDS_WITH_CLIENT: &str = "receive_messages";

/// Middleware: runs writes in tasks of their own, and starts the operation's clock.
#[derive(Clone)]
pub struct RunToEnd(pub Arc<dyn Spawn>);

impl<E: Endpoint<Output = Response> + 'static> Middleware<E> for RunToEnd {
    type Output = Running<E>;

    fn transform(&self, inner: E) -> Self::Output {
        Running { inner: Arc::new(inner), spawn: self.0.clone() }
    }
}

/// An endpoint behind [`RunToEnd`].
pub struct Running<E> {
    inner: Arc<E>,
    spawn: Arc<dyn Spawn>,
}

impl<E: Endpoint<Output = Response> + 'static> Endpoint for Running<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let here = Here::of(&request);
        here.deadline.set(limits::OPERATION_TIME);
        let ends_with_client = here.operation.is_some_and(|row| row.id == ENDS_WITH_CLIENT);
        let to_end = here.writes() && !ends_with_client;
        if !to_end {
            return self.inner.call(request).await;
        }
        let (done, result) = oneshot::channel();
        let inner = self.inner.clone();
        self.spawn.task(Box::pin(async move {
            let _ = done.send(AssertUnwindSafe(inner.call(request)).catch_unwind().await);
        }));
        match result.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(poem::Error::from_string(
                "the task ended",
                poem::http::StatusCode::INTERNAL_SERVER_ERROR,
            )),
        }
    }
}
