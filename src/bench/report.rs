//! What a run comes to: as text for people, as one JSON object for programs.

use super::histogram::Histogram;
use super::ledger::Balance;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Quantiles of a duration, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantiles {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Quantiles {
    /// Reads them off.
    #[must_use]
    pub fn of(histogram: &Histogram) -> Self {
        // To the microsecond: more digits would claim too much.
        let ms = |ns: u64| ns.div_ceil(1_000) as f64 / 1_000.0;
        let at = |per_mille| ms(histogram.quantile_ns(per_mille));
        Self { p50: at(500), p99: at(990), p999: at(999), max: ms(histogram.max_ns()) }
    }
}

/// The figures of a run. Names and meanings stay; fields are added.
#[derive(Clone, Default, Serialize)]
#[allow(missing_docs)]
pub struct Report {
    pub queue: String,
    pub endpoints: usize,
    pub producers: usize,
    pub consumers: usize,
    pub in_flight: usize,
    pub batch: usize,
    pub receive_batch: usize,
    pub size_bytes: usize,
    /// 0: as fast as answers came.
    pub rate_per_second: u64,
    /// From the beginning to the last send that was answered.
    pub sending_seconds: f64,
    pub attempted: u64,
    /// Acknowledged to their producers.
    pub sent: u64,
    /// Messages acknowledged per second of `sending_seconds`.
    pub sends_per_second: f64,
    /// The same in requests.
    pub send_requests_per_second: f64,
    /// From when a send was due to its answer.
    pub send_p50_ms: f64,
    pub send_p99_ms: f64,
    pub send_p999_ms: f64,
    pub send_max_ms: f64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub received: Option<Received>,
    pub not_sent: u64,
    /// Sends of a schedule that were never begun because those before took too long.
    pub unsent_requests: u64,
    /// Failed requests and failed items of sends, all kinds.
    pub errors_total: u64,
    pub errors: BTreeMap<String, u64>,
    pub retries_total: u64,
    pub retries: BTreeMap<String, u64>,
    /// For the person who started the run; may hold a password that is shown once.
    #[serde(skip)]
    pub remarks: Vec<String>,
}

/// What consumers saw; absent when there were none.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Received {
    /// Different messages that came.
    pub received: u64,
    /// From the beginning to the last message that came for the first time.
    pub receiving_seconds: f64,
    /// End to end: `received` per second of `receiving_seconds`.
    pub received_per_second: f64,
    /// From when a message's send was due to its receipt by a consumer.
    pub end_to_end_p50_ms: f64,
    pub end_to_end_p99_ms: f64,
    pub end_to_end_p999_ms: f64,
    pub end_to_end_max_ms: f64,
    pub acknowledged: u64,
    /// Came again: legal after a lease has lapsed.
    pub duplicates: u64,
    /// Came although nobody was told that they are stored, nor that they are not: legal.
    pub recovered: u64,
    /// Came although no send of this run was begun for them.
    pub unexpected: u64,
    /// Came although their send was refused for certain: a broken promise.
    pub refused_but_came: u64,
    /// Acknowledged to their producers and not received by the end: a broken promise.
    pub lost: u64,
}

impl Received {
    /// Enters what the ledger says.
    pub fn enter(&mut self, balance: &Balance) {
        self.received = balance.received;
        self.recovered = balance.recovered;
        self.refused_but_came = balance.refused_but_came;
        self.lost = balance.lost;
    }

    fn times(&self) -> String {
        let (p50, p99) = (self.end_to_end_p50_ms, self.end_to_end_p99_ms);
        times(p50, p99, self.end_to_end_p999_ms, self.end_to_end_max_ms)
    }

    /// Enters the times.
    pub fn time(&mut self, quantiles: Quantiles) {
        self.end_to_end_p50_ms = quantiles.p50;
        self.end_to_end_p99_ms = quantiles.p99;
        self.end_to_end_p999_ms = quantiles.p999;
        self.end_to_end_max_ms = quantiles.max;
    }
}

/// How many there were per second; 0 in no time.
#[must_use]
pub fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { (count as f64 / seconds * 10.0).round() / 10.0 } else { 0.0 }
}

impl Report {
    /// Enters the times of sends.
    pub fn time(&mut self, quantiles: Quantiles) {
        self.send_p50_ms = quantiles.p50;
        self.send_p99_ms = quantiles.p99;
        self.send_p999_ms = quantiles.p999;
        self.send_max_ms = quantiles.max;
    }

