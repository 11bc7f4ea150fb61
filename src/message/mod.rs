//! Layer 2: messages as they are stored and sent between nodes.
//!
//! Knows: the envelope, what of it is sealed and what is bound to the seal.
//! Must not know: keys (`security`), streams (`protocol`), the API's shapes.
//! Way in: `protocol` and above. Way out: `base`, `crdt`.

pub mod envelope;
