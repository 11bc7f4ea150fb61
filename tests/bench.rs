//! `tertulia bench` against the real binary over HTTPS: it finds nothing lost where nothing is,
//! and says so when a thief takes messages away under it.
#![allow(clippy::unwrap_used)]

mod common;

use common::check;
use common::process::Process;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const PASSWORD: &str = "correct horse battery";

/// A broker in a folder of its own, ended with the test.
struct Broker {
    process: Process,
    folder: tempfile::TempDir,
    url: String,
    client: reqwest::Client,
}

impl Broker {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(folder.path(), &[]).await;
        Self { url: process.url(), client: process.client(None), process, folder }
    }

    /// Asks as Alice.
    async fn ask(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.client.request(method, format!("{}/v1/{path}", self.url));
        let request = request.basic_auth("alice", Some(PASSWORD));
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn register_alice(&self) {
        let alice = json!({ "username": "alice", "password": PASSWORD });
        let made = self.client.post(format!("{}/v1/users", self.url)).json(&alice).send().await;
        assert_eq!(made.unwrap().status(), 201);
    }

    fn bench(&self, flags: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_tertulia"))
            .args(["bench", "--json", "--endpoint", &self.url, "--ca"])
            .arg(self.process.ca())
            .args(flags)
            .env("TERTULIA_BENCH_PASSWORD", PASSWORD)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

/// The exit code and the figures.
fn figures(output: &Output) -> (Option<i32>, Value) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {stderr}")))
}

fn verdict(history: &Path) -> check::Verdict {
    check::check(&check::read(&std::fs::read_to_string(history).unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_loses_nothing_proves_it_and_leaves_nothing_behind() {
    let broker = Broker::start().await;
    broker.register_alice().await;
    let history = broker.folder.path().join("history");
    let closed = ["--in-flight", "16", "--batch", "3", "--size", "100"];
    let open = ["--producers", "4", "--rate", "200", "--receive-batch", "1"];
    for load in [closed.as_slice(), &open] {
        let flags = ["--seconds", "2", "--progress", "--history", history.to_str().unwrap()];
        let output = broker.bench(&[&flags, load].concat()).wait_with_output().unwrap();
        let (code, report) = figures(&output);
        assert_eq!((code, &report["lost"]), (Some(0), &json!(0)), "{report}");
        assert_eq!(report["errors_total"], 0, "{report}");
        assert_eq!(report["unexpected"], 0, "{report}");
        let sent = report["sent"].as_u64().unwrap();
        assert!(sent > 50, "too tame: {report}");
        assert!(report["send_p50_ms"].as_f64().unwrap() > 0.0, "{report}");
        assert!(report["end_to_end_p999_ms"].as_f64() >= report["end_to_end_p50_ms"].as_f64());
        let verdict = verdict(&history);
        verdict.assert_clean("bench");
        assert_eq!(verdict.sent as u64, sent);
        assert_eq!(Some(verdict.acked as u64), report["acknowledged"].as_u64());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("1 s  sent "), "no progress: {stderr}");
    }
    for list in ["users?prefix=bench-", "queues"] {
        let (status, page) = broker.ask(reqwest::Method::GET, list, None).await;
        assert_eq!((status, &page["items"]), (200, &json!([])), "{list}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_thief_takes_away_is_lost_and_that_is_exit_code_2() {
    let broker = Broker::start().await;
    broker.register_alice().await;
    let put = broker.ask(reqwest::Method::PUT, "queues/loot", Some(json!({}))).await;
    assert_eq!(put.0, 201);
    let history = broker.folder.path().join("history");
    let mut bench = broker.bench(&[
        "--username",
        "alice",
        "--queue",
        "loot",
        "--seconds",
        "2",
        "--drain-seconds",
        "1",
        "--consumers",
        "1",
        "--history",
        history.to_str().unwrap(),
    ]);
    let mut stolen = 0;
    while bench.try_wait().unwrap().is_none() {
        let wanted = json!({ "max_messages": 100, "wait_seconds": 1, "auto_ack": true });
        let (_, got) = broker.ask(reqwest::Method::POST, "queues/loot/leases", Some(wanted)).await;
        stolen += got["messages"].as_array().map_or(0, Vec::len);
    }
    let (code, report) = figures(&bench.wait_with_output().unwrap());
    assert!(stolen > 0, "the thief found nothing");
    assert_eq!((code, &report["lost"]), (Some(2), &json!(stolen)), "{report}");
    assert_eq!(verdict(&history).lost.len(), stolen, "the checkers agree");
    // The queue was there before.
    assert_eq!(broker.ask(reqwest::Method::GET, "queues/loot", None).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_user_of_a_broker_stays_and_its_password_is_told() {
    let broker = Broker::start().await;
    let output = broker.bench(&["--seconds", "1", "--no-consume"]).wait_with_output().unwrap();
    let (code, report) = figures(&output);
    assert_eq!((code, report.get("lost")), (Some(0), None), "{report}");
    let remark = String::from_utf8(output.stderr).unwrap();
    let words: Vec<&str> = remark.split_whitespace().map(|word| word.trim_matches(',')).collect();
    let name = words.iter().find(|word| word.starts_with("bench-")).unwrap();
    let request = broker.client.get(format!("{}/v1/users/me", broker.url));
    let answer = request.basic_auth(name, words.last()).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{remark}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_is_refused_before_anything_is_done() {
    let broker = Broker::start().await;
    for flags in [
        ["--producers", "5", "--in-flight", "4"],
        ["--batch", "100", "--size", "1000000"],
        ["--endpoint", "http://127.0.0.1:1", "--seconds", "1"],
        ["--size", "10", "--seconds", "1"],
        ["--queue", "no/name", "--seconds", "1"],
    ] {
        let output = broker.bench(&flags).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
    }
    let refused = ["--username", "nobody", "--seconds", "1"];
    let output = broker.bench(&refused).wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("bad-credentials") && !stderr.contains(PASSWORD), "{stderr}");
}
