//! A dot names one stored message of a stream, for ever.

use crate::base::ids::{Boot, NodeId};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The name of a message within its stream. Only appended to: it is persisted and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Dot {
    /// Drawn by a replica inside the commit that stores the message [R10, R17].
    Minted {
        /// The replica.
        node: NodeId,
        /// Its boot: a number used before a crash is never used again [H12].
        boot: Boot,
        /// Dense from 1 within node, boot and stream.
        seq: u64,
    },
}

impl Dot {
    /// Parses what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let dot: Self = postcard::from_bytes(&bytes).ok()?;
        // One text per dot: padding bytes or longer encodings name nothing.
        (dot.to_string() == text).then_some(dot)
    }

    /// Its canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a dot always encodes")
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_survives_its_text_and_its_bytes_never_change() {
        let dot = Dot::Minted { node: NodeId(258), boot: Boot(3), seq: 300 };
        assert_eq!(Dot::parse(&dot.to_string()), Some(dot));
        assert_eq!(dot.to_bytes(), [0, 130, 2, 3, 172, 2]);
        assert_eq!(Dot::parse("AA"), None);
        assert_eq!(Dot::parse("not a dot"), None);
    }
}
