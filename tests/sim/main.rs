//! Whole nodes in one process and one thread: network, disk, clocks and entropy come from a seed,
//! and a seed is a run. Faults strike while clients work; then all heals, queues must run empty,
//! and the laws of `common::check::laws` judge what clients saw.
//!
//! `cargo test --test sim` runs `SIM_SEEDS` seeds from `SIM_FIRST` on, each in a process of its
//! own: `tokio` counts its seeds by process. `SIM_SEED=7 cargo test --test sim -- --exact one_seed
//! --nocapture` runs one; `SIM_TRACE=FILE` keeps what happened in it, `SIM_SCHEDULE=FILE` takes the
//! faults from a file as JSON. `SIM_SEED=7 SIM_SHRINK=1 cargo test --test sim -- --exact shrink
//! --nocapture` looks for the fewest faults with which it still fails.
#![allow(clippy::unwrap_used)]

mod clock;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod disk;
mod faults;
mod net;
mod rng;
mod sometimes;
mod spawn;
mod workload;

use cluster::{CLIENTS, Cluster};
use common::check::laws::{self, Counts, Terms};
use faults::Schedule;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use workload::{DRAIN, Shared};

/// When the faults end.
const FAULTS_MS: u64 = 30_000;
const LATENCY_MAX_MS: u64 = 12;
const TICK: Duration = Duration::from_millis(1);
const SEEDS: u64 = 200;
/// A run that takes longer hangs.
const RUN_SECONDS: u64 = 40;
const MARK: &str = "SIM-REPORT ";

/// What one run says at its end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Report {
    seed: u64,
    wrong: Vec<String>,
    simulated_ms: u64,
    real_ms: u64,
    operations: u64,
    starts: u64,
    lines: usize,
    sent: usize,
    delivered: usize,
    acked: usize,
    recovered: usize,
    duplicated: usize,
    holds: usize,
    faults: BTreeMap<String, u64>,
    /// What a night has to see now and then, and how often it was seen.
    sometimes: BTreeMap<String, u64>,
}

/// What panicked in the product or here; a panic in a task would otherwise go unseen.
fn watch_panics() -> Arc<Mutex<Vec<String>>> {
    let panics: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = panics.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // redb's panics on a dead disk are caught by the store's writer.
        if !panic.location().is_some_and(|at| at.file().contains("/redb-")) {
            seen.lock().unwrap().push(format!("panic: {panic}"));
            before(panic);
        }
    }));
    panics
}

/// Nodes of a run: three that replicate everything, each fourth seed one alone; or as `SIM_NODES`
/// says.
fn nodes(seed: u64) -> usize {
    number("SIM_NODES").unwrap_or(if seed.is_multiple_of(4) { 1 } else { 3 }) as usize
}

