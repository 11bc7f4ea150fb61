//! Layer 2: every key, seal, hash and certificate of a cluster.
//!
//! Knows: one cluster secret, and how all else follows from it by HKDF-SHA256 [F6]; which key may
//! seal how much [F7]; how passwords, tokens and receipts are made and checked.
//! Must not know: who may do what, what is stored where, HTTP, the network. It judges whether a
//! text is genuine, never what it is good for.
//! Way in: `keys` at the start (`ClusterSecret::parse`, `Keys::derive`), then the part at hand.
//! Way out: the seams of `base` for entropy and for work that burns a core; `crdt::dot` for what
//! names a message.
//!
//! Two rules hold throughout. No long-lived key seals anything itself: it derives subkeys that
//! each seal little [F7]. And secrets are wiped when dropped and have no `Debug`.

mod ciphers;
pub mod keys;
pub mod passwords;
pub mod receipts;
pub mod sealing;
pub mod tls;
pub mod tokens;

pub use keys::{ClusterSecret, DataKey, Keys, SecretError};
pub use passwords::{Busy, Passwords};
pub use receipts::ReceiptSealer;
pub use sealing::{Sealed, content_mac, open_message, seal_message};
pub use tls::peers::{PeerTls, node_of};
pub use tls::{Certificate, ClientCa, Issued, Shown, TlsError, server_config};
pub use tokens::{Token, TokenKind};
