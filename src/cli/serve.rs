//! `tertulia serve`: from settings to a running node, and down again.

use super::{CONFIGURATION, Ends, FAILURE, FOLDER, ServeFlags};
use crate::base::rng::SystemRng;
use crate::base::seams::Clock as _;
use crate::config::{self, LogFormat, SECRET_VARIABLE, Settings};
use crate::node::{Node, Parts, StartError, folder};
use crate::security::{ClientCa, ClusterSecret, Keys};
use crate::store::{FileDisk, LockedOrIo};
use crate::telemetry::{self, Lines};
use anyhow::{Context as _, anyhow};
use rustix::process::{Resource, Rlimit};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

/// 2026-01-01: no release is older than that.
const BUILD_YEAR_MS: u64 = 1_767_225_600_000;
/// How often recorded metrics are moved on.
const UPKEEP: Duration = Duration::from_secs(5);
/// File descriptors without which a node is of little use.
const DESCRIPTORS_MIN: u64 = 256;

fn settings(flags: &ServeFlags) -> Result<Settings, Ends> {
    config::load(flags.config.as_deref(), std::env::vars_os(), &flags.overrides())
        .map_err(|error| Ends::with(CONFIGURATION, error))
}

fn secret(settings: &Settings) -> Result<ClusterSecret, Ends> {
    let from_environment = match std::env::var(SECRET_VARIABLE) {
        Ok(text) if !text.is_empty() => Some(Zeroizing::new(text)),
        Ok(_) | Err(std::env::VarError::NotPresent) => None,
        Err(error) => return Err(Ends::with(CONFIGURATION, anyhow!("{SECRET_VARIABLE}: {error}"))),
    };
    let file = settings.secret_file.as_deref();
    folder::secret(&settings.data_dir, from_environment, file, &SystemRng)
        .map_err(|error| Ends::with(CONFIGURATION, error))
}

pub(super) fn print(text: &str) -> Result<(), Ends> {
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    written.map_err(|error| Ends::with(FAILURE, error))
}

/// `tertulia ca`.
pub(super) fn ca(flags: &ServeFlags) -> Result<(), Ends> {
    let settings = settings(flags)?;
    let path = settings.data_dir.join(folder::SECRET);
    let elsewhere = settings.secret_file.is_some() || std::env::var_os(SECRET_VARIABLE).is_some();
    if !elsewhere && !path.exists() {
        let hint = anyhow!("{} does not exist; start the node once first", path.display());
        return Err(Ends::with(FAILURE, hint));
    }
    let keys = Keys::derive(&secret(&settings)?, &settings.cluster.name);
    print(&ClientCa::derive(&keys, &settings.cluster.name).pem())
}

/// `tertulia serve`.
pub(super) fn serve(flags: &ServeFlags) -> Result<(), Ends> {
    let settings = settings(flags)?;
    let lines = match settings.log.format {
        LogFormat::Text => Lines::Text,
        LogFormat::Json => Lines::Json,
    };
    telemetry::init_log(lines, &settings.log.level)
        .map_err(|error| Ends::with(CONFIGURATION, error))?;
    check_machine()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Ends::with(FAILURE, error))?;
    let ended = runtime.block_on(run(settings));
    // Whatever still hangs on a disk or a hash is not waited for.
    runtime.shutdown_background();
    ended
}

fn check_machine() -> Result<(), Ends> {
    let now_ms = crate::base::clock::SystemClock.wall_ms();
    if now_ms < BUILD_YEAR_MS {
        let error = anyhow!("the machine's clock is before this release was built; set it right");
        return Err(Ends::with(FAILURE, error));
    }
    let limits = rustix::process::getrlimit(Resource::Nofile);
    // Each client takes one; the usual soft limit is far below what the machine allows.
    let raised = Rlimit { current: limits.maximum, maximum: limits.maximum };
    let current = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limits.maximum,
        Err(_) => limits.current,
    };
    if let Some(files) = current.filter(|files| *files < DESCRIPTORS_MIN) {
        let error = anyhow!(
            "the process may open {files} files, a node needs {DESCRIPTORS_MIN}; raise `ulimit -n`"
        );
        return Err(Ends::with(FAILURE, error));
    }
    Ok(())
}

