//! Sealing messages: AES-256-GCM under subkeys of the stream's data key [F7], and the keyed hash
//! of their content [F2].

use super::ciphers::{self, NONCE_BYTES};
use super::keys::{self, DataKey};
use crate::base::ids::{Boot, NodeId};
use crate::base::rng::Rng;
use crate::crdt::dot::Dot;
use aes_gcm::Aes256Gcm;
use std::sync::Arc;

/// One subkey seals 2^20 messages: with random nonces that is far below the 2^32 of NIST.
const SUBKEY_SEQ_BITS: u32 = 20;

const FORMAT: &[u8; 18] = b"tertulia/1 message";
const REASON_FORMAT: &[u8; 17] = b"tertulia/1 reason";

/// A sealed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The random nonce; stored beside the bytes.
    pub nonce: [u8; 12],
    /// The sealed content: 16 bytes longer than it was.
    pub bytes: Vec<u8>,
}

/// Names one subkey of a data key that seals many messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Subkey {
    node: NodeId,
    boot: Boot,
    part: u64,
}

/// Seals a message's content. Opening takes the same dot and the same associated data: every
/// field that is stored in the clear beside it.
#[must_use]
pub fn seal_message(
    key: &DataKey,
    dot: &Dot,
    associated: &[u8],
    plain: &[u8],
    rng: &dyn Rng,
) -> Sealed {
    let nonce = rng.bytes();
    let mut bytes = Vec::new();
    let bound = bind(dot, associated);
    ciphers::seal_onto(&cipher_of(key, dot), &nonce, &bound, plain, &mut bytes);
    Sealed { nonce, bytes }
}

/// Opens what [`seal_message`] sealed. `None` when anything differs: that is corruption, never
/// absence [R8].
#[must_use]
pub fn open_message(
    key: &DataKey,
    dot: &Dot,
    associated: &[u8],
    nonce: &[u8; 12],
    bytes: &[u8],
) -> Option<Vec<u8>> {
    ciphers::open(&cipher_of(key, dot), nonce, &bind(dot, associated), bytes)
}

/// Seals why a message failed: the nonce, then the sealed bytes. Each message has a subkey of its
/// own for that, apart from the one of its content; `associated` says whose reason it is.
#[must_use]
pub fn seal_reason(
    key: &DataKey,
    dot: &Dot,
    associated: &[u8],
    plain: &[u8],
    rng: &dyn Rng,
) -> Vec<u8> {
    let nonce: [u8; NONCE_BYTES] = rng.bytes();
    let mut sealed = nonce.to_vec();
    ciphers::seal_onto(&reason_cipher(key, dot), &nonce, associated, plain, &mut sealed);
    sealed
}

/// Opens what [`seal_reason`] sealed; `None` when anything differs.
#[must_use]
pub fn open_reason(key: &DataKey, dot: &Dot, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, bytes) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    ciphers::open(&reason_cipher(key, dot), nonce, associated, bytes)
}

fn reason_cipher(key: &DataKey, dot: &Dot) -> Aes256Gcm {
    ciphers::cipher(&keys::subkey(key.bytes(), &[REASON_FORMAT, &dot.to_bytes()]))
}

/// A keyed hash of a message's content. Two seals of one content differ in every byte; by this
/// mark they are known to be equal [F2]. Parts are told apart: moving a byte from one to the next
/// gives another hash.
#[must_use]
pub fn content_mac(key: &DataKey, parts: &[&[u8]]) -> [u8; 32] {
    keys::mac(key.mac_key(), parts)
}

fn cipher_of(key: &DataKey, dot: &Dot) -> Arc<Aes256Gcm> {
    let Dot::Minted { node, boot, seq } = *dot else {
        // A keyed or derived dot has a subkey of its own: several nodes may seal it [F7].
        return Arc::new(ciphers::cipher(&keys::subkey(key.bytes(), &[FORMAT, &dot.to_bytes()])));
    };
    let name = Subkey { node, boot, part: seq >> SUBKEY_SEQ_BITS };
    key.subkeys().get(&name).unwrap_or_else(|| {
        let cipher = Arc::new(derive(key, name));
        key.subkeys().keep(name, Arc::clone(&cipher));
        cipher
    })
}

fn derive(key: &DataKey, name: Subkey) -> Aes256Gcm {
    let info: [&[u8]; 4] =
        [FORMAT, &name.node.0.to_be_bytes(), &name.boot.0.to_be_bytes(), &name.part.to_be_bytes()];
    ciphers::cipher(&keys::subkey(key.bytes(), &info))
}

/// What the seal is bound to: the format, the whole dot (the subkey knows only a part of it), the
/// caller's fields.
fn bind(dot: &Dot, associated: &[u8]) -> Vec<u8> {
    const MINTED_BYTES: usize = 1 + 3 * 8;
    let mut bound = Vec::with_capacity(FORMAT.len() + MINTED_BYTES + associated.len());
    bound.extend_from_slice(FORMAT);
    match *dot {
        Dot::Minted { node, boot, seq } => {
            bound.push(0);
            bound.extend_from_slice(&node.0.to_be_bytes());
            bound.extend_from_slice(&boot.0.to_be_bytes());
            bound.extend_from_slice(&seq.to_be_bytes());
        }
        Dot::Keyed(_) | Dot::Derived { .. } => bound.extend_from_slice(&dot.to_bytes()),
    }
    bound.extend_from_slice(associated);
    bound
}

