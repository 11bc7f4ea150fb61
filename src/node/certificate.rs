//! The certificate that clients see, and the worker that keeps it fresh: it shows what the
//! operator's files hold when they change, and issues another before the one it issued is old.

use super::parts::Parts;
use crate::base::seams::{Clock, Rng, Spawn, blocking};
use crate::config::{CertificateFiles, Settings};
use crate::security::{Certificate, ClientCa, Keys, Shown, TlsError, server_config};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

/// How often it looks, give or take a tenth.
const LOOK_PERIOD: Duration = Duration::from_secs(10);
/// Bytes of a file with a chain or a key: enough for any, and little to read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why there is no certificate, or no other one.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file of the operator's cannot be read.
    #[error("{}: {error}; check http.certificate_file and http.key_file", .path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        error: io::Error,
    },
    /// The operator's files hold nothing that can serve.
    #[error(
        "{} and {}: {error}; put a chain (the server's own certificate first) and its own private \
         key there, both PEM",
        .files.certificate_file.display(), .files.key_file.display()
    )]
    Unfit {
        /// The files.
        files: CertificateFiles,
        /// What is wrong.
        error: TlsError,
    },
    /// None can be issued, or TLS cannot be served at all.
    #[error("none can be made: {0}")]
    Make(#[from] TlsError),
}

/// Where certificates come from.
enum Origin {
    /// The operator's files; `seen` names what they held when it was shown.
    Files { files: CertificateFiles, seen: [u8; 32] },
    /// The cluster's authority. It issues anew from `until_ms` on, and when the clock was set back
    /// so far that the certificate shown begins in its future.
    Authority { ca: Box<ClientCa>, hosts: Vec<String>, issued_ms: u64, until_ms: u64 },
}

/// How far a machine's clock may be set back before a certificate is issued anew, in ms: less than
/// it is backdated.
const SET_BACK_MS_MAX: u64 = 30 * 60_000;

/// Worker: keeps the certificate fresh.
pub(super) struct Freshener {
    shown: Arc<Shown>,
    config: Arc<rustls::ServerConfig>,
    origin: Origin,
    clock: Arc<dyn Clock>,
    rng: Arc<dyn Rng>,
    spawn: Arc<dyn Spawn>,
    /// Why the last look changed nothing though it should have.
    last_error: Option<String>,
}

