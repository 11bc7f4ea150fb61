//! A load for a running broker: sends to a queue and receives from it over HTTPS, and checks that
//! what was acknowledged comes.
//!
//! Knows: the REST API as any client does, its own messages, clocks and figures.
//! Must not know: anything of the broker's inside; it shares no state with a node.
//! Way in: [`run`] with a [`Plan`]. Way out: HTTPS, `base::seams`.
//!
//! It shares its machine with the broker, often two cores, so it is cheap: bodies are JSON prepared
//! once, answers are parsed by reference, three bits remember a message. HTTP/1.1 carries one
//! request at a time on a connection, so *in flight* is how many connections send.

pub mod body;
mod consumer;
mod exchange;
pub mod histogram;
pub mod history;
pub mod http;
pub mod ledger;
pub mod pace;
mod plan;
mod producer;
pub mod report;
mod running;
mod setup;

pub use plan::{Credentials, Plan};
pub use report::Report;
pub use running::{Done, Parts, Progress, run};
pub use setup::BenchError;
