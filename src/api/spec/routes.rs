//! From a request to its row.

use super::operations::{DOCUMENTS, OPERATIONS, Operation};

/// What a path belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The template, as the log and the metrics write it.
    pub template: &'static str,
    /// The row, where the method has one.
    pub operation: Option<&'static Operation>,
}

/// Whether a path fits a template.
fn fits(template: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some(w), Some(g)) if w == g || (w.starts_with('{') && !g.is_empty()) => {}
            _ => return false,
        }
    }
}

/// The template that a path belongs to: one without parameters goes first, as in the router.
fn template(path: &str) -> Option<&'static str> {
    if let Some(document) = DOCUMENTS.iter().copied().find(|document| *document == path) {
        return Some(document);
    }
    let paths = || OPERATIONS.iter().map(|operation| operation.path);
    paths().find(|template| *template == path).or_else(|| paths().find(|t| fits(t, path)))
}

/// The route of a request. `HEAD` goes the way of `GET`.
#[must_use]
pub fn route(method: &str, path: &str) -> Option<Route> {
    let template = template(path)?;
    let method = if method == "HEAD" { "GET" } else { method };
    let mut rows = OPERATIONS.iter();
    let operation = rows.find(|row| row.path == template && row.method == method);
    Some(Route { template, operation })
}

/// The methods that a template takes, for the header `Allow`.
#[must_use]
pub fn allowed(template: &str) -> String {
    let rows = OPERATIONS.iter().filter(|row| row.path == template);
    let mut methods: Vec<&str> = rows.map(|row| row.method).collect();
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
