//! TLS for clients: the cluster's own certificate authority, the certificates it issues, and the
//! server's side of a handshake.
//!
//! The authority follows from the cluster secret, so every node has the same one without asking
//! another. It signs for clients' HTTPS alone: nodes know each other by another [F30].

use super::keys::Keys;
use crate::base::rng::Rng;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::bigint::U256;
use p256::elliptic_curve::ops::Reduce as _;
use p256::pkcs8::{EncodePrivateKey as _, LineEnding};
use p256::{NonZeroScalar, SecretKey};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm, date_time_ymd,
};
use rustls_pki_types::DnsName;
use sha2::{Digest as _, Sha256};
use std::net::IpAddr;
use std::sync::Arc;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

pub mod peers;
mod shown;

pub use shown::{Certificate, Shown};

/// How long an issued certificate lives.
const LIFE: Duration = Duration::days(90);
/// How much earlier it begins, for clients whose clocks are behind.
const BACKDATED: Duration = Duration::hours(1);
/// Characters of a common name, by RFC 5280.
const COMMON_NAME_CHARS_MAX: usize = 64;

/// Why there is no certificate, or none that can serve.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate for no host at all.
    #[error("a certificate needs at least one host")]
    NoHosts,
    /// Neither an IP address nor a DNS name.
    #[error("{0:?} is neither an IP address nor a DNS name")]
    BadHost(String),
    /// A time that no certificate can carry.
    #[error("the clock shows {now_ms} ms since 1970: no certificate can begin then")]
    BadTime {
        /// The time given.
        now_ms: u64,
    },
    /// Signing failed.
    #[error("the certificate could not be made: {0}")]
    Issue(#[from] rcgen::Error),
    /// The certificate's text holds none, or a broken one.
    #[error("the certificate is not readable PEM")]
    CertificateUnreadable,
    /// The key's text holds none, or a broken one.
    #[error("the private key is not readable PEM")]
    KeyUnreadable,
    /// Certificate and key are readable and do not serve, for instance because they do not belong
    /// together.
    #[error("certificate and key cannot serve: {0}")]
    Refused(#[from] rustls::Error),
}

/// The certificate authority for clients. The same on every node of a cluster, to the last byte.
pub struct ClientCa {
    issuer: Issuer<'static, CaKey>,
    pem: String,
}

/// A certificate with its key.
pub struct Issued {
    /// The certificate, as PEM. The authority's own is not in it: clients have that already.
    pub chain_pem: String,
    /// Its private key, PKCS#8 as PEM.
    pub key_pem: Zeroizing<String>,
    /// When it ends, in ms since 1970.
    pub not_after_ms: u64,
}

impl ClientCa {
    /// Derives the authority: a P-256 key from the cluster's keys, a certificate with fixed dates.
    #[must_use]
    pub fn derive(keys: &Keys, cluster_name: &str) -> Self {
        let name = format!("Tertulia client CA {cluster_name}");
        let (issuer, certificate) = authority(&keys.client_ca, &name);
        Self { issuer, pem: certificate.pem() }
    }

    /// The authority's certificate, as PEM: what clients are given to trust.
    #[must_use]
    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    /// Issues a certificate with a fresh key for these hosts (IP addresses and DNS names), from an
    /// hour ago for 90 days.
    ///
    /// # Errors
    /// [`TlsError`] when there is no host, a text is none, or the time is out of all bounds.
    pub fn issue(&self, hosts: &[String], now_ms: u64, rng: &dyn Rng) -> Result<Issued, TlsError> {
        let first = hosts.first().ok_or(TlsError::NoHosts)?;
        let (not_before, not_after) = life_from(now_ms).ok_or(TlsError::BadTime { now_ms })?;
        let (secret, public, mut params) = leaf(rng);
        params.distinguished_name = named(first);
        params.subject_alt_names = alternative_names(hosts)?;
        params.not_before = not_before;
        params.not_after = not_after;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&public, &self.issuer)?;

        let key_pem =
            secret.to_pkcs8_pem(LineEnding::LF).expect("a key of fixed length is written");
        Ok(Issued {
            chain_pem: certificate.pem(),
            key_pem,
            not_after_ms: not_after.unix_timestamp().unsigned_abs() * 1_000,
        })
    }
}

