//! The real binary as a process, serving HTTPS from a folder.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a node has to be ready.
const START_TIME: Duration = Duration::from_secs(20);

/// A serving node; killed when dropped.
pub struct Process {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    /// Starts a node over `data` in this folder, its log beside it, at a port that the machine
    /// chooses, and waits for the line by which it says where it serves.
    pub async fn start(folder: &Path, settings: &[(&str, &str)]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tertulia"))
            .arg("serve")
            .env("TERTULIA_DATA_DIR", folder.join("data"))
            .env("TERTULIA_HTTP__LISTEN", "127.0.0.1:0")
            .env("TERTULIA_LOG__LEVEL", "warn")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            let port = lines.find_map(|line| port_of(&line.ok()?));
            let _ = tell.send(port);
            // Read to its end, so that the node never writes into a closed pipe.
            lines.for_each(drop);
        });
        let mut process = Self { child, folder: folder.to_owned(), port: 0 };
        match tokio::time::timeout(START_TIME, told).await {
            Ok(Ok(Some(port))) => process.port = port,
            _ => panic!("the node is not ready: {}", process.log()),
        }
        process
    }

    /// Where it serves.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// At which port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What its clients trust.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("data/ca.pem")
    }

    /// All that was logged in its folder.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A client that trusts it, and calls from this address if given.
    pub fn client(&self, address: Option<IpAddr>) -> reqwest::Client {
        let pem = std::fs::read(self.ca()).unwrap();
        reqwest::Client::builder()
            .tls_backend_rustls()
            .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
            .local_address(address)
            .timeout(Duration::from_secs(40))
            .build()
            .unwrap()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it ended well, once it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

/// The port in the line that says where the API is; the node is ready when it writes that.
fn port_of(line: &str) -> Option<u16> {
    let url = line.trim().strip_prefix("API")?.trim();
    url.strip_suffix("/v1")?.rsplit(':').next()?.parse().ok()
}
