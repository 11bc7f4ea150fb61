//! The node's state.

use poem_openapi::Object;
use serde::Serialize;

/// The node runs.
#[derive(Debug, Object, Serialize)]
pub struct Liveness {
    /// `live`; more may come.
    pub status: String,
}

/// The node takes requests.
#[derive(Debug, Object, Serialize)]
pub struct Readiness {
    /// Always true: a node that is not ready answers 503.
    pub ready: bool,
}
