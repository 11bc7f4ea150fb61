//! Layer 6: the I/O of streams.
//!
//! Knows: how an operation reaches the replicas of its view and when a majority has it; how a
//! replica turns a decision of `protocol` into one durable commit; who hands messages out.
//! Must not know: users, rights, names, HTTP.
//! Way in: `broker`. Way out: `metadata` (the catalog, read only), `store`, `rpc`, `protocol`.
//!
//! The path of every data operation, also with a replica set of one:
//! [`coordinator`] → tally → [`replica`] → store.
//!
//! With several replicas: [`gateway`] hands on what another node has to run; [`comparing`] decides
//! when replicas compare a stream and [`repair`] pulls what one lacks; `orphans` checks old grants,
//! `retiring` forgets keys, `withdrawing` gives back what a minority granted.

pub mod comparing;
pub mod coordinator;
pub mod dispatcher;
pub mod forwarding;
pub mod gateway;
pub mod inspecting;
pub mod lapses;
pub mod life;
pub mod listening;
mod loaded;
mod membership;
mod opening;
mod orphans;
pub mod peers;
mod reasons;
mod refilling;
pub mod removing;
pub mod repair;
mod repeating;
pub mod replica;
mod retiring;
mod rows;
pub mod rules;
pub mod scan;
pub mod sending;
pub mod settling;
mod storing;
pub mod stream_cell;
pub mod subscribing;
pub mod upkeep;
mod withdrawing;
