//! An HTTPS client that costs little: one HTTP/1.1 connection, one request at a time.

use crate::base::limits;
use crate::base::seams::{Net, Spawn};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

/// Bytes of an answer: a full receive, its receipts, and what JSON adds.
const ANSWER_BYTES_MAX: usize = 4 * limits::RECEIVE_BYTES_MAX;

/// A broker's address: `https://host[:port]`.
#[derive(Clone, Debug)]
pub struct Endpoint {
    host: String,
    port: u16,
    name: ServerName<'static>,
    /// The header that names it.
    authority: HeaderValue,
}

/// Why a text is no endpoint.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no endpoint; it looks like https://host:7420")]
pub struct BadEndpoint(String);

impl std::str::FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        Self::parse(text)
    }
}

impl Endpoint {
    /// Reads `https://host[:port]`; the port is 443 where none is given.
    ///
    /// # Errors
    /// [`BadEndpoint`] for another scheme, a path, or no host.
    pub fn parse(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|a| !a.as_str().contains('@')).ok_or_else(bad)?;
        if uri.scheme_str() != Some("https") || uri.path() != "/" || uri.query().is_some() {
            return Err(bad());
        }
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
        let port = authority.port_u16().unwrap_or(443);
        let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| bad())?;
        Ok(Self { host, port, name, authority })
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates to trust are not readable.
    #[error("the file with the certificates to trust holds none, or a broken one")]
    Ca,
    /// TLS cannot be set up with them.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// What a request came to that has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There was no connection, so nothing was asked.
    Connect,
    /// The connection ended before the answer: the request may have had its effect.
    Broken,
    /// There was no answer in time: the request may have had its effect.
    Timeout,
}

impl Failure {
    /// Its word in reports.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Broken => "broken",
            Self::Timeout => "timeout",
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, in seconds.
    pub retry_after_seconds: Option<u64>,
    /// The body.
    pub body: Bytes,
}

/// What all connections share.
pub struct Client {
    net: Arc<dyn Net>,
    spawn: Arc<dyn Spawn>,
    tls: TlsConnector,
    endpoints: Vec<Endpoint>,
}

impl Client {
    /// A client of these endpoints (at least one) that trusts the certificates in `ca_pem`.
    ///
    /// # Errors
    /// [`ClientError`] when nothing can be trusted that way.
    pub fn new(
        net: Arc<dyn Net>,
        spawn: Arc<dyn Spawn>,
        endpoints: Vec<Endpoint>,
        ca_pem: &[u8],
    ) -> Result<Self, ClientError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            roots.add(certificate.map_err(|_| ClientError::Ca)?)?;
        }
        if roots.is_empty() {
            return Err(ClientError::Ca);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { net, spawn, tls, endpoints })
    }

    /// A connection that is opened when it is needed, to the endpoint whose turn `turn` is.
    #[must_use]
    pub fn connection(self: &Arc<Self>, turn: usize) -> Connection {
        let endpoint = turn % self.endpoints.len();
        Connection { client: self.clone(), endpoint, open: None, authorization: None }
    }
}

/// One connection, opened anew (at the next endpoint) after it broke.
pub struct Connection {
    client: Arc<Client>,
    endpoint: usize,
    open: Option<http1::SendRequest<Full<Bytes>>>,
    authorization: Option<HeaderValue>,
}

/// Who asks.
#[derive(Clone)]
pub struct Authorization(HeaderValue);

impl Authorization {
    /// By the token of a session or the secret of an API key; `None` where it cannot be one.
    #[must_use]
    pub fn bearer(token: &str) -> Option<Self> {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
        value.set_sensitive(true);
        Some(Self(value))
    }
}

impl Connection {
    /// Makes all requests from now on by this authorization.
    pub fn authorize(&mut self, authorization: &Authorization) {
        self.authorization = Some(authorization.0.clone());
    }

    /// Asks once. A connection that was closed while it was idle is opened anew.
    ///
    /// # Errors
    /// [`Failure`]; the connection is closed then.
    pub async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        time: Duration,
    ) -> Result<Answer, Failure> {
        let deadline = Instant::now() + time;
        let answer = timeout_at(deadline, self.call_untimed(method, path, body)).await;
        let answer = answer.unwrap_or(Err(Failure::Timeout));
        if answer.is_err() {
            self.open = None;
            self.endpoint = (self.endpoint + 1) % self.client.endpoints.len();
        }
        answer
    }

    async fn call_untimed(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let mut reused = self.open.is_some();
        let mut request = self.request(method, path, body)?;
        loop {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.connect().await?,
            };
            let sent = match open.ready().await {
                Ok(()) => open.try_send_request(request).await,
                Err(_) if reused => {
                    reused = false;
                    continue;
                }
                Err(_) => return Err(Failure::Connect),
            };
            match sent {
                Ok(answer) => {
                    let answer = read(answer).await?;
                    self.open = Some(open);
                    return Ok(answer);
                }
                // Not a byte of it was written.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if reused => {
                        reused = false;
                        request = unsent;
                    }
                    Some(_) => return Err(Failure::Connect),
                    None => return Err(Failure::Broken),
                },
            }
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let authority = self.client.endpoints[self.endpoint].authority.clone();
        let mut request = Request::builder().method(method).uri(path).header(HOST, authority);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        // Paths are made of validated names and receipts; what fits no URL is asked nowhere.
        request.body(Full::new(body)).map_err(|_| Failure::Connect)
    }

    async fn connect(&self) -> Result<http1::SendRequest<Full<Bytes>>, Failure> {
        let fails = |_| Failure::Connect;
        let endpoint = &self.client.endpoints[self.endpoint];
        let addresses = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await;
        let mut stream = Err(Failure::Connect);
        for address in addresses.map_err(fails)? {
            stream = self.client.net.connect(address).await.map_err(fails);
            if stream.is_ok() {
                break;
            }
        }
        let tls = self.client.tls.connect(endpoint.name.clone(), stream?).await.map_err(fails)?;
        let (open, connection) =
            http1::handshake(TokioIo::new(tls)).await.map_err(|_| Failure::Connect)?;
        self.client.spawn.task(Box::pin(async move {
            // What goes wrong here is what the request is answered with.
            let _ = connection.await;
        }));
        Ok(open)
    }
}

async fn read(answer: hyper::Response<hyper::body::Incoming>) -> Result<Answer, Failure> {
    let status = answer.status().as_u16();
    let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after_seconds = retry_after.and_then(|text| text.parse().ok());
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|_| Failure::Broken)?.to_bytes();
    Ok(Answer { status, retry_after_seconds, body })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn endpoints_are_https_hosts_and_nothing_else() {
        let endpoint = Endpoint::parse("https://localhost:7420").unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("localhost", 7420));
        let endpoint = Endpoint::parse("https://[::1]:7421/").unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("::1", 7421));
        assert_eq!(Endpoint::parse("https://broker.example").unwrap().port, 443);
        for text in
            ["", "localhost:7420", "http://a:1", "https://a:1/v1", "https://u:p@a", "https://a?x"]
        {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn no_token_is_printed() {
        let token = Authorization::bearer("tts_secret").unwrap();
        assert!(!format!("{:?}", token.0).contains("secret"));
        assert!(Authorization::bearer("two\nlines").is_none());
    }
}
