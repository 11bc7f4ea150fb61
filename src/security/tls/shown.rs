//! The certificate that a listener shows, replaced while it runs.

use super::TlsError;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::{Arc, PoisonError, RwLock};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A chain with its key, known to belong together.
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    not_after_ms: u64,
}

impl Certificate {
    /// Reads chain and key, both PEM.
    ///
    /// # Errors
    /// [`TlsError`] when a text is not PEM or the two do not belong together.
    pub fn parse(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsError> {
        let chain = CertificateDer::pem_slice_iter(chain_pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| TlsError::CertificateUnreadable)?;
        let leaf = chain.first().ok_or(TlsError::CertificateUnreadable)?;
        let not_after_ms = X509Certificate::from_der(leaf)
            .map(|(_, leaf)| u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0))
            .map_err(|_| TlsError::CertificateUnreadable)?
            .saturating_mul(1_000);
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| TlsError::KeyUnreadable)?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = Arc::new(CertifiedKey::from_der(chain, key, &provider)?);
        Ok(Self { certified, not_after_ms })
    }

    /// When it ends, in ms since 1970.
    #[must_use]
    pub fn not_after_ms(&self) -> u64 {
        self.not_after_ms
    }
}

/// What handshakes of one listener show. Connections that stand keep what they were shown.
pub struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    /// Begins with a certificate.
    #[must_use]
    pub fn new(first: &Certificate) -> Arc<Self> {
        Arc::new(Self(RwLock::new(first.certified.clone())))
    }

    /// Handshakes from now on show this one.
    pub fn replace(&self, next: &Certificate) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next.certified.clone();
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Without the key.
impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}
