//! Examples of the document. They tell one story: alice registers, declares the queue `orders`,
//! sends a message, receives and acknowledges it; then the topic `news` and its subscription
//! `sports`. Each request works as it stands on a fresh
//! node; only receipts and ids have to be pasted.

use crate::api::codes::{self, Code};
use crate::api::problem::Problem;
use crate::broker::refusal::{Fault, Outcome};

/// A request's id in examples.
const REQUEST_ID: &str = "Zm9vYmFyYmF6cXV4MTIzNA";
/// A node in examples.
const NODE: &str = "5f0c1d2e3a4b5c6d";

/// The body of a request, by operation id.
#[must_use]
pub fn request(operation: &str) -> Option<&'static str> {
    Some(match operation {
        "register_user" => r#"{"username": "alice", "password": "correct horse"}"#,
        "update_user" => r#"{"password": "correct horse", "current_password": "correct horse"}"#,
        "create_session" => r#"{"username": "alice", "password": "correct horse"}"#,
        "create_api_key" => r#"{"name": "laptop"}"#,
        "put_queue" => "{}",
        "update_queue" => r#"{"lease_seconds": 60}"#,
        "put_queue_grant" => r#"{"rights": ["send", "receive"]}"#,
        "put_topic" => "{}",
        "update_topic" => r#"{"retention_seconds": 86400}"#,
        "put_topic_grant" => r#"{"rights": ["publish", "subscribe"]}"#,
        "put_subscription" => r#"{"filter": {"routing_key": "sports.#"}}"#,
        "update_subscription" => r#"{"lease_seconds": 60}"#,
        "redrive_queue" => r#"{"max_messages": 100}"#,
        "send_messages" => {
            r#"{"messages": [{"body": "hello", "attributes": {"kind": "greeting"}}]}"#
        }
        "publish_messages" => {
            r#"{"messages": [{"body": "goal", "routing_key": "sports.football"}]}"#
        }
        "receive_messages" | "receive_subscription_messages" => {
            r#"{"max_messages": 1, "wait_seconds": 5, "lease_seconds": 600}"#
        }
        "extend_lease" | "extend_subscription_lease" => r#"{"lease_seconds": 600}"#,
        "release_message" | "release_subscription_message" => r#"{"outcome": "handed_back"}"#,
        "settle_messages" | "settle_subscription_messages" => {
            r#"{"ack": ["AQ9fX3JlY2VpcHRfX2Zyb21fX3JlY2VpdmU"]}"#
        }
        _ => return None,
    })
}

/// A path parameter, by operation id and name.
#[must_use]
pub fn path_parameter(operation: &str, name: &str) -> Option<&'static str> {
    Some(match (operation, name) {
        // Everybody: on a fresh node there is nobody else yet.
        (
            "put_queue_grant" | "delete_queue_grant" | "put_topic_grant" | "delete_topic_grant",
            "username",
        ) => "*",
        (_, "username") => "alice",
        (_, "queue") => "orders",
        (_, "topic") => "news",
        (_, "subscription") => "sports",
        (_, "receipt") => "AQ9fX3JlY2VpcHRfX2Zyb21fX3JlY2VpdmU",
        (_, "message_id") => "Xk2abcdefgh",
        (_, "session_id") => "c2Vzc2lvbl9vZl9hbGljZQ",
        (_, "api_key_id") => "YXBpX2tleV9vZl9hbGljZQ",
        _ => return None,
    })
}

const USER: &str = r#"{"username": "alice", "roles": ["admin"], "disabled": false,
    "created_at": "2026-01-02T03:04:05.678Z", "updated_at": "2026-01-02T03:04:05.678Z",
    "etag": "MQ"}"#;
const SESSION: &str = r#"{"session_id": "c2Vzc2lvbl9vZl9hbGljZQ", "username": "alice",
    "created_at": "2026-01-02T03:04:05.678Z", "expires_at": "2026-01-02T15:04:05.678Z",
    "address": "127.0.0.1", "current": true}"#;
