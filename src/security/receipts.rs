//! Receipts: what a consumer hands back to settle a message. Sealed, so that nobody makes one up
//! or learns what is inside; any node of the cluster opens any other's.

use super::ciphers::{self, Ciphers, NONCE_BYTES, TAG_BYTES};
use super::keys::{self, Keys};
use crate::base::ids::{Boot, NodeId};
use crate::base::limits::RECEIPT_CHARS_MAX;
use crate::base::rng::Rng;
use crate::invariant;
use aes_gcm::Aes256Gcm;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use zeroize::Zeroizing;

const FORMAT: u8 = 1;
/// What the seal is for; a seal for anything else does not open as a receipt.
const PURPOSE: &[u8; 18] = b"tertulia/1 receipt";
/// Format, node, boot, random bits, count.
const HEADER_BYTES: usize = 1 + 4 * 8;

/// Bytes that a receipt can hold: more would not fit [`RECEIPT_CHARS_MAX`].
pub const RECEIPT_BYTES_MAX: usize = RECEIPT_CHARS_MAX / 4 * 3 - HEADER_BYTES - TAG_BYTES;

/// Names one subkey of the receipt key, as the clear header does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Subkey {
    node: NodeId,
    boot: Boot,
    /// Random bits of the sealer. Without them a node set back to an earlier boot by a restored
    /// snapshot would repeat nonces.
    start: u64,
    /// The upper half of the count: a subkey seals 2^32 receipts [F7].
    epoch: u32,
}

/// Seals receipts of one node and boot, and opens those of all.
pub struct ReceiptSealer {
    key: Zeroizing<[u8; 32]>,
    node: NodeId,
    boot: Boot,
    start: u64,
    /// Receipts sealed so far. It is the nonce: no two receipts under one subkey share one.
    count: AtomicU64,
    subkeys: Ciphers<Subkey>,
}

impl ReceiptSealer {
    /// A sealer for this start of this node.
    #[must_use]
    pub fn new(keys: &Keys, node: NodeId, boot: Boot, rng: &dyn Rng) -> Self {
        Self {
            key: keys.receipt.clone(),
            node,
            boot,
            start: rng.u64(),
            count: AtomicU64::new(0),
            subkeys: Ciphers::new(),
        }
    }

    /// Seals up to [`RECEIPT_BYTES_MAX`] bytes into base64url: 4 characters for 3 bytes, and 66
    /// for header and proof.
    ///
    /// # Panics
    /// When given more bytes: no client could hand such a receipt back.
    #[must_use]
    pub fn seal(&self, plain: &[u8]) -> String {
        invariant!(
            plain.len() <= RECEIPT_BYTES_MAX,
            "F7",
            "a receipt of {} bytes does not fit its bound",
            plain.len()
        );
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let name =
            Subkey { node: self.node, boot: self.boot, start: self.start, epoch: epoch_of(count) };
        let cipher = self.subkeys.get(&name).unwrap_or_else(|| {
            let cipher = self.derive(name);
            self.subkeys.keep(name, Arc::clone(&cipher));
            cipher
        });
        let header = write_header(name, count);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + plain.len() + TAG_BYTES);
        bytes.extend_from_slice(&header);
        ciphers::seal_onto(&cipher, &nonce_of(count), &bind(&header), plain, &mut bytes);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What any node of this cluster sealed into the receipt; `None` for any other text.
    #[must_use]
    pub fn open(&self, text: &str) -> Option<Vec<u8>> {
        if text.len() > RECEIPT_CHARS_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (header, sealed) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let (name, count) = read_header(header)?;
        let open =
            |cipher: &Aes256Gcm| ciphers::open(cipher, &nonce_of(count), &bind(header), sealed);
        if let Some(cipher) = self.subkeys.get(&name) {
            return open(&cipher);
        }
        let cipher = self.derive(name);
        let plain = open(&cipher)?;
        // Only now: made-up headers must not drive the subkeys in use out of the cache.
        self.subkeys.keep(name, cipher);
        Some(plain)
    }

    fn derive(&self, name: Subkey) -> Arc<Aes256Gcm> {
        let info: [&[u8]; 5] = [
            PURPOSE,
            &name.node.0.to_be_bytes(),
            &name.boot.0.to_be_bytes(),
            &name.start.to_be_bytes(),
            &name.epoch.to_be_bytes(),
        ];
        Arc::new(ciphers::cipher(&keys::subkey(&self.key, &info)))
    }
}

fn epoch_of(count: u64) -> u32 {
    (count >> 32) as u32
}

fn nonce_of(count: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[4..].copy_from_slice(&count.to_be_bytes());
    nonce
}

fn bind(header: &[u8; HEADER_BYTES]) -> [u8; PURPOSE.len() + HEADER_BYTES] {
    let mut bound = [0; PURPOSE.len() + HEADER_BYTES];
    bound[..PURPOSE.len()].copy_from_slice(PURPOSE);
    bound[PURPOSE.len()..].copy_from_slice(header);
    bound
}

fn write_header(name: Subkey, count: u64) -> [u8; HEADER_BYTES] {
    let mut header = [FORMAT; HEADER_BYTES];
    let fields = [name.node.0, name.boot.0, name.start, count];
    for (place, field) in header[1..].chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_be_bytes());
    }
    header
}

