//! The document and Swagger UI, served by every node without any other host's help. All are made
//! once at start; the same bytes have the same etag.

use super::{mom, spec};
use bytes::Bytes;
use poem::http::StatusCode;
use poem::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, HeaderValue, IF_NONE_MATCH, LOCATION,
};
use poem::{Endpoint, EndpointExt, Request, Response, Route, endpoint::make_sync, get};
use poem_openapi::OpenApiService;
use sha2::{Digest as _, Sha256};

/// Operation ids beside the paths stay on one line; code within text does not overlap.
const STYLE: &str = "\
    .swagger-ui .opblock .opblock-summary-operation-id\
    {white-space:nowrap;word-break:normal;flex:none;max-width:none}\
    @media(max-width:760px){.swagger-ui .opblock .opblock-summary-operation-id{display:none}}\
    .swagger-ui .renderedMarkdown code{padding:1px 4px}";

/// Only what the page brings itself, and calls to this node.
const CSP: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// Adds the document's and the UI's routes.
pub fn routes(route: Route) -> Route {
    let route = document(route, "", "Tertulia REST API", spec::json(), spec::yaml());
    let route = route.at("/", get(make_sync(|_| redirect("/docs/"))));
    document(route, "/mom", "Tertulia MOM routes", mom::json(), mom::yaml())
}

/// Adds one document and its page below a prefix.
fn document(route: Route, prefix: &str, title: &str, json: String, yaml: String) -> Route {
    let html = page(title, &json);
    let to = format!("{prefix}/docs/");
    route
        .at(format!("{prefix}/openapi.json"), get(file("application/json", json.into())))
        .at(format!("{prefix}/openapi.yaml"), get(file("application/yaml", yaml.into())))
        .at(&to, get(file("text/html; charset=utf-8", html.into())))
        .at(format!("{prefix}/docs"), get(make_sync(move |_| redirect(&to))))
}

fn redirect(to: &str) -> Response {
    Response::builder().status(StatusCode::PERMANENT_REDIRECT).header(LOCATION, to).finish()
}

/// Bytes that do not change while the node runs.
fn file(content_type: &'static str, bytes: Bytes) -> impl Endpoint {
    let digest = Sha256::digest(&bytes);
    let etag = format!("\"{:032x}\"", u128::from_be_bytes(std::array::from_fn(|i| digest[i])));
    let etag = HeaderValue::try_from(etag).expect("hexadecimal digits are fine in a header");
    make_sync(move |request: Request| {
        let known = request.headers().get(IF_NONE_MATCH).is_some_and(|value| value == etag);
        let mut response = if known {
            Response::builder().status(StatusCode::NOT_MODIFIED).finish()
        } else {
            Response::builder().content_type(content_type).body(bytes.clone())
        };
        let headers = response.headers_mut();
        headers.insert(ETAG, etag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP));
        response
    })
    .boxed()
}

/// The part of a text between two marks.
fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let rest = &text[text.find(from)? + from.len()..];
    Some(&rest[..rest.find(to)?])
}

/// Our page around Swagger UI's script and style, which `poem-openapi` bundles.
///
/// # Panics
/// When the bundle is shaped otherwise, which a test would show.
fn page(title: &str, spec_json: &str) -> String {
    let bundle = OpenApiService::new((), "", "").swagger_ui_html();
    let style = between(&bundle, "<style charset=\"UTF-8\">", "</style>");
    let script = between(&bundle, "<script charset=\"UTF-8\">", "</script>\n</head>");
    let (style, script) = style.zip(script).expect("the bundle has a style and a script");
    // A closing tag inside the script would end it.
    let spec = spec_json.replace("</", "<\\/");
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
        <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
        <title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n\
        <style>{style}{STYLE}</style>\n</head>\n<body>\n<div id=\"ui\"></div>\n<script>{script}</script>\n\
        <script>\nSwaggerUIBundle({{\n  dom_id: '#ui',\n  spec: {spec},\n  validatorUrl: null,\n  deepLinking: true,\n  \
        displayOperationId: true,\n  persistAuthorization: true,\n  tryItOutEnabled: true,\n  displayRequestDuration: true\n\
        }});\n</script>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_asks_no_other_host() {
        let html = page("Tertulia", "{\"x\": \"</script>\"}");
        assert!(html.starts_with("<!DOCTYPE html>"));
        assert!(html.contains("persistAuthorization: true") && html.len() > 1_000_000);
        assert!(html.contains("\"<\\/script>\""));
        assert_eq!(html.matches("</script>").count(), 2);
        for outside in ["src=\"http", "href=\"http", "@import", "url(http"] {
            let own = &html[..html.find("<script>").unwrap_or(0)];
            assert!(!own.contains(outside), "{outside}");
        }
    }
}
