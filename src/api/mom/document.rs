//! The second document, made from the table.

use super::schemas;
use super::table::{ROWS, Row, Schema};
use crate::api::spec;
use crate::api::spec::assemble::{info, map, ordered};
use serde_json::json;
use serde_yaml_ng::{Mapping, Value};
use std::sync::LazyLock;

/// The document's title.
pub const TITLE: &str = "Tertulia: MOM routes";

const INTRODUCTION: &str = "The interface of the original middleware for its clients. New clients \
use `/v1` (see `/docs/`), which can do more.\n\nParameters go into the query string; `POST` also \
takes them as a form or as JSON, which keeps passwords out of URLs. Every answer has a `message`, \
a sentence in Spanish; with `Accept: text/plain` it is the bare text. Any request may go to any \
node.\n\nThe session is the `token` of `registerUser` or `loginUser`: send it as Bearer, or as the \
cookie `tertulia_session` that they set; a name and password by HTTP Basic work too. 401 means \
that there is no live session, and comes before everything else.";

static DOCUMENT: LazyLock<Value> = LazyLock::new(document);

/// The document as JSON.
#[must_use]
pub fn json() -> String {
    spec::json_of(&DOCUMENT)
}

/// The document as YAML.
#[must_use]
pub fn yaml() -> String {
    spec::yaml_of(&DOCUMENT)
}

fn document() -> Value {
    let mut paths = Mapping::new();
    for row in ROWS {
        let method = row.method.to_lowercase();
        paths.insert(row.path.into(), map([(method.as_str(), operation(row))]));
    }
    map([
        ("openapi", "3.0.3".into()),
        ("info", info(TITLE, INTRODUCTION)),
        ("servers", ordered(&json!([{ "url": "/" }]))),
        (
            "tags",
            ordered(&json!([{ "name": "mom", "description": "The routes of the original." }])),
        ),
        ("paths", Value::Mapping(paths)),
        ("components", map([("schemas", schemas::schemas()), ("securitySchemes", schemes())])),
    ])
}

fn operation(row: &Row) -> Value {
    let mut operation = Mapping::new();
    operation.insert("tags".into(), ordered(&["mom"]));
    operation.insert("summary".into(), row.summary.into());
    let needs = if row.is_private() { "Needs: a session." } else { "Public: needs no session." };
    operation.insert("description".into(), [row.about, needs].join("\n\n").trim().into());
    operation.insert("operationId".into(), row.name.into());
    let security = if row.is_private() {
        json!([{ "bearer": [] }, { "cookie": [] }, { "basic": [] }])
    } else {
        json!([])
    };
    operation.insert("security".into(), ordered(&security));
    let is_post = row.method == "POST";
    if !row.parameters.is_empty() {
        let parameters = row.parameters.iter().map(|parameter| {
            // What is secret has no example here: a page would put it into the URL.
            let is_secret = parameter.name == "password";
            let schema = json!({ "type": "string", "minLength": 1 });
            let mut fields = json!({
                "name": parameter.name, "in": "query", "description": parameter.about,
                "required": !is_post, "schema": schema,
            });
            if !is_secret && !is_post {
                fields["example"] = parameter.example.into();
            }
            ordered(&fields)
        });
        operation.insert("parameters".into(), Value::Sequence(parameters.collect()));
    }
    if is_post && !row.parameters.is_empty() {
        operation.insert("requestBody".into(), request_body(row));
    }
    operation.insert("responses".into(), responses(row));
    Value::Mapping(operation)
}

/// The same parameters in a body. Not needed: the query string may have them.
fn request_body(row: &Row) -> Value {
    let content = map([
        ("schema", map([("$ref", format!("#/components/schemas/{}", request_name(row)).into())])),
        ("example", ordered(&example_of(row))),
    ]);
    map([
        ("description", "The parameters, where they are not in the query string.".into()),
        ("required", false.into()),
        (
            "content",
            map([
                ("application/json", content.clone()),
                ("application/x-www-form-urlencoded", content),
            ]),
        ),
    ])
}

