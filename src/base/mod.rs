//! Layer 0: what every room of the house may use.
//!
//! Knows: identifiers, validated names, bounds, the two clocks, entropy, the seams to the outside.
//! Must not know: anything of Tertulia's protocol, storage or API.
//! Way in: every module. Way out: none; `base` depends on no other layer.

pub mod clock;
pub mod hlc;
pub mod ids;
pub mod invariant;
pub mod limits;
pub mod names;
pub mod rng;
pub mod rules;
pub mod seams;
