//! Makes the document: takes what the handlers' types generate, and adds what the table, the
//! bounds and the examples know. Keeps the table's order, which a page shows from top to bottom.

use super::examples;
use super::operations::{Needs, OPERATIONS, Operation, TAGS};
use super::{TITLE, VERSION};
use crate::api::codes::{self, Code};
use crate::api::dto;
use crate::api::problem::{self, Problem};
use crate::api::resources::RESOURCES;
use poem_openapi::OpenApiService;
use poem_openapi::registry::Registry;
use poem_openapi::types::Type;
use serde::Serialize;
use serde_json::json;
use serde_yaml_ng::{Mapping, Value};
use std::collections::BTreeMap;

const INTRODUCTION: &str = "A leaderless replicated message broker. Any request may go to any \
node.\n\nTo try it here: `register_user`, then **Authorize** with *basic* (name and password) or \
*bearer* (the token of `create_session`, or the secret of an API key). Authorize only one of the \
two. Then `put_queue`, `send_messages`, `receive_messages`, and `ack_message` with the receipt \
that you received.\n\nEverything that fails is an RFC 9457 `application/problem+json`; branch on \
its `code`. Words in `code`, `status` and `state` may grow: take one you do not know as \"other\". \
Optional fields are left out, never null.\n\nThe permanent connection is the WebSocket \
`GET /v1/connect` (subprotocol `tertulia.v1`). Authenticate by `Authorization`, or within 5 s by \
the first frame `{\"op\":\"hello\",\"ref\":1,\"token\":\"…\"}`. Frames are JSON texts. You \
send `{\"op\", \"ref\", …}`: `send` (`queue`, `messages`, `idempotency_key`), `publish` (`topic`, \
`messages`, `idempotency_key`), `subscribe` (`queue`, or `topic` and \
`subscription`; `credit` of 1 to 1000, `lease_seconds`), `credit` (`consumer`, `credit`: adds), `unsubscribe` (`consumer`), `ack` \
(`receipt`), `extend` (`receipt`, `lease_seconds`), `release` (`receipt`, `outcome`, `delay_seconds`, `reason`). Each is \
answered by `{\"ref\", \"status\", \"body\"}`, status and body of the REST route, in the order in \
which they are done; `subscribe` by `{\"consumer\"}`. Messages come as `{\"event\": \"message\", \
\"consumer\", \"message\": ReceivedMessage}` while credit lasts; a consumer that may receive no more \
as `{\"event\": \"ended\", \"consumer\", \"problem\": Problem}`. Answer pings: after 60 s of \
silence the node closes. Close with 1000 to hand unsettled messages back without a failure; any \
other end counts one each. A session that ends closes with 4401; a node that stops sends \
`{\"event\": \"closing\"}` and closes with 1001. A browser's `Origin` must be this node's or listed \
in `http.cors_origins`.";

/// The whole document.
#[must_use]
pub fn document() -> Value {
    let text = OpenApiService::new(RESOURCES, TITLE, VERSION).spec();
    let mut generated: Value = serde_json::from_str(&text).expect("the generator writes JSON");
    let mut document = Mapping::new();
    document.insert("openapi".into(), "3.0.3".into());
    document.insert("info".into(), info(TITLE, INTRODUCTION));
    document.insert("servers".into(), ordered(&json!([{ "url": "/" }])));
    document.insert("tags".into(), tags());
    document.insert("paths".into(), paths(&mut generated["paths"]));
    document.insert("components".into(), components(generated["components"]["schemas"].take()));
    let mut document = Value::Mapping(document);
    tidy(&mut document);
    document
}

/// Takes a value out of its place.
trait Take {
    fn take(&mut self) -> Self;
}

impl Take for Value {
    fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

/// A value of the document, fields in their order.
pub(in crate::api) fn ordered(value: &impl Serialize) -> Value {
    serde_yaml_ng::to_value(value).expect("the document is plain data")
}

/// A value of the document from JSON text.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("examples are JSON")
}