    /// Whether the broker broke no promise.
    #[must_use]
    pub fn kept_promises(&self) -> bool {
        self.received.as_ref().is_none_or(|r| r.lost == 0 && r.refused_but_came == 0)
    }

    /// As one JSON object on one line.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("names and numbers are JSON");
        text.push('\n');
        text
    }

    /// As an aligned block.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut row = |label: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{label:<14} {value}");
        };
        let rate = match self.rate_per_second {
            0 => "as fast as answered".to_owned(),
            rate => format!("{rate} messages/s asked for"),
        };
        row("queue", self.queue.clone());
        row(
            "load",
            format!(
                "{} producers, {} in flight, {} consumers, {} endpoints, {rate}",
                self.producers, self.in_flight, self.consumers, self.endpoints
            ),
        );
        row(
            "messages",
            format!(
                "{} bytes, {} a send, up to {} a receive",
                self.size_bytes, self.batch, self.receive_batch
            ),
        );
        row(
            "sent",
            format!(
                "{} in {:.2} s: {:.1} messages/s, {:.1} requests/s",
                self.sent,
                self.sending_seconds,
                self.sends_per_second,
                self.send_requests_per_second
            ),
        );
        let send = times(self.send_p50_ms, self.send_p99_ms, self.send_p999_ms, self.send_max_ms);
        row("send", send);
        if let Some(r) = &self.received {
            let rate =
                format!("{:.2} s: {:.1} messages/s", r.receiving_seconds, r.received_per_second);
            row("received", format!("{} in {rate}", r.received));
            row("end to end", r.times());
            row("lost", r.lost.to_string());
            row("duplicates", r.duplicates.to_string());
            for (label, count) in [
                ("recovered", r.recovered),
                ("unexpected", r.unexpected),
                ("refused, came", r.refused_but_came),
            ] {
                if count > 0 {
                    row(label, count.to_string());
                }
            }
        } else {
            row("lost", "not checked: nobody received".to_owned());
        }
        if self.unsent_requests > 0 {
            row("never begun", format!("{} requests that were due", self.unsent_requests));
        }
        row("errors", kinds(self.errors_total, &self.errors));
        if self.retries_total > 0 {
            row("retries", kinds(self.retries_total, &self.retries));
        }
        text
    }
}

fn times(p50: f64, p99: f64, p999: f64, max: f64) -> String {
    format!("p50 {p50:.3} ms, p99 {p99:.3} ms, p99.9 {p999:.3} ms, max {max:.3} ms")
}

fn kinds(total: u64, kinds: &BTreeMap<String, u64>) -> String {
    let each: Vec<String> = kinds.iter().map(|(kind, n)| format!("{n} {}", kind.trim())).collect();
    if each.is_empty() { total.to_string() } else { format!("{total} ({})", each.join(", ")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn without_consumers_nothing_is_said_about_loss() {
        let report = Report { sent: 5, ..Report::default() };
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert!(json.get("lost").is_none() && json.get("received").is_none());
        assert_eq!(json["sent"], 5);
        assert!(report.text().contains("not checked"));
        assert!(report.kept_promises());
    }

    #[test]
    fn losses_and_errors_stand_in_both() {
        let received = Received { lost: 3, ..Received::default() };
        let errors = BTreeMap::from([("send 503 overloaded".to_owned(), 2)]);
        let report =
            Report { received: Some(received), errors_total: 2, errors, ..Report::default() };
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((json["lost"].as_u64(), json["received"].as_u64()), (Some(3), Some(0)));
        assert_eq!(json["errors"]["send 503 overloaded"], 2);
        assert!(report.text().contains("2 (2 send 503 overloaded)"));
        assert!(!report.kept_promises());
    }

    #[test]
    fn times_are_milliseconds() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|n| histogram.record(n * 1_000_000));
        let quantiles = Quantiles::of(&histogram);
        assert!((500.0..504.0).contains(&quantiles.p50), "{quantiles:?}");
        assert!((999.0..=1000.0).contains(&quantiles.p999), "{quantiles:?}");
        assert_eq!(quantiles.max, 1000.0);
        assert_eq!(per_second(1, 0.0), 0.0);
        assert_eq!(per_second(10, 4.0), 2.5);
    }
}
