//! The real binary, serving HTTPS from a folder of its own, and a client of it.

use serde_json::Value;
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A serving node; killed when dropped.
pub struct Served {
    child: Child,
    folder: tempfile::TempDir,
    url: String,
    client: reqwest::Client,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whom a request comes from.
#[derive(Clone, Debug)]
pub enum As {
    Nobody,
    Bearer(String),
    Basic(String, String),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Served {
    /// Starts a node and waits until it is ready, by asking it.
    pub async fn start(log_level: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tertulia"))
            .arg("serve")
            .env("TERTULIA_DATA_DIR", folder.path().join("data"))
            .env("TERTULIA_HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .env("TERTULIA_LOG__LEVEL", log_level)
            .env("TERTULIA_LOG__FORMAT", "json")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let url = format!("https://localhost:{port}");
        let mut served = Self { child, folder, url, client: reqwest::Client::new() };
        for _ in 0..1_000 {
            if let Some(status) = served.child.try_wait().unwrap() {
                panic!("the node ended by itself with {status}: {}", served.log());
            }
            if served.folder.path().join("data/ca.pem").exists() {
                served.client = served.client_from(None);
                let ready = served.client.get(format!("{}/readyz", served.url)).send().await;
                if ready.is_ok_and(|answer| answer.status() == 200) {
                    return served;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the node is not ready after 10 s");
    }

    /// All that the node has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A client that trusts the node, and calls from this address if given.
    pub fn client_from(&self, address: Option<IpAddr>) -> reqwest::Client {
        client(&self.folder.path().join("data/ca.pem"), address)
    }

    /// One request.
    pub async fn call(&self, method: &str, path: &str, by: &As, body: Option<&Value>) -> Answer {
        self.call_by(&self.client, "", method, path, by, body).await
    }

    /// One request by this client, with this id unless it is empty.
    pub async fn call_by(
        &self,
        client: &reqwest::Client,
        request_id: &str,
        method: &str,
        path: &str,
        by: &As,
        body: Option<&Value>,
    ) -> Answer {
        let method = method.parse::<reqwest::Method>().unwrap();
        let mut request = client.request(method, format!("{}{path}", self.url));
        if !request_id.is_empty() {
            request = request.header("x-request-id", request_id);
        }
        request = match by {
            As::Nobody => request,
            As::Bearer(token) => request.bearer_auth(token),
            As::Basic(name, password) => request.basic_auth(name, Some(password)),
        };
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        // An event stream goes on for as long as somebody listens.
        let kind = answer.headers().get("content-type");
        if kind.is_some_and(|kind| kind == "text/event-stream") {
            return Answer { status, body: Value::Null };
        }
        let body = answer.bytes().await.unwrap();
        Answer { status, body: serde_json::from_slice(&body).unwrap_or_default() }
    }
}

fn client(ca: &Path, address: Option<IpAddr>) -> reqwest::Client {
    let pem = std::fs::read(ca).unwrap();
    reqwest::Client::builder()
        .tls_backend_rustls()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
        .local_address(address)
        .timeout(Duration::from_secs(30))
        .build()
        .unwrap()
}
