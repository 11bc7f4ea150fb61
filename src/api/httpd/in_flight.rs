//! The cap on requests being worked on, and the way out of it for one that only waits.

use crate::base::limits;
use poem::error::ResponseError;
use poem::http::StatusCode;
use poem::{Endpoint, IntoResponse, Middleware, Request, Response};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// As many requests are being worked on as this node allows itself. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node works on as many requests as it can")]
pub struct TooManyRequests;

impl ResponseError for TooManyRequests {
    fn status(&self) -> StatusCode {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

/// Middleware: refuses a request with [`TooManyRequests`] when all slots are taken. Clones share
/// the slots. The request carries an [`InFlight`] to its handler.
#[derive(Clone)]
pub struct CapInFlight {
    slots: Arc<Semaphore>,
}

impl CapInFlight {
    /// A cap of `slots_max` requests.
    #[must_use]
    pub fn new(slots_max: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(slots_max)) }
    }
}

impl Default for CapInFlight {
    fn default() -> Self {
        Self::new(limits::REQUESTS_IN_FLIGHT_MAX)
    }
}

impl<E: Endpoint> Middleware<E> for CapInFlight {
    type Output = Capped<E>;

    fn transform(&self, inner: E) -> Self::Output {
        Capped { inner, slots: self.slots.clone() }
    }
}

/// An endpoint behind [`CapInFlight`].
pub struct Capped<E> {
    inner: E,
    slots: Arc<Semaphore>,
}

impl<E: Endpoint> Endpoint for Capped<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Self::Output> {
        let Ok(permit) = self.slots.clone().try_acquire_owned() else {
            let reason = "too_many_requests";
            metrics::counter!("tertulia_http_refused_total", "reason" => reason).increment(1);
            return Err(TooManyRequests.into());
        };
        let slot = Arc::new(Slot {
            slots: self.slots.clone(),
            state: Mutex::new(State::Working { _held: Held::new(permit) }),
        });
        let _running = Running(slot.clone());
        request.set_data(InFlight(slot));
        self.inner.call(request).await.map(IntoResponse::into_response)
    }
}

/// A handler's hold on its own slot; extract it as `Data<&InFlight>` or `request.data()`.
#[derive(Clone)]
pub struct InFlight(Arc<Slot>);

impl InFlight {
    /// Gives the slot to others for as long as the request only waits.
    #[must_use = "the request goes on without a slot until `resume`"]
    pub fn pause(&self) -> Paused {
        self.0.move_to(State::Paused);
        Paused(self.0.clone())
    }
}

impl InFlight {
    /// Another slot of the same node, for a piece of work that is as good as a request.
    ///
    /// # Errors
    /// [`TooManyRequests`], when all slots are taken.
    pub fn another(&self) -> Result<Working, TooManyRequests> {
        match self.0.slots.clone().try_acquire_owned() {
            Ok(permit) => Ok(Working { _held: Held::new(permit) }),
            Err(_) => {
                let reason = "too_many_requests";
                metrics::counter!("tertulia_http_refused_total", "reason" => reason).increment(1);
                Err(TooManyRequests)
            }
        }
    }
}

/// A slot, until it is dropped.
pub struct Working {
    _held: Held,
}

/// A request that waits without a slot. Dropped, it goes on without one: right for a request
/// that ends, wrong for one that has work before it.
pub struct Paused(Arc<Slot>);

impl Paused {
    /// Takes a slot again, waiting for it if need be; those who wait are served in order.
    pub async fn resume(self) {
        if let Ok(permit) = self.0.slots.clone().acquire_owned().await {
            self.0.move_to(State::Working { _held: Held::new(permit) });
        }
    }
}

/// One request's place among those being worked on.
struct Slot {
    slots: Arc<Semaphore>,
    state: Mutex<State>,
}

enum State {
    Working {
        _held: Held,
    },
    Paused,
    /// For good: the request is over, whoever still holds an [`InFlight`] of it.
    Ended,
}

impl Slot {
    fn move_to(&self, next: State) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*state, State::Ended) {
            *state = next;
        }
    }
}

/// Ends the slot when the request ends, also when it is dropped half-way.
struct Running(Arc<Slot>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.move_to(State::Ended);
    }
}

struct Held {
    _permit: OwnedSemaphorePermit,
}

impl Held {
    fn new(permit: OwnedSemaphorePermit) -> Self {
        metrics::gauge!("tertulia_http_requests_in_flight").increment(1.0);
        Self { _permit: permit }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics::gauge!("tertulia_http_requests_in_flight").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use poem::EndpointExt as _;
    use poem::endpoint::make;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn above_the_cap_a_request_is_refused_and_slots_come_back() {
        let go = Arc::new(Notify::new());
        let waiting = go.clone();
        let app = make(move |_| {
            let waiting = waiting.clone();
            async move { waiting.notified().await }
        })
        .with(CapInFlight::new(1));
        let mut first = Box::pin(app.call(Request::default()));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        let refused = app.call(Request::default()).await.unwrap_err();
        assert!(refused.is::<TooManyRequests>());
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        go.notify_one();
        first.await.unwrap();
        go.notify_one();
        app.call(Request::default()).await.unwrap();
        // A request dropped half-way gives its slot back too.
        let mut dropped = Box::pin(app.call(Request::default()));
        assert!(futures_util::poll!(dropped.as_mut()).is_pending());
        drop(dropped);
        go.notify_one();
        app.call(Request::default()).await.unwrap();
    }

    #[tokio::test]
    async fn a_request_that_waits_lends_its_slot() {
        let cap = CapInFlight::new(1);
        let go = Arc::new(Notify::new());
        let waiting = go.clone();
        let poll = make(move |request: Request| {
            let waiting = waiting.clone();
            async move {
                let in_flight = request.data::<InFlight>().unwrap().clone();
                let paused = in_flight.pause();
                waiting.notified().await;
                paused.resume().await;
            }
        })
        .with(cap.clone());
        let quick = make(|_| async {}).with(cap.clone());
        let mut first = Box::pin(poll.call(Request::default()));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        quick.call(Request::default()).await.unwrap();
        let taken = cap.slots.clone().try_acquire_owned().unwrap();
        go.notify_one();
        assert!(futures_util::poll!(first.as_mut()).is_pending(), "waits for a slot");
        drop(taken);
        first.await.unwrap();
        assert_eq!(cap.slots.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_slot_does_not_outlive_its_request() {
        let cap = CapInFlight::new(1);
        let kept = Arc::new(Mutex::new(None));
        let keep = kept.clone();
        let app = make(move |request: Request| {
            *keep.lock().unwrap() = request.data::<InFlight>().cloned();
            async {}
        })
        .with(cap.clone());
        app.call(Request::default()).await.unwrap();
        let kept = kept.lock().unwrap().take().unwrap();
        kept.pause().resume().await;
        assert_eq!(cap.slots.available_permits(), 1);
    }
}