pub(super) fn request_name(row: &Row) -> String {
    let (first, rest) = row.name.split_at(1);
    format!("{}{rest}Request", first.to_uppercase())
}

fn example_of(row: &Row) -> serde_json::Map<String, serde_json::Value> {
    row.parameters.iter().map(|p| (p.name.to_owned(), p.example.into())).collect()
}

fn responses(row: &Row) -> Value {
    let (success, schema) = row.success;
    let mut responses = Mapping::new();
    let mut add = |status: u16, about: &str, schema: Schema, example: serde_json::Value| {
        let schema_ref = format!("#/components/schemas/Mom{schema:?}");
        let text = example["message"].as_str().unwrap_or_default().to_owned();
        let mut response = json!({
            "description": about,
            "content": {
                "application/json": { "schema": { "$ref": schema_ref }, "example": example },
                "text/plain": { "schema": { "type": "string" }, "example": text },
            },
        });
        if matches!(status, 429 | 503) {
            response["headers"] = json!({ "Retry-After": {
                "description": "When to try again, in seconds.",
                "schema": { "type": "integer", "format": "int32" },
            }});
        }
        responses.insert(status.to_string().into(), ordered(&response));
    };
    add(success, "Done.", schema, example(schema));
    let mut statuses = row.refused.to_vec();
    if row.is_private() {
        statuses.push((401, "There is no live session."));
    }
    if row.method == "POST" {
        statuses.push((413, "The request or the message is too large."));
        statuses.push((415, "The body is neither a form nor JSON."));
        if !row.refused.iter().any(|(status, _)| *status == 400) {
            statuses.push((400, "The body cannot be read."));
        }
        statuses.push((408, "The body did not arrive in time."));
    }
    if row.is_private() && !row.refused.iter().any(|(status, _)| *status == 403) {
        statuses.push((403, "An API key with scopes is of no use here."));
    }
    if matches!(row.name, "createTopic" | "vinculateQueue" | "sendMessage" | "publishMessage") {
        // A name under `exchange.` may be in use by something else.
        statuses.push((409, "It is in a state that does not allow this."));
    }
    statuses.push((429, "Too often, or a limit is reached."));
    statuses.push((500, "Something is broken here."));
    statuses.push((503, "Not enough replicas, or too much work: try again."));
    statuses.sort_by_key(|(status, _)| *status);
    statuses.dedup_by_key(|(status, _)| *status);
    for (status, about) in statuses {
        let sentence = json!({ "message": "No se pudo: vuelva a intentarlo." });
        add(status, about, Schema::Answer, sentence);
    }
    Value::Mapping(responses)
}

fn example(schema: Schema) -> serde_json::Value {
    let id = "q3vGJkT8S1m2bX0aWc5dEw";
    match schema {
        Schema::Answer => json!({ "message": "Hecho." }),
        Schema::Session => {
            json!({ "message": "Bienvenido de nuevo, alice.", "token": "tts_…" })
        }
        Schema::Sent => json!({ "message": "Mensaje enviado.", "id": id, "delivered_to": 1 }),
        Schema::Queues => json!({ "message": "orders", "queues": [
            { "nameQueue": "orders", "associated": "news", "type": "topic", "messages": 3 }] }),
        Schema::Topics => json!({ "message": "news", "topics": [
            { "nameTopic": "news", "subscribers": ["orders"] }] }),
        Schema::Message => {
            json!({ "message": "hello", "id": id, "sender": "alice", "empty": false })
        }
    }
}

fn schemes() -> Value {
    ordered(&json!({
        "basic": { "type": "http", "scheme": "basic", "description": "Name and password." },
        "bearer": { "type": "http", "scheme": "bearer",
            "description": "The token of `registerUser` or `loginUser`." },
        "cookie": { "type": "apiKey", "in": "cookie", "name": "tertulia_session",
            "description": "The same token as a cookie, which a login sets." },
    }))
}
