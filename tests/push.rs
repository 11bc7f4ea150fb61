//! Push, over TLS with the real binary: event streams and WebSockets.
#![allow(clippy::unwrap_used)]

mod common;

use common::process::Process;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

const PASSWORD: &str = "correct horse battery";

/// A node of one test: alice is registered, logged in, and owns the queue `q`.
struct Node {
    process: Process,
    folder: tempfile::TempDir,
    port: u16,
    client: reqwest::Client,
    token: String,
}

impl Node {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let small = [("TERTULIA_HTTP__MAX_BODY_BYTES", "1048576")];
        let process = Process::start(folder.path(), &small).await;
        let (client, port) = (process.client(None), process.port());
        let mut node = Self { process, folder, port, client, token: String::new() };
        let user = json!({ "username": "alice", "password": PASSWORD });
        assert_eq!(node.post("users", &user).await.0, 201);
        node.token = node.log_in().await;
        let put = node.client.put(node.url("queues/q")).bearer_auth(&node.token);
        assert_eq!(put.json(&json!({})).send().await.unwrap().status(), 201);
        node
    }

    async fn log_in(&self) -> String {
        let user = json!({ "username": "alice", "password": PASSWORD });
        let (_, session) = self.post("sessions", &user).await;
        session["token"].as_str().unwrap().to_owned()
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}/v1/{path}", self.port)
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let mut request = self.client.post(self.url(path)).json(body);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn send(&self, count: usize) {
        let messages: Vec<Value> = (0..count).map(|i| json!({ "body": i.to_string() })).collect();
        assert_eq!(self.post("queues/q/messages", &json!({ "messages": messages })).await.0, 201);
    }

    /// The next message, as somebody else receives it.
    async fn receive(&self) -> Value {
        let (status, answer) = self.post("queues/q/leases", &json!({ "wait_seconds": 10 })).await;
        assert_eq!((status, answer["messages"].as_array().unwrap().len()), (200, 1), "{answer}");
        answer["messages"][0].clone()
    }

    async fn ack(&self, message: &Value) {
        let path = format!("queues/q/leases/{}", message["receipt"].as_str().unwrap());
        let answer = self.client.delete(self.url(&path)).bearer_auth(&self.token).send().await;
        assert_eq!(answer.unwrap().status(), 204);
    }

    async fn stream(&self, query: &str) -> Events {
        let url = self.url(&format!("queues/q/stream?lease_seconds=60&{query}"));
        let answer = self.client.get(url).bearer_auth(&self.token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Events { answer, text: String::new() }
    }

    async fn tls(&self) -> TlsStream<TcpStream> {
        use rustls::pki_types::pem::PemObject as _;
        let pem = self.folder.path().join("data/ca.pem");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(rustls::pki_types::CertificateDer::from_pem_file(pem).unwrap()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config.with_no_client_auth()));
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap()
    }

    /// Opens a WebSocket with these headers.
    async fn open(&self, headers: &[(&'static str, String)]) -> Result<Socket, Error> {
        let mut request =
            format!("wss://localhost:{}/v1/connect", self.port).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "tertulia.v1".parse().unwrap());
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let (socket, answer) = tokio_tungstenite::client_async(request, self.tls().await).await?;
        assert_eq!(answer.headers()["sec-websocket-protocol"], "tertulia.v1");
        Ok(Socket { socket, last: 0, pushed: Vec::new() })
    }

    async fn connect(&self) -> Socket {
        self.open(&[("authorization", format!("Bearer {}", self.token))]).await.unwrap()
    }
}

/// An open event stream.
struct Events {
    answer: reqwest::Response,
    text: String,
}

impl Events {
    /// The next event's name and data; `None` at the stream's end. Comments are skipped.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name));
                if let Some(event) = field("event: ") {
                    let data: Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
                    assert_eq!(data["id"].as_str(), field("id: "));
                    return Some((event.to_owned(), data));
                }
                assert!(block.starts_with(':'), "{block}");
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.answer.chunk()).await;
            let chunk = chunk.expect("neither event nor comment").ok()??;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn message(&mut self) -> Value {
        let (event, data) = self.next().await.unwrap();
        assert_eq!(event, "message", "{data}");
        data
    }

    async fn is_silent(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(300), self.next()).await.is_err()
    }
}

