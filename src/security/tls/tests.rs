//! Certificates as their readers see them, and whole handshakes in memory.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::base::clock::{Clock as _, SystemClock};
use crate::base::rng::SystemRng;
use crate::security::ClusterSecret;
use crate::security::keys::tests::{golden_keys, hex};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

fn hosts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn ca() -> ClientCa {
    ClientCa::derive(&golden_keys(), "prod")
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A handshake in memory, all of it. Answers the protocol and the TLS version agreed on.
fn handshake(
    ca_pem: &str,
    issued: &Issued,
    host: &str,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<(Vec<u8>, rustls::ProtocolVersion), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(der(ca_pem)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name)?;
    let certificate =
        Certificate::parse(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes()).unwrap();
    let server = server_config(Shown::new(&certificate)).unwrap();
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
        }
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        let mut unread = wire.as_slice();
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
        }
        client.process_new_packets()?;
    }
    let protocol = client.alpn_protocol().unwrap().to_vec();
    Ok((protocol, client.protocol_version().unwrap()))
}

#[test]
fn every_node_has_the_same_authority() {
    assert_eq!(ca().pem(), ca().pem());
    let secret = ClusterSecret::parse(&format!("{}=", "A".repeat(43))).unwrap();
    let of = |name: &str| ClientCa::derive(&Keys::derive(&secret, name), name);
    assert_eq!(of("a").issuer.key().public, of("a").issuer.key().public);
    assert_ne!(of("a").issuer.key().public, of("b").issuer.key().public);
    assert_ne!(of("a").issuer.key().public, ca().issuer.key().public);
}

/// Changing the derivation makes clients distrust their cluster.
#[test]
fn the_authority_is_as_it_was() {
    assert_eq!(hex(&ca().issuer.key().public), GOLDEN_CA_PUBLIC);
    let scalar = secret_of(&[0xff; 48]);
    assert_eq!(hex(&scalar.to_bytes()), GOLDEN_SCALAR);
}

#[test]
fn the_authority_says_what_it_is() {
    let der = der(&ca().pem());
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(certificate.subject().to_string(), "CN=Tertulia client CA prod");
    assert_eq!(certificate.issuer(), certificate.subject());
    let validity = certificate.validity();
    assert_eq!(validity.not_before.timestamp(), 1_577_836_800);
    assert_eq!(validity.not_after.timestamp(), 3_155_760_000);
    let constraints = certificate.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && usage.crl_sign() && !usage.digital_signature());
    assert_eq!(certificate.raw_serial().len(), 20);
    assert!(subject_key_id(&certificate).is_some());
}

fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn authority_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => {
            id.key_identifier.as_ref().map(|id| id.0.to_vec())
        }
        _ => None,
    })
}

#[test]
fn an_issued_certificate_has_what_strict_clients_ask_for() {
    let ca = ca();
    let now_ms = 1_800_000_000_123;
    let names = hosts(&["localhost", "127.0.0.1", "::1", "node-a.example", "localhost"]);
    let issued = ca.issue(&names, now_ms, &SystemRng).unwrap();
    assert_eq!(issued.not_after_ms, 1_800_000_000_000 + 90 * 86_400_000);
    let (ca_der, leaf_der) = (der(&ca.pem()), der(&issued.chain_pem));
    let (_, authority) = X509Certificate::from_der(&ca_der).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf_der).unwrap();
    assert_eq!(leaf.issuer(), authority.subject());
    assert_eq!(leaf.subject().to_string(), "CN=localhost");
    assert!(authority_key_id(&leaf).is_some());
    assert_eq!(authority_key_id(&leaf), subject_key_id(&authority));
    assert!(subject_key_id(&leaf).is_some());
    assert_ne!(subject_key_id(&leaf), subject_key_id(&authority));
    assert_eq!(leaf.validity().not_before.timestamp(), 1_800_000_000 - 3_600);
    assert_eq!(leaf.validity().not_after.timestamp().unsigned_abs() * 1_000, issued.not_after_ms);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    let mut loopback = [0; 16];
    loopback[15] = 1;
    assert_eq!(
        names.value.general_names,
        [
            GeneralName::DNSName("localhost"),
            GeneralName::IPAddress(&[127, 0, 0, 1]),
            GeneralName::IPAddress(&loopback),
            GeneralName::DNSName("node-a.example"),
        ]
    );
}

