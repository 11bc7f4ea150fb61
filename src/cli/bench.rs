//! `tertulia bench`: from flags to a run, and its figures.

use super::{Ends, FAILURE, USAGE, serve::print};
use crate::base::limits;
use crate::base::names::QueueName;
use crate::base::rng::SystemRng;
use crate::base::seams::{Spawn as _, SystemNet, SystemSpawn};
use crate::bench::body::{PRODUCERS_MAX, SIZE_BYTES_MIN};
use crate::bench::http::Endpoint;
use crate::bench::{Credentials, Parts, Plan, run};
use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use clap::builder::RangedU64ValueParser;
use std::fs::File;
use std::io::{BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

const PASSWORD_VARIABLE: &str = "TERTULIA_BENCH_PASSWORD";
const TOKEN_VARIABLE: &str = "TERTULIA_BENCH_TOKEN";

/// How many producers there are where nothing is said.
const PRODUCERS: usize = 8;

/// A number of things, within bounds.
fn within(min: usize, max: usize) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(min as u64..=max as u64)
}

/// Loads a running broker, and checks that what it acknowledged comes.
///
/// A send is counted from when it was due: with --rate, a send that had to wait for the one before
/// is as late as it is. An existing queue should be empty: messages of others are not
/// acknowledged, but leased.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 done and nothing lost, 1 failure or nothing sent, \
                        2 messages were lost (or the command line is wrong).")]
pub(super) struct BenchFlags {
    /// A broker; several share the connections
    #[arg(long = "endpoint", value_name = "URL", default_value = "https://127.0.0.1:7420")]
    endpoints: Vec<Endpoint>,
    /// The certificate to trust
    #[arg(long, value_name = "FILE", default_value = "tertulia-data/ca.pem")]
    ca: PathBuf,
    /// A user; its password is in TERTULIA_BENCH_PASSWORD or --password-file. Without a user and a
    /// token, one is registered and deleted afterwards
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// A file with the user's password
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,
    /// A file with a session's token or an API key's secret; or TERTULIA_BENCH_TOKEN
    #[arg(long, value_name = "FILE", conflicts_with = "username")]
    token_file: Option<PathBuf>,
    /// The queue; one that is not there is made, and deleted afterwards [default: a fresh name]
    #[arg(long, value_name = "NAME", value_parser = QueueName::parse)]
    queue: Option<QueueName>,
    /// Senders that number their messages [default: 8, or --in-flight if that is fewer]
    #[arg(long, value_name = "N", value_parser = within(1, PRODUCERS_MAX))]
    producers: Option<usize>,
    /// Sends under way at once, all producers together; each takes a connection
    /// [default: one per producer]
    #[arg(long, value_name = "N", value_parser = within(1, limits::CONNECTIONS_MAX))]
    in_flight: Option<usize>,
    /// Receivers, each with a connection
    #[arg(long, value_name = "N", default_value_t = 2,
          value_parser = within(1, limits::CONNECTIONS_MAX))]
    consumers: usize,
    /// Send only: nothing is received, nothing is checked
    #[arg(long, conflicts_with_all = ["consumers", "receive_batch", "drain_seconds"])]
    no_consume: bool,
    /// Messages of one send
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = within(1, limits::SEND_BATCH_MAX))]
    batch: usize,
    /// Messages of one receive
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = within(1, limits::RECEIVE_BATCH_MAX as usize))]
    receive_batch: usize,
    /// Bytes of a message's body
    #[arg(long, value_name = "BYTES", default_value_t = 128,
          value_parser = within(SIZE_BYTES_MIN, limits::MESSAGE_BYTES_MAX as usize))]
    size: usize,
    /// Messages per second, whatever the answers do; 0: each send follows the last one's answer
    #[arg(long, value_name = "MESSAGES", default_value_t = 0,
          value_parser = clap::value_parser!(u64).range(..=10_000_000))]
    rate: u64,
    /// How long is sent
    #[arg(long, value_name = "N", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seconds: u64,
    /// How long is waited then for what was acknowledged and has not come
    #[arg(long, value_name = "N", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(..=86_400))]
    drain_seconds: u64,
    /// Print the figures as a JSON object
    #[arg(long)]
    json: bool,
    /// Write what every client did and saw to a file, as JSON lines
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Show a line each second even where standard error is no terminal
    #[arg(long)]
    progress: bool,
    /// Threads of the bench itself
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = within(1, 64))]
    threads: usize,
}