/// A fresh key, and what every certificate that is no authority's says.
fn leaf(rng: &dyn Rng) -> (SecretKey, LeafKey, CertificateParams) {
    let mut random = Zeroizing::new([0; 48]);
    rng.fill(&mut *random);
    let secret = secret_of(&random);
    let public = LeafKey(public_bytes(&secret.public_key()));
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial_of(&public.0));
    params.is_ca = IsCa::ExplicitNoCa; // With it goes the SKI.
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    (secret, public, params)
}

/// The server's side: TLS 1.2 and 1.3, HTTP/2 before HTTP/1.1, no client certificates. The crypto
/// provider is handed over here, so that nothing depends on one of the whole process.
///
/// # Errors
/// [`TlsError`] when the provider lacks a protocol version.
pub fn server_config(shown: Arc<Shown>) -> Result<rustls::ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// An authority of that name: a P-256 key from these bytes, a certificate with fixed dates.
fn authority(bytes: &[u8; 48], name: &str) -> (Issuer<'static, CaKey>, rcgen::Certificate) {
    let key = CaKey::new(&secret_of(bytes));
    let mut params = CertificateParams::default();
    params.serial_number = Some(serial_of(&key.public));
    params.distinguished_name = named(name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2070, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params
        .self_signed(&key)
        .expect("a certificate of fixed form is signed without entropy or I/O");
    (Issuer::new(params, key), certificate)
}

/// The authority's key. It signs by RFC 6979, without entropy: so its certificate is the same on
/// every node, and a simulation stays in step.
struct CaKey {
    secret: SigningKey,
    public: Vec<u8>,
}

impl CaKey {
    fn new(secret: &SecretKey) -> Self {
        Self { secret: SigningKey::from(secret), public: public_bytes(&secret.public_key()) }
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature: Signature = self.secret.sign(message);
        Ok(signature.to_der().as_bytes().to_vec())
    }
}

/// The public half of an issued certificate's key.
struct LeafKey(Vec<u8>);

impl PublicKeyData for LeafKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// The key that is the number in 48 bytes (big endian) modulo the order of P-256. 128 bits more than the order
/// has leave no bias. In constant time: upper part · 2^256 + lower part, all in the field.
fn secret_of(bytes: &[u8; 48]) -> SecretKey {
    let (upper, lower) = bytes.split_at(16);
    let mut upper_word = Zeroizing::new([0; 32]);
    upper_word[16..].copy_from_slice(upper);
    let upper = p256::Scalar::reduce(U256::from_be_slice(&*upper_word));
    let lower = p256::Scalar::reduce(U256::from_be_slice(lower));
    let two_to_the_256 = p256::Scalar::reduce(U256::MAX) + p256::Scalar::ONE;
    let scalar = upper * two_to_the_256 + lower;
    let scalar = NonZeroScalar::new(scalar).into_option();
    SecretKey::from(scalar.expect("zero comes once in 2^256 clusters"))
}

fn public_bytes(key: &p256::PublicKey) -> Vec<u8> {
    use p256::elliptic_curve::sec1::ToEncodedPoint as _;
    key.to_encoded_point(false).as_bytes().to_vec()
}

/// A serial number for a key: 20 bytes at most, positive, never zero. After a new secret the
/// authority keeps its name; with another serial number browsers tell the two apart.
fn serial_of(public: &[u8]) -> SerialNumber {
    let mut bytes = Sha256::digest(public);
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes[..20])
}

fn named(name: &str) -> DistinguishedName {
    let name: String = name.chars().take(COMMON_NAME_CHARS_MAX).collect();
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn life_from(now_ms: u64) -> Option<(OffsetDateTime, OffsetDateTime)> {
    let seconds = i64::try_from(now_ms / 1_000).ok()?;
    let now = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    Some((now.checked_sub(BACKDATED)?, now.checked_add(LIFE)?))
}

fn alternative_names(hosts: &[String]) -> Result<Vec<SanType>, TlsError> {
    let mut names = Vec::with_capacity(hosts.len());
    for host in hosts {
        let bad = || TlsError::BadHost(host.clone());
        let name = match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => {
                DnsName::try_from(host.as_str()).map_err(|_| bad())?;
                SanType::DnsName(host.as_str().try_into().map_err(|_| bad())?)
            }
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
