//! The cluster secret, the keys that follow from it, and the data key of a stream.

use super::ciphers::{self, Ciphers, NONCE_BYTES};
use super::sealing::Subkey;
use crate::base::ids::Generation;
use crate::base::rng::Rng;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Bytes of a cluster secret, at least.
pub const SECRET_BYTES_MIN: usize = 32;

/// Padding is a matter of the tool that printed the secret: read either way.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a text is no cluster secret. Says nothing of the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Not base64 (of the alphabet with `+` and `/`).
    #[error("the cluster secret is not base64; make one with `openssl rand -base64 32`")]
    NotBase64,
    /// Fewer than [`SECRET_BYTES_MIN`] bytes.
    #[error(
        "the cluster secret has {bytes} bytes; it needs at least 32 random ones; make one with `openssl rand -base64 32`"
    )]
    TooShort {
        /// Bytes that it has.
        bytes: usize,
    },
}

/// What all nodes of a cluster share, and nobody else knows: at least 32 random bytes.
pub struct ClusterSecret(Zeroizing<Vec<u8>>);

impl ClusterSecret {
    /// Reads a secret from base64; white space around it, such as a file's last line feed, is
    /// skipped.
    ///
    /// # Errors
    /// [`SecretError`] says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
        BASE64.decode_vec(text.trim(), &mut bytes).map_err(|_| SecretError::NotBase64)?;
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(SecretError::TooShort { bytes: bytes.len() });
        }
        Ok(Self(bytes))
    }

    /// Draws a fresh secret.
    #[must_use]
    pub fn generate(rng: &dyn Rng) -> Self {
        let mut bytes = Zeroizing::new(vec![0; SECRET_BYTES_MIN]);
        rng.fill(&mut bytes);
        Self(bytes)
    }

    /// The text that [`ClusterSecret::parse`] reads.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(&*self.0))
    }
}

/// The long-lived keys of a cluster: HKDF-SHA256(secret, salt = cluster name, label) [F6]. Equal
/// on every node; none of them seals anything itself [F7].
pub struct Keys {
    id: u32,
    /// Hashes session tokens and API keys.
    pub(super) token: Zeroizing<[u8; 32]>,
    /// Gives the subkeys of receipts.
    pub(super) receipt: Zeroizing<[u8; 32]>,
    /// Becomes the private key of the CA for clients: more bytes than a P-256 scalar has, so that
    /// reducing them leaves no bias.
    pub(super) client_ca: Zeroizing<[u8; 48]>,
    /// Becomes the private key of the CA for nodes, in the same way.
    pub(super) node_ca: Zeroizing<[u8; 48]>,
    /// Gives the keys that wrap data keys.
    store: Zeroizing<[u8; 32]>,
    /// Marks cursors as ours.
    cursor: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// Derives all keys of the cluster of that name.
    #[must_use]
    pub fn derive(secret: &ClusterSecret, cluster_name: &str) -> Self {
        let hkdf = Hkdf::<Sha256>::new(Some(cluster_name.as_bytes()), &secret.0);
        Self {
            id: u32::from_be_bytes(*expand(&hkdf, &[b"tertulia/1 key id"])),
            token: expand(&hkdf, &[b"tertulia/1 tokens"]),
            receipt: expand(&hkdf, &[b"tertulia/1 receipts"]),
            client_ca: expand(&hkdf, &[b"tertulia/1 client ca"]),
            node_ca: expand(&hkdf, &[b"tertulia/1 node ca"]),
            store: expand(&hkdf, &[b"tertulia/1 store"]),
            cursor: expand(&hkdf, &[b"tertulia/1 cursors"]),
        }
    }

    /// Names the secret (and the cluster's name) without telling it: kept in stored rows, so that
    /// a wrong secret is noticed and a previous one is found.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Wraps a stream's data key for its record. 61 bytes; format tag, nonce, sealed key.
    #[must_use]
    pub fn wrap(&self, generation: Generation, key: &DataKey, rng: &dyn Rng) -> Vec<u8> {
        let nonce = rng.bytes();
        let mut out = Vec::with_capacity(WRAPPED_BYTES);
        out.push(WRAP_FORMAT);
        out.extend_from_slice(&nonce);
        let cipher = ciphers::cipher(&self.wrapping_key(generation));
        ciphers::seal_onto(&cipher, &nonce, &wrap_associated(generation), &*key.0.bytes, &mut out);
        out
    }