fn secret_in(file: Option<&Path>, variable: &str) -> anyhow::Result<Option<Zeroizing<String>>> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string())?,
        None => match std::env::var(variable) {
            Ok(text) if !text.is_empty() => text,
            _ => return Ok(None),
        },
    };
    let text = Zeroizing::new(text);
    Ok(Some(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned())))
}

fn credentials(flags: &BenchFlags) -> anyhow::Result<Credentials> {
    if let Some(username) = flags.username.clone() {
        let Some(password) = secret_in(flags.password_file.as_deref(), PASSWORD_VARIABLE)? else {
            bail!("--username needs {PASSWORD_VARIABLE} or --password-file");
        };
        return Ok(Credentials::Password { username, password });
    }
    let token = secret_in(flags.token_file.as_deref(), TOKEN_VARIABLE)?;
    Ok(token.map_or(Credentials::Register, Credentials::Token))
}

fn plan(flags: &BenchFlags) -> anyhow::Result<Plan> {
    let producers = flags.producers.unwrap_or(PRODUCERS.min(flags.in_flight.unwrap_or(PRODUCERS)));
    let in_flight = flags.in_flight.unwrap_or(producers);
    if in_flight < producers {
        bail!("--in-flight {in_flight} leaves none for some of {producers} --producers");
    }
    let body_bytes = flags.batch * (flags.size + 16);
    if body_bytes > limits::BODY_BYTES_MAX {
        bail!("--batch times --size is more than a request may hold ({})", limits::BODY_BYTES_MAX);
    }
    Ok(Plan {
        endpoints: flags.endpoints.clone(),
        ca_pem: std::fs::read(&flags.ca)
            .with_context(|| format!("{}: the certificate to trust (--ca)", flags.ca.display()))?,
        credentials: credentials(flags)?,
        queue: flags.queue.clone(),
        producers,
        in_flight,
        consumers: if flags.no_consume { 0 } else { flags.consumers },
        batch: flags.batch,
        receive_batch: flags.receive_batch,
        size_bytes: flags.size,
        rate: flags.rate,
        seconds: flags.seconds,
        drain: Duration::from_secs(flags.drain_seconds),
    })
}

/// `tertulia bench`.
pub(super) fn bench(flags: &BenchFlags) -> Result<(), Ends> {
    let fails = |error: anyhow::Error| Ends { code: FAILURE, error };
    let plan = plan(flags).map_err(|error| Ends { code: USAGE, error })?;
    let history = flags.history.as_deref().map(created).transpose().map_err(fails)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(flags.threads)
        .enable_all()
        .build()
        .map_err(|error| Ends::with(FAILURE, error))?;
    let done = runtime.block_on(async {
        let (interrupted, interrupts) = mpsc::channel(2);
        SystemSpawn.task(Box::pin(async move {
            while tokio::signal::ctrl_c().await.is_ok() && interrupted.send(()).await.is_ok() {}
        }));
        let shown = flags.progress || std::io::stderr().is_terminal();
        let show = |line: &str| eprintln!("{line}");
        let parts = Parts {
            net: Arc::new(SystemNet),
            rng: Arc::new(SystemRng),
            spawn: Arc::new(SystemSpawn),
            history,
            progress: shown.then(|| Box::new(show) as _),
            interrupts,
        };
        run(parts, plan).await
    });
    runtime.shutdown_background();
    let done = done.map_err(|error| Ends::with(FAILURE, error))?;
    let report = &done.report;
    for remark in &report.remarks {
        eprintln!("tertulia bench: {remark}");
    }
    print(&if flags.json { report.json() } else { report.text() })?;
    done.history.context("the history is cut off").map_err(fails)?;
    if !report.kept_promises() {
        return Err(Ends::with(USAGE, anyhow!("the broker broke its promise; see `lost`")));
    }
    if report.sent == 0 {
        return Err(Ends::with(FAILURE, anyhow!("nothing was sent; see `errors`")));
    }
    Ok(())
}

fn created(path: &Path) -> anyhow::Result<Box<dyn Write + Send>> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    Ok(Box::new(BufWriter::with_capacity(1 << 18, file)))
}
