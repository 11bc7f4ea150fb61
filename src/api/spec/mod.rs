//! The document: made from the handlers' types and the table of operations, the same on every
//! node and at every call.

pub(super) mod assemble;
mod examples;
pub mod operations;
pub mod routes;

use super::resources::Resources;
use poem_openapi::OpenApi;
use poem_openapi::registry::MetaParamIn;
use serde_yaml_ng::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// The document's title.
pub const TITLE: &str = "Tertulia";
/// The document's version: the program's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

static DOCUMENT: LazyLock<Value> = LazyLock::new(assemble::document);
static QUERY: LazyLock<BTreeMap<&'static str, BTreeSet<String>>> = LazyLock::new(query);
static NO_PARAMETERS: BTreeSet<String> = BTreeSet::new();

/// The document as JSON.
///
/// # Panics
/// Never: the document is plain data.
#[must_use]
pub fn json() -> String {
    json_of(&DOCUMENT)
}

/// A document as JSON.
pub(super) fn json_of(document: &Value) -> String {
    let mut text = serde_json::to_string_pretty(document).expect("the document is plain data");
    text.push('\n');
    text
}

/// The document as YAML.
///
/// # Panics
/// Never: the document is plain data.
#[must_use]
pub fn yaml() -> String {
    yaml_of(&DOCUMENT)
}

/// A document as YAML.
pub(super) fn yaml_of(document: &Value) -> String {
    let text = serde_yaml_ng::to_string(document).expect("the document is plain data");
    let lines = text.lines().map(|line| match line.split_once(": ") {
        // Older readers take a bare time for something else than text.
        Some((key, time)) if is_time(time) => format!("{key}: '{time}'\n"),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

/// Whether a text begins like a time.
fn is_time(text: &str) -> bool {
    let form = b"dddd-dd-ddT";
    let fits = |(byte, form): (u8, &u8)| match form {
        b'd' => byte.is_ascii_digit(),
        other => byte == *other,
    };
    text.len() > form.len() && text.bytes().zip(form).all(fits)
}

/// The query parameters that an operation takes.
#[must_use]
pub fn query_parameters(operation: &str) -> &'static BTreeSet<String> {
    QUERY.get(operation).unwrap_or(&NO_PARAMETERS)
}

/// The same for all, from the handlers.
fn query() -> BTreeMap<&'static str, BTreeSet<String>> {
    let apis = <Resources as OpenApi>::meta();
    let paths = apis.into_iter().flat_map(|api| api.paths);
    let operations = paths.flat_map(|path| path.operations);
    operations
        .filter_map(|operation| {
            let parameters = operation.params.into_iter();
            let query = parameters.filter(|parameter| parameter.in_type == MetaParamIn::Query);
            Some((operation.operation_id?, query.map(|parameter| parameter.name).collect()))
        })
        .collect()
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
