#![allow(clippy::unwrap_used)]
use super::*;
use crate::base::clock::SystemClock;
use crate::base::limits;
use crate::base::rng::SystemRng;
use httpd::refusal::HeadRefused;
use poem::http::{Method, StatusCode};
use poem::{Endpoint as _, Request};
use serde_json::Value;

/// A broker that no test here asks anything.
fn broker() -> Arc<Broker> {
    crate::broker::testing::broker()
}

fn api(ready: Readiness) -> Api {
    Api {
        broker: broker(),
        node: NodeId(7),
        ready: watch::channel(ready).1,
        metrics: Arc::new(|| "x 1\n".to_owned()),
        rng: Arc::new(SystemRng),
        clock: Arc::new(SystemClock),
        max_body_bytes: limits::BODY_BYTES_MAX,
        cors_origins: vec!["https://friend.example".to_owned()],
    }
}

/// An answer, read whole.
struct Seen {
    status: u16,
    response: Response,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.response.header(name).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The code of a problem, which is whole, and its first field.
    fn problem(&self) -> (String, String) {
        let problem = self.json();
        assert_eq!(self.header("content-type"), problem::CONTENT_TYPE);
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert_eq!(problem["node"], "0000000000000007");
        let code = problem["code"].as_str().unwrap().to_owned();
        assert_eq!(problem["type"], format!("https://tertulia.dev/problems/{code}"));
        (code, problem["errors"][0]["field"].as_str().unwrap_or_default().to_owned())
    }
}

async fn ask(endpoint: &BoxEndpoint<'static>, request: Request) -> Seen {
    let mut response = endpoint.call(request).await.unwrap();
    let body = response.take_body().into_string().await.unwrap();
    assert!(response.header("x-request-id").is_some());
    assert!(response.header("cache-control").is_some());
    Seen { status: response.status().as_u16(), response, body }
}

fn get(path: &str) -> Request {
    Request::builder().uri(path.parse().unwrap()).finish()
}

fn send(method: Method, path: &str, content_type: &str, body: &str) -> Request {
    let request = Request::builder().method(method).uri(path.parse().unwrap());
    request.content_type(content_type).body(body.to_owned())
}

