//! Every metric of a node: the one place that documents them.

use metrics::Unit;

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts observations in buckets.
    Histogram,
}

impl MetricKind {
    /// Prometheus's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As scraped.
    pub name: &'static str,
    /// What it does.
    pub kind: MetricKind,
    /// What it counts in.
    pub unit: Unit,
    /// What it means.
    pub help: &'static str,
    /// The labels that every use of it carries.
    pub labels: &'static [&'static str],
}

const fn metric(
    name: &'static str,
    kind: MetricKind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, help, labels }
}

use MetricKind::{Counter, Gauge, Histogram};
use Unit::{Bytes, Count, Seconds};

/// All of them.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric("tertulia_build_info", Gauge, Count, &["version"],
        "Always 1; the label tells the version."),
    metric("tertulia_http_requests_total", Counter, Count, &["method", "route", "status"],
        "Requests answered, by method, route and status."),
    metric("tertulia_http_request_seconds", Histogram, Seconds, &["route"],
        "Time from a request's header to its answer, waits for messages included."),
    metric("tertulia_http_requests_in_flight", Gauge, Count, &[],
        "Requests being worked on, those that only wait for messages left out."),
    metric("tertulia_http_connections", Gauge, Count, &[],
        "Open client connections."),
    metric("tertulia_http_body_bytes", Gauge, Bytes, &[],
        "Memory held by the bodies of running requests."),
    metric("tertulia_http_refused_total", Counter, Count, &["reason"],
        "Connections and requests turned away before they reached a handler."),
    metric("tertulia_certificate_expiry_timestamp_seconds", Gauge, Seconds, &[],
        "When the certificate that clients see ends, in seconds since 1970."),
    metric("tertulia_certificate_reloads_total", Counter, Count, &["outcome"],
        "Certificates that took the place of another while the node ran, and refused ones."),
    metric("tertulia_sends_total", Counter, Count, &["outcome"],
        "Send requests, by what became of them."),
    metric("tertulia_receives_total", Counter, Count, &[],
        "Receive requests answered, empty answers included."),
    metric("tertulia_messages_sent_total", Counter, Count, &[],
        "Messages stored durably."),
    metric("tertulia_messages_received_total", Counter, Count, &[],
        "Messages handed to receivers, repeats included."),
    metric("tertulia_leases_total", Counter, Count, &[],
        "Leases granted on messages."),
    metric("tertulia_settles_total", Counter, Count, &["action", "outcome"],
        "Receipts settled, extended or released, by what became of them."),
    metric("tertulia_receivers_waiting", Gauge, Count, &[],
        "Receives that wait for a message."),
    metric("tertulia_push_connections", Gauge, Count, &["kind"],
        "Open event streams and WebSockets."),
    metric("tertulia_messages_pushed_total", Counter, Count, &[],
        "Messages pushed over event streams and WebSockets, repeats included."),
    metric("tertulia_messages_published_total", Counter, Count, &[],
        "Messages published durably."),
    metric("tertulia_messages_forwarded_total", Counter, Count, &[],
        "Messages that the broker moved along links."),
    metric("tertulia_link_loops_total", Counter, Count, &[],
        "Messages that had come by as many links as may be, and stayed."),
    metric("tertulia_messages_expired_total", Counter, Count, &[],
        "Messages dropped because their time was over."),
    metric("tertulia_messages_dead_total", Counter, Count, &[],
        "Messages that died because their leases lapsed too often."),
    metric("tertulia_dead_letters_stuck_total", Counter, Count, &[],
        "Tries to move dead messages that met an obstacle: they stay in place."),
    metric("tertulia_upkeep_failures_total", Counter, Count, &[],
        "Times that the worker of expiry and deaths was refused and tries again."),
    metric("tertulia_marks", Gauge, Count, &[],
        "Messages whose delay, time to live or group is held in memory."),
    metric("tertulia_streams_loaded", Gauge, Count, &[],
        "Queues and topics whose state is in memory."),
    metric("tertulia_streams_let_go_total", Counter, Count, &[],
        "Idle queues and topics whose state was dropped from memory to make room."),
    metric("tertulia_sizes_damaged_total", Counter, Count, &[],
        "Loads of a queue or topic that found a row of sizes damaged and read all its messages."),
    metric("tertulia_in_flight_refused_total", Counter, Count, &[],
        "Receives refused because too many messages of the queue are under lease."),
    metric("tertulia_holes", Gauge, Count, &[],
        "Messages whose payload cannot be opened and awaits repair."),
    metric("tertulia_messages_repaired_total", Counter, Count, &[],
        "Messages that this node lacked and took from another replica."),
    metric("tertulia_set_clashes_total", Counter, Count, &[],
        "Comparisons that found two sets of readers under one version: must stay 0."),
    metric("tertulia_comparisons_due", Gauge, Count, &[],
        "Streams that are to be compared with other replicas."),
    metric("tertulia_orphan_grants_total", Counter, Count, &[],
        "Leases dropped because no majority holds them."),
    metric("tertulia_receives_withdrawn_total", Counter, Count, &[],
        "Receives withdrawn as a whole because the answer of their dispatcher was lost."),
    metric("tertulia_record_clashes_total", Counter, Count, &[],
        "Records found decided twice, which must never happen."),
    metric("tertulia_password_hashes_total", Counter, Count, &[],
        "Passwords hashed, to store or to check them."),
    metric("tertulia_logins_total", Counter, Count, &["outcome"],
        "Logins, by what became of them."),
    metric("tertulia_peer_connections", Gauge, Count, &[],
        "Open connections that came from other nodes."),
    metric("tertulia_peer_refused_total", Counter, Count, &["reason"],
        "Connections from other nodes turned away."),
    metric("tertulia_peer_calls_total", Counter, Count, &["class"],
        "Calls made of other nodes, whatever became of them."),
    metric("tertulia_peer_bytes_total", Counter, Bytes, &["class"],
        "Bytes of the calls made of other nodes and of their answers, without framing and TLS."),
    metric("tertulia_peer_lost_total", Counter, Count, &[],
        "Connections to other nodes that broke or fell silent."),
    metric("tertulia_peer_calls_late_total", Counter, Count, &[],
        "Calls of other nodes refused because they came after their time."),
    metric("tertulia_commits_total", Counter, Count, &[],
        "Commits of the store."),
    metric("tertulia_commit_rows", Histogram, Count, &[],
        "Rows written in one commit."),
    metric("tertulia_commit_bytes", Histogram, Bytes, &[],
        "Bytes written in one commit, keys included."),
    metric("tertulia_fsync_seconds", Histogram, Seconds, &[],
        "Time until the disk has made a commit durable."),
    metric("tertulia_store_waiting_bytes", Gauge, Bytes, &[],
        "Writes that wait for their commit."),
    metric("tertulia_store_free_bytes", Gauge, Bytes, &[],
        "Free space of the disk under the store."),
    metric("tertulia_payload_cache_bytes", Gauge, Bytes, &[],
        "Sealed payloads kept in memory until delivered."),
];