/// An open WebSocket.
struct Socket {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    last: i64,
    /// Messages that came while an answer was waited for.
    pushed: Vec<Value>,
}

impl Socket {
    async fn frame(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(20), self.socket.next()).await;
            match next.expect("nothing comes") {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => return Err(frame),
                Some(Ok(_)) => {}
                Some(Err(error)) => panic!("{error}"),
                None => return Err(None),
            }
        }
    }

    async fn closed(&mut self) -> u16 {
        loop {
            if let Err(frame) = self.frame().await {
                return frame.expect("a close frame").code.into();
            }
        }
    }

    async fn raw(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// Asks, and answers the status and the body.
    async fn ask(&mut self, mut frame: Value) -> (u64, Value) {
        self.last += 1;
        frame["ref"] = self.last.into();
        self.raw(&frame).await;
        loop {
            let answer = self.frame().await.unwrap();
            if answer["event"] == "message" {
                self.pushed.push(answer);
                continue;
            }
            assert_eq!(answer["ref"], self.last, "{answer}");
            return (answer["status"].as_u64().unwrap(), answer["body"].clone());
        }
    }

    async fn message(&mut self) -> Value {
        if !self.pushed.is_empty() {
            return self.pushed.remove(0)["message"].clone();
        }
        let frame = self.frame().await.unwrap();
        assert_eq!(frame["event"], "message", "{frame}");
        frame["message"].clone()
    }

    async fn subscribe(&mut self, credit: i32) -> String {
        let frame =
            json!({ "op": "subscribe", "queue": "q", "credit": credit, "lease_seconds": 60 });
        let (status, body) = self.ask(frame).await;
        assert_eq!(status, 200, "{body}");
        body["consumer"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn an_event_stream_holds_its_window_and_opens_it_when_a_message_is_settled() {
    let node = Node::start().await;
    let mut events = node.stream("max_in_flight=2").await;
    node.send(3).await;
    let first = events.message().await;
    assert_eq!(events.message().await["body"], "1");
    assert!(events.is_silent().await, "two are unsettled");
    node.ack(&first).await;
    assert_eq!(events.message().await["body"], "2");
    // The stream holds no request's slot.
    let metrics = node.client.get(format!("https://localhost:{}/metrics", node.port));
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("tertulia_push_connections{kind=\"event_stream\"} 1"), "{metrics}");
    assert!(metrics.contains("tertulia_http_requests_in_flight 1\n"));
    drop(events);
    let again = [node.receive().await, node.receive().await];
    for message in again {
        assert_eq!(message["failure_count"], 1, "{message}");
    }
    for wrong in ["max_in_flight=0", "max_in_flight=101", "lease_seconds=x", "typo=1"] {
        let url = node.url(&format!("queues/q/stream?{wrong}"));
        let answer = node.client.get(url).bearer_auth(&node.token).send().await.unwrap();
        assert_eq!(answer.status(), 422, "{wrong}");
    }
}

#[tokio::test]
async fn an_event_stream_ends_with_its_session_and_with_its_node() {
    let mut node = Node::start().await;
    let (ended, stays) = (node.token.clone(), node.log_in().await);
    let mut events = node.stream("").await;
    node.token = stays;
    let gone = node.client.delete(node.url("sessions/current")).bearer_auth(ended).send().await;
    assert_eq!(gone.unwrap().status(), 204);
    let (event, data) = events.next().await.unwrap();
    assert_eq!((event.as_str(), &data["reason"]), ("closing", &json!("unauthenticated")));
    assert_eq!(events.next().await, None);
    let mut events = node.stream("").await;
    node.process.terminate();
    let (event, data) = events.next().await.unwrap();
    assert_eq!((event.as_str(), &data["reason"]), ("closing", &json!("stopping")));
    assert_eq!(events.next().await, None);
    assert!(node.process.ended());
}

#[tokio::test]
async fn a_websocket_does_what_the_routes_do() {
    let node = Node::start().await;
    let mut socket = node.connect().await;
    let messages = json!([{ "body": "a" }, { "body": "b" }, { "body": "c" }]);
    let (status, sent) =
        socket.ask(json!({ "op": "send", "queue": "q", "messages": messages })).await;
    assert_eq!((status, &sent["results"][2]["status"]), (201, &json!("stored")));
    let consumer = socket.subscribe(2).await;
    let (a, b) = (socket.message().await, socket.message().await);
    assert_eq!((&a["id"], &b["body"]), (&sent["results"][0]["id"], &json!("b")));
    let extend = json!({ "op": "extend", "receipt": a["receipt"], "lease_seconds": 600 });
    let (status, lease) = socket.ask(extend).await;
    assert_eq!((status, &lease["receipt"]), (200, &a["receipt"]));
    let ack = json!({ "op": "ack", "receipt": a["receipt"] });
    assert_eq!(socket.ask(ack.clone()).await.0, 204);
    assert_eq!(socket.ask(ack).await.0, 204, "again is fine");
    let release = json!({ "op": "release", "receipt": b["receipt"], "outcome": "failed" });
    assert_eq!(socket.ask(release.clone()).await.0, 204);
    assert!(socket.pushed.is_empty(), "the credit is used up");
    assert_eq!(
        socket.ask(json!({ "op": "credit", "consumer": consumer, "credit": 2 })).await.0,
        204
    );
    let rest = [socket.message().await, socket.message().await];
    let b = rest.iter().find(|m| m["body"] == "b").unwrap();
    assert_eq!(b["failure_count"], 1);
    let (status, problem) = socket.ask(release).await;
    assert_eq!((status, &problem["code"]), (409, &json!("lease-lost")));
    assert!(!problem["request_id"].as_str().unwrap().is_empty());
    assert_eq!(socket.ask(json!({ "op": "unsubscribe", "consumer": consumer })).await.0, 204);
    let mut poison = json!({ "op": "release", "receipt": b["receipt"], "outcome": "poison" });
    poison["reason"] = "r".repeat(1_025).into();
    let (status, problem) = socket.ask(poison.clone()).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("reason")));
    poison["reason"] = "the account is closed".into();
    assert_eq!(socket.ask(poison).await.0, 204);
    let (_, dead) = node.post("queues/q/leases", &json!({ "from": "dead" })).await;
    let letter = &dead["messages"][0]["dead_letter"];
    assert_eq!(
        (&letter["reason"], &letter["detail"]),
        (&json!("poison"), &json!("the account is closed"))
    );
    let credit = json!({ "op": "credit", "consumer": consumer, "credit": 1 });
    assert_eq!(socket.ask(credit).await.1["errors"][0]["field"], "consumer");
}