    /// Unwraps what [`Keys::wrap`] wrapped for the same generation under the same secret; `None`
    /// for anything else.
    #[must_use]
    pub fn unwrap(&self, generation: Generation, wrapped: &[u8]) -> Option<DataKey> {
        let (&WRAP_FORMAT, rest) = wrapped.split_first()? else {
            return None;
        };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let cipher = ciphers::cipher(&self.wrapping_key(generation));
        let plain = ciphers::open(&cipher, nonce, &wrap_associated(generation), sealed)?;
        let plain = Zeroizing::new(plain);
        let mut bytes = Zeroizing::new([0; 32]);
        if plain.len() != bytes.len() {
            return None;
        }
        bytes.copy_from_slice(&plain);
        Some(DataKey::from_bytes(bytes))
    }

    /// Marks a cursor's parts, so that a client cannot make one up. Parts are told apart: moving
    /// a byte from one to the next gives another mark.
    #[must_use]
    pub fn mac_cursor(&self, parts: &[&[u8]]) -> [u8; 16] {
        let whole = mac(&self.cursor, parts);
        let mut half = [0; 16];
        half.copy_from_slice(&whole[..16]);
        half
    }

    /// One key per generation: the store key itself seals nothing [F7].
    fn wrapping_key(&self, generation: Generation) -> Zeroizing<[u8; 32]> {
        subkey(&self.store, &[b"tertulia/1 wrap", &generation.0])
    }
}

const WRAP_FORMAT: u8 = 1;
const WRAPPED_BYTES: usize = 1 + NONCE_BYTES + 32 + ciphers::TAG_BYTES;

fn wrap_associated(generation: Generation) -> [u8; 17] {
    let mut out = [WRAP_FORMAT; 17];
    out[1..].copy_from_slice(&generation.0);
    out
}

/// A stream's key, random per generation: its messages are sealed under subkeys of it. Clones
/// share one key and its cache.
#[derive(Clone)]
pub struct DataKey(Arc<DataKeyInside>);

struct DataKeyInside {
    bytes: Zeroizing<[u8; 32]>,
    mac: Zeroizing<[u8; 32]>,
    subkeys: Ciphers<Subkey>,
}

impl DataKey {
    /// Draws a fresh key.
    #[must_use]
    pub fn generate(rng: &dyn Rng) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        rng.fill(&mut *bytes);
        Self::from_bytes(bytes)
    }

    pub(super) fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        let mac = subkey(&bytes, &[b"tertulia/1 content"]);
        Self(Arc::new(DataKeyInside { bytes, mac, subkeys: Ciphers::new() }))
    }

    /// The key itself: only to derive from.
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0.bytes
    }

    /// The key of `content_mac`.
    pub(super) fn mac_key(&self) -> &[u8; 32] {
        &self.0.mac
    }

    /// The subkeys used last.
    pub(super) fn subkeys(&self) -> &Ciphers<Subkey> {
        &self.0.subkeys
    }
}

/// A subkey of a uniformly random key: HKDF without the extraction, which such a key needs not.
/// The parts are not told apart; callers give one label and parts of fixed length.
pub(super) fn subkey(key: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let hkdf = Hkdf::<Sha256>::from_prk(key).expect("a hash's length of key is enough");
    expand(&hkdf, info)
}

fn expand<const N: usize>(hkdf: &Hkdf<Sha256>, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    hkdf.expand_multi_info(info, &mut *out).expect("HKDF-SHA256 gives up to 8,160 bytes");
    out
}

