//! TLS between nodes: both ends show a certificate of the cluster's authority for nodes [F30].
//!
//! A certificate names its node in a URI and lives as long as the authority: it would end for
//! nobody's good, since whoever holds the secret can issue another, and a node whose clock is
//! wrong must still be talked to. So no clock is asked in these handshakes at all.

use super::{CaKey, TlsError, authority, leaf, named};
use crate::base::ids::NodeId;
use crate::base::rng::Rng;
use crate::security::keys::Keys;
use p256::pkcs8::EncodePrivateKey as _;
use rcgen::{ExtendedKeyUsagePurpose, Issuer, SanType, date_time_ymd};
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use std::sync::Arc;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

/// What stands before a node's id in its certificate.
const URI: &str = "tertulia:node:";
/// The name under which every node is connected to: which one it is, its URI tells.
const HOST: &str = "node.tertulia.internal";
/// Spoken on these connections.
const PROTOCOL: &[u8] = b"tertulia-peer/1";

/// Both sides of the handshakes of one node.
#[derive(Clone)]
pub struct PeerTls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl PeerTls {
    /// Issues this node a certificate under the authority that follows from the cluster's keys.
    ///
    /// # Errors
    /// [`TlsError`] when signing fails or the provider lacks TLS 1.3.
    pub fn new(
        keys: &Keys,
        cluster_name: &str,
        node: NodeId,
        rng: &dyn Rng,
    ) -> Result<Self, TlsError> {
        let (issuer, root) = authority(&keys.node_ca, &format!("Tertulia node CA {cluster_name}"));
        let (leaf, key) = issue(&issuer, node, rng)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone())?;
        let roots = Arc::new(roots);
        let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
        let client = client_config(roots.clone(), leaf.clone(), key())?;
        let server = server_config(roots, leaf, key())?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// The connecting side: shows this node's certificate, and wants the far end's.
    #[must_use]
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// The accepting side: the same.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The name to connect to.
    #[must_use]
    pub fn host() -> ServerName<'static> {
        ServerName::try_from(HOST).expect("a fixed name is well formed")
    }
}

/// The node that a certificate names; the handshake has found it genuine. `None` when it names
/// none, or more than one.
#[must_use]
pub fn node_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else { return None };
    let digits = uri.strip_prefix(URI)?;
    let node = NodeId(u64::from_str_radix(digits, 16).ok()?);
    // One way to write an id: no signs, no capitals, no digits left out.
    (node.to_string() == digits).then_some(node)
}

fn issue(
    issuer: &Issuer<'static, CaKey>,
    node: NodeId,
    rng: &dyn Rng,
) -> Result<(CertificateDer<'static>, Zeroizing<Vec<u8>>), TlsError> {
    let (secret, public, mut params) = leaf(rng);
    params.distinguished_name = named(&format!("Tertulia node {node}"));
    params.subject_alt_names = vec![
        SanType::URI(format!("{URI}{node}").as_str().try_into()?),
        SanType::DnsName(HOST.try_into()?),
    ];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2070, 1, 1);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&public, issuer)?;
    let key = secret.to_pkcs8_der().expect("a key of fixed length is written");
    Ok((certificate.der().clone(), key.to_bytes()))
}

