//! From a request to its row.

use super::operations::{DOCUMENTS, OPERATIONS, Operation};
use crate::api::mom;
use std::sync::LazyLock;

/// What a path belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The template, as the log and the metrics write it.
    pub template: &'static str,
    /// The row, where the method has one.
    pub operation: Option<&'static Operation>,
}

/// A template and its rows.
struct Template {
    path: &'static str,
    has_parameters: bool,
    rows: Vec<&'static Operation>,
}

/// The templates by their number of segments: each request asks, and few have the same number.
/// One without parameters goes first, as in the router.
static TEMPLATES: LazyLock<Vec<Vec<Template>>> = LazyLock::new(|| {
    let mut by_segments: Vec<Vec<Template>> = Vec::new();
    let paths = OPERATIONS.iter().map(|operation| operation.path);
    let mom = mom::ROWS.iter().map(|row| row.path);
    for path in DOCUMENTS.iter().copied().chain(paths).chain(mom) {
        let at = segments(path);
        by_segments.resize_with(by_segments.len().max(at + 1), Vec::new);
        if by_segments[at].iter().all(|template| template.path != path) {
            let rows = OPERATIONS.iter().filter(|row| row.path == path).collect();
            by_segments[at].push(Template { path, has_parameters: path.contains('{'), rows });
        }
    }
    for templates in &mut by_segments {
        templates.sort_by_key(|template| template.has_parameters);
    }
    by_segments
});

fn segments(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count()
}

/// Whether a path of as many segments fits a template.
fn fits(template: &Template, path: &str) -> bool {
    if !template.has_parameters {
        return template.path == path;
    }
    let mut pairs = template.path.split('/').zip(path.split('/'));
    pairs.all(|(wanted, given)| wanted == given || (wanted.starts_with('{') && !given.is_empty()))
}

/// The route of a request. `HEAD` goes the way of `GET`.
#[must_use]
pub fn route(method: &str, path: &str) -> Option<Route> {
    let template = TEMPLATES.get(segments(path))?.iter().find(|t| fits(t, path))?;
    let method = if method == "HEAD" { "GET" } else { method };
    let operation = template.rows.iter().copied().find(|row| row.method == method);
    Some(Route { template: template.path, operation })
}

/// The methods that a template takes, for the header `Allow`.
#[must_use]
pub fn allowed(template: &str) -> String {
    let rows = OPERATIONS.iter().filter(|row| row.path == template);
    let mom = mom::ROWS.iter().filter(|row| row.path == template).map(|row| row.method);
    let mut methods: Vec<&str> = rows.map(|row| row.method).chain(mom).collect();
    if methods.is_empty() {
        methods.push("GET");
    }
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    methods.sort_unstable();
    methods.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn paths_find_their_rows() {
        let id = |method, path| route(method, path).and_then(|r| r.operation).map(|o| o.id);
        assert_eq!(id("GET", "/v1/users/me"), Some("get_current_user"));
        assert_eq!(id("GET", "/v1/users/alice"), Some("get_user"));
        assert_eq!(id("PATCH", "/v1/users/me"), None);
        assert_eq!(id("DELETE", "/v1/sessions/current"), Some("delete_current_session"));
        assert_eq!(id("DELETE", "/v1/queues/a/leases/xyz"), Some("ack_message"));
        assert_eq!(id("HEAD", "/livez"), Some("get_liveness"));
        assert!(route("GET", "/v1/queues/").is_none());
        assert!(route("GET", "/v2").is_none());
        assert_eq!(route("PUT", "/v1/queues/a/leases/r").unwrap().template.matches('{').count(), 2);
        assert_eq!(allowed("/v1/queues/{queue}"), "DELETE, GET, HEAD, PATCH, PUT");
        assert_eq!(allowed("/docs/"), "GET, HEAD");
    }
}
