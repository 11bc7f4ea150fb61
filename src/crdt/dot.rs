//! A dot names one stored message of a stream, for ever.

use crate::base::ids::{Boot, Generation, LinkId, NodeId, UserId};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// 128 bits of a hash over what makes a message the same as another [F1].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyedId(pub [u8; 16]);

/// What a sender calls a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendKey<'a> {
    /// The request's key, and which item of it.
    Item(&'a str, u32),
    /// The message's own.
    Dedup(&'a str),
}

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
    /// The identity itself: whoever stores it, it is the same message [F1].
    Keyed(KeyedId),
    /// The copy of a minted message: whoever makes it, it is the same copy.
    Derived {
        /// The road it came by.
        link: LinkId,
        /// How many roads it has come by.
        hop: u8,
        /// The node of the source's dot.
        node: NodeId,
        /// Its boot.
        boot: Boot,
        /// Its number.
        seq: u64,
    },
}

/// Where the numbers of dots run: dots of one origin are kept as intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The link and hop of copies; none: minted.
    pub road: Option<(LinkId, u8)>,
    /// The node.
    pub node: NodeId,
    /// Its boot.
    pub boot: Boot,
}

impl Dot {
    /// The dot of a keyed message of a sender in a creation of a queue or topic.
    #[must_use]
    pub fn keyed(stream: Generation, sender: UserId, key: SendKey<'_>) -> Self {
        let hash = Sha256::new().chain_update(b"tertulia/1 keyed").chain_update(stream.0);
        let hash = hash.chain_update(sender.0);
        let hash = match key {
            SendKey::Item(key, index) => {
                hash.chain_update([0]).chain_update(index.to_be_bytes()).chain_update(key)
            }
            SendKey::Dedup(id) => hash.chain_update([1]).chain_update(id),
        };
        Self::Keyed(first_half(hash))
    }

    /// The dot of this one's copy: a pure function, so that copying twice stores once [F17].
    #[must_use]
    pub fn copied_by(self, link: LinkId, hop: u8) -> Self {
        match self {
            Self::Minted { node, boot, seq } => Self::Derived { link, hop, node, boot, seq },
            Self::Keyed(_) | Self::Derived { .. } => {
                let hash = Sha256::new().chain_update(b"tertulia/1 copied").chain_update(link.0);
                Self::Keyed(first_half(hash.chain_update([hop]).chain_update(self.to_bytes())))
            }
        }
    }

    /// Its origin and number there; a keyed dot has none.
    #[must_use]
    pub fn origin(self) -> Option<(Origin, u64)> {
        match self {
            Self::Minted { node, boot, seq } => Some((Origin { road: None, node, boot }, seq)),
            Self::Derived { link, hop, node, boot, seq } => {
                Some((Origin { road: Some((link, hop)), node, boot }, seq))
            }
            Self::Keyed(_) => None,
        }
    }

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

fn first_half(hash: Sha256) -> KeyedId {
    let digest = hash.finalize();
    KeyedId(digest[..16].try_into().expect("16 of 32 bytes"))
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
        let keyed = Dot::Keyed(KeyedId([7; 16]));
        assert_eq!(keyed.to_bytes(), [&[1], &[7; 16][..]].concat());
        let copy = dot.copied_by(LinkId([9; 16]), 2);
        assert_eq!(copy.to_bytes(), [&[2], &[9; 16][..], &[2, 130, 2, 3, 172, 2]].concat());
        assert_eq!(Dot::parse("AA"), None);
        assert_eq!(Dot::parse("not a dot"), None);
    }

    #[test]
    fn f1_keys_of_a_request_and_of_a_message_never_meet() {
        let of = |key| Dot::keyed(Generation([1; 16]), UserId([2; 16]), key);
        assert_eq!(of(SendKey::Item("a", 0)), of(SendKey::Item("a", 0)));
        assert_ne!(of(SendKey::Item("a", 0)), of(SendKey::Item("a", 1)));
        assert_ne!(of(SendKey::Dedup("a")), of(SendKey::Item("a", 0)));
        let other = Dot::keyed(Generation([1; 16]), UserId([3; 16]), SendKey::Dedup("a"));
        assert_ne!(of(SendKey::Dedup("a")), other, "a key belongs to its sender");
    }

    #[test]
    fn f17_a_copy_is_named_by_its_source_its_road_and_its_hop() {
        let source = Dot::Minted { node: NodeId(1), boot: Boot(2), seq: 3 };
        let copy = source.copied_by(LinkId([1; 16]), 1);
        assert_eq!(copy, source.copied_by(LinkId([1; 16]), 1));
        assert_ne!(copy, source.copied_by(LinkId([1; 16]), 2), "redriven, it is another");
        assert_ne!(copy, source.copied_by(LinkId([2; 16]), 1));
        assert!(matches!(copy.copied_by(LinkId([1; 16]), 2), Dot::Keyed(_)));
    }
}
