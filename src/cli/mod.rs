//! Layer 9: the command line.
//!
//! Knows: verbs, flags, exit codes, what a person is told.
//! Must not know: how anything works inside.
//! Way in: `main`. Way out: `node`, `bench`, `config`, `telemetry`, `api::spec`.

mod bench;
mod serve;

use crate::config::Overrides;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Something failed.
pub const FAILURE: u8 = 1;
/// The command line is wrong; of `bench` also: messages were lost.
pub const USAGE: u8 = 2;
/// The settings make no sense.
pub const CONFIGURATION: u8 = 3;
/// The data folder is in use, or made with another secret.
pub const FOLDER: u8 = 4;

/// A leaderless replicated message broker.
#[derive(Debug, Parser)]
#[command(name = "tertulia", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    serve: ServeFlags,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failure, 2 usage, 3 settings, 4 data folder in \
                          use or made with another secret.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a node (what happens without a verb)
    Serve(ServeFlags),
    /// Print the OpenAPI document
    Openapi {
        /// As YAML instead of JSON
        #[arg(long)]
        yaml: bool,
    },
    /// Print the certificate that clients of this node trust
    Ca(ServeFlags),
    /// Load a running broker, and check that nothing is lost
    Bench(Box<bench::BenchFlags>),
}

#[derive(Clone, Debug, Default, Args)]
struct ServeFlags {
    /// A settings file instead of `tertulia.toml` in the data folder
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder that holds everything of this node
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The file with the cluster's secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// The address to listen at for clients
    #[arg(long, value_name = "IP:PORT")]
    http_listen: Option<String>,
    /// The host and port under which clients reach this node
    #[arg(long, value_name = "HOST:PORT")]
    http_advertise: Option<String>,
    /// `text` or `json`
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl ServeFlags {
    fn overrides(&self) -> Overrides {
        let flags = self.clone();
        Overrides {
            data_dir: flags.data_dir,
            secret_file: flags.secret_file,
            cluster_name: flags.cluster_name,
            http_listen: flags.http_listen,
            http_advertise: flags.http_advertise,
            log_format: flags.log_format,
            log_level: flags.log_level,
            ..Overrides::default()
        }
    }
}

/// An error that ends the process, and the code it ends with.
struct Ends {
    code: u8,
    error: anyhow::Error,
}

impl Ends {
    fn with(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }
}

/// Runs what the command line asks for; returns the exit code.
#[must_use]
pub fn run() -> u8 {
    let cli = Cli::parse();
    let done = match cli.verb {
        None => serve::serve(&cli.serve),
        Some(Verb::Serve(flags)) => serve::serve(&flags),
        Some(Verb::Openapi { yaml }) => {
            serve::print(&if yaml { crate::api::spec::yaml() } else { crate::api::spec::json() })
        }
        Some(Verb::Ca(flags)) => serve::ca(&flags),
        Some(Verb::Bench(flags)) => bench::bench(&flags),
    };
    match done {
        Ok(()) => 0,
        Err(Ends { code, error }) => {
            eprintln!("tertulia: {error:#}");
            code
        }
    }
}
