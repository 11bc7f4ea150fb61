//! Layer 1: state that merges.
//!
//! Knows: dots, sets of them, joins. Pure: no clock, no disk, no network.
//! Must not know: what a message, a queue or a user is.
//! Way in: `protocol`, `replication`, `metadata`. Way out: none but `base`.

pub mod context;
pub mod dot;
pub mod interval_set;
pub mod versioned;