fn read_header(header: &[u8; HEADER_BYTES]) -> Option<(Subkey, u64)> {
    let (&FORMAT, fields) = header.split_first()? else {
        return None;
    };
    let mut fields =
        fields.chunks_exact(8).filter_map(|field| field.try_into().ok().map(u64::from_be_bytes));
    let (node, boot, start) = (fields.next()?, fields.next()?, fields.next()?);
    let count = fields.next()?;
    let name = Subkey { node: NodeId(node), boot: Boot(boot), start, epoch: epoch_of(count) };
    Some((name, count))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::rng::SystemRng;
    use crate::security::ClusterSecret;
    use crate::security::keys::tests::golden_keys;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn sealer(node: u64, boot: u64) -> ReceiptSealer {
        ReceiptSealer::new(&golden_keys(), NodeId(node), Boot(boot), &SystemRng)
    }

    proptest! {
        #[test]
        fn any_node_opens_what_another_sealed(
            plain in proptest::collection::vec(any::<u8>(), 0..=RECEIPT_BYTES_MAX),
            (node, boot) in any::<(u64, u64)>(),
        ) {
            let theirs = sealer(node, boot);
            let ours = sealer(7, 7);
            let text = theirs.seal(&plain);
            prop_assert!(text.len() <= RECEIPT_CHARS_MAX);
            for opener in [&theirs, &ours, &ours] {
                let opened = opener.open(&text);
                prop_assert_eq!(opened.as_ref(), Some(&plain));
            }
        }

        #[test]
        fn any_other_text_never_opens(text in "[A-Za-z0-9_-]{0,600}") {
            prop_assert_eq!(sealer(1, 1).open(&text), None);
        }
    }

    #[test]
    fn a_receipt_with_one_bit_or_character_changed_never_opens() {
        let sealer = sealer(1, 2);
        let text = sealer.seal(&[3; 48]);
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for at in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[at / 8] ^= 1 << (at % 8);
            assert_eq!(sealer.open(&URL_SAFE_NO_PAD.encode(bent)), None);
        }
        for at in 0..text.len() {
            for other in ["A", "B", "_", "=", ""] {
                let bent = format!("{}{other}{}", &text[..at], &text[at + 1..]);
                assert!(bent == text || sealer.open(&bent).is_none());
            }
            assert_eq!(sealer.open(&text[..at]), None);
        }
        assert_eq!(sealer.open(&format!("{text}A")), None);
        assert_eq!(sealer.open("é"), None);
    }

    #[test]
    fn another_cluster_does_not_open_it() {
        let text = sealer(1, 2).seal(b"plain");
        let secret = ClusterSecret::generate(&SystemRng);
        let keys = Keys::derive(&secret, "prod");
        let other = ReceiptSealer::new(&keys, NodeId(1), Boot(2), &SystemRng);
        assert_eq!(other.open(&text), None);
    }

    #[test]
    fn receipts_are_short() {
        let sealer = sealer(u64::MAX, u64::MAX);
        assert_eq!(sealer.seal(&[0; 48]).len(), 130);
        assert_eq!(sealer.seal(&[0; 120]).len(), 226);
        assert_eq!(sealer.seal(&[0; RECEIPT_BYTES_MAX]).len(), RECEIPT_CHARS_MAX);
    }

    #[test]
    #[should_panic(expected = "invariant [F7]")]
    fn what_no_client_could_hand_back_is_not_sealed() {
        let _ = sealer(1, 1).seal(&[0; RECEIPT_BYTES_MAX + 1]);
    }

    #[test]
    fn no_nonce_comes_twice_under_a_subkey() {
        let sealer = sealer(1, 1);
        let texts = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..500).map(|_| sealer.seal(b"")).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let headers: BTreeSet<_> = texts.iter().map(|text| &text[..44]).collect();
        assert_eq!(headers.len(), 2_000);
    }

    #[test]
    fn after_two_to_the_32_comes_another_subkey() {
        let ours = sealer(1, 1);
        ours.count.store(u64::from(u32::MAX), Ordering::Relaxed);
        let (last, first) = (ours.seal(b"last"), ours.seal(b"first"));
        for opener in [&ours, &sealer(2, 2)] {
            assert_eq!(opener.open(&last).unwrap(), b"last");
            assert_eq!(opener.open(&first).unwrap(), b"first");
        }
        let bytes = URL_SAFE_NO_PAD.decode(&first).unwrap();
        let (name, count) = read_header(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!((name.epoch, count), (1, 1 << 32));
    }

    #[test]
    fn made_up_headers_drive_no_subkey_out() {
        let ours = sealer(1, 1);
        let theirs = sealer(2, 2).seal(b"plain");
        assert!(ours.open(&theirs).is_some());
        let bytes = URL_SAFE_NO_PAD.decode(&theirs).unwrap();
        let (name, _) = read_header(bytes.first_chunk().unwrap()).unwrap();
        for node in 100..120 {
            let mut forged = bytes.clone();
            forged[8] = node;
            assert_eq!(ours.open(&URL_SAFE_NO_PAD.encode(forged)), None);
        }
        assert!(ours.subkeys.get(&name).is_some());
    }

    /// Consumers hold receipts across an upgrade.
    #[test]
    fn a_receipt_sealed_long_ago_opens() {
        assert_eq!(sealer(1, 1).open(GOLDEN_RECEIPT).unwrap(), b"plain");
    }

    const GOLDEN_RECEIPT: &str =
        "AQAAAAAAABERAAAAAAAAABYzMzMzRERERAAAAAUAAAAGtiBWSt7aNvJZMdowGHhbIe6-6ZQh";
}
