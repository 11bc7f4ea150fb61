//! Every bound of a node on one page: its value and unit, the setting that changes it (where one
//! does), and the metric that shows it being met.

use std::time::Duration;

/// Open client connections. Metric `tertulia_http_connections`.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Client requests being worked on, waits not counted; above it 503 `overloaded`. Metric
/// `tertulia_http_requests_in_flight`.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 1_024;
/// Receives waiting for a message; above it 503 `overloaded`. Metric `tertulia_receivers_waiting`.
pub const RECEIVERS_WAITING_MAX: usize = 20_000;
/// Bytes of a request's header; above it 431 `too-large`. Metric `tertulia_http_refused_total`.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Fields of a request's header, as hyper bounds them for HTTP/1.1; above it 431 `too-large`.
pub const HEADER_FIELDS_MAX: usize = 100;
/// Time a client has for a request's header.
pub const HEADER_TIME: Duration = Duration::from_secs(10);
/// Time an HTTP/1.1 connection may stay open between two requests: longer than most clients keep
/// one, so that it is the client who closes and no request crosses a closing.
pub const IDLE_TIME: Duration = Duration::from_secs(75);
/// Time a client has for the TLS handshake.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Time a client has for a request's body.
pub const BODY_TIME: Duration = Duration::from_secs(60);
/// Requests at once on one HTTP/2 connection.
pub const HTTP2_STREAMS_MAX: u32 = 128;
/// Bytes of a request's body. Setting `http.max_body_bytes`; above it 413 `too-large`.
pub const BODY_BYTES_MAX: usize = 24 << 20;
/// Bytes of a body of a request that anybody may make; above it 413 `too-large`.
pub const PUBLIC_BODY_BYTES_MAX: usize = 64 << 10;
/// Bytes of a body that carries no messages; above it 413 `too-large`.
pub const PLAIN_BODY_BYTES_MAX: usize = 1 << 20;
/// Bytes of a refused body that are read and thrown away so that the client sees the answer.
pub const BODY_DISCARD_BYTES_MAX: usize = 64 << 20;
/// Time for which a refused body is read and thrown away.
pub const BODY_DISCARD_TIME: Duration = Duration::from_secs(5);
/// Bytes of request bodies held at once, all clients together; above it 503 `overloaded`. Metric
/// `tertulia_http_body_bytes`.
pub const BODIES_BYTES_MAX: usize = 256 << 20;
/// Time an operation may take, waits for messages apart [R54].
pub const OPERATION_TIME: Duration = Duration::from_secs(10);

/// Event streams and WebSockets open at once; above it 503 `overloaded`. Metric
/// `tertulia_push_connections`.
pub const PUSH_CONNECTIONS_MAX: usize = 5_000;
/// Consumers of one WebSocket; above it 429 `quota`.
pub const CONSUMERS_PER_CONNECTION_MAX: usize = 100;
/// Operations at once on one WebSocket; above it nothing more is read from it.
pub const CONNECTION_OPERATIONS_MAX: usize = 16;
/// Messages a consumer may still be sent: its credit.
pub const CREDIT_MAX: i32 = 1_000;
/// Messages that one consumer may hold unsettled; above it nothing is pushed to it.
pub const CONSUMER_UNSETTLED_MAX: usize = 10_000;
/// Messages that an event stream's client may hold unsettled.
pub const STREAM_IN_FLIGHT_MAX: i32 = 100;
/// The same where the client says nothing.
pub const STREAM_IN_FLIGHT_DEFAULT: i32 = 10;
/// Messages leased ahead for a consumer.
pub const CONSUMER_AHEAD_MAX: usize = 16;
/// Bytes of bodies leased ahead for a consumer; one message always fits.
pub const CONSUMER_AHEAD_BYTES_MAX: usize = 256 << 10;
/// Time for which a message leased ahead may lie before it is given back, in ms; half its lease
/// where that is shorter.
pub const CONSUMER_AHEAD_MS_MAX: u64 = 10_000;
/// How often a consumer's leases, rights and session are looked at when nothing else happens.
pub const CONSUMER_PERIOD: Duration = Duration::from_secs(1);
/// Silence after which an event stream gets a comment.
pub const STREAM_COMMENT_PERIOD: Duration = Duration::from_secs(15);
/// Time a WebSocket's client has for its first frame, if it brought no credentials.
pub const HELLO_TIME: Duration = Duration::from_secs(5);
/// How often a WebSocket's client is asked for a sign of life.
pub const PING_PERIOD: Duration = Duration::from_secs(20);
/// Silence after which a WebSocket is closed.
pub const SILENCE_TIME: Duration = Duration::from_secs(60);