fn login(body: &str) -> Request {
    send(Method::POST, "/v1/sessions", "application/json", body)
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems() {
    let endpoint = endpoint(api(Readiness::Ready));
    for path in ["/", "/v1", "/v1/nothing", "/v1/queues/", "/v1/queues/a/b", "/docs/x"] {
        let seen = ask(&endpoint, get(path)).await;
        assert_eq!((seen.status, seen.problem().0.as_str()), (404, "not-found"), "{path}");
        assert_eq!(seen.header("cache-control"), "no-store");
    }
    let cases = [
        ("/v1/queues/orders", "DELETE, GET, HEAD, PATCH, PUT"),
        ("/v1/users/me", "GET, HEAD"),
        ("/v1/sessions/current", "DELETE"),
        ("/v1/queues/a/leases/r", "DELETE, PATCH"),
        ("/livez", "GET, HEAD"),
        ("/docs/", "GET, HEAD"),
    ];
    for (path, allow) in cases {
        let seen = ask(&endpoint, send(Method::TRACE, path, "application/json", "")).await;
        assert_eq!((seen.status, seen.header("allow")), (405, allow), "{path}");
        assert_eq!(seen.problem().0, "method-not-allowed");
    }
}

#[tokio::test]
async fn request_ids_are_kept_or_made() {
    let endpoint = endpoint(api(Readiness::Ready));
    let ask_as = async |id: &str| {
        let request = Request::builder().uri("/livez".parse().unwrap()).header("x-request-id", id);
        ask(&endpoint, request.finish()).await.header("x-request-id").to_owned()
    };
    let longest = "x".repeat(64);
    assert_eq!(ask_as("abc-1").await, "abc-1");
    assert_eq!(ask_as(&longest).await, longest);
    for odd in ["", "a b", &"x".repeat(65)] {
        let made = ask_as(odd).await;
        assert!(made != odd && made.len() == 22, "{odd}");
    }
}

#[tokio::test]
async fn strangers_are_refused_before_their_body_is_read() {
    let endpoint = endpoint(api(Readiness::Ready));
    for row in spec::operations::OPERATIONS.iter().filter(|row| !row.needs.is_public()) {
        let path = row.path.replace(['{', '}'], "");
        let method = Method::from_bytes(row.method.as_bytes()).unwrap();
        let seen = ask(&endpoint, send(method, &path, "text/plain", "{")).await;
        assert_eq!(
            (seen.status, seen.problem().0.as_str()),
            (401, "unauthenticated"),
            "{}",
            row.id
        );
        assert_eq!(seen.header("www-authenticate"), "Bearer");
    }
    let odd = Request::builder().uri("/v1/users/me".parse().unwrap());
    let seen = ask(&endpoint, odd.header("authorization", "Digest x").finish()).await;
    assert_eq!(seen.problem().0, "unauthenticated");
    let public = send(Method::POST, "/v1/users", "application/json", "{}");
    assert_eq!(ask(&endpoint, public).await.problem(), ("validation".into(), "username".into()));
}

#[tokio::test]
async fn bodies_are_checked() {
    let endpoint = endpoint(Api { max_body_bytes: 100, ..api(Readiness::Ready) });
    let cases = [
        (login("{"), 400, "malformed", ""),
        (login(""), 400, "malformed", ""),
        (login("{}"), 422, "validation", "username"),
        (
            login(r#"{"username": "a", "password": "b", "bind_ip": 1}"#),
            422,
            "validation",
            "bind_ip",
        ),
        (login(r#"{"username": null, "password": "b"}"#), 422, "validation", "username"),
        (
            login(r#"{"username": "a", "password": "b", "ttl_seconds": null}"#),
            422,
            "validation",
            "ttl_seconds",
        ),
        (
            login(r#"{"username": "a", "password": "b", "ttl_seconds": 59}"#),
            422,
            "validation",
            "ttl_seconds",
        ),
        (login(&" ".repeat(101)), 413, "too-large", ""),
        (send(Method::POST, "/v1/sessions", "text/plain", "{}"), 415, "unsupported-media-type", ""),
    ];
    for (request, status, code, field) in cases {
        let seen = ask(&endpoint, request).await;
        assert_eq!(seen.status, status, "{}", seen.body);
        assert_eq!(seen.problem(), (code.to_owned(), field.to_owned()));
    }
    let bare = Request::builder().method(Method::POST).uri("/v1/sessions".parse().unwrap());
    assert_eq!(ask(&endpoint, bare.body("{}")).await.status, 415);
}

#[tokio::test]
async fn unknown_query_parameters_are_refused() {
    let endpoint = endpoint(api(Readiness::Ready));
    let seen = ask(&endpoint, get("/v1/queues?limit=5&limmit=6")).await;
    assert_eq!(seen.problem(), ("validation".into(), "query.limmit".into()));
    // Probes may add what they like.
    assert_eq!(ask(&endpoint, get("/livez?x=1")).await.status, 200);
}

#[tokio::test]
async fn the_node_tells_its_state() {
    let seen = ask(&endpoint(api(Readiness::Ready)), get("/readyz")).await;
    assert_eq!((seen.status, seen.json()["ready"].as_bool()), (200, Some(true)));
    let starting = endpoint(api(Readiness::Starting("recovering".into())));
    let seen = ask(&starting, get("/readyz")).await;
    assert_eq!((seen.status, seen.problem().0.as_str()), (503, "starting"));
    assert_eq!((seen.header("retry-after"), &seen.json()["detail"]), ("1", &"recovering".into()));
    assert_eq!(ask(&starting, get("/livez")).await.json()["status"], "live");
    let seen = ask(&starting, get("/metrics")).await;
    assert_eq!((seen.body.as_str(), &seen.header("content-type")[..10]), ("x 1\n", "text/plain"));
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let endpoint = endpoint(api(Readiness::Ready));
    let seen = ask(&endpoint, get("/openapi.json")).await;
    assert_eq!(seen.body, spec::json());
    let etag = seen.header("etag").to_owned();
    let again = Request::builder().uri("/openapi.json".parse().unwrap());
    let seen = ask(&endpoint, again.header("if-none-match", &etag).finish()).await;
    assert_eq!((seen.status, seen.body.as_str(), seen.header("etag")), (304, "", etag.as_str()));
    assert_eq!(ask(&endpoint, get("/openapi.yaml")).await.body, spec::yaml());
    let seen = ask(&endpoint, get("/docs/")).await;
    assert!(seen.header("content-security-policy").contains("connect-src 'self'"));
    assert!(seen.body.contains("put_queue") && !seen.header("etag").is_empty());
    assert_eq!(ask(&endpoint, get("/docs")).await.header("location"), "/docs/");
}

#[tokio::test]
async fn other_pages_may_call_only_when_listed() {
    let endpoint = endpoint(api(Readiness::Ready));
    let from = |method: Method, origin: &str| {
        let request = Request::builder().method(method).uri("/v1/queues/a".parse().unwrap());
        let request = request.header("origin", origin);
        request.header("access-control-request-method", "PUT").finish()
    };
    let seen = ask(&endpoint, from(Method::OPTIONS, "https://friend.example")).await;
    assert_eq!(seen.status, 204);
    assert_eq!(seen.header("access-control-allow-origin"), "https://friend.example");
    assert!(seen.header("access-control-allow-methods").contains("PUT"));
    let seen = ask(&endpoint, from(Method::GET, "https://friend.example")).await;
    assert_eq!((seen.status, seen.header("vary")), (401, "Origin"));
    let seen = ask(&endpoint, from(Method::OPTIONS, "https://other.example")).await;
    assert_eq!((seen.status, seen.header("access-control-allow-origin")), (405, ""));
}

/// An endpoint behind the front door that does something else than the routes.
fn behind<F, Fut>(work: F) -> BoxEndpoint<'static>
where
    F: Fn(Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = poem::Result<Response>> + Send + 'static,
{
    let work = Arc::new(work);
    endpoint_behind(api(Readiness::Ready), |_| {
        poem::endpoint::make(move |request| {
            let work = work.clone();
            async move { work(request).await }
        })
        .map_to_response()
        .boxed()
    })
}

#[tokio::test]
async fn panics_and_bare_statuses_become_problems() {
    let panics = behind(|_| async { panic!("secret") });
    let seen = ask(&panics, known(get("/v1/queues"))).await;
    assert_eq!((seen.status, seen.problem().0.as_str()), (500, "internal"));
    assert!(!seen.body.contains("secret"));
    let cases =
        [(413, "too-large"), (408, "body-timeout"), (503, "overloaded"), (400, "malformed")];
    for (status, code) in cases {
        let status = StatusCode::from_u16(status).unwrap();
        let fails = behind(move |_| async move { Err(poem::Error::from_string("why", status)) });
        let seen = ask(&fails, known(get("/v1/queues"))).await;
        assert_eq!((seen.status, seen.problem().0.as_str()), (status.as_u16(), code));
        assert_eq!(seen.json()["detail"], "why");
        let bare = behind(move |_| async move { Ok(Response::builder().status(status).finish()) });
        assert_eq!(ask(&bare, known(get("/v1/queues"))).await.problem().0, code);
    }
}

#[tokio::test]
async fn refused_heads_are_problems_and_go_no_further() {
    let inside = behind(|_| async { panic!("a refused head came in") });
    for (refused, status, code) in
        [(HeadRefused::TooLarge, 431, "too-large"), (HeadRefused::Malformed, 400, "malformed")]
    {
        for mut request in [Request::default(), known(get("/v1/queues")), get("/livez")] {
            request.set_data(refused);
            let seen = ask(&inside, request).await;
            assert_eq!((seen.status, seen.problem().0.as_str()), (status, code));
            assert_eq!(seen.header("cache-control"), "no-store");
        }
    }
}

#[tokio::test]
async fn a_write_whose_time_is_over_is_unknown() {
    let slow = |method| {
        let endpoint = behind(|request: Request| async move {
            scope::Here::of(&request).deadline.set(std::time::Duration::from_millis(5));
            std::future::pending().await
        });
        async move { ask(&endpoint, known(send(method, "/v1/queues/a", "application/json", ""))).await }
    };
    let seen = slow(Method::PUT).await;
    assert_eq!((seen.status, seen.problem().0.as_str()), (503, "not-enough-replicas"));
    assert_eq!((&seen.json()["outcome"], seen.header("retry-after")), (&"unknown".into(), "1"));
    let seen = slow(Method::GET).await;
    assert_eq!((seen.status, &seen.json()["outcome"]), (503, &Value::Null));
}

#[tokio::test]
#[should_panic(expected = "`get_queue` answers `draining`")]
async fn a_problem_outside_its_row_is_a_mistake_of_ours() {
    let odd = behind(|_| async {
        Err(problem::Problem::from(crate::broker::refusal::Refusal::Draining).into())
    });
    ask(&odd, known(get("/v1/queues/a"))).await;
}

/// A request that says it has credentials.
fn known(mut request: Request) -> Request {
    request.headers_mut().insert("authorization", "Bearer of_something".parse().unwrap());
    request
}

#[tokio::test]
async fn a_stranger_gets_no_further_than_the_door() {
    let inside = behind(|_| async { panic!("a stranger came in") });
    let seen = ask(&inside, send(Method::PUT, "/v1/queues/a", "application/json", "{}")).await;
    assert_eq!((seen.status, seen.problem().0.as_str()), (401, "unauthenticated"));
    assert_eq!(seen.header("www-authenticate"), "Bearer");
}
