//! A run from its beginning to its report.

use super::body::run_name;
use super::consumer::consume;
use super::exchange::{Run, Tally};
use super::history::History;
use super::http::{Authorization, Client};
use super::ledger::Ledger;
use super::pace::{Pacer, RunClock, Schedule};
use super::plan::Plan;
use super::producer::produce;
use super::report::{Quantiles, Received, Report, per_second};
use super::setup::{BenchError, Guest};
use crate::base::seams::{Net, Rng, Spawn};
use futures_util::future::BoxFuture;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, Interval, interval_at, sleep_until};

const SECOND: Duration = Duration::from_secs(1);

/// Is given a line each second.
pub type Progress = Box<dyn Fn(&str) + Send + Sync>;

/// What a run gets from its process.
pub struct Parts {
    /// The network.
    pub net: Arc<dyn Net>,
    /// Entropy.
    pub rng: Arc<dyn Rng>,
    /// Tasks and threads.
    pub spawn: Arc<dyn Spawn>,
    /// Where the history is written, buffered.
    pub history: Option<Box<dyn Write + Send>>,
    /// Where progress is shown.
    pub progress: Option<Progress>,
    /// The first message ends sending, the second ends waiting.
    pub interrupts: mpsc::Receiver<()>,
}

/// A report, and what became of its history.
pub struct Done {
    /// The figures.
    pub report: Report,
    /// Whether the history is complete.
    pub history: std::io::Result<()>,
}

/// Runs tasks and waits for all of them.
struct Group {
    alive: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
    spawn: Arc<dyn Spawn>,
}

impl Group {
    fn new(spawn: &Arc<dyn Spawn>) -> Self {
        let (alive, ended) = mpsc::channel(1);
        Self { alive, ended, spawn: spawn.clone() }
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let alive = self.alive.clone();
        self.spawn.task(Box::pin(async move {
            task.await;
            drop(alive);
        }));
    }

    /// Returns a receiver that ends when all tasks have.
    fn closed(self) -> mpsc::Receiver<()> {
        self.ended
    }
}

/// Loads the broker as planned. What it makes on the broker (a user, a session, a queue) it takes
/// away again, whatever happens.
///
/// # Errors
/// [`BenchError`] when the run could not begin. What goes wrong later is in the report.
pub async fn run(parts: Parts, plan: Plan) -> Result<Done, BenchError> {
    let Parts { net, rng, spawn, history, progress, mut interrupts } = parts;
    let client = Client::new(net, spawn.clone(), plan.endpoints.clone(), &plan.ca_pem)?;
    let client = Arc::new(client);
    let name = run_name(u32::from_le_bytes(rng.bytes()));
    let door = client.connection(0);
    let mut guest =
        Guest::arrive(door, &plan.credentials, plan.queue.as_ref(), &name, &*rng).await?;
    let end_ns = plan.seconds.saturating_mul(1_000_000_000);
    let run = Arc::new(Run {
        name,
        queue_path: format!("/v1/queues/{}", guest.queue.as_str()),
        client,
        clock: RunClock::start(),
        ledger: Ledger::new(plan.producers),
        history: History::new(history),
        end_ns: AtomicU64::new(end_ns),
        tally: Mutex::default(),
        plan,
    });
    let unsent = load(&run, &spawn, &guest.authorization, progress, &mut interrupts).await;
    guest.leave().await;
    let mut report = report(&run, guest.queue.as_str(), unsent);
    report.remarks = guest.remarks;
    Ok(Done { report, history: run.history.finish() })
}

/// Sends, receives, and waits for what is missing; returns how many requests were due and never
/// made.
async fn load(
    run: &Arc<Run>,
    spawn: &Arc<dyn Spawn>,
    authorization: &Authorization,
    progress: Option<Progress>,
    interrupts: &mut mpsc::Receiver<()>,
) -> u64 {
    let plan = &run.plan;
    let (stop, stopped) = watch::channel(false);
    let consumers = Group::new(spawn);
    for consumer in 0..plan.consumers {
        let process = plan.in_flight + consumer;
        let task = consume(run.clone(), process, authorization.clone(), stopped.clone());
        consumers.spawn(Box::pin(task));
    }
    let producers = Group::new(spawn);
    let pacer = (plan.rate > 0).then(|| pace(run, spawn));
    for process in 0..plan.in_flight {
        let task = produce(run.clone(), process, authorization.clone(), pacer.clone());
        producers.spawn(Box::pin(task));
    }
    let mut ticker = Ticker::new(run, progress);
    let mut producers = producers.closed();
    loop {
        tokio::select! {
            _ = producers.recv() => break,
            Some(()) = interrupts.recv() => {
                run.end_ns.fetch_min(run.clock.now_ns(), Ordering::Relaxed);
            }
            () = ticker.tick() => {}
        }
    }
    if plan.consumers > 0 {
        drain(run, &mut ticker, interrupts).await;
    }
    stop.send_replace(true);
    // Each ends its last acknowledgement, which has a deadline.
    let _ = consumers.closed().recv().await;
    pacer.map_or(0, |pacer| pacer.unsent())
}