/// Messages in one send.
pub const SEND_BATCH_MAX: usize = 100;
/// Messages in one receive.
pub const RECEIVE_BATCH_MAX: i32 = 100;
/// Bytes of bodies in one receive's answer; at least one message always fits.
pub const RECEIVE_BYTES_MAX: usize = 8 << 20;
/// Receipts in one settlement.
pub const SETTLEMENT_BATCH_MAX: usize = 1_000;
/// Characters of the reason that is given with a release.
pub const REASON_CHARS_MAX: usize = 1_024;
/// Dead letters in one redrive.
pub const REDRIVE_BATCH_MAX: usize = 1_000;
/// The same where the caller says nothing.
pub const REDRIVE_BATCH_DEFAULT: i32 = 100;
/// Keyed messages that one queue or topic remembers; above it 429 `quota`.
pub const IDENTITIES_MAX: usize = 1_000_000;
/// Messages with a delay, a time to live or a group that all queues together remember in memory;
/// above it 503 `overloaded`. Metric `tertulia_marks`.
pub const MARKS_MAX: usize = 1_000_000;
/// Links that a message may come by, one after the other; more are a circle, and it stays where it
/// is. Metric `tertulia_link_loops_total`.
pub const LINK_HOPS_MAX: u8 = 8;
/// Seconds a receive may wait.
pub const WAIT_SECONDS_MAX: i32 = 30;
/// Seconds of a lease.
pub const LEASE_SECONDS_MAX: i32 = 43_200;
/// Seconds of a lease where the queue says nothing else.
pub const LEASE_SECONDS_DEFAULT: i32 = 30;
/// Bytes of one message's body, attributes and content type, at most.
pub const MESSAGE_BYTES_MAX: i32 = 16 << 20;
/// The same where the queue says nothing else.
pub const MESSAGE_BYTES_DEFAULT: i32 = 1 << 20;
/// Copies of a stream, at most.
pub const REPLICAS_MAX: i32 = 7;
/// Copies of a stream where the queue says nothing else.
pub const REPLICAS_DEFAULT: i32 = 3;
/// Attributes of one message.
pub const ATTRIBUTES_MAX: usize = 32;
/// Bytes of one attribute's value.
pub const ATTRIBUTE_VALUE_BYTES_MAX: usize = 1_024;
/// Characters of an attribute's key.
pub const ATTRIBUTE_KEY_CHARS_MAX: usize = 128;
/// Characters of a group's name, of a message's `dedup_id`, and of an `Idempotency-Key`.
pub const KEY_CHARS_MAX: usize = 128;
/// Seconds of a delay or a time to live, whatever the queue's retention.
pub const DELAY_SECONDS_MAX: i32 = 315_360_000;
/// Characters of a content type.
pub const CONTENT_TYPE_CHARS_MAX: usize = 255;
/// Characters of a routing key, and of a pattern of them.
pub const ROUTING_KEY_CHARS_MAX: usize = 255;
/// Messages of one reader under lease at once, as far as its `max_in_flight` may go; above that
/// setting 429 `in-flight-limit`. Metric `tertulia_in_flight_refused_total`.
pub const IN_FLIGHT_MAX: i32 = 1_000_000;
/// The same where the queue says nothing else.
pub const IN_FLIGHT_DEFAULT: i32 = 120_000;
/// Seconds for which a queue keeps a message, at least.
pub const RETENTION_SECONDS_MIN: i32 = 60;
/// The same, at most: ten years. Also the longest delay, as far as the queue's own retention goes.
pub const RETENTION_SECONDS_MAX: i32 = 315_360_000;
/// The same where the queue says nothing else: two weeks.
pub const RETENTION_SECONDS_DEFAULT: i32 = 1_209_600;
/// Failures after which a message may be dead; a queue with 0 lets none die.
pub const FAILURES_MAX: i32 = 1_000;
/// The same where the queue says nothing else.
pub const FAILURES_DEFAULT: i32 = 10;
/// Seconds of a pause after a failure.
pub const BACKOFF_SECONDS_MAX: i32 = 86_400;
/// Seconds of the longest such pause where the queue says nothing else.
pub const BACKOFF_SECONDS_DEFAULT: i32 = 600;
/// Seconds for which the key of a send may be remembered; with 0 keys are refused.
pub const DEDUP_SECONDS_MAX: i32 = 604_800;
/// The same where the queue says nothing else.
pub const DEDUP_SECONDS_DEFAULT: i32 = 600;
/// Bytes of all messages of one queue or topic, as far as its `max_bytes` may go: the largest whole
/// number that every JSON reader keeps exactly. Above that setting 429 `quota`.
pub const STREAM_BYTES_MAX: i64 = (1 << 53) - 1;
/// Characters of a receipt.
pub const RECEIPT_CHARS_MAX: usize = 512;