const API_KEY: &str = r#"{"api_key_id": "YXBpX2tleV9vZl9hbGljZQ", "name": "laptop",
    "scopes": ["send", "receive", "browse", "publish", "subscribe", "manage"], "limited": false,
    "created_at": "2026-01-02T03:04:05.678Z"}"#;
const QUEUE: &str = r#"{"name": "orders", "owner": "alice", "state": "live",
    "created_at": "2026-01-02T03:04:05.678Z", "updated_at": "2026-01-02T03:04:05.678Z",
    "etag": "MQ", "my_rights": ["send", "receive", "browse", "manage"],
    "config": {"lease_seconds": 30, "max_message_bytes": 1048576, "replicas": 3,
    "retention_seconds": 1209600, "delay_seconds": 0, "max_failures": 10,
    "backoff_min_seconds": 0, "backoff_max_seconds": 600, "dedup_seconds": 600,
    "max_in_flight": 120000, "max_bytes": 0, "ordering": "best_effort", "paused": false},
    "stats": {"ready": 1, "leased": 0, "delayed": 0, "dead": 0, "bytes": 312,
    "oldest_age_seconds": 7, "receivers_waiting": 0,
    "replicas": [{"node": "5f0c1d2e3a4b5c6d", "state": "in_sync"}], "approximate": false}}"#;
const MESSAGE: &str = r#"{"id": "Xk2abcdefgh", "body": "hello",
    "content_type": "text/plain;charset=utf-8", "attributes": {"kind": "greeting"},
    "sender": "alice", "sent_at": "2026-01-02T03:04:05.678Z", "receive_count": 1,
    "failure_count": 0, "state": "leased", "leased_by": "alice",
    "lease_expires_at": "2026-01-02T03:14:05.678Z",
    "explanation": "leased by alice for another 10 minutes"}"#;
const TOPIC: &str = r#"{"name": "news", "owner": "alice",
    "created_at": "2026-01-02T03:04:05.678Z", "updated_at": "2026-01-02T03:04:05.678Z",
    "etag": "MQ", "my_rights": ["publish", "subscribe", "manage"], "subscription_count": 1,
    "config": {"max_message_bytes": 1048576, "replicas": 3, "retention_seconds": 1209600,
    "dedup_seconds": 600, "max_bytes": 0},
    "stats": {"messages": 1, "bytes": 312, "approximate": false}}"#;
const SUBSCRIPTION: &str = r#"{"topic": "news", "name": "sports", "owner": "alice",
    "status": "active", "created_at": "2026-01-02T03:04:05.678Z",
    "updated_at": "2026-01-02T03:04:05.678Z", "etag": "MQ",
    "config": {"filter": {"routing_key": "sports.#"}, "start": "new", "lease_seconds": 30,
    "max_failures": 10, "backoff_min_seconds": 0, "backoff_max_seconds": 600,
    "max_in_flight": 120000, "paused": false},
    "stats": {"ready": 1, "leased": 0, "delayed": 0, "dead": 0, "bytes": 312,
    "oldest_age_seconds": 7, "receivers_waiting": 0,
    "replicas": [{"node": "5f0c1d2e3a4b5c6d", "state": "in_sync"}], "approximate": false}}"#;
const GRANT: &str = r#"{"username": "*", "rights": ["send", "receive"], "granted_by": "alice",
    "granted_at": "2026-01-02T03:04:05.678Z"}"#;