impl Freshener {
    /// Takes the operator's certificate if the settings name one, else issues one for `hosts`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub(super) async fn begin(
        parts: &Parts,
        settings: &Settings,
        keys: &Keys,
        hosts: Vec<String>,
    ) -> Result<Self, CertificateError> {
        let (clock, rng, spawn) = (parts.clock.clone(), parts.rng.clone(), parts.spawn.clone());
        let (origin, first) = if let Some(files) = &settings.http.certificate {
            let read = read(&*spawn, files).await?;
            (Origin::Files { files: files.clone(), seen: read.digest() }, read.parse(files)?)
        } else {
            let ca = Box::new(ClientCa::derive(keys, &settings.cluster.name));
            let now_ms = clock.wall_ms();
            let (first, until_ms) = issue(&ca, &hosts, now_ms, &*rng)?;
            (Origin::Authority { ca, hosts, issued_ms: now_ms, until_ms }, first)
        };
        let shown = Shown::new(&first);
        let config = Arc::new(server_config(shown.clone())?);
        let fresh = Self { shown, config, origin, clock, rng, spawn, last_error: None };
        fresh.tell(&first);
        Ok(fresh)
    }

    /// For listeners: it shows whatever certificate is the current one.
    pub(super) fn config(&self) -> Arc<rustls::ServerConfig> {
        self.config.clone()
    }

    /// Looks now and then, for ever; and at once for those who ask, who are told when it has.
    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<oneshot::Sender<()>>) {
        loop {
            let tenth = LOOK_PERIOD / 10;
            let jitter = Duration::from_millis((*self.rng).u64() % (2 * tenth).as_millis() as u64);
            let asks = tokio::time::timeout(LOOK_PERIOD - tenth + jitter, asked.recv()).await;
            self.look().await;
            match asks {
                Ok(Some(done)) => drop(done.send(())),
                // Nobody can ask any more: the node is gone.
                Ok(None) => return,
                Err(_) => {}
            }
        }
    }

    /// Looks once. Whatever is wrong, the certificate shown so far stays.
    async fn look(&mut self) {
        match self.next().await {
            Ok(Some(next)) => {
                self.shown.replace(&next);
                self.tell(&next);
                self.last_error = None;
                count("replaced");
            }
            Ok(None) => self.last_error = None,
            Err(error) => {
                let why = error.to_string();
                // Said once, not at every look.
                if self.last_error.as_ref() != Some(&why) {
                    tracing::warn!(error = why, "the certificate shown so far stays");
                    count("refused");
                }
                self.last_error = Some(why);
            }
        }
    }

    /// Another certificate, if it is time for one.
    async fn next(&mut self) -> Result<Option<Certificate>, CertificateError> {
        match &mut self.origin {
            Origin::Files { files, seen } => {
                let read = read(&*self.spawn, files).await?;
                let digest = read.digest();
                if digest == *seen {
                    return Ok(None);
                }
                let next = read.parse(files)?;
                *seen = digest;
                Ok(Some(next))
            }
            Origin::Authority { ca, hosts, issued_ms, until_ms } => {
                let now_ms = self.clock.wall_ms();
                let set_back = now_ms.saturating_add(SET_BACK_MS_MAX) < *issued_ms;
                if now_ms < *until_ms && !set_back {
                    return Ok(None);
                }
                let (next, until) = issue(ca, hosts, now_ms, &*self.rng)?;
                (*issued_ms, *until_ms) = (now_ms, until);
                Ok(Some(next))
            }
        }
    }

    /// Tells operators until when it serves.
    fn tell(&self, certificate: &Certificate) {
        let not_after_ms = certificate.not_after_ms();
        metrics::gauge!("tertulia_certificate_expiry_timestamp_seconds")
            .set((not_after_ms / 1_000) as f64);
        let expires = written(not_after_ms);
        if not_after_ms <= self.clock.wall_ms() {
            tracing::warn!(expires, "clients see a certificate that has expired: replace it");
        } else {
            tracing::info!(expires, "clients see this certificate from now on");
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("tertulia_certificate_reloads_total", "outcome" => outcome).increment(1);
}

fn written(at_ms: u64) -> String {
    let at = i64::try_from(at_ms / 1_000).ok();
    let at = at.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{at_ms} ms"))
}

/// A certificate, and when to issue the next one: at half of its life.
fn issue(
    ca: &ClientCa,
    hosts: &[String],
    now_ms: u64,
    rng: &dyn Rng,
) -> Result<(Certificate, u64), CertificateError> {
    let issued = ca.issue(hosts, now_ms, rng)?;
    let half_ms = issued.not_after_ms.saturating_sub(now_ms) / 2;
    let certificate = Certificate::parse(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes())?;
    Ok((certificate, now_ms + half_ms))
}

/// What the operator's files hold.
struct Pair {
    chain: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
}

impl Pair {
    /// Names the content: files are judged by it, not by their dates.
    fn digest(&self) -> [u8; 32] {
        let chain_bytes = (self.chain.len() as u64).to_be_bytes();
        let hash = Sha256::new().chain_update(chain_bytes);
        hash.chain_update(&*self.chain).chain_update(&*self.key).finalize().into()
    }

    fn parse(&self, files: &CertificateFiles) -> Result<Certificate, CertificateError> {
        let unfit = |error| CertificateError::Unfit { files: files.clone(), error };
        Certificate::parse(&self.chain, &self.key).map_err(unfit)
    }
}

async fn read(spawn: &dyn Spawn, files: &CertificateFiles) -> Result<Pair, CertificateError> {
    let files = files.clone();
    blocking(spawn, move || {
        Ok(Pair { chain: bytes(&files.certificate_file)?, key: bytes(&files.key_file)? })
    })
    .await
}

fn bytes(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = File::open(path).and_then(|file| {
        // Reserved at once: growing would leave copies of a key behind.
        let len = file.metadata()?.len();
        if len > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("{len} bytes, more than {FILE_BYTES_MAX}")));
        }
        bytes.reserve_exact(usize::try_from(len).unwrap_or(0) + 1);
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => Ok(bytes),
        Err(error) => Err(CertificateError::Unreadable { path: path.to_owned(), error }),
    }
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