/// Items on one page of a list.
pub const PAGE_MAX: i32 = 500;
/// The same where the caller says nothing.
pub const PAGE_DEFAULT: i32 = 100;
/// Queues of one user; above it 429 `quota`.
pub const QUEUES_PER_USER_MAX: usize = 10_000;
/// Topics of one user; above it 429 `quota`.
pub const TOPICS_PER_USER_MAX: usize = 10_000;
/// Subscriptions of one topic; above it 429 `quota`.
pub const SUBSCRIPTIONS_PER_TOPIC_MAX: usize = 1_000;
/// Sessions of one user; the oldest ends when one more begins.
pub const SESSIONS_PER_USER_MAX: usize = 100;
/// API keys of one user; above it 429 `quota`.
pub const API_KEYS_PER_USER_MAX: usize = 100;
/// Grants of one object; above it 429 `quota`.
pub const GRANTS_PER_OBJECT_MAX: usize = 1_000;
/// Seconds of a session where the caller says nothing.
pub const SESSION_SECONDS_DEFAULT: i32 = 43_200;
/// Seconds of a session.
pub const SESSION_SECONDS_MAX: i32 = 2_592_000;
/// Failed logins of one user name in a minute; above it 429 `rate-limited`.
pub const FAILED_LOGINS_PER_MINUTE: u32 = 10;
/// Logins from one address in a minute; above it 429 `rate-limited`.
pub const LOGINS_PER_MINUTE: u32 = 300;
/// Registrations from one address in a minute; above it 429 `rate-limited`.
pub const REGISTRATIONS_PER_MINUTE: u32 = 100;
/// Names and addresses whose rates are remembered at once.
pub const RATE_ENTRIES_MAX: usize = 100_000;
/// Ended sessions and API keys whose records are freed in one go.
pub const SWEEP_BATCH_MAX: usize = 500;
/// Passwords being hashed at once: each takes 128 MiB and a core. Metric
/// `tertulia_password_hashes_total`.
pub const PASSWORD_HASHES_AT_ONCE: usize = 2;
/// Passwords waiting to be hashed; above it 503 `overloaded`.
pub const PASSWORD_HASHES_WAITING: usize = 32;
/// Passwords remembered as checked against a version of their user (HTTP Basic).
pub const BASIC_CACHE_ENTRIES_MAX: usize = 10_000;

/// Bytes of writes waiting for the disk; above it 503 `overloaded`. Metric
/// `tertulia_store_waiting_bytes`.
pub const STORE_WAITING_BYTES_MAX: usize = 64 << 20;
/// The share of these bytes that only settles, releases and deletes may use.
pub const STORE_WAITING_BYTES_RESERVE: usize = 8 << 20;
/// Rows in one commit. Metric `tertulia_commit_rows`.
pub const COMMIT_ROWS_MAX: usize = 8_192;
/// Bytes in one commit.
pub const COMMIT_BYTES_MAX: usize = 16 << 20;
/// Bytes of free disk below which sends are refused with 503 `overloaded`; settles and deletes go
/// on. Setting `store.reserve_bytes`. Metric `tertulia_store_free_bytes`.
pub const DISK_RESERVE_BYTES: u64 = 256 << 20;
/// Bytes of the page cache. Setting `store.cache_bytes`.
pub const CACHE_BYTES: usize = 64 << 20;
/// Queues and topics whose state is kept in memory while nobody uses them; those in use may be more.
/// Metric `tertulia_streams_loaded`.
pub const STREAMS_LOADED_MAX: usize = 10_000;
/// Messages of one queue whose place is held in memory; the rest is read when it is their turn.
pub const WINDOW_MESSAGES_MAX: usize = 4_096;
/// Bytes of sealed payloads kept in memory until delivered, all queues together. Metric
/// `tertulia_payload_cache_bytes`.
pub const PAYLOAD_CACHE_BYTES_MAX: usize = 64 << 20;
/// How often the service clock is persisted when nothing else is written.
pub const SERVICE_CLOCK_PERIOD: Duration = Duration::from_secs(10);
/// How far ahead of this node's clock a stamp may be and still be merged, in ms [R44].
pub const HLC_AHEAD_MS_MAX: u64 = 500;
/// Placement slots of a cluster, fixed at its birth.
pub const SLOTS: u16 = 256;