/// An answer's body, by the name of its schema.
#[must_use]
pub fn answer(schema: &str) -> Option<String> {
    let page = |item: &str| format!(r#"{{"items": [{item}]}}"#);
    Some(match schema {
        "UserView" => USER.to_owned(),
        "UserPage" => page(USER),
        "SessionCreated" => r#"{"token": "tts_bm90X2FfcmVhbF90b2tlbg",
            "session_id": "c2Vzc2lvbl9vZl9hbGljZQ", "username": "alice",
            "expires_at": "2026-01-02T15:04:05.678Z"}"#
            .to_owned(),
        "SessionPage" => page(SESSION),
        "ApiKeyCreated" => r#"{"api_key_id": "YXBpX2tleV9vZl9hbGljZQ", "name": "laptop",
            "secret": "ttk_bm90X2FfcmVhbF9rZXk",
            "scopes": ["send", "receive", "browse", "publish", "subscribe", "manage"],
            "limited": false, "created_at": "2026-01-02T03:04:05.678Z"}"#
            .to_owned(),
        "ApiKeyPage" => page(API_KEY),
        "QueueView" => QUEUE.to_owned(),
        "QueuePage" => page(QUEUE),
        "TopicView" => TOPIC.to_owned(),
        "TopicPage" => page(TOPIC),
        "SubscriptionView" => SUBSCRIPTION.to_owned(),
        "SubscriptionPage" => page(SUBSCRIPTION),
        "BrowsedMessage" => MESSAGE.to_owned(),
        "MessagePage" => page(MESSAGE),
        "GrantView" => GRANT.to_owned(),
        "GrantPage" => page(GRANT),
        other => return message_answer(other),
    })
}

/// The same for messages and the node's state.
fn message_answer(schema: &str) -> Option<String> {
    let text = match schema {
        "SendResponse" => {
            r#"{"results": [{"index": 0, "status": "stored", "id": "Xk2abcdefgh", "replicas": 1,
            "retryable": false}], "failed_count": 0}"#
        }
        "PublishResponse" => {
            r#"{"results": [{"index": 0, "status": "stored", "id": "Xk2abcdefgh", "replicas": 1,
            "retryable": false, "matched_subscriptions": 1}], "failed_count": 0}"#
        }
        "ReceiveResponse" => {
            r#"{"messages": [{"id": "Xk2abcdefgh",
            "receipt": "AQ9fX3JlY2VpcHRfX2Zyb21fX3JlY2VpdmU", "body": "hello",
            "content_type": "text/plain;charset=utf-8", "attributes": {"kind": "greeting"},
            "sender": "alice", "sent_at": "2026-01-02T03:04:05.678Z", "receive_count": 1,
            "failure_count": 0, "fence": 1, "lease_expires_at": "2026-01-02T03:14:05.678Z",
            "lease_remaining_ms": 599940}]}"#
        }
        "LeaseView" => {
            r#"{"receipt": "AQ9fX3JlY2VpcHRfX2Zyb21fX3JlY2VpdmU",
            "lease_expires_at": "2026-01-02T03:14:05.678Z", "lease_remaining_ms": 599940,
            "fence": 1}"#
        }
        "SettlementResponse" => {
            r#"{"results": [{"action": "ack", "index": 0,
            "receipt": "AQ9fX3JlY2VpcHRfX2Zyb21fX3JlY2VpdmU", "status": "done"}],
            "failed_count": 0}"#
        }
        "PurgeResult" => r#"{"purged_count": 12, "approximate": false}"#,
        "RedriveResult" => r#"{"moved_count": 2, "remaining_count": 0}"#,
        "Liveness" => r#"{"status": "live"}"#,
        "Readiness" => r#"{"ready": true}"#,
        "text/plain" => r#""tertulia_http_connections 1\n""#,
        "text/event-stream" => {
            r#""event: message\nid: Xk2abcdefgh\ndata: {\"id\":\"Xk2abcdefgh\"}\n\n""#
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// A problem of a code.
#[must_use]
pub fn problem(code: Code) -> Problem {
    let problem = match code {
        codes::VALIDATION => Problem::faults(vec![Fault {
            field: "messages[0].body".to_owned(),
            message: "either body or body_base64 is required".to_owned(),
            code: "required",
        }]),
        codes::NOT_ENOUGH_REPLICAS => Problem::not_enough_replicas(Some(Outcome::Unknown)),
        code => Problem::new(code, code.title.to_lowercase()),
    };
    Problem { request_id: REQUEST_ID.to_owned(), node: NODE.to_owned(), ..problem }
}
