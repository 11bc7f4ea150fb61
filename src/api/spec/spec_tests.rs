#![allow(clippy::unwrap_used)]
use super::operations::OPERATIONS;
use super::*;
use crate::api::dto::{
    api_keys, grants, messages, queues, sessions, settlements, subscriptions, topics, users,
};
use crate::api::payload::decode;
use serde_json::Value;

fn document() -> Value {
    serde_json::from_str(&json()).unwrap()
}

/// Visits every object of the document.
fn visit(value: &Value, path: &str, at: &mut impl FnMut(&str, &serde_json::Map<String, Value>)) {
    match value {
        Value::Object(fields) => {
            at(path, fields);
            fields.iter().for_each(|(key, value)| visit(value, &format!("{path}/{key}"), at));
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, path, at)),
        _ => {}
    }
}

#[test]
fn handlers_and_table_agree() {
    let apis = <Resources as OpenApi>::meta();
    let mut handlers = BTreeSet::new();
    for path in apis.into_iter().flat_map(|api| api.paths) {
        for operation in path.operations {
            let id = operation.operation_id.unwrap().to_owned();
            handlers.insert((id, operation.method.to_string(), path.path.clone()));
        }
    }
    let row = |o: &operations::Operation| (o.id.to_owned(), o.method.to_owned(), o.path.to_owned());
    assert_eq!(handlers, OPERATIONS.iter().map(row).collect());
}

#[test]
fn the_same_document_every_time() {
    let again = serde_json::to_string_pretty(&assemble::document()).unwrap() + "\n";
    assert_eq!(json(), again);
    let yaml: Value = serde_yaml_ng::from_str(&yaml()).unwrap();
    assert_eq!(yaml, document());
}

#[test]
fn the_document_uses_only_what_every_generator_understands() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.0."));
    assert_eq!(document["servers"], serde_json::json!([{ "url": "/" }]));
    let references = |schema: &str| json().contains(&format!("#/components/schemas/{schema}\""));
    visit(&document["paths"], "", &mut |path, fields| {
        let inline = fields.get("type").is_some_and(|kind| kind == "object");
        assert!(!inline || path.contains("/example"), "inline object at {path}");
    });
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        assert!(references(name), "{name} is used nowhere");
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            assert!(property["type"] != "object" || property["additionalProperties"].is_object());
            assert!(property["description"].is_string(), "{name}.{field} has no description");
        }
    }
    visit(&document, "", &mut |path, fields| {
        for word in ["oneOf", "anyOf", "nullable", "default", "discriminator"] {
            assert!(!fields.contains_key(word) || path.ends_with("examples"), "{word} at {path}");
        }
        let format = fields.get("format").and_then(Value::as_str).unwrap_or("int32");
        assert!(
            ["int32", "int64", "date-time", "password"].contains(&format),
            "{format} at {path}"
        );
        if let Some(parts) = fields.get("allOf").and_then(Value::as_array) {
            assert!(parts.len() == 1 && parts[0]["$ref"].is_string(), "{path}");
        }
        if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    });
}

#[test]
fn every_operation_lists_its_answers_with_schema_and_example() {
    let document = document();
    for row in OPERATIONS {
        let operation = &document["paths"][row.path][row.method.to_lowercase()];
        assert_eq!(operation["operationId"], row.id);
        let responses = operation["responses"].as_object().unwrap();
        let problems = row.codes().into_iter().map(|code| code.status);
        let success = row.success.iter().map(|(status, _)| *status);
        let expected: BTreeSet<String> = problems.chain(success).map(|s| s.to_string()).collect();
        assert_eq!(responses.keys().cloned().collect::<BTreeSet<_>>(), expected, "{}", row.id);
        for (status, response) in responses {
            let reference = response.get("$ref").and_then(Value::as_str);
            let response = reference.map_or(response, |r| document.pointer(&r[1..]).unwrap());
            assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()));
            if ["202", "204"].contains(&status.as_str()) {
                continue;
            }
            let media = response["content"].as_object().unwrap().values().next().unwrap();
            assert!(media["schema"].is_object(), "{} {status}", row.id);
            assert!(media.get("example").or(media.get("examples")).is_some(), "{}", row.id);
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(parameter["description"].is_string(), "{} {parameter}", row.id);
        }
    }
}

/// Whether a value fits a schema, as far as names, presence and kinds go.
fn assert_fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    let reference = schema.get("$ref").or(schema.pointer("/allOf/0/$ref"));
    if let Some(reference) = reference.and_then(Value::as_str) {
        let target = document.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return assert_fits(document, target, value, at);
    }
    match schema["type"].as_str().unwrap() {
        "object" => {
            let fields = value.as_object().unwrap();
            for required in schema["required"].as_array().into_iter().flatten() {
                assert!(fields.contains_key(required.as_str().unwrap()), "{at} lacks {required}");
            }
            for (name, value) in fields {
                let property =
                    schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
                assert!(property.is_object(), "{at}.{name} is unknown");
                assert_fits(document, property, value, &format!("{at}.{name}"));
            }
        }
        "array" => {
            for item in value.as_array().unwrap() {
                assert_fits(document, &schema["items"], item, at);
            }
        }
        "string" => {
            let values = schema["enum"].as_array();
            assert!(value.is_string() && values.is_none_or(|v| v.contains(value)), "{at}");
        }
        "integer" => assert!(value.is_i64(), "{at}"),
        "boolean" => assert!(value.is_boolean(), "{at}"),
        other => panic!("{other} at {at}"),
    }
}

#[test]
fn examples_fit_their_schemas() {
    let document = document();
    visit(&document["paths"], "", &mut |path, fields| {
        if let (Some(schema), Some(example)) = (fields.get("schema"), fields.get("example")) {
            assert_fits(&document, schema, example, path);
        }
    });
    let problem = serde_json::json!({ "$ref": "#/components/schemas/Problem" });
    for (code, example) in document["components"]["examples"].as_object().unwrap() {
        assert_fits(&document, &problem, &example["value"], code);
    }
}

#[test]
fn request_examples_are_accepted() {
    fn ok<T: serde::de::DeserializeOwned + crate::api::dto::validate::Validate>(operation: &str) {
        let example = examples::request(operation).unwrap();
        decode::<T>(example.as_bytes()).map(drop).unwrap();
    }
    ok::<users::Registration>("register_user");
    ok::<users::UserPatch>("update_user");
    ok::<sessions::SessionRequest>("create_session");
    ok::<api_keys::ApiKeyRequest>("create_api_key");
    ok::<queues::QueueConfig>("put_queue");
    ok::<queues::QueueConfig>("update_queue");
    ok::<grants::GrantRequest>("put_queue_grant");
    ok::<topics::TopicConfig>("put_topic");
    ok::<topics::TopicConfig>("update_topic");
    ok::<grants::GrantRequest>("put_topic_grant");
    ok::<subscriptions::SubscriptionConfig>("put_subscription");
    ok::<subscriptions::SubscriptionConfig>("update_subscription");
    ok::<messages::SendRequest>("send_messages");
    ok::<messages::ReceiveRequest>("receive_messages");
    ok::<settlements::LeaseExtension>("extend_lease");
    ok::<settlements::ReleaseRequest>("release_message");
    ok::<settlements::SettlementRequest>("settle_messages");
}
