//! What a node says of itself: log lines and metrics.
//!
//! Knows: the log subscriber, the metrics recorder, and in [`names`] every metric there is.
//! Must not know: what is being measured; rooms report through the `metrics` and `tracing` macros.
//! Way in: [`init_log`] and [`install`], once per process. Way out: standard error, and
//! [`Metrics::render`] for whoever serves `/metrics`.

pub mod names;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use names::{METRICS, Metric, MetricKind};
use std::sync::{Mutex, PoisonError};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The directives are not what [`EnvFilter`] reads.
    #[error("`{directives}` says no log level: {source}")]
    Directives {
        /// As given.
        directives: String,
        /// What is wrong with them.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a log already.
    #[error(transparent)]
    Twice(#[from] TryInitError),
}

/// Sends log lines to standard error. `directives` is a level or like `info,tertulia::api=debug`.
///
/// # Errors
/// When the directives are wrong, or the process has a log already.
pub fn init_log(lines: Lines, directives: &str) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(directives)
        .map_err(|source| LogError::Directives { directives: directives.to_owned(), source })?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match lines {
        Lines::Text => registry.with(layer.with_ansi(false)).try_init()?,
        Lines::Json => registry.with(layer.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

/// The process's metrics.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// All metrics in Prometheus's text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Moves recorded values on to where `render` finds them; without it they pile up. To be
    /// called every few seconds.
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// There is no recorder, because something else installed one or a bucket list is empty.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be recorded: {0}")]
pub struct MetricsError(#[from] BuildError);

/// Installs the process's recorder; when it is there already, hands it out once more.
///
/// # Errors
/// When something else installed a recorder.
pub fn install() -> Result<Metrics, MetricsError> {
    static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(metrics) = installed.as_ref() {
        return Ok(metrics.clone());
    }
    let metrics = Metrics { handle: builder()?.install_recorder()? };
    METRICS.iter().for_each(describe);
    metrics::gauge!("tertulia_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    *installed = Some(metrics.clone());
    Ok(metrics)
}

/// Bounds of latency buckets, in seconds: 50 µs to 10 s, two or three a decade.
const SECONDS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];
/// Bounds of buckets that count rows: powers of two up to the largest commit.
const ROWS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0, 8_192.0,
];
/// Bounds of buckets of sizes: 256 B to 16 MiB, times four.
const BYTES: &[f64] = &[
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

fn builder() -> Result<PrometheusBuilder, BuildError> {
    let suffix = |text: &str| Matcher::Suffix(text.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(suffix("_seconds"), SECONDS)?
        .set_buckets_for_metric(suffix("_rows"), ROWS)?
        .set_buckets_for_metric(suffix("_bytes"), BYTES)
}

fn describe(metric: &Metric) {
    let Metric { name, unit, help, .. } = *metric;
    match metric.kind {
        MetricKind::Counter => metrics::describe_counter!(name, unit, help),
        MetricKind::Gauge => metrics::describe_gauge!(name, unit, help),
        MetricKind::Histogram => metrics::describe_histogram!(name, unit, help),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_follow_the_convention() {
        let mut seen = BTreeSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(seen.insert(name), "{name} twice");
            let words = name.strip_prefix("tertulia_").unwrap();
            let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase());
            assert!(words.split('_').all(word), "{name}");
            let counts = metric.kind == MetricKind::Counter;
            assert_eq!(name.ends_with("_total"), counts, "{name}: counters, and only they");
            let base = name.strip_suffix("_total").unwrap_or(name);
            let unit = match metric.unit {
                metrics::Unit::Seconds => "_seconds",
                metrics::Unit::Bytes => "_bytes",
                metrics::Unit::Count => "",
                other => panic!("{name}: {other:?} is no base unit"),
            };
            assert!(base.ends_with(unit), "{name}: the unit comes last");
            let units = ["_seconds", "_bytes"].iter().filter(|u| base.ends_with(**u)).count();
            assert_eq!(units, usize::from(!unit.is_empty()), "{name}: the unit is declared");
            let reserved = ["_count", "_sum", "_bucket", "_info"];
            let ends_reserved = reserved.iter().any(|r| name.ends_with(r));
            assert!(!ends_reserved || name == "tertulia_build_info", "{name}");
            assert!(
                metric.help.ends_with('.') && metric.help.len() > 15,
                "{name}: {}",
                metric.help
            );
        }
    }

    #[test]
    fn histograms_have_buckets_and_all_is_described() {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            METRICS.iter().for_each(describe);
            for metric in METRICS {
                match metric.kind {
                    MetricKind::Counter => metrics::counter!(metric.name).increment(1),
                    MetricKind::Gauge => metrics::gauge!(metric.name).set(1.0),
                    MetricKind::Histogram => metrics::histogram!(metric.name).record(0.3),
                }
            }
        });
        let text = recorder.handle().render();
        for metric in METRICS {
            let (name, kind) = (metric.name, metric.kind.word());
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
            assert!(text.contains(&format!("# HELP {name} {}\n", metric.help)), "{name}");
        }
        assert!(text.contains("tertulia_fsync_seconds_bucket{le=\"0.00005\"} 0\n"), "{text}");
        assert!(text.contains("tertulia_fsync_seconds_bucket{le=\"0.5\"} 1\n"), "{text}");
        assert!(text.contains("tertulia_commit_rows_bucket{le=\"8192\"} 1\n"), "{text}");
        assert!(text.contains("tertulia_commit_bytes_bucket{le=\"256\"} 1\n"), "{text}");
    }

    #[test]
    fn the_recorder_is_installed_once_and_handed_out_again() {
        let first = install().unwrap();
        let second = install().unwrap();
        metrics::counter!("tertulia_leases_total").increment(0);
        for metrics in [first, second] {
            metrics.run_upkeep();
            let text = metrics.render();
            assert!(text.contains("tertulia_leases_total "), "{text}");
            assert!(text.contains("tertulia_build_info{version=\""), "{text}");
        }
    }

    #[test]
    fn wrong_directives_are_refused() {
        let error = init_log(Lines::Text, "tertulia=loud").unwrap_err();
        assert!(matches!(error, LogError::Directives { .. }), "{error}");
    }
}
