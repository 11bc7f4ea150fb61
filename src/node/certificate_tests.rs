#![allow(clippy::unwrap_used)]
//! Over real sockets, with a whole node: what handshakes are shown.

use super::super::Node;
use super::*;
use crate::security::ClusterSecret;
use crate::store::FileDisk;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const NOW_MS: u64 = 1_780_000_000_000;
const DAY_MS: u64 = 86_400_000;

/// A wall clock that only the test moves.
#[derive(Debug)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn wall_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn boottime_ms(&self) -> u64 {
        1
    }
    fn kernel_boot_id(&self) -> u64 {
        1
    }
}

/// Clients look at the same clock.
impl rustls::time_provider::TimeProvider for HandClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.wall_ms())))
    }
}

/// A node in a folder of its own.
struct Running {
    node: Node,
    folder: tempfile::TempDir,
    clock: Arc<HandClock>,
    trusted: Vec<CertificateDer<'static>>,
}

fn secret() -> ClusterSecret {
    ClusterSecret::parse(&"A".repeat(44)).unwrap()
}

fn files(folder: &Path) -> CertificateFiles {
    CertificateFiles { certificate_file: folder.join("tls.crt"), key_file: folder.join("tls.key") }
}

/// Another certificate for `localhost` and its key, as PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

async fn start(own: Option<&(String, String)>) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    settings.http.listen = "127.0.0.1:0".parse().unwrap();
    let mut trusted = vec![];
    if let Some((chain, key)) = own {
        let files = files(folder.path());
        std::fs::write(&files.certificate_file, chain).unwrap();
        std::fs::write(&files.key_file, key).unwrap();
        settings.http.certificate = Some(files);
        trusted.push(der(chain));
    } else {
        let keys = Keys::derive(&secret(), &settings.cluster.name);
        trusted.push(der(&ClientCa::derive(&keys, &settings.cluster.name).pem()));
    }
    let disk = FileDisk::open(folder.path().join("store")).unwrap();
    let mut parts = Parts::system(Arc::new(disk), secret(), Arc::new(String::new));
    let clock = Arc::new(HandClock(AtomicU64::new(NOW_MS)));
    parts.clock = clock.clone();
    let node = Node::start(parts, settings).await.unwrap();
    Running { node, folder, clock, trusted }
}

impl Running {
    fn put(&self, chain: &str, key: &str) {
        let files = files(self.folder.path());
        std::fs::write(&files.certificate_file, chain).unwrap();
        std::fs::write(&files.key_file, key).unwrap();
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        for root in &self.trusted {
            roots.add(root.clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_details(provider, self.clock.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.node.local_addr()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap()
    }

    /// What a new connection is shown.
    async fn shown(&self) -> CertificateDer<'static> {
        let tls = self.connect().await;
        tls.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

#[tokio::test]
async fn replaced_files_are_shown_to_new_connections_and_old_ones_go_on() {
    let (first, second) = (pair(), pair());
    let mut running = start(Some(&first)).await;
    running.trusted.push(der(&second.0));
    let mut old = running.connect().await;
    assert_eq!(running.shown().await, der(&first.0));
    running.node.look_at_certificate().await;
    assert_eq!(running.shown().await, der(&first.0), "nothing changed");

    running.put(&second.0, &second.1);
    running.node.look_at_certificate().await;
    assert_eq!(running.shown().await, der(&second.0));
    old.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    running.node.stop().await;
}

#[tokio::test]
async fn what_cannot_serve_is_not_shown() {
    let (first, second) = (pair(), pair());
    let mut running = start(Some(&first)).await;
    running.trusted.push(der(&second.0));
    // Half written in every way; then gone; then as large as no certificate is.
    for (chain, key) in [
        (second.0.as_str(), first.1.as_str()),
        (&first.0, &second.1),
        (&second.0[..100], &second.1),
        (&second.0, ""),
    ] {
        running.put(chain, key);
        running.node.look_at_certificate().await;
        assert_eq!(running.shown().await, der(&first.0));
    }
    let files = files(running.folder.path());
    std::fs::remove_file(&files.key_file).unwrap();
    running.node.look_at_certificate().await;
    assert_eq!(running.shown().await, der(&first.0));
    running.put(&"#\n".repeat(1 << 20), &second.1);
    running.node.look_at_certificate().await;
    assert_eq!(running.shown().await, der(&first.0));
    // The other half comes.
    running.put(&second.0, &second.1);
    running.node.look_at_certificate().await;
    assert_eq!(running.shown().await, der(&second.0));
    running.node.stop().await;
}

#[tokio::test]
async fn an_issued_certificate_is_renewed_at_half_of_its_life() {
    let running = start(None).await;
    let first = running.shown().await;
    let at = async |ms: u64| {
        running.clock.0.store(ms, Ordering::SeqCst);
        running.node.look_at_certificate().await;
    };
    at(NOW_MS + 45 * DAY_MS - 2_000).await;
    assert_eq!(running.shown().await, first);
    at(NOW_MS + 45 * DAY_MS).await;
    let second = running.shown().await;
    assert_ne!(second, first);
    at(NOW_MS + 89 * DAY_MS).await;
    assert_eq!(running.shown().await, second, "it lives from its own beginning");
    // A clock that was wrong and is set back: the certificate begins in its future.
    at(NOW_MS).await;
    assert_ne!(running.shown().await, second);
    running.node.stop().await;
}

#[tokio::test]
async fn a_refusal_is_remembered_until_it_is_over_and_names_files_and_fix() {
    let (first, second) = (pair(), pair());
    let folder = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    let files = files(folder.path());
    settings.http.certificate = Some(files.clone());
    let disk = FileDisk::open(folder.path().join("store")).unwrap();
    let parts = Parts::system(Arc::new(disk), secret(), Arc::new(String::new));
    let keys = Keys::derive(&secret(), "x");
    let begin = async || Freshener::begin(&parts, &settings, &keys, vec![]).await;
    let missing = begin().await.err().unwrap().to_string();
    assert!(missing.contains("tls.crt") && missing.contains("http.certificate_file"), "{missing}");
    let put = |chain: &str, key: &str| {
        std::fs::write(&files.certificate_file, chain).unwrap();
        std::fs::write(&files.key_file, key).unwrap();
    };
    put(&first.0, &first.1);
    let mut fresh = begin().await.unwrap();
    put(&second.0, &first.1);
    fresh.look().await;
    let error = fresh.last_error.clone().unwrap();
    for part in ["tls.crt", "tls.key", "its own private key"] {
        assert!(error.contains(part), "{error}");
    }
    // As it was: no other certificate, and nothing is wrong any more.
    put(&first.0, &first.1);
    fresh.look().await;
    assert_eq!(fresh.last_error, None);
}
