//! The schemas of the second document.

use super::document::request_name;
use super::table::ROWS;
use crate::api::spec::assemble::ordered;
use serde_json::{Value as Json, json};
use serde_yaml_ng::{Mapping, Value};

/// All of them, by name.
pub fn schemas() -> Value {
    let all = answers().into_iter().chain(lists()).chain(requests());
    Value::Mapping(all.map(|(name, schema)| (name.into(), ordered(&schema))).collect::<Mapping>())
}

fn text(about: &str) -> Json {
    json!({ "type": "string", "description": about })
}

fn message() -> Json {
    text("A sentence.")
}

fn object(about: &str, required: &[&str], properties: Json) -> Json {
    json!({ "type": "object", "description": about, "required": required,
        "properties": properties })
}

fn named(name: &str, schema: Json) -> (String, Json) {
    (name.to_owned(), schema)
}

fn answers() -> Vec<(String, Json)> {
    let answer = object("What was done.", &["message"], json!({ "message": message() }));
    let token = text("Proves the session: send it as Bearer.");
    let session = json!({ "message": message(), "token": token });
    let count = json!({ "type": "integer", "format": "int32",
        "description": "How many subscriptions or queues it goes to." });
    let sent = json!({ "message": message(), "id": text("The message's id."),
        "delivered_to": count });
    let taken = json!({
        "message": text("The message's text, or a sentence when there is none."),
        "id": text("The message's id."),
        "sender": text("Who sent it."),
        "empty": { "type": "boolean", "description": "Whether there was none." },
    });
    vec![
        named("MomAnswer", answer),
        named("MomSession", object("A session.", &["message", "token"], session)),
        named(
            "MomSent",
            object("A message that is stored.", &["message", "id", "delivered_to"], sent),
        ),
        named("MomMessage", object("A message, or none.", &["message", "empty"], taken)),
    ]
}

fn lists() -> Vec<(String, Json)> {
    let list = |of: &str| json!({ "type": "array", "items": { "$ref": format!("#/components/schemas/{of}") } });
    let queue = json!({
        "nameQueue": text("Its name."),
        "associated": text("The exchange or topic it is associated with, or nothing."),
        "type": text("`direct` (an exchange), `topic`, or nothing."),
        "messages": { "type": "integer", "format": "int64",
            "description": "Messages waiting, delayed or leased." },
    });
    let topic = json!({
        "nameTopic": text("Its name."),
        "subscribers": { "type": "array", "items": { "type": "string" },
            "description": "Its subscriptions; those made here are named like their queues." },
    });
    let queues = json!({ "message": message(), "queues": list("MomQueue") });
    let topics = json!({ "message": message(), "topics": list("MomTopic") });
    let fields = ["nameQueue", "associated", "type", "messages"];
    vec![
        named("MomQueue", object("A queue.", &fields, queue)),
        named("MomQueues", object("Your queues.", &["message", "queues"], queues)),
        named("MomTopic", object("A topic.", &["nameTopic", "subscribers"], topic)),
        named("MomTopics", object("Your topics.", &["message", "topics"], topics)),
    ]
}

/// The bodies of `POST`: nothing in them is needed, the query string may have it.
fn requests() -> Vec<(String, Json)> {
    let rows = ROWS.iter().filter(|row| row.method == "POST" && !row.parameters.is_empty());
    let request = |row: &super::Row| {
        let properties = row.parameters.iter().map(|p| (p.name.to_owned(), text(p.about)));
        let properties: serde_json::Map<_, _> = properties.collect();
        let about = format!("The parameters of `{}`.", row.name);
        let schema = json!({ "type": "object", "description": about, "properties": properties });
        (request_name(row), schema)
    };
    rows.map(request).collect()
}
