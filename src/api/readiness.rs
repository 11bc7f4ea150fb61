//! Whether the node takes requests: handed down by whoever wires it.

/// Whether the node takes requests, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// Not yet.
    Starting(String),
    /// Not now.
    NotReady(String),
    /// Not as long as it is no member of the cluster.
    NotAMember(String),
}