fn client_config(
    roots: Arc<RootCertStore>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_details(provider, Arc::new(NoClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![leaf], key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Every connection shows certificates anew.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server_config(
    roots: Arc<RootCertStore>,
    leaf: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_details(provider, Arc::new(NoClock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![leaf], key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A moment within the authority's life, always the same one.
#[derive(Debug)]
struct NoClock;

impl TimeProvider for NoClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::base::rng::SystemRng;
    use crate::security::keys::tests::golden_keys;
    use crate::security::{Certificate, ClientCa, ClusterSecret, Shown};
    use rustls_pki_types::pem::PemObject as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    fn of(keys: &Keys, node: u64) -> PeerTls {
        PeerTls::new(keys, "prod", NodeId(node), &SystemRng).unwrap()
    }

    /// Shakes hands over a stream and sends a byte each way; answers who each end saw.
    async fn meet(
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
    ) -> std::io::Result<(Option<NodeId>, Option<NodeId>)> {
        let (here, there) = duplex(1 << 14);
        let connecting = async {
            let connector = tokio_rustls::TlsConnector::from(client);
            let mut tls = connector.connect(PeerTls::host(), here).await?;
            tls.write_u8(1).await?;
            tls.read_u8().await?;
            let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            Ok(shown.and_then(node_of))
        };
        let accepting = async {
            let mut tls = tokio_rustls::TlsAcceptor::from(server).accept(there).await?;
            tls.read_u8().await?;
            tls.write_u8(2).await?;
            tls.flush().await?;
            let shown = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            Ok::<_, std::io::Error>(shown.and_then(node_of))
        };
        tokio::try_join!(connecting, accepting)
    }

    #[tokio::test]
    async fn two_nodes_of_a_cluster_know_each_other_by_their_certificates() {
        let keys = golden_keys();
        let (one, two) = (of(&keys, 1), of(&keys, 0xfeed));
        let seen = meet(one.client_config(), two.server_config()).await.unwrap();
        assert_eq!(seen, (Some(NodeId(0xfeed)), Some(NodeId(1))));
    }

    #[tokio::test]
    async fn a_node_of_another_secret_or_cluster_is_refused() {
        let keys = golden_keys();
        let others = Keys::derive(&ClusterSecret::generate(&SystemRng), "prod");
        let (one, stranger) = (of(&keys, 1), of(&others, 2));
        assert!(meet(one.client_config(), stranger.server_config()).await.is_err());
        assert!(meet(stranger.client_config(), one.server_config()).await.is_err());
    }

    #[tokio::test]
    async fn f30_a_certificate_of_the_authority_for_clients_is_refused_by_nodes() {
        let keys = golden_keys();
        let node = of(&keys, 1);
        let ca = ClientCa::derive(&keys, "prod");
        let issued = ca.issue(&[HOST.to_owned()], 1_800_000_000_000, &SystemRng).unwrap();
        let shown =
            Certificate::parse(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes()).unwrap();
        let mut web = super::super::server_config(Shown::new(&shown)).unwrap();
        web.alpn_protocols = vec![PROTOCOL.to_vec()];
        let refused = meet(node.client_config(), Arc::new(web)).await.unwrap_err();
        assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");

        let leaf = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        let (_, root) = authority(&keys.node_ca, "Tertulia node CA prod");
        roots.add(root.der().clone()).unwrap();
        let guest = client_config(Arc::new(roots), leaf, key).unwrap();
        assert!(meet(Arc::new(guest), node.server_config()).await.is_err());
    }

    #[tokio::test]
    async fn f30_a_node_certificate_is_refused_by_clients() {
        let keys = golden_keys();
        let node = of(&keys, 1);
        let mut roots = RootCertStore::empty();
        let ca = ClientCa::derive(&keys, "prod").pem();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let (issuer, _) = authority(&keys.node_ca, "Tertulia node CA prod");
        let (leaf, key) = issue(&issuer, NodeId(2), &SystemRng).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
        let client = client_config(Arc::new(roots), leaf, key).unwrap();
        let refused = meet(Arc::new(client), node.server_config()).await.unwrap_err();
        assert!(refused.to_string().contains("UnknownIssuer"), "{refused}");
    }

    #[tokio::test]
    async fn a_node_that_shows_no_certificate_is_refused() {
        let keys = golden_keys();
        let node = of(&keys, 1);
        let mut roots = RootCertStore::empty();
        let (_, root) = authority(&keys.node_ca, "Tertulia node CA prod");
        roots.add(root.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut bare = ClientConfig::builder_with_details(provider, Arc::new(NoClock))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        bare.alpn_protocols = vec![PROTOCOL.to_vec()];
        assert!(meet(Arc::new(bare), node.server_config()).await.is_err());
    }

    #[test]
    fn a_certificate_of_no_node_names_none() {
        let ca = ClientCa::derive(&golden_keys(), "prod");
        let issued = ca.issue(&["a".to_owned()], 1_800_000_000_000, &SystemRng).unwrap();
        let leaf = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
        assert_eq!(node_of(&leaf), None);
        assert_eq!(node_of(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