fn keyed_send(key: &str) -> Value {
    let messages = json!([{ "body": "a" }]);
    json!({ "op": "send", "queue": "q", "messages": messages, "idempotency_key": key })
}

#[tokio::test]
async fn a_websocket_publishes_and_names_its_requests() {
    let node = Node::start().await;
    for path in ["topics/t", "topics/t/subscriptions/s"] {
        let put = node.client.put(node.url(path)).bearer_auth(&node.token).json(&json!({}));
        assert_eq!(put.send().await.unwrap().status(), 201, "{path}");
    }
    let mut socket = node.connect().await;
    let publish = |key: &str, body: &str| {
        let messages = json!([{ "body": body }, { "body": "second" }]);
        json!({ "op": "publish", "topic": "t", "messages": messages, "idempotency_key": key })
    };
    let (status, first) = socket.ask(publish("k", "a")).await;
    assert_eq!((status, &first["failed_count"]), (201, &json!(0)), "{first}");
    assert_eq!(first["results"][1]["matched_subscriptions"], 1);
    let (status, again) = socket.ask(publish("k", "a")).await;
    assert_eq!((status, &again["results"][0]["status"]), (201, &json!("duplicate")), "{again}");
    assert_eq!(again["results"][0]["id"], first["results"][0]["id"]);
    // The route knows the key as well: both are the same request.
    let by_route = node.client.post(node.url("topics/t/messages")).bearer_auth(&node.token);
    let messages = json!({ "messages": [{ "body": "a" }, { "body": "second" }] });
    let by_route = by_route.header("Idempotency-Key", "k").json(&messages).send().await.unwrap();
    let by_route: Value = by_route.json().await.unwrap();
    assert_eq!(by_route["results"][1]["id"], first["results"][1]["id"], "{by_route}");
    let (status, mixed) = socket.ask(publish("k", "another")).await;
    assert_eq!((status, &mixed["failed_count"]), (201, &json!(1)), "{mixed}");
    assert_eq!(mixed["results"][0]["code"], "idempotency-mismatch");
    let subscribe = json!({ "op": "subscribe", "topic": "t", "subscription": "s", "credit": 9 });
    assert_eq!(socket.ask(subscribe).await.0, 200);
    assert_eq!(socket.message().await["body"], "a");
    assert_eq!(socket.message().await["body"], "second");

    let (_, sent) = socket.ask(keyed_send("k")).await;
    let (status, again) = socket.ask(keyed_send("k")).await;
    assert_eq!((status, &again["results"][0]["status"]), (201, &json!("duplicate")), "{again}");
    assert_eq!(again["results"][0]["id"], sent["results"][0]["id"]);
    assert!(socket.pushed.is_empty(), "each was stored once");
    // What the route calls a header is a field here.
    let patch = node.client.patch(node.url("queues/q")).bearer_auth(&node.token);
    let patch = patch.json(&json!({ "dedup_seconds": 0 })).send().await.unwrap();
    assert_eq!(patch.status(), 200);
    let (status, problem) = socket.ask(keyed_send("k")).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("idempotency_key")));
    let missing = json!({ "op": "publish", "topic": "no", "messages": [{ "body": "a" }] });
    let (status, problem) = socket.ask(missing).await;
    assert_eq!((status, &problem["code"]), (404, &json!("topic-not-found")));
    assert!(!problem["request_id"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn wrong_frames_are_named_and_large_ones_end_the_connection() {
    let node = Node::start().await;
    let mut socket = node.connect().await;
    for (frame, field) in [
        (json!({ "op": "shout", "topic": "t" }), "op"),
        (json!({ "op": "publish", "topic": "t", "messages": [] }), "messages"),
        (json!({ "op": "publish", "topic": "-", "messages": [{ "body": "a" }] }), "topic"),
        (json!({ "op": "publish", "topic": "t", "messages": [{}] }), "messages[0].body"),
        (keyed_send(" "), "idempotency_key"),
        (keyed_send(&"k".repeat(129)), "idempotency_key"),
        (json!({ "op": "subscribe", "topic": "t", "credit": 1 }), "subscription"),
        (json!({ "op": "subscribe", "queue": "q", "credit": 0 }), "credit"),
        (json!({ "op": "send", "queue": "q", "messages": [{}] }), "messages[0].body"),
        (json!({ "op": "ack", "receipt": "x", "typo": 1 }), "typo"),
        (json!({}), "op"),
    ] {
        let (status, problem) = socket.ask(frame.clone()).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!(field)), "{frame}");
    }
    assert_eq!(
        socket.ask(json!({ "op": "ack", "receipt": "x" })).await.1["code"],
        "receipt-invalid"
    );
    socket.raw(&json!({ "op": "ack", "receipt": "x" })).await;
    let answer = socket.frame().await.unwrap();
    assert_eq!((&answer["status"], &answer["ref"]), (&json!(422), &Value::Null));
    let missing = json!({ "op": "subscribe", "queue": "missing", "credit": 1 });
    assert_eq!(socket.ask(missing).await.1["code"], "queue-not-found");
    socket.socket.send(Message::text("{")).await.unwrap();
    assert_eq!(socket.frame().await.unwrap()["body"]["code"], "malformed");
    let _ = socket.socket.send(Message::text("x".repeat(1_048_577))).await;
    assert_eq!(socket.closed().await, 1009);
}