/// HMAC-SHA256 of the parts, each after its length (8 bytes, little endian).
pub(super) fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::rng::SystemRng;

    /// The cluster of the golden vectors: secret bytes 0 to 31, name "prod".
    pub(in crate::security) fn golden_keys() -> Keys {
        let secret = ClusterSecret(Zeroizing::new((0..32).collect()));
        Keys::derive(&secret, "prod")
    }

    pub(in crate::security) fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_secret_survives_its_text() {
        let secret = ClusterSecret::generate(&SystemRng);
        let text = secret.to_base64();
        assert_eq!(*ClusterSecret::parse(&text).unwrap().0, *secret.0);
        let spaced = format!("  {}\n", text.trim_end_matches('='));
        assert_eq!(*ClusterSecret::parse(&spaced).unwrap().0, *secret.0);
    }

    #[test]
    fn a_short_or_garbled_secret_is_refused() {
        let short = BASE64.encode([7; 31]);
        assert_eq!(ClusterSecret::parse(&short).err(), Some(SecretError::TooShort { bytes: 31 }));
        let empty = ClusterSecret::parse("");
        assert_eq!(empty.err(), Some(SecretError::TooShort { bytes: 0 }));
        let garbled = ClusterSecret::parse("not base64!");
        assert_eq!(garbled.err(), Some(SecretError::NotBase64));
    }

    #[test]
    fn keys_differ_by_label_secret_and_cluster_name() {
        let keys = golden_keys();
        assert_ne!(*keys.token, *keys.receipt);
        assert_ne!(*keys.store, *keys.cursor);
        let secret = ClusterSecret(Zeroizing::new((0..32).collect()));
        assert_ne!(*Keys::derive(&secret, "test").token, *keys.token);
        assert_ne!(Keys::derive(&secret, "test").id(), keys.id());
        let other = ClusterSecret(Zeroizing::new((1..33).collect()));
        assert_ne!(*Keys::derive(&other, "prod").token, *keys.token);
    }

    /// Changing a derivation locks every cluster out of its data.
    #[test]
    fn derivation_is_as_it_was() {
        let keys = golden_keys();
        assert_eq!(keys.id(), GOLDEN_ID);
        assert_eq!(hex(&*keys.token), GOLDEN_TOKEN);
        assert_eq!(hex(&*keys.receipt), GOLDEN_RECEIPT);
        assert_eq!(hex(&*keys.store), GOLDEN_STORE);
        assert_eq!(hex(&*keys.cursor), GOLDEN_CURSOR);
        assert_eq!(hex(&*keys.client_ca), GOLDEN_CLIENT_CA);
        assert_eq!(hex(&*keys.node_ca), GOLDEN_NODE_CA);
        assert_eq!(hex(&keys.mac_cursor(&[b"ab", b"c"])), GOLDEN_CURSOR_MAC);
    }

    #[test]
    fn a_wrapped_key_opens_for_its_generation_alone() {
        let keys = golden_keys();
        let key = DataKey::generate(&SystemRng);
        let generation = Generation::random(&SystemRng);
        let wrapped = keys.wrap(generation, &key, &SystemRng);
        assert_eq!(wrapped.len(), WRAPPED_BYTES);
        let back = keys.unwrap(generation, &wrapped).unwrap();
        assert_eq!(back.bytes(), key.bytes());
        assert!(keys.unwrap(Generation::random(&SystemRng), &wrapped).is_none());
        let others = Keys::derive(&ClusterSecret::generate(&SystemRng), "prod");
        assert!(others.unwrap(generation, &wrapped).is_none());
        for at in 0..wrapped.len() {
            let mut bent = wrapped.clone();
            bent[at] ^= 1;
            assert!(keys.unwrap(generation, &bent).is_none());
            assert!(keys.unwrap(generation, &wrapped[..at]).is_none());
        }
    }

    /// A key wrapped by an earlier release opens.
    #[test]
    fn a_key_wrapped_long_ago_opens() {
        let wrapped = (0..GOLDEN_WRAPPED.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&GOLDEN_WRAPPED[at..at + 2], 16).unwrap())
            .collect::<Vec<_>>();
        let key = golden_keys().unwrap(Generation([9; 16]), &wrapped).unwrap();
        assert_eq!(key.bytes(), &[5; 32]);
    }

    #[test]
    fn a_byte_moved_between_parts_gives_another_mark() {
        let keys = golden_keys();
        assert_ne!(keys.mac_cursor(&[b"ab", b"c"]), keys.mac_cursor(&[b"a", b"bc"]));
        assert_ne!(keys.mac_cursor(&[b"abc"]), keys.mac_cursor(&[b"abc", b""]));
    }

    const GOLDEN_ID: u32 = 0x42403365;
    const GOLDEN_TOKEN: &str = "3fd744120b3a3c3263258ed3c7a6b31fd05fb6418d97d6debd59179933367d3b";
    const GOLDEN_RECEIPT: &str = "5509e4530ff240230ec3a71b40bff2195b5b6b1fae7187a5ee887bf8d4021ad4";
    const GOLDEN_STORE: &str = "d0c444fe22c41a24cf9d4dbe6363927aceb6748a7a56ccbb848a357a93274abe";
    const GOLDEN_CURSOR: &str = "480762efd433b0f4b4c02523a39c58a470cbd136a475a338dedbc1c62649aa13";
    const GOLDEN_CLIENT_CA: &str = "2cb9b3c771ff856e544b32b67a5621dd873ef02a27eed5568f4217a61367fce4de8af8a88fb99e723ed96ca2cb10c2c6";
    const GOLDEN_NODE_CA: &str = "f8b3f5698266e493cf66af520e2aa8e86feddbea4eb5ae6905354d104d969077b671166467b11733d075c398a6a1dc87";
    const GOLDEN_CURSOR_MAC: &str = "c4723dd407299e71cec64655016fdabb";
    const GOLDEN_WRAPPED: &str = "01000102030405060708090a0bf4d0d014dee28a2907526ade7e6ce0fe14e63ef924854c223d3b9dcd03a29fd8776e9591e701c26e90d1038780455295";
}
