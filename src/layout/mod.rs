//! Layer 2: who replicates what.
//!
//! Knows: members, versions of the layout, slots, the placement of streams. Pure.
//! Must not know: who seems alive (`membership`), how a layout is decided (`metadata`).
//! Way in: `protocol` and above. Way out: `base`.

pub mod members;
pub mod placement;
pub mod view;
