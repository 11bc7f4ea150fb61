//! The real binary, serving HTTPS from a folder of its own, and a client of it.

use super::process::Process;
use serde_json::Value;
use std::net::IpAddr;

/// A serving node in a folder of its own.
pub struct Served {
    process: Process,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
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
    /// Starts a node that logs in JSON.
    pub async fn start(log_level: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = [("TERTULIA_LOG__LEVEL", log_level), ("TERTULIA_LOG__FORMAT", "json")];
        let process = Process::start(folder.path(), &log).await;
        Self { client: process.client(None), process, _folder: folder }
    }

    /// All that the node has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// A client that trusts the node, and calls from this address if given.
    pub fn client_from(&self, address: Option<IpAddr>) -> reqwest::Client {
        self.process.client(address)
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
        let mut request = client.request(method, format!("{}{path}", self.process.url()));
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