/// A map of the document from pairs, in their order.
pub(in crate::api) fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Mapping(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

/// What a document says of itself.
pub(in crate::api) fn info(title: &str, description: &str) -> Value {
    let url = "https://www.apache.org/licenses/LICENSE-2.0";
    map([
        ("title", title.into()),
        ("description", description.into()),
        ("version", VERSION.into()),
        ("contact", map([("name", "Tertulia".into()), ("url", "https://tertulia.dev".into())])),
        ("license", map([("name", "Apache-2.0".into()), ("url", url.into())])),
    ])
}

fn tags() -> Value {
    let tag = |(name, about): &(&str, &str)| {
        map([("name", (*name).into()), ("description", (*about).into())])
    };
    Value::Sequence(TAGS.iter().map(tag).collect())
}

/// Every row's operation, in the table's order.
fn paths(generated: &mut Value) -> Value {
    let mut paths = Mapping::new();
    for row in OPERATIONS {
        let method = row.method.to_lowercase();
        let found = generated.get_mut(row.path).and_then(|path| path.get_mut(&method));
        let found = found.unwrap_or_else(|| panic!("`{}` has no handler", row.id)).take();
        let path = paths.entry(row.path.into()).or_insert_with(|| Value::Mapping(Mapping::new()));
        path[method.as_str()] = operation(row, found);
    }
    Value::Mapping(paths)
}

/// One operation.
fn operation(row: &Operation, mut generated: Value) -> Value {
    let mut operation = Mapping::new();
    operation.insert("tags".into(), Value::Sequence(vec![row.tag.into()]));
    operation.insert("summary".into(), generated["summary"].take());
    let about = [row.about, &row.needs.text()].join("\n\n");
    operation.insert("description".into(), about.trim().into());
    operation.insert("operationId".into(), generated["operationId"].take());
    operation.insert("security".into(), security(row.needs));
    if let Some(Value::Sequence(parameters)) = generated.get_mut("parameters").map(Take::take) {
        let parameters = parameters.into_iter().map(|parameter| with_example(row, parameter));
        operation.insert("parameters".into(), Value::Sequence(parameters.collect()));
    }
    if let Some(mut body) = generated.get_mut("requestBody").map(Take::take) {
        let example = examples::request(row.id);
        let example = example.unwrap_or_else(|| panic!("`{}` has no example", row.id));
        body["content"]["application/json"]["example"] = parsed(example);
        operation.insert("requestBody".into(), body);
    }
    operation.insert("responses".into(), responses(row, &generated["responses"]));
    Value::Mapping(operation)
}

fn security(needs: Needs) -> Value {
    let schemes = || [json!({ "basic": [] }), json!({ "bearer": [] })];
    match needs {
        Needs::Nobody => ordered(&json!([])),
        Needs::OpenRegistration => {
            let [basic, bearer] = schemes();
            ordered(&json!([{}, basic, bearer]))
        }
        _ => ordered(&schemes()),
    }
}

/// A parameter. Only those of the path get examples: a page sends what it is given.
fn with_example(row: &Operation, mut parameter: Value) -> Value {
    let name = parameter["name"].as_str().unwrap_or_default().to_owned();
    if parameter["in"] == "path" {
        let example = examples::path_parameter(row.id, &name);
        let example = example.unwrap_or_else(|| panic!("`{name}` has no example"));
        parameter["example"] = example.into();
    }
    if let Some(fields) = parameter.as_mapping_mut() {
        fields.shift_remove("explode");
    }
    parameter
}

/// Every status that the operation may answer.
fn responses(row: &Operation, generated: &Value) -> Value {
    let mut responses = Mapping::new();
    let generated = generated.as_mapping().and_then(|all| all.values().next());
    let content = generated.and_then(|success| success.get("content"));
    for (status, text) in row.success {
        let mut response = Mapping::new();
        response.insert("description".into(), (*text).into());
        let etag: &[&str] = if row.etag { &["ETag"] } else { &[] };
        response.insert("headers".into(), headers(etag));
        if let Some(content) = content {
            response.insert("content".into(), answer_with_example(content.clone()));
        }
        responses.insert(status.to_string().into(), Value::Mapping(response));
    }
    let codes = row.codes();
    for group in codes.chunk_by(|a, b| a.status == b.status) {
        let reference = format!("#/components/responses/{}", response_name(group));
        let reference = map([("$ref", reference.into())]);
        responses.insert(group[0].status.to_string().into(), reference);
    }
    Value::Mapping(responses)
}

fn answer_with_example(mut content: Value) -> Value {
    for (kind, media) in content.as_mapping_mut().into_iter().flatten() {
        let schema = &media["schema"];
        let name = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next());
        let name = name.or(kind.as_str()).unwrap_or_default();
        let example = examples::answer(name);
        media["example"] = parsed(&example.unwrap_or_else(|| panic!("`{name}` has no example")));
    }
    content
}

/// The name of the answer that some problems share.
fn response_name(group: &[Code]) -> String {
    let words: Vec<_> = group.iter().map(|code| code.word).collect();
    format!("{}_{}", group[0].status, words.join("_"))
}

