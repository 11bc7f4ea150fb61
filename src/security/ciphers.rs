//! AES-256-GCM with short-lived keys: sealing in place, and the few expanded keys used last.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of the proof at the end of all that is sealed.
pub(super) const TAG_BYTES: usize = 16;

/// Bytes of a nonce.
pub(super) const NONCE_BYTES: usize = 12;

/// A cipher from its key.
pub(super) fn cipher(key: &[u8; 32]) -> Aes256Gcm {
    Aes256Gcm::new(key.into())
}

/// Appends `plain`, sealed, to `out`.
pub(super) fn seal_onto(
    cipher: &Aes256Gcm,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    plain: &[u8],
    out: &mut Vec<u8>,
) {
    let from = out.len();
    out.reserve(plain.len() + TAG_BYTES);
    out.extend_from_slice(plain);
    let tag = cipher
        .encrypt_inout_detached(nonce.into(), associated, (&mut out[from..]).into())
        .expect("what is sealed is far shorter than the 64 GiB of AES-GCM");
    out.extend_from_slice(&tag);
}

/// What was sealed; `None` when key, nonce, associated data or bytes are not those of the sealing.
pub(super) fn open(
    cipher: &Aes256Gcm,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    sealed: &[u8],
) -> Option<Vec<u8>> {
    let (body, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
    let mut plain = body.to_vec();
    cipher
        .decrypt_inout_detached(nonce.into(), associated, plain.as_mut_slice().into(), tag.into())
        .ok()?;
    Some(plain)
}

/// Expanded keys held at once by one cache: about 1 KiB each, so that one per live origin of a
/// stream finds room and a node with very many streams still stays small.
const KEPT_MAX: usize = 4;

/// The ciphers used last, by what names their keys. Deriving and expanding a key takes a third of
/// the time of sealing 1 KiB, and messages come in runs under one key.
pub(super) struct Ciphers<Name> {
    /// The one used last comes first; at most [`KEPT_MAX`].
    recent: Mutex<Vec<(Name, Arc<Aes256Gcm>)>>,
}

impl<Name: Eq> Ciphers<Name> {
    pub(super) fn new() -> Self {
        Self { recent: Mutex::new(Vec::new()) }
    }

    /// The cipher kept under the name.
    pub(super) fn get(&self, name: &Name) -> Option<Arc<Aes256Gcm>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recent.iter().position(|(kept, _)| kept == name)?;
        recent[..=at].rotate_right(1);
        Some(Arc::clone(&recent[0].1))
    }

    /// Keeps a cipher; the one unused for longest makes room.
    pub(super) fn keep(&self, name: Name, cipher: Arc<Aes256Gcm>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.iter().any(|(kept, _)| *kept == name) {
            return; // Another thread was quicker.
        }
        recent.truncate(KEPT_MAX - 1);
        recent.insert(0, (name, cipher));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cipher_unused_for_longest_makes_room() {
        let ciphers = Ciphers::new();
        for name in 0..KEPT_MAX {
            ciphers.keep(name, Arc::new(cipher(&[0; 32])));
        }
        assert!(ciphers.get(&0).is_some());
        ciphers.keep(99, Arc::new(cipher(&[0; 32])));
        assert!(ciphers.get(&0).is_some());
        assert!(ciphers.get(&99).is_some());
        assert!(ciphers.get(&1).is_none());
    }
}
