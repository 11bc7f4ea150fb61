//! For each bounded field: the values at its bounds pass, those beyond are named as its fault,
//! and the document prints the same bounds.
#![allow(clippy::unwrap_used)]
use super::validate::Rule;
use super::*;
use crate::api::payload::decode;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Values within and beyond a rule.
fn samples(rule: Rule, template: &Value) -> (Vec<Value>, Vec<Value>) {
    let text = |n: usize| json!("a".repeat(n));
    let list = |n: usize| Value::Array(vec![template[0].clone(); n]);
    match rule {
        Rule::Number(min, max) => {
            (vec![json!(min), json!(max)], vec![json!(min - 1), json!(max + 1)])
        }
        Rule::Text(min, max) | Rule::Printable(min, max) => {
            let mut beyond = vec![text(max + 1)];
            beyond.extend(min.checked_sub(1).map(text));
            if matches!(rule, Rule::Printable(..)) {
                beyond.push(json!("aé"));
            }
            (vec![text(min), text(max)], beyond)
        }
        Rule::Words(max) => {
            let beyond = vec![text(max + 1), json!(""), json!("a..b"), json!(".a"), json!("a.")];
            (vec![text(1), text(max), json!("a.b.é")], beyond)
        }
        Rule::Name => {
            let beyond = vec![json!(""), text(129), json!("a b"), json!(".a"), json!("me")];
            (vec![text(1), text(128)], beyond)
        }
        Rule::Items(min, max) => {
            let mut beyond = vec![list(max + 1)];
            beyond.extend(min.checked_sub(1).map(list));
            (vec![list(min)], beyond)
        }
        Rule::Map(entries, bytes) => {
            let map = |n: usize| {
                json!(
                    (0..n)
                        .map(|i| (i.to_string(), ""))
                        .collect::<std::collections::BTreeMap<_, _>>()
                )
            };
            let long = json!({ "k": "a".repeat(bytes + 1) });
            (vec![map(0), map(entries)], vec![map(entries + 1), long])
        }
    }
}

fn check<T: DeserializeOwned + Validate + Type>(example: &Value) {
    let document: Value = serde_json::from_str(&crate::api::spec::json()).unwrap();
    decode::<T>(example.to_string().as_bytes()).map(drop).unwrap();
    for bound in T::BOUNDS {
        let name = T::name();
        let property = &document["components"]["schemas"][name.as_ref()]["properties"][bound.field];
        for (keyword, value) in bound.rule.keywords() {
            assert_eq!(property[keyword], value, "{name}.{} {keyword}", bound.field);
        }
        let (within, beyond) = samples(bound.rule, &example[bound.field]);
        for (values, fine) in [(within, true), (beyond, false)] {
            for value in values {
                let mut body = example.clone();
                body[bound.field] = value.clone();
                let problem = decode::<T>(body.to_string().as_bytes()).err();
                let field = problem.and_then(|p| p.errors).map(|errors| errors[0].field.clone());
                let named = field.as_ref().is_some_and(|field| field.starts_with(bound.field));
                let shown = value.to_string();
                assert_eq!(named, !fine, "{name}.{}: {shown:.60} {field:?}", bound.field);
            }
        }
    }
}

#[test]
fn the_document_and_the_checks_agree_on_every_bound() {
    check::<users::Registration>(&json!({ "username": "alice", "password": "correct horse" }));
    check::<users::UserPatch>(&json!({ "roles": ["admin"] }));
    check::<sessions::SessionRequest>(&json!({ "username": "alice", "password": "x" }));
    check::<api_keys::ApiKeyRequest>(&json!({ "name": "laptop", "scopes": ["send"] }));
    check::<queues::QueueConfig>(&json!({}));
    check::<topics::TopicConfig>(&json!({}));
    check::<subscriptions::SubscriptionConfig>(&json!({}));
    check::<subscriptions::SubscriptionFilter>(&json!({}));
    check::<messages::SendRequest>(&json!({ "messages": [{ "body": "a" }] }));
    check::<messages::OutgoingMessage>(&json!({ "body": "a" }));
    check::<messages::ReceiveRequest>(&json!({}));
    check::<browse::RedriveRequest>(&json!({}));
    check::<settlements::LeaseExtension>(&json!({ "lease_seconds": 1 }));
    check::<settlements::ReleaseRequest>(&json!({ "outcome": "failed" }));
    check::<settlements::ExtendItem>(&json!({ "receipt": "a", "lease_seconds": 1 }));
    check::<settlements::ReleaseItem>(&json!({ "receipt": "a" }));
    check::<grants::GrantRequest>(&json!({ "rights": ["send"] }));
}

#[test]
fn every_bounded_type_is_in_the_list() {
    // `SettlementRequest` and `GrantRequest` have rules across items, tested beside `payload`.
    assert_eq!(bounds().len(), 18);
    assert!(decode::<grants::GrantRequest>(br#"{"rights": ["send", "send"]}"#).is_err());
    let twice = br#"{"name": "laptop", "scopes": ["send", "send"]}"#;
    assert!(decode::<api_keys::ApiKeyRequest>(twice).is_err());
}