fn parts(settings: &Settings) -> Result<Parts, Ends> {
    let data_dir = &settings.data_dir;
    folder::prepare(data_dir).map_err(|error| Ends::with(FOLDER, error))?;
    let disk = FileDisk::open(data_dir.join(folder::STORE)).map_err(|error| {
        let code = if matches!(error, LockedOrIo::Locked { .. }) { FOLDER } else { FAILURE };
        Ends::with(code, error)
    })?;
    let secret = secret(settings)?;
    let metrics = telemetry::install().map_err(|error| Ends::with(FAILURE, error))?;
    let rendered = metrics.clone();
    let mut parts = Parts::system(Arc::new(disk), secret, Arc::new(move || rendered.render()));
    parts.spawn.task(Box::pin(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            metrics.run_upkeep();
        }
    }));
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        text.with_context(|| path.display().to_string())
            .map_err(|error| Ends { code: CONFIGURATION, error })
    };
    if let Some(admin) = &settings.auth.first_admin {
        let text = read(&admin.password_file)?;
        let password = text.trim_end_matches(['\r', '\n']);
        parts.admin_password = Some(Zeroizing::new(password.to_owned()));
    }
    Ok(parts)
}

async fn run(settings: Settings) -> Result<(), Ends> {
    let fails = |error: std::io::Error| Ends::with(FAILURE, error);
    let mut terminate = signal(SignalKind::terminate()).map_err(fails)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fails)?;
    // Elsewhere SIGHUP ends the process, as a closed terminal should.
    let hangup = match &settings.http.certificate {
        Some(_) => Some(signal(SignalKind::hangup()).map_err(fails)?),
        None => None,
    };
    let mut parts = parts(&settings)?;
    let keys = Keys::derive(&parts.secret, &settings.cluster.name);
    let ca = ClientCa::derive(&keys, &settings.cluster.name).pem();
    let data_dir = settings.data_dir.clone();
    // In place before the listener opens: whoever connects can trust it already. But not before
    // the data is known to belong to this secret.
    parts.before_listening = Some(Box::new(move || {
        let pid = std::process::id().to_string();
        let write =
            |name, text: &str| folder::replace(&data_dir.join(name), text.as_bytes(), 0o644);
        let written = write(folder::CA, &ca).and_then(|()| write(folder::PID, &pid));
        written.map_err(|error| error.to_string())
    }));
    let node = Node::start(parts, settings.clone()).await.map_err(|error| {
        let code = match &error {
            StartError::WrongSecret { .. } => FOLDER,
            StartError::Nobody | StartError::Admin(_) | StartError::Certificate(_) => CONFIGURATION,
            _ => FAILURE,
        };
        Ends::with(code, error)
    })?;
    // Nobody may be reading: that is no reason to end.
    let _ = print(&welcome(&settings, &node));
    let mut failed = node.failed();
    let drain = tokio::select! {
        () = asked(&mut terminate, &mut interrupt) => true,
        _ = failed.wait_for(|failed| *failed) => false,
        () = looking(&node, hangup) => false,
    };
    if !drain {
        // Nothing that was written since the last fsync may be believed: end at once [R7].
        return Err(Ends::with(FAILURE, anyhow!("the store has failed; see the log")));
    }
    tokio::select! {
        () = node.stop() => Ok(()),
        () = asked(&mut terminate, &mut interrupt) => {
            Err(Ends::with(FAILURE, anyhow!("told twice: ended at once")))
        }
    }
}

async fn asked(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Looks at the operator's certificate on each SIGHUP, for ever.
async fn looking(node: &Node, hangup: Option<Signal>) {
    if let Some(mut hangup) = hangup {
        while hangup.recv().await.is_some() {
            node.look_at_certificate().await;
        }
    }
    std::future::pending().await
}

/// What a newcomer is told: where to click, and a first command that works as it stands.
fn welcome(settings: &Settings, node: &Node) -> String {
    let scheme = if settings.http.tls { "https" } else { "http" };
    let local = node.local_addr();
    let host = match &settings.http.advertise {
        Some(advertise) => advertise.to_string(),
        None if local.ip().is_loopback() => format!("localhost:{}", local.port()),
        None => local.to_string(),
    };
    let url = format!("{scheme}://{host}");
    let ca = settings.data_dir.join(folder::CA);
    let own = settings.http.tls && settings.http.certificate.is_none();
    let trust = if own { format!("--cacert {} ", ca.display()) } else { String::new() };
    let mut text = format!("Tertulia {} is ready.\n\n", env!("CARGO_PKG_VERSION"));
    text += &format!("  API         {url}/v1\n  Swagger UI  {url}/docs/\n");
    if own {
        text += &format!("  CA file     {}  (what clients trust)\n", ca.display());
    }
    text += &format!("  Data        {}\n\n", settings.data_dir.display());
    if node.wants_first_admin() && settings.registration_open() {
        text += "The first user becomes the administrator:\n\n";
        text += &format!(
            "  curl {trust}-H 'content-type: application/json' \\\n    -d '{{\"username\":\
             \"alice\",\"password\":\"correct horse\"}}' {url}/v1/users\n"
        );
    } else {
        text += &format!("Is it there?\n\n  curl {trust}{url}/readyz\n");
    }
    text
}
