//! Layer 9: a running node.
//!
//! Knows: everybody. It makes the parts, wires handlers, watches and workers, and takes them down
//! in order.
//! Must not know: the rules themselves; each lives in its room.
//! Way in: `cli`. Way out: all layers below.

mod certificate;
pub mod folder;
pub mod identity;
mod links;
pub mod parts;
mod running;
mod wiring;

pub use certificate::CertificateError;
pub use parts::{ClusterParts, Parts};
pub use running::{Node, StartError};
