//! What a run is to do.

use super::http::Endpoint;
use crate::base::names::QueueName;
use std::time::Duration;
use zeroize::Zeroizing;

/// Who the bench is to the broker.
pub enum Credentials {
    /// A user registered for this run and deleted after it. Works where registration is open.
    Register,
    /// A user: the bench opens a session, and ends it.
    Password {
        /// Its name.
        username: String,
        /// Its password.
        password: Zeroizing<String>,
    },
    /// The token of a session or the secret of an API key.
    Token(Zeroizing<String>),
}

/// A run.
pub struct Plan {
    /// The brokers, at least one; connections are spread over them in turn.
    pub endpoints: Vec<Endpoint>,
    /// The certificates to trust, as PEM.
    pub ca_pem: Vec<u8>,
    /// Who sends and receives.
    pub credentials: Credentials,
    /// The queue: made, and deleted afterwards, if it is not there. `None`: one of a fresh name.
    pub queue: Option<QueueName>,
    /// Senders, each of which numbers its messages.
    pub producers: usize,
    /// Sends under way at once, at least one of each producer: that many connections.
    pub in_flight: usize,
    /// Receivers, one connection each; 0 only sends, and then nothing is checked.
    pub consumers: usize,
    /// Messages of one send.
    pub batch: usize,
    /// Messages of one receive.
    pub receive_batch: usize,
    /// Bytes of one message's body.
    pub size_bytes: usize,
    /// Messages per second, all producers together, whatever the answers do; 0: each send begins
    /// when the one before is answered.
    pub rate: u64,
    /// How long is sent.
    pub seconds: u64,
    /// How long is waited after that for what was acknowledged and has not come.
    pub drain: Duration,
}
