#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::dto::messages::{ReceiveRequest, SendRequest};
use crate::api::dto::queues::QueueConfig;
use crate::api::dto::sessions::SessionRequest;
use crate::api::dto::settlements::{SettlementAction, SettlementRequest};
use crate::broker;

/// Code and first field of what is wrong with a body; nothing when it is fine.
fn wrong<T: DeserializeOwned + Validate>(body: &[u8]) -> Option<(String, String)> {
    let problem = decode::<T>(body).err()?;
    let field = problem.errors.map(|errors| errors[0].field.clone());
    Some((problem.code, field.unwrap_or_default()))
}

fn assert_wrong<T: DeserializeOwned + Validate>(body: &str, code: &str, field: &str) {
    assert_eq!(wrong::<T>(body.as_bytes()), Some((code.into(), field.into())), "{body}");
}

#[test]
fn what_is_not_json_is_malformed() {
    for body in ["", "{", "{]", "nul", "{\"messages\": []} x", "{\"messages\": [\"\\x\"]}"] {
        assert_wrong::<SendRequest>(body, "malformed", "");
    }
    assert_eq!(wrong::<SendRequest>(b"{\"messages\": \"\xff\"}").unwrap().0, "malformed");
    assert_wrong::<SendRequest>(&"[".repeat(10_000), "malformed", "");
    // A lone surrogate is JSON, but no text.
    let body = r#"{"messages": [{"body": "\ud800"}]}"#;
    assert_wrong::<SendRequest>(body, "validation", "messages[0].body");
    // A field is wrong, but the rest is no JSON either.
    assert_wrong::<SendRequest>(r#"{"messages": 5, "#, "malformed", "");
}

#[test]
fn a_wrong_shape_names_its_field() {
    let cases = [
        ("[]", ""),
        ("5", ""),
        ("null", ""),
        ("{}", "messages"),
        (r#"{"messages": null}"#, "messages"),
        (r#"{"messages": {}}"#, "messages"),
        (r#"{"mesages": []}"#, "mesages"),
        (r#"{"messages": [], "messages": []}"#, "messages"),
        (r#"{"messages": [{"body": "a"}, {"body": 5}]}"#, "messages[1].body"),
        (r#"{"messages": [{"body": null}]}"#, "messages[0].body"),
        (r#"{"messages": [{"bodi": "a"}]}"#, "messages[0].bodi"),
        (r#"{"messages": [{"body_base64": "a_b"}]}"#, "messages[0].body_base64"),
        (r#"{"messages": [{"body": "a", "attributes": {"k": 1}}]}"#, "messages[0].attributes.k"),
    ];
    for (body, field) in cases {
        assert_wrong::<SendRequest>(body, "validation", field);
    }
    assert_wrong::<SessionRequest>(r#"{"username": "a"}"#, "validation", "password");
    assert_wrong::<ReceiveRequest>(r#"{"max_messages": 1.5}"#, "validation", "max_messages");
    assert_wrong::<ReceiveRequest>(r#"{"max_messages": 4294967297}"#, "validation", "max_messages");
    assert_wrong::<ReceiveRequest>(r#"{"auto_ack": "yes"}"#, "validation", "auto_ack");
    assert_wrong::<QueueConfig>(r#"{"delay_seconds": 1}"#, "validation", "delay_seconds");
}

#[test]
fn messages_have_one_body_and_bounded_attributes() {
    let of = |message: &str| format!(r#"{{"messages": [{{"body": ""}}, {message}]}}"#);
    assert_wrong::<SendRequest>(&of("{}"), "validation", "messages[1].body");
    let both = of(r#"{"body": "a", "body_base64": "YQ=="}"#);
    assert_wrong::<SendRequest>(&both, "validation", "messages[1].body_base64");
    let key = of(r#"{"body": "a", "attributes": {"a b": ""}}"#);
    assert_wrong::<SendRequest>(&key, "validation", "messages[1].attributes");
    let value = format!(r#"{{"body": "a", "attributes": {{"k": "{}"}}}}"#, "é".repeat(513));
    assert_wrong::<SendRequest>(&of(&value), "validation", "messages[1].attributes.k");
    let fine = format!(r#"{{"body_base64": "", "attributes": {{"k": "{}"}}}}"#, "é".repeat(512));
    assert_eq!(wrong::<SendRequest>(of(&fine).as_bytes()), None);
}

#[test]
fn bodies_reach_the_broker_as_they_were_sent() {
    let body = r#"{"messages": [{"body": "é"}, {"body_base64": "AP8="}]}"#;
    let request = decode::<SendRequest>(body.as_bytes()).unwrap();
    let bodies: Vec<_> =
        request.messages.into_iter().map(|m| broker::OutgoingMessage::from(m).body).collect();
    let binary = broker::Body::Binary(bytes::Bytes::from_static(&[0, 255]));
    assert_eq!(bodies, [broker::Body::Text("é".into()), binary]);
}

#[test]
fn no_body_means_an_empty_one_where_every_field_is_optional() {
    assert_eq!(wrong::<ReceiveRequest>(b""), None);
    assert_eq!(wrong::<QueueConfig>(b""), None);
    assert_wrong::<SettlementRequest>("", "validation", "ack");
    assert_wrong::<SessionRequest>("", "malformed", "");
}

#[test]
fn settlements_take_each_receipt_once_and_keep_their_order() {
    let body = r#"{"release": [{"receipt": "c"}], "extend": [{"receipt": "b", "lease_seconds": 5}],
        "ack": ["a"]}"#;
    let (places, settlements) = decode::<SettlementRequest>(body.as_bytes()).unwrap().split();
    let actions: Vec<_> = places.iter().map(|place| place.action).collect();
    use SettlementAction::{Ack, Extend, Release};
    assert_eq!(actions, [Ack, Extend, Release]);
    for (place, settlement) in places.iter().zip(&settlements) {
        assert_eq!(place.receipt, settlement.receipt);
    }
    let twice = r#"{"ack": ["a", "b"], "release": [{"receipt": "x"}, {"receipt": "b"}]}"#;
    assert_wrong::<SettlementRequest>(twice, "validation", "release[1]");
    let many =
        |n| serde_json::json!({ "ack": (0..n).map(|i| format!("r{i}")).collect::<Vec<_>>() });
    assert_eq!(wrong::<SettlementRequest>(many(1_000).to_string().as_bytes()), None);
    assert_wrong::<SettlementRequest>(&many(1_001).to_string(), "validation", "ack");
    let item = r#"{"extend": [{"receipt": "b", "lease_seconds": 0}]}"#;
    assert_wrong::<SettlementRequest>(item, "validation", "extend[0].lease_seconds");
}

#[test]
fn content_types_are_json_in_utf_8() {
    for fine in [
        "application/json",
        "Application/JSON; charset=UTF-8",
        "application/json;charset=\"utf-8\"",
    ] {
        assert!(is_json(fine), "{fine}");
    }
    for other in ["", "text/plain", "application/jsonx", "application/json; charset=latin1"] {
        assert!(!is_json(other), "{other}");
    }
}

#[tokio::test]
async fn answers_leave_absent_fields_out() {
    use crate::api::dto::messages::{ReceiveResponse, ReceivedMessage};
    let message = |body, receipt: Option<&str>| broker::ReceivedMessage {
        id: "m".into(),
        receipt: receipt.map(str::to_owned),
        body,
        content_type: "text/plain".into(),
        routing_key: None,
        group: None,
        topic: None,
        dead_letter: None,
        attributes: std::collections::BTreeMap::new(),
        sender: "alice".into(),
        sent_ms: 1_767_323_045_678,
        receive_count: 1,
        failure_count: 0,
        fence: 1,
        lease_expires_ms: receipt.map(|_| 0),
        lease_remaining_ms: receipt.map(|_| 5),
    };
    let bytes = broker::Body::Binary(bytes::Bytes::from_static(&[0, 255]));
    let messages = vec![message(broker::Body::Text("é".into()), Some("r")), message(bytes, None)];
    let messages = messages.into_iter().map(ReceivedMessage::from).collect();
    let mut response = Answer::ok(ReceiveResponse { messages }).etag("abc").into_response();
    assert_eq!((response.status(), response.content_type()), (StatusCode::OK, Some(JSON)));
    assert_eq!(response.header("etag"), Some("\"abc\""));
    let body = response.take_body().into_string().await.unwrap();
    let value: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(!body.contains("null"));
    let (first, second) = (&value["messages"][0], &value["messages"][1]);
    assert_eq!((&first["body"], first.get("body_base64")), (&"é".into(), None));
    assert_eq!(first["sent_at"], "2026-01-02T03:04:05.678Z");
    assert_eq!((&second["body_base64"], second.get("receipt")), (&"AP8=".into(), None));
    assert_eq!(Empty::begun().into_response().status(), StatusCode::ACCEPTED);
}
