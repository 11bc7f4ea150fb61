//! Session tokens and API keys: 256 random bits, of which only a keyed hash is stored.

use super::keys::Keys;
use crate::base::rng::Rng;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

const PREFIX_CHARS: usize = 4;
const RANDOM_BYTES: usize = 32;
/// Characters of a token: its prefix and 32 bytes in base64url.
const TOKEN_CHARS: usize = PREFIX_CHARS + 43;

/// What a token stands for; its first characters tell, so that a leaked one is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenKind {
    /// A session, `tts_…`.
    Session,
    /// An API key, `ttk_…`.
    ApiKey,
}

impl TokenKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Session => "tts_",
            Self::ApiKey => "ttk_",
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Session => 1,
            Self::ApiKey => 2,
        }
    }
}

/// A token's text, which its owner sees once.
pub struct Token(Zeroizing<String>);

impl Token {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Keys {
    /// Draws a fresh token. Answers it and the keyed hash under which it is stored.
    #[must_use]
    pub fn mint_token(&self, kind: TokenKind, rng: &dyn Rng) -> (Token, [u8; 32]) {
        let mut random = Zeroizing::new([0; RANDOM_BYTES]);
        rng.fill(&mut *random);
        // With all its room from the start, the text is never moved and left behind.
        let mut text = Zeroizing::new(String::with_capacity(2 * TOKEN_CHARS));
        text.push_str(kind.prefix());
        URL_SAFE_NO_PAD.encode_string(random.as_slice(), &mut text);
        let hash = self.hash_of(kind, &text);
        (Token(text), hash)
    }

    /// The kind and the keyed hash of a token's text; `None` when it is not shaped like one. Says
    /// nothing about whether such a token exists.
    #[must_use]
    pub fn token_hash(&self, text: &str) -> Option<(TokenKind, [u8; 32])> {
        let kind = [TokenKind::Session, TokenKind::ApiKey]
            .into_iter()
            .find(|kind| text.starts_with(kind.prefix()))?;
        if text.len() != TOKEN_CHARS {
            return None;
        }
        // Strict: a token has one text, so that no second one hashes to something else.
        let mut random = Zeroizing::new([0; RANDOM_BYTES]);
        let decoded = URL_SAFE_NO_PAD.decode_slice(&text[PREFIX_CHARS..], &mut *random);
        (decoded == Ok(RANDOM_BYTES)).then(|| (kind, self.hash_of(kind, text)))
    }

    fn hash_of(&self, kind: TokenKind, text: &str) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.token).expect("HMAC takes a key of any length");
        mac.update(&[kind.byte()]);
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::rng::SystemRng;
    use crate::security::keys::tests::{golden_keys, hex};
    use crate::security::{ClusterSecret, Keys};

    #[test]
    fn a_minted_token_hashes_to_what_is_stored() {
        let keys = golden_keys();
        for (kind, prefix) in [(TokenKind::Session, "tts_"), (TokenKind::ApiKey, "ttk_")] {
            let (token, hash) = keys.mint_token(kind, &SystemRng);
            assert!(token.as_str().starts_with(prefix));
            assert_eq!(token.as_str().len(), TOKEN_CHARS);
            assert_eq!(keys.token_hash(token.as_str()), Some((kind, hash)));
            let others = Keys::derive(&ClusterSecret::generate(&SystemRng), "prod");
            assert_ne!(others.token_hash(token.as_str()).unwrap().1, hash);
        }
    }

    #[test]
    fn what_is_not_shaped_like_a_token_has_no_hash() {
        let keys = golden_keys();
        let (token, _) = keys.mint_token(TokenKind::Session, &SystemRng);
        let text = token.as_str();
        let other_tail = format!("{}B", &text[..TOKEN_CHARS - 1]); // bits beyond 32 bytes
        for bad in [
            "",
            "tts_",
            &text[1..],
            &text[..TOKEN_CHARS - 1],
            &format!("{text}A"),
            &format!("{text}="),
            &format!("TTS_{}", &text[4..]),
            &format!("ttx_{}", &text[4..]),
            &format!("tts_é{}", &text[6..]),
            &format!("tts_+{}", &text[5..]),
            &other_tail,
        ] {
            assert!(keys.token_hash(bad).is_none(), "{bad}");
        }
    }

    /// Changing the hash ends every session and API key.
    #[test]
    fn the_hash_is_as_it_was() {
        let text = format!("tts_{}", "A".repeat(43));
        let (kind, hash) = golden_keys().token_hash(&text).unwrap();
        assert_eq!(kind, TokenKind::Session);
        assert_eq!(hex(&hash), GOLDEN_HASH);
    }

    const GOLDEN_HASH: &str = "009a31ab79a9d4cd487e6b8beef8ea5f532fdc2c94f1495afcab51279a5e0e88";
}