/// Every answer that is a problem, once.
fn problem_responses() -> Value {
    let mut responses = BTreeMap::new();
    for row in OPERATIONS {
        for group in row.codes().chunk_by(|a, b| a.status == b.status) {
            responses.insert(response_name(group), problem_response(group));
        }
    }
    Value::Mapping(responses.into_iter().map(|(name, value)| (name.into(), value)).collect())
}

/// The answer of a status that some problems share.
fn problem_response(group: &[Code]) -> Value {
    let own: &[&str] = match group[0].status {
        401 => &["WWW-Authenticate"],
        429 | 503 => &["Retry-After"],
        _ => &[],
    };
    let line = |code: &Code| format!("`{}`: {}.", code.word, code.title);
    let description = group.iter().map(line).collect::<Vec<_>>().join("\n\n");
    let example = |code: &Code| {
        let reference = format!("#/components/examples/{}", code.word);
        (Value::from(code.word), map([("$ref", reference.into())]))
    };
    let media = map([
        ("schema", map([("$ref", "#/components/schemas/Problem".into())])),
        ("examples", Value::Mapping(group.iter().map(example).collect())),
    ]);
    map([
        ("description", description.into()),
        ("headers", headers(own)),
        ("content", map([(problem::CONTENT_TYPE, media)])),
    ])
}

/// The headers of an answer: those of its own, and the request's id.
fn headers(own: &[&str]) -> Value {
    let all = own.iter().chain(&["X-Request-Id"]);
    let reference = |name: &&str| {
        let reference = format!("#/components/headers/{name}");
        (Value::from(*name), map([("$ref", reference.into())]))
    };
    Value::Mapping(all.map(reference).collect())
}

fn components(mut schemas: Value) -> Value {
    let mut registry = Registry::new();
    Problem::register(&mut registry);
    for (name, schema) in registry.schemas {
        schemas[name.as_str()] = ordered(&schema);
    }
    bound(&mut schemas);
    let text =
        |about: &str| ordered(&json!({ "description": about, "schema": { "type": "string" } }));
    let number = ordered(&json!({
        "description": "When to come back, in whole seconds.",
        "schema": { "type": "integer", "format": "int32" },
    }));
    // Unknown routes and methods are of no operation: nothing in the document shows their problem.
    let shown = |code: &&Code| OPERATIONS.iter().any(|row| row.codes().contains(code));
    let examples = codes::ALL.iter().filter(shown).map(|code| {
        let value = ordered(&examples::problem(*code));
        (Value::from(code.word), map([("summary", code.title.into()), ("value", value)]))
    });
    map([
        ("schemas", schemas),
        ("responses", problem_responses()),
        ("examples", Value::Mapping(examples.collect())),
        (
            "headers",
            map([
                ("X-Request-Id", text("Names the request in the node's log.")),
                ("ETag", text("Names this version of the object, for `If-Match`.")),
                ("WWW-Authenticate", text("Always `Bearer`.")),
                ("Retry-After", number),
            ]),
        ),
        ("securitySchemes", security_schemes()),
    ])
}

/// Writes the bounds that the checks use into the schemas.
fn bound(schemas: &mut Value) {
    for (name, bounds) in dto::bounds() {
        for bound in bounds {
            let property = &mut schemas[name.as_str()]["properties"][bound.field];
            assert!(property.is_mapping(), "{name} has no field {}", bound.field);
            for (keyword, value) in bound.rule.keywords() {
                property[keyword] = ordered(&value);
            }
        }
    }
}

fn security_schemes() -> Value {
    ordered(&json!({
        "basic": {
            "type": "http", "scheme": "basic",
            "description": "Name and password, on every request: nothing to open or close.",
        },
        "bearer": {
            "type": "http", "scheme": "bearer",
            "description": "A session's token (`tts_…`) or an API key's secret (`ttk_…`).",
        },
    }))
}

/// Removes what the generator writes and nobody needs; whole numbers lose their fraction.
fn tidy(value: &mut Value) {
    match value {
        Value::Sequence(items) => items.iter_mut().for_each(tidy),
        Value::Mapping(fields) => {
            fields.retain(|key, value| key != "deprecated" || *value != Value::Bool(false));
            if fields.contains_key("properties") {
                fields.shift_remove("title");
            }
            if let Some(Value::Sequence(parts)) = fields.get_mut("allOf") {
                // The description stands beside it.
                parts.truncate(1);
            }
            fields.iter_mut().for_each(|(_, value)| tidy(value));
        }
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|f| number.is_f64() && f.fract() == 0.0) {
                #[allow(clippy::cast_possible_truncation)]
                let whole = float as i64;
                *value = whole.into();
            }
        }
        _ => {}
    }
}