/// Waits until all that was acknowledged has come, or time is up.
async fn drain(run: &Run, ticker: &mut Ticker, interrupts: &mut mpsc::Receiver<()>) {
    let deadline = Instant::now() + run.plan.drain;
    loop {
        tokio::select! {
            () = run.ledger.completed() => return,
            () = sleep_until(deadline) => return,
            Some(()) = interrupts.recv() => return,
            () = ticker.tick() => {}
        }
    }
}

fn pace(run: &Arc<Run>, spawn: &Arc<dyn Spawn>) -> Arc<Pacer> {
    let plan = &run.plan;
    let (rate, batch, seconds) = (plan.rate, plan.batch as u64, plan.seconds);
    let pacer = Arc::new(Pacer::new(Schedule { rate, batch, seconds }));
    let (driven, run) = (pacer.clone(), run.clone());
    spawn.dedicated("bench-pacer", Box::pin(async move { driven.drive(run.clock, &run.end_ns) }));
    pacer
}

/// Shows each second what has happened in it.
struct Ticker {
    run: Arc<Run>,
    progress: Option<Progress>,
    interval: Interval,
    seconds: u64,
    sent: u64,
    received: u64,
}

impl Ticker {
    fn new(run: &Arc<Run>, progress: Option<Progress>) -> Self {
        let interval = interval_at(Instant::now() + SECOND, SECOND);
        Self { run: run.clone(), progress, interval, seconds: 0, sent: 0, received: 0 }
    }

    async fn tick(&mut self) {
        self.interval.tick().await;
        self.seconds += 1;
        let (sent, received, errors) = {
            let tally = self.run.tally();
            (tally.stored, tally.received, tally.errors.values().sum::<u64>())
        };
        if let Some(show) = &self.progress {
            show(&format!(
                "{:>4} s  sent {}/s  received {}/s  waiting {}  errors {errors}",
                self.seconds,
                sent - self.sent,
                received - self.received,
                self.run.ledger.missing(),
            ));
        }
        (self.sent, self.received) = (sent, received);
    }
}

fn report(run: &Run, queue: &str, unsent_requests: u64) -> Report {
    let plan = &run.plan;
    let balance = run.ledger.balance();
    let tally: &Tally = &run.tally();
    let seconds = |ns: u64| ns as f64 / 1e9;
    let sending_seconds = seconds(tally.last_stored_ns);
    let mut report = Report {
        queue: queue.to_owned(),
        endpoints: plan.endpoints.len(),
        producers: plan.producers,
        consumers: plan.consumers,
        in_flight: plan.in_flight,
        batch: plan.batch,
        receive_batch: plan.receive_batch,
        size_bytes: plan.size_bytes,
        rate_per_second: plan.rate,
        sending_seconds,
        attempted: balance.attempted,
        sent: balance.stored,
        sends_per_second: per_second(balance.stored, sending_seconds),
        send_requests_per_second: per_second(tally.requests, sending_seconds),
        not_sent: balance.not_stored,
        unsent_requests,
        errors_total: tally.errors.values().sum(),
        errors: tally.errors.clone(),
        retries_total: tally.retries.values().sum(),
        retries: tally.retries.clone(),
        ..Report::default()
    };
    report.time(Quantiles::of(&tally.send));
    if plan.consumers > 0 {
        let receiving_seconds = seconds(tally.last_received_ns);
        let mut received = Received {
            receiving_seconds,
            received_per_second: per_second(balance.received, receiving_seconds),
            acknowledged: tally.acked,
            duplicates: tally.duplicates,
            unexpected: tally.unexpected,
            ..Received::default()
        };
        received.enter(&balance);
        received.time(Quantiles::of(&tally.end_to_end));
        report.received = Some(received);
    }
    report
}