fn run(seed: u64, schedule: &Schedule) -> Report {
    let panics = watch_panics();
    let began = Instant::now();
    let shared = Rc::new(Shared { live: number("SIM_LIVE").is_some(), ..Shared::default() });
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .epoch(std::time::UNIX_EPOCH)
        .tick_duration(TICK)
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(Duration::from_millis(LATENCY_MAX_MS))
        .simulation_duration(Duration::from_millis(FAULTS_MS) + 3 * DRAIN)
        .tcp_capacity(4_096)
        .enable_random_order()
        .build();
    let cluster = Cluster::new(seed, nodes(seed), shared.clone());
    cluster.enter(&mut sim);
    let clients = workload::clients(shared.clone(), seed, nodes(seed));
    sim.client(CLIENTS, async move {
        clients.await;
        Ok(())
    });
    let mut next = 0;
    let mut wrong = Vec::new();
    loop {
        let now_ms = sim.elapsed().as_millis() as u64;
        while next < schedule.len() && schedule[next].0 <= now_ms {
            cluster.strike(&mut sim, &schedule[next].1);
            next += 1;
        }
        if now_ms >= FAULTS_MS && !shared.healed.get() {
            cluster.heal(&mut sim);
        }
        cluster.tend(&mut sim);
        match sim.step() {
            Ok(false) => {}
            Ok(true) => break,
            Err(error) => {
                wrong.push(format!("the run failed: {error}"));
                break;
            }
        }
    }
    let terms = Terms { early_per_mille: 0, drain_ns: DRAIN.as_nanos() as u64 };
    let history = shared.history.borrow();
    let findings = laws::judge(&history, terms);
    for (law, messages) in findings.wrong() {
        wrong.push(format!("{law}: {messages:?}"));
        for line in history.iter().filter(|line| messages.contains(&line.message)).take(40) {
            println!("  {}", serde_json::to_string(line).unwrap());
        }
    }
    wrong.extend(panics.lock().unwrap().drain(..));
    let trace = shared.trace.borrow();
    if let Ok(path) = std::env::var("SIM_TRACE") {
        std::fs::write(path, trace.join("\n") + "\n").unwrap();
    }
    if let Ok(path) = std::env::var("SIM_HISTORY") {
        let text = |line| serde_json::to_string(line).unwrap() + "\n";
        std::fs::write(path, history.iter().map(text).collect::<String>()).unwrap();
    }
    let Counts { sent, delivered, acked, recovered, duplicated, holds } = findings.counts;
    Report {
        seed,
        wrong,
        simulated_ms: sim.elapsed().as_millis() as u64,
        real_ms: began.elapsed().as_millis() as u64,
        operations: shared.operations.get(),
        starts: cluster.starts.get(),
        lines: trace.len(),
        sent,
        delivered,
        acked,
        recovered,
        duplicated,
        holds,
        faults: faults::count(schedule),
        sometimes: sometimes::points(&history, &shared.seen.borrow()),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// Runs the seed that the environment names, on a thread whose entropy nobody has touched.
#[test]
fn one_seed() {
    let Some(seed) = number("SIM_SEED") else { return };
    let schedule = match std::env::var("SIM_SCHEDULE") {
        Ok(path) => serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap(),
        Err(_) => faults::draw(seed, nodes(seed), FAULTS_MS),
    };
    if number("SIM_QUIET").is_none() {
        println!("{}", serde_json::to_string(&schedule).unwrap());
    }
    let work = move || {
        rng::seed_thread(seed);
        run(seed, &schedule)
    };
    let report = std::thread::spawn(work).join().unwrap();
    println!("{MARK}{}", serde_json::to_string(&report).unwrap());
    assert!(report.wrong.is_empty(), "seed {seed}: {:#?}", report.wrong);
}

/// Runs a seed in a process of its own.
fn apart(seed: u64, more: &[(&str, &Path)]) -> Report {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "one_seed", "--nocapture"]);
    command.env("SIM_SEED", seed.to_string()).env("SIM_QUIET", "1").stdin(Stdio::null());
    command.envs(more.iter().map(|(name, value)| (name, value.as_os_str())));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let id = child.id();
    // Who reads the pipes must not wait for ever: the watchdog ends a child that hangs.
    let (done, waits) = std::sync::mpsc::channel::<()>();
    let stdout = child.stdout.take().unwrap();
    let stderr = child.stderr.take().unwrap();
    let read = |mut pipe: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = pipe.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let (out, err) = (read(Box::new(stdout)), read(Box::new(stderr)));
    let watchdog = std::thread::spawn(move || {
        let limit = Duration::from_secs(RUN_SECONDS);
        if waits.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            let _ = child.kill();
        }
        child.wait().unwrap()
    });
    let (out, err) = (out.join().unwrap(), err.join().unwrap());
    drop(done);
    let status = watchdog.join().unwrap();
    let report = out.lines().find_map(|line| line.split_once(MARK).map(|(_, report)| report));
    match report {
        Some(report) => {
            let report: Report = serde_json::from_str(report).unwrap();
            if !report.wrong.is_empty() {
                println!("{out}");
            }
            report
        }
        None => {
            let wrong = format!("process {id} ended without a report: {status}\n{out}\n{err}");
            Report { seed, wrong: vec![wrong], ..Report::default() }
        }
    }
}

