//! Tertulia: a leaderless replicated message broker.
//!
//! A *tertulia* is a gathering where everyone talks and nobody presides. Every node takes any
//! request; a message is acknowledged when a majority of its replicas has it on disk; it is handed
//! out under a lease that a majority granted, and is done with when a majority recorded that.
//! Majorities intersect: that is the whole proof. Today a node runs alone, with a replica set of
//! one, on the very path that many will take.
//!
//! # The house
//! Modules in layers; each may use only lower ones, and those of one layer are strangers to each
//! other. `tests/tidy.rs` enforces it.
//!
//! | layer | modules | what for |
//! | --- | --- | --- |
//! | top | [`cli`] | the command line |
//! | 9 | [`node`], [`bench`] | a running node: the only one who knows all; a load for one, by HTTPS alone |
//! | 8 | [`api`] | HTTP, the REST API, its document |
//! | 7 | [`broker`] | the product's rules: users, rights, queues, send, receive, settle |
//! | 6 | [`replication`] | coordinator, dispatcher, replica: the I/O of streams |
//! | 5 | [`metadata`] | registers and the catalog of what they decided |
//! | 4 | [`store`], [`rpc`] | the disk (redb, one writer, group commit); calls between nodes |
//! | 3 | [`protocol`] | the rules as pure functions: quorums, leases, streams, records |
//! | 2 | [`message`], [`layout`], [`security`] | envelopes; placement; keys and seals |
//! | 1 | [`crdt`], [`config`], [`telemetry`] | state that merges; settings; logs and metrics |
//! | 0 | [`base`] | ids, names, clocks, limits, and the seams to the outside |
//!
//! # The ways through it
//! * **send**: `api::resources::messages` → `broker::send` (rights from the catalog, no await) →
//!   `replication::coordinator` (mints dots, seals, tallies) → `replication::replica` (decides
//!   under the stream's lock, queues the commit) → `store` (one fsync for many) → 201.
//! * **receive**: → `broker::receive` → `replication::dispatcher` (picks at the head, opens, asks
//!   for grants) → replicas grant by `protocol::lease` → receipts → 200. Empty: waits for the bell.
//! * **ack**: → `broker::settle` (opens the receipt, looks nothing up) → coordinator → 204.
//!
//! Marks like `[R20]`, `[F4]`, `[H6]` name rules and failure schedules of the design; a test that
//! proves one carries its name.
#![forbid(unsafe_code)]

pub mod api;
pub mod base;
pub mod bench;
pub mod broker;
pub mod cli;
pub mod config;
pub mod crdt;
pub mod layout;
pub mod message;
pub mod metadata;
pub mod node;
pub mod protocol;
pub mod replication;
pub mod rpc;
pub mod security;
pub mod store;
pub mod telemetry;