#[test]
fn clients_that_trust_the_authority_accept_what_it_issues() {
    let ca = ca();
    let names = hosts(&["localhost", "127.0.0.1", "::1"]);
    let issued = ca.issue(&names, SystemClock.wall_ms(), &SystemRng).unwrap();
    for host in ["localhost", "127.0.0.1", "::1"] {
        for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
            let agreed = handshake(&ca.pem(), &issued, host, &[version]).unwrap();
            assert_eq!(agreed, (b"h2".to_vec(), version.version));
        }
    }
    let both = [&rustls::version::TLS13, &rustls::version::TLS12];
    let elsewhere = handshake(&ca.pem(), &issued, "example.com", &both);
    assert!(matches!(elsewhere, Err(rustls::Error::InvalidCertificate(_))));
    let secret = ClusterSecret::generate(&SystemRng);
    let other = ClientCa::derive(&Keys::derive(&secret, "prod"), "prod");
    let distrusted = handshake(&other.pem(), &issued, "localhost", &both);
    assert!(matches!(distrusted, Err(rustls::Error::InvalidCertificate(_))));
}

#[test]
fn an_expired_certificate_is_not_accepted() {
    let ca = ca();
    let long_ago = SystemClock.wall_ms() - 91 * 86_400_000;
    let issued = ca.issue(&hosts(&["localhost"]), long_ago, &SystemRng).unwrap();
    let refused = handshake(&ca.pem(), &issued, "localhost", &[&rustls::version::TLS13]);
    assert!(matches!(refused, Err(rustls::Error::InvalidCertificate(_))));
}

#[test]
fn keys_come_from_the_entropy_given() {
    struct Ones;
    impl Rng for Ones {
        fn fill(&self, buffer: &mut [u8]) {
            buffer.fill(1);
        }
    }
    let issue = |rng: &dyn Rng| ca().issue(&hosts(&["localhost"]), 1_800_000_000_000, rng).unwrap();
    assert_eq!(*issue(&Ones).key_pem, *issue(&Ones).key_pem);
    assert_eq!(issue(&Ones).chain_pem, issue(&Ones).chain_pem);
    assert_ne!(*issue(&SystemRng).key_pem, *issue(&SystemRng).key_pem);
}

#[test]
fn what_is_no_host_gets_no_certificate() {
    let issue = |names: &[&str], now_ms| ca().issue(&hosts(names), now_ms, &SystemRng).err();
    assert!(matches!(issue(&[], 0), Some(TlsError::NoHosts)));
    for bad in ["", "a b", "host:7070", "[::1]", "ü.example", "*.example"] {
        assert!(
            matches!(issue(&["localhost", bad], 0), Some(TlsError::BadHost(host)) if host == bad)
        );
    }
    assert!(matches!(issue(&["a"], u64::MAX), Some(TlsError::BadTime { .. })));
}

#[test]
fn what_cannot_serve_is_refused_with_the_reason() {
    let ca = ca();
    let issue = || ca.issue(&hosts(&["a"]), 1_800_000_000_000, &SystemRng).unwrap();
    let (issued, other) = (issue(), issue());
    let config =
        |chain: &str, key: &str| Certificate::parse(chain.as_bytes(), key.as_bytes()).err();
    assert!(matches!(config("", &issued.key_pem), Some(TlsError::CertificateUnreadable)));
    assert!(matches!(config(&issued.chain_pem, ""), Some(TlsError::KeyUnreadable)));
    assert!(matches!(config(&issued.chain_pem, &other.key_pem), Some(TlsError::Refused(_))));
    // Half of a file that is being written.
    let half = &issued.chain_pem[..issued.chain_pem.len() / 2];
    assert!(matches!(config(half, &issued.key_pem), Some(TlsError::CertificateUnreadable)));
    let whole = Certificate::parse(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
    assert_eq!(whole.unwrap().not_after_ms(), issued.not_after_ms);
}

const GOLDEN_CA_PUBLIC: &str = "04433d3c5035d96e9580af40741d53a0c9dd25f00ba5b69b8a750cd0b55dc0eea0b5917e7c63d236e73f385b1cedfecdb524b727e05996cccc188122237826e526";
const GOLDEN_SCALAR: &str = "431905529c0166ce652e96b7ccca0a99679b73e19ad16947f01cf013fc632550";