#[tokio::test]
async fn a_websocket_does_no_more_than_the_scopes_of_its_key() {
    let mut node = Node::start().await;
    node.send(1).await;
    let key = json!({ "name": "k", "scopes": ["receive"] });
    let (status, key) = node.post("api-keys", &key).await;
    assert_eq!(status, 201, "{key}");
    let owner = std::mem::replace(&mut node.token, key["secret"].as_str().unwrap().to_owned());
    let mut greeted = node.open(&[]).await.unwrap();
    assert_eq!(greeted.ask(json!({ "op": "hello", "token": node.token })).await.0, 204);
    let put = node.client.put(node.url("topics/news")).bearer_auth(&owner).json(&json!({}));
    assert_eq!(put.send().await.unwrap().status(), 201);
    let publish = json!({ "op": "publish", "topic": "news", "messages": [{ "body": "a" }] });
    assert_eq!(greeted.ask(publish).await.1["code"], "forbidden");
    for mut socket in [node.connect().await, greeted] {
        let send = json!({ "op": "send", "queue": "q", "messages": [{ "body": "x" }] });
        let (status, problem) = socket.ask(send).await;
        assert_eq!((status, &problem["code"]), (403, &json!("forbidden")));
        let read = json!({ "op": "subscribe", "topic": "t", "subscription": "s", "credit": 1 });
        let (status, problem) = socket.ask(read).await;
        assert_eq!((status, &problem["code"]), (404, &json!("topic-not-found")));
        socket.subscribe(1).await;
        let message = socket.message().await;
        let release = json!({ "op": "release", "receipt": message["receipt"] });
        assert_eq!(socket.ask(release).await.0, 204);
    }
}

