//! Layer 3: the protocol without I/O.
//!
//! Knows: votes, quorums, the rules by which a replica stores, grants and settles, records.
//! Must not know: disks, sockets, clocks, tasks: time comes in as a number, changes go out as
//! values. So every rule is tested by itself, and by a simulator later.
//! Way in: `replication`, `metadata`. Way out: `message`, `layout`, `crdt`, `base`.

pub mod filter;
pub mod lease;
pub mod op;
pub mod quorum;
pub mod record;
pub mod stream;