/// Bytes of one frame between nodes.
pub const FRAME_BYTES_MAX: usize = 32 << 20;
/// How long a node that is no replica watches a stream at one before it asks again.
pub const WATCH_TIME: Duration = Duration::from_secs(5);
/// How often replicas compare their streams, when something has changed or somebody waits.
pub const COMPARE_PERIOD: Duration = Duration::from_secs(1);
/// Streams compared in one call.
pub const COMPARE_STREAMS_MAX: usize = 1_024;
/// Messages that a peer is sent in one answer.
pub const PULL_MESSAGES_MAX: usize = 512;
/// Bytes of messages that a peer is sent in one answer, but one message always fits.
pub const PULL_BYTES_MAX: usize = 1 << 20;
/// How old a grant is before a replica asks whether others hold it too.
pub const GRANT_CHECK_TIME: Duration = Duration::from_secs(10);
/// How often keyed messages whose window is over are looked for.
pub const RETIRE_PERIOD: Duration = Duration::from_secs(10);
/// Reads and writes of streams at once on one connection between nodes; above it the far end
/// answers `overloaded`. Each class of calls has a connection of its own.
pub const CALLS_DATA_MAX: usize = 1_024;
/// The same for records and the layout.
pub const CALLS_CONTROL_MAX: usize = 256;
/// The same for repair: few and large.
pub const CALLS_REPAIR_MAX: usize = 16;
/// Open connections of other nodes. Metric `tertulia_peer_connections`.
pub const PEER_CONNECTIONS_MAX: usize = 1_024;
/// Connections that have not yet shown which node they come from.
pub const PEER_HANDSHAKES_MAX: usize = 64;
/// Time to reach another node and shake hands with it; the same for one that comes.
pub const PEER_CONNECT_TIME: Duration = Duration::from_secs(5);
/// Time for both greetings of a connection between nodes.
pub const PEER_GREETING_TIME: Duration = Duration::from_secs(5);
/// Bytes of a greeting between nodes.
pub const PEER_GREETING_BYTES_MAX: usize = 1_024;
/// Time for which nothing at all was read from a node that was asked, until a call that ran into
/// its deadline ends the connection.
pub const PEER_SILENCE_TIME: Duration = Duration::from_secs(2);
/// Time between two beats of whoever answers on a connection between nodes: each tells its clock.
pub const PEER_BEAT_TIME: Duration = Duration::from_millis(500);
/// Time for which nothing at all was read from the far end, until either end drops the connection,
/// and with it whatever was still on its way [R54].
pub const PEER_QUIET_TIME: Duration = OPERATION_TIME;
/// Beside its deadline, how old a call may be at most when it is begun: what a call's age is
/// overrated by, as beats come only so often.
pub const CALL_SLACK_TIME: Duration = Duration::from_millis(500);
/// Requests of a reader that were withdrawn as a whole and are remembered until nothing of theirs
/// can come any more; more are refused as `overloaded`.
pub const WITHDRAWN_MAX: usize = 4_096;
/// Pause after the first failed attempt to reach a node; each next one is twice as long, up to
/// [`PEER_PAUSE_MAX`], and up to half shorter by chance.
pub const PEER_PAUSE_MIN: Duration = Duration::from_millis(100);
/// Pause between two attempts to reach a node, at most.
pub const PEER_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Time for which a call waits for a connection.
pub const PEER_WAIT_TIME: Duration = Duration::from_millis(500);
