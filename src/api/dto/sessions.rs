//! Sessions.

use super::scalars::{Secret, Time};
use super::validate::{Bound, Faults, Rule, Validate, bound};
use super::{page, present};
use crate::base::ids::SessionId;
use crate::base::limits;
use crate::broker::NewSession;
use crate::protocol::record::Session;
use poem_openapi::Object;
use serde::{Deserialize, Serialize};

/// Seconds of a session, at least.
const SESSION_SECONDS_MIN: i64 = 60;

/// A login.
#[derive(Debug, Object, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub password: Secret,
    /// Seconds until the session ends by itself. Default: 43200 (12 hours).
    #[serde(default, deserialize_with = "present")]
    pub ttl_seconds: Option<i32>,
    /// Whether the session is valid only from the address that logs in. Default: false.
    #[serde(default, deserialize_with = "present")]
    pub bind_ip: Option<bool>,
}

impl SessionRequest {
    /// How long the session shall live, in seconds.
    #[must_use]
    pub fn ttl(&self) -> i32 {
        self.ttl_seconds.unwrap_or(limits::SESSION_SECONDS_DEFAULT)
    }
}

impl Validate for SessionRequest {
    const BOUNDS: &'static [Bound] = &[
        // Whether it is a name is not told apart from whether it is known.
        bound("username", Rule::Text(1, 128)),
        bound("password", Rule::Text(1, 128)),
        bound("ttl_seconds", Rule::Number(SESSION_SECONDS_MIN, limits::SESSION_SECONDS_MAX as i64)),
    ];

    fn validate(&self, faults: &mut Faults) {
        faults.text::<Self>("username", Some(&self.username));
        faults.text::<Self>("password", Some(self.password.as_str()));
        faults.number::<Self>("ttl_seconds", self.ttl_seconds);
    }
}

/// A new session: the token is the connection.
#[derive(Debug, Object, Serialize)]
pub struct SessionCreated {
    /// The secret to send as `Authorization: Bearer`; begins with `tts_`. Shown once.
    pub token: Secret,
    /// Names the session in lists.
    pub session_id: String,
    /// Whose it is.
    pub username: String,
    /// When it ends by itself.
    pub expires_at: Time,
}

impl From<NewSession> for SessionCreated {
    fn from(new: NewSession) -> Self {
        Self {
            token: Secret::new(new.token.as_str()),
            session_id: new.session.id.to_string(),
            username: new.user_name,
            expires_at: Time(new.session.expires_ms),
        }
    }
}

/// A session.
#[derive(Debug, Object, Serialize)]
pub struct SessionView {
    /// Names the session.
    pub session_id: String,
    /// Whose it is.
    pub username: String,
    /// When it began.
    pub created_at: Time,
    /// When it ends by itself.
    pub expires_at: Time,
    /// The address that logged in.
    pub address: String,
    /// Whether this request came by it.
    pub current: bool,
}

impl SessionView {
    /// A session as seen by a caller who came by the session `current`, if by any.
    #[must_use]
    pub fn new(session: Session, current: Option<SessionId>) -> Self {
        Self {
            session_id: session.id.to_string(),
            current: current == Some(session.id),
            username: session.user_name,
            created_at: Time(session.created_ms),
            expires_at: Time(session.expires_ms),
            address: session.address,
        }
    }
}

page!(
    /// Sessions.
    SessionPage of SessionView
);
