//! Layer 5: what the cluster agrees on about named things, and this node's copy of it.
//!
//! Knows: how a record changes (`registers`: compare-and-swap, durable before it is answered), how
//! it is kept (`rows`), and where decided records are found fast (`catalog`).
//! Must not know: who may change what, passwords, HTTP, messages.
//! Way in: `broker` reads the catalog and changes registers; `node` opens them.
//! Way out: the store's table `Records`; news as a `watch` of how many changes were published.

pub mod catalog;
mod index;
pub mod registers;
mod rows;

pub use catalog::Catalog;
pub use registers::{ChangeError, Draft, OpenError, Registers};