const _: () = assert!(NONCE_BYTES == 12);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::rng::{Rng, SystemRng};
    use crate::security::keys::tests::hex;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    fn dot(node: u64, boot: u64, seq: u64) -> Dot {
        Dot::Minted { node: NodeId(node), boot: Boot(boot), seq }
    }

    fn fixed_key() -> DataKey {
        DataKey::from_bytes(Zeroizing::new([5; 32]))
    }

    struct Sevens;
    impl Rng for Sevens {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(7);
        }
    }

    proptest! {
        #[test]
        fn a_message_opens_as_it_was_sealed(
            (node, boot, seq) in any::<(u64, u64, u64)>(),
            associated in proptest::collection::vec(any::<u8>(), 0..64),
            plain in proptest::collection::vec(any::<u8>(), 0..2_048),
        ) {
            let key = fixed_key();
            let dot = dot(node, boot, seq);
            let sealed = seal_message(&key, &dot, &associated, &plain, &SystemRng);
            prop_assert_eq!(sealed.bytes.len(), plain.len() + 16);
            // Another clone, and a key with an empty cache.
            for key in [key.clone(), fixed_key()] {
                let opened = open_message(&key, &dot, &associated, &sealed.nonce, &sealed.bytes);
                prop_assert_eq!(opened.as_ref(), Some(&plain));
            }
        }

        #[test]
        fn a_bent_message_never_opens(at in 0usize..(12 + 100 + 16), bit in 0u32..8) {
            let key = fixed_key();
            let mut sealed = seal_message(&key, &dot(1, 2, 3), b"a", &[9; 100], &SystemRng);
            match at.checked_sub(12) {
                None => sealed.nonce[at] ^= 1 << bit,
                Some(at) => sealed.bytes[at] ^= 1 << bit,
            }
            let opened = open_message(&key, &dot(1, 2, 3), b"a", &sealed.nonce, &sealed.bytes);
            prop_assert_eq!(opened, None);
        }
    }

    #[test]
    fn another_dot_or_other_fields_never_open() {
        let key = fixed_key();
        let home = dot(1, 2, 3);
        let sealed = seal_message(&key, &home, b"ad", b"plain", &SystemRng);
        let open = |key: &DataKey, dot: &Dot, associated: &[u8]| {
            open_message(key, dot, associated, &sealed.nonce, &sealed.bytes)
        };
        assert_eq!(open(&key, &home, b"ad").as_deref(), Some(&b"plain"[..]));
        for other in [dot(2, 2, 3), dot(1, 3, 3), dot(1, 2, 4), dot(1, 2, 3 + (1 << 20))] {
            assert_eq!(open(&key, &other, b"ad"), None);
        }
        for other in [&b""[..], b"a", b"ad ", b"da"] {
            assert_eq!(open(&key, &home, other), None);
        }
        assert_eq!(open(&DataKey::generate(&SystemRng), &home, b"ad"), None);
        for len in 0..sealed.bytes.len() {
            let cut = &sealed.bytes[..len];
            assert_eq!(open_message(&key, &home, b"ad", &sealed.nonce, cut), None);
        }
    }

    #[test]
    fn a_reason_opens_for_its_message_alone() {
        let (key, home) = (fixed_key(), dot(1, 2, 3));
        let sealed = seal_reason(&key, &home, b"ad", b"why", &SystemRng);
        assert!(!sealed.windows(3).any(|part| part == b"why"));
        assert_eq!(open_reason(&key, &home, b"ad", &sealed).as_deref(), Some(&b"why"[..]));
        assert_eq!(open_reason(&key, &dot(1, 2, 4), b"ad", &sealed), None);
        assert_eq!(open_reason(&key, &home, b"da", &sealed), None);
        assert_eq!(open_reason(&DataKey::generate(&SystemRng), &home, b"ad", &sealed), None);
        for len in 0..sealed.len() {
            assert_eq!(open_reason(&key, &home, b"ad", &sealed[..len]), None);
        }
        // Under another key than the message, with the same nonce and bound bytes.
        let same = seal_message(&key, &home, b"", b"why", &Sevens).bytes;
        assert_ne!(seal_reason(&key, &home, &bind(&home, b""), b"why", &Sevens)[12..], same);
    }

    #[test]
    fn two_seals_of_one_content_differ_and_their_mac_does_not() {
        let key = fixed_key();
        let first = seal_message(&key, &dot(1, 2, 3), b"", b"plain", &SystemRng);
        let second = seal_message(&key, &dot(1, 2, 3), b"", b"plain", &SystemRng);
        assert_ne!(first.nonce, second.nonce);
        assert_ne!(first.bytes, second.bytes);
        assert_eq!(content_mac(&key, &[b"plain"]), content_mac(&fixed_key(), &[b"plain"]));
        assert_ne!(content_mac(&key, &[b"ab", b"c"]), content_mac(&key, &[b"a", b"bc"]));
        let other = DataKey::generate(&SystemRng);
        assert_ne!(content_mac(&key, &[b"plain"]), content_mac(&other, &[b"plain"]));
    }

    /// Changing either makes every stored message unreadable, or unequal to its own copies.
    #[test]
    fn seal_and_mac_are_as_they_were() {
        let key = fixed_key();
        assert_eq!(hex(&content_mac(&key, &[b"ab", b"c"])), GOLDEN_MAC);
        let sealed = seal_message(&key, &dot(1, 2, (3 << 20) | 4), b"ad", b"plain", &Sevens);
        assert_eq!(sealed.nonce, [7; 12]);
        assert_eq!(hex(&sealed.bytes), GOLDEN_SEALED);
    }

    const GOLDEN_MAC: &str = "c4682155e4563962368019e10035b1b302219ae45c7165f25b30faee776c1b25";
    const GOLDEN_SEALED: &str = "e78061f5e155d459473b11a58da95ef02058e368de";
}