#[tokio::test]
async fn how_a_websocket_ends_decides_on_failures() {
    let node = Node::start().await;
    node.send(1).await;
    let mut socket = node.connect().await;
    socket.subscribe(1).await;
    socket.message().await;
    let well = CloseFrame { code: 1000.into(), reason: "".into() };
    socket.socket.close(Some(well)).await.unwrap();
    socket.closed().await;
    let message = node.receive().await;
    assert_eq!((&message["failure_count"], &message["receive_count"]), (&json!(0), &json!(2)));
    let receipt = message["receipt"].as_str().unwrap();
    let release = format!("queues/q/leases/{receipt}/releases");
    assert_eq!(node.post(&release, &json!({})).await.0, 204);
    let mut socket = node.connect().await;
    socket.subscribe(1).await;
    socket.message().await;
    // Cut, without a word.
    drop(socket);
    assert_eq!(node.receive().await["failure_count"], 1);
}

#[tokio::test]
async fn a_websocket_needs_credentials_and_a_fit_origin() {
    let mut node = Node::start().await;
    let mut socket = node.open(&[]).await.unwrap();
    assert_eq!(socket.ask(json!({ "op": "hello", "token": node.token })).await.0, 204);
    let again = socket.ask(json!({ "op": "hello", "token": node.token })).await;
    assert_eq!(again.1["errors"][0]["field"], "op");
    let mut stranger = node.open(&[]).await.unwrap();
    assert_eq!(stranger.ask(json!({ "op": "hello", "token": "tts_wrong" })).await.0, 401);
    assert_eq!(stranger.closed().await, 4401);
    let mut silent = node.open(&[]).await.unwrap();
    assert_eq!(silent.closed().await, 4401);
    let status = |opened: Result<Socket, Error>| match opened {
        Err(Error::Http(answer)) => answer.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => 101,
    };
    let wrong = ("authorization", "Bearer tts_wrong".to_owned());
    assert_eq!(status(node.open(&[wrong]).await), 401);
    let foreign = ("origin", "https://elsewhere.example".to_owned());
    assert_eq!(status(node.open(&[foreign]).await), 403);
    let own = ("origin", format!("https://localhost:{}", node.port));
    assert_eq!(status(node.open(&[own]).await), 101);
    assert_eq!(status(node.open(&[("sec-websocket-protocol", "other".into())]).await), 422);
    // The session ends, and with it what it opened.
    let gone = node.client.delete(node.url("sessions/current")).bearer_auth(&node.token);
    assert_eq!(gone.send().await.unwrap().status(), 204);
    assert_eq!(socket.closed().await, 4401);
    node.token = node.log_in().await;
    let mut socket = node.connect().await;
    socket.subscribe(1).await;
    node.process.terminate();
    assert_eq!(socket.frame().await.unwrap(), json!({ "event": "closing" }));
    assert_eq!(socket.closed().await, 1001);
    drop((socket, stranger, silent));
    assert!(node.process.ended());
}