#[test]
fn seeds() {
    if number("SIM_SEED").is_some() {
        return;
    }
    let (count, first) = (number("SIM_SEEDS").unwrap_or(SEEDS), number("SIM_FIRST").unwrap_or(1));
    let next = AtomicU64::new(first);
    let reports = Mutex::new(Vec::new());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= first + count {
                        return;
                    }
                    let report = apart(seed, &[]);
                    reports.lock().unwrap().push(report);
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let mut kinds: BTreeMap<String, u64> =
        faults::kinds(3).into_iter().map(|kind| (kind.to_owned(), 0)).collect();
    for (kind, times) in reports.iter().flat_map(|report| &report.faults) {
        *kinds.entry(kind.clone()).or_default() += times;
    }
    let (simulated, cpu) = (sum(|r| r.simulated_ms), sum(|r| r.real_ms).max(1));
    println!(
        "simulation: {count} seeds, {} s simulated in {} s, {}x per core, {} operations, {} starts",
        simulated / 1_000,
        began.elapsed().as_secs(),
        simulated / cpu,
        sum(|r| r.operations),
        sum(|r| r.starts),
    );
    println!(
        "  {} sent, {} deliveries, {} acked, {} of unknown outcome that came, {} doubled without a \
         key, {} holds",
        sum(|r| r.sent as u64),
        sum(|r| r.delivered as u64),
        sum(|r| r.acked as u64),
        sum(|r| r.recovered as u64),
        sum(|r| r.duplicated as u64),
        sum(|r| r.holds as u64),
    );
    println!("  faults: {kinds:?}");
    let mut points = sometimes::none();
    for (point, times) in reports.iter().flat_map(|report| &report.sometimes) {
        *points.entry(point.clone()).or_default() += times;
    }
    for (point, times) in &points {
        println!("  {times:>8} {point}");
    }
    let failed: Vec<_> = reports.iter().filter(|report| !report.wrong.is_empty()).collect();
    for report in &failed {
        println!("seed {}: {:#?}", report.seed, report.wrong);
    }
    let names: Vec<u64> = failed.iter().map(|report| report.seed).collect();
    assert!(failed.is_empty(), "seeds that failed: {names:?}");
    let tame = |report: &Report| {
        report.operations < 300 || report.faults.values().sum::<u64>() < 3 || report.acked == 0
    };
    let tame: Vec<u64> = reports.iter().filter(|r| tame(r)).map(|r| r.seed).collect();
    assert!(tame.is_empty(), "too tame: {tame:?}");
    let counted = [sum(|r| r.holds as u64), sum(|r| r.recovered as u64), simulated];
    assert!(count < SEEDS || counted.iter().all(|count| *count > 0), "{counted:?}");
    assert!(count < SEEDS || kinds.values().all(|times| *times > 0), "{kinds:?}");
    assert!(count < SEEDS || points.values().all(|times| *times > 0), "{points:?}");
}

/// A run is its seed: twice the same is the same, line by line, and another is another.
#[test]
fn meta() {
    if number("SIM_SEED").is_some() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = |seed: u64, name: &str| {
        let path = folder.path().join(name);
        apart(seed, &[("SIM_TRACE", &path)]);
        std::fs::read_to_string(path).unwrap()
    };
    let (first, again, other) = (trace(3, "a"), trace(3, "b"), trace(4, "c"));
    assert!(first.lines().count() >= 1_000, "{} lines", first.lines().count());
    if let Some((at, (a, b))) =
        first.lines().zip(again.lines()).enumerate().find(|(_, (a, b))| a != b)
    {
        panic!("line {at} differs:\n  {a}\n  {b}");
    }
    assert_eq!(first.len(), again.len());
    assert_ne!(first, other);
    println!("meta: {} lines twice the same", first.lines().count());
}

/// Looks for the fewest faults with which a seed still fails.
#[test]
fn shrink() {
    let (Some(seed), Some(_)) = (number("SIM_SEED"), number("SIM_SHRINK")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("schedule");
    let fails = |schedule: &Schedule| {
        std::fs::write(&path, serde_json::to_string(schedule).unwrap()).unwrap();
        let report = apart(seed, &[("SIM_SCHEDULE", &path)]);
        println!("{} faults: {}", schedule.len(), report.wrong.len());
        !report.wrong.is_empty()
    };
    let all = faults::draw(seed, nodes(seed), FAULTS_MS);
    assert!(fails(&all), "seed {seed} does not fail");
    let left = faults::shrink(all, fails);
    println!("seed {seed} fails with these:\n{}", serde_json::to_string_pretty(&left).unwrap());
}
