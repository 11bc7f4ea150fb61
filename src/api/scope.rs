//! One request's surroundings: what every handler and extractor may ask for.

use super::Shared;
use super::mom::{MomCall, Row};
use super::spec::operations::Operation;
use crate::base::limits;
use crate::broker::Origin;
use poem::{FromRequest, Request, RequestBody};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What is known of a request before its handler runs.
pub struct Scope {
    /// The node's parts.
    pub app: Arc<Shared>,
    /// Names the request in answers and in the log.
    pub request_id: String,
    /// The row of the operations table, where the path and method have one.
    pub operation: Option<&'static Operation>,
    /// The same of the MOM routes, where it is one.
    pub mom: Option<MomCall>,
    /// The query's parameters, decoded, in order.
    pub query: Vec<(String, String)>,
    /// Where the request comes from.
    pub address: IpAddr,
    /// Who asks, once that is known; for the log.
    pub user: OnceLock<String>,
    /// When the answer is due.
    pub deadline: Deadline,
}

/// A request's scope, as an extractor.
#[derive(Clone)]
pub struct Here(pub Arc<Scope>);

impl Deref for Here {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        &self.0
    }
}

impl Here {
    /// The scope that the front door put into the request.
    ///
    /// # Panics
    /// When the request did not come through the front door.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        request.data::<Self>().expect("requests come through the front door").clone()
    }
}

impl Scope {
    /// Whether it changes something.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.operation.is_some_and(|row| !row.is_read()) || self.mom.is_some_and(MomCall::writes)
    }

    /// Whether nobody may do it without credentials.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.operation.is_some_and(Operation::is_private)
            || self.mom_row().is_some_and(Row::is_private)
    }

    /// Bytes of its body, at most; `None`: what the node takes at all.
    #[must_use]
    pub fn body_bytes_max(&self) -> Option<usize> {
        if self.mom.is_some() && !self.is_private() {
            return Some(limits::PUBLIC_BODY_BYTES_MAX);
        }
        self.operation.and_then(Operation::body_bytes_max)
    }

    /// Whether it is called for every message.
    #[must_use]
    pub fn is_about_messages(&self) -> bool {
        self.operation.is_some_and(|row| row.tag == "messages")
            || self.mom_row().is_some_and(Row::is_about_messages)
    }

    fn mom_row(&self) -> Option<&'static Row> {
        self.mom.and_then(|call| call.row)
    }

    /// Where the request comes from, as the broker knows it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin { address: self.address, request_id: self.request_id.as_str().into() }
    }
}

impl<'a> FromRequest<'a> for Here {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        Ok(Self::of(request))
    }
}

/// When an answer is due [R54]: moved while a body arrives and by a wait for messages.
pub struct Deadline {
    at: Mutex<Instant>,
    moved: Notify,
}

impl Default for Deadline {
    /// The client's line decides how long a body takes: the operation's own time begins when it is
    /// here, with [`Deadline::set`].
    fn default() -> Self {
        let at = Instant::now() + limits::BODY_TIME + limits::OPERATION_TIME;
        Self { at: Mutex::new(at), moved: Notify::new() }
    }
}

impl Deadline {
    /// Grants this long from now.
    pub fn set(&self, from_now: Duration) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + from_now;
        self.moved.notify_one();
    }

    /// Returns when the time is over.
    pub async fn passed(&self) {
        loop {
            let at = self.at();
            tokio::select! {
                () = tokio::time::sleep_until(at) => if self.at() == at { return },
                () = self.moved.notified() => {}
            }
        }
    }

    fn at(&self) -> Instant {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
