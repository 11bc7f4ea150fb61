#![allow(clippy::unwrap_used)]
use super::*;
use crate::api::{Api, Readiness, endpoint as whole};
use crate::base::clock::SystemClock;
use crate::base::ids::NodeId;
use crate::base::limits;
use crate::base::rng::SystemRng;
use poem::endpoint::BoxEndpoint;
use poem::http::{Method, Uri};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch;

const PASSWORD: &str = "correct-horse";

/// A node's API and somebody who uses it.
struct Client {
    api: Arc<BoxEndpoint<'static>>,
    credentials: Option<(&'static str, String)>,
}

impl Client {
    fn stranger() -> Self {
        let api = Api {
            broker: crate::broker::testing::broker(),
            node: NodeId(7),
            ready: watch::channel(Readiness::Ready).1,
            metrics: Arc::new(String::new),
            rng: Arc::new(SystemRng),
            clock: Arc::new(SystemClock),
            max_body_bytes: limits::BODY_BYTES_MAX,
            cors_origins: Vec::new(),
        };
        Self { api: Arc::new(whole(api)), credentials: None }
    }

    /// Another user of the same node.
    async fn user(&self, name: &str) -> Self {
        let nobody = Self { api: self.api.clone(), credentials: None };
        let (status, body) =
            nobody.post(&format!("/registerUser?username={name}&password={PASSWORD}")).await;
        assert_eq!(status, 201, "{body}");
        let token = body["token"].as_str().unwrap();
        Self { credentials: Some(("authorization", format!("Bearer {token}"))), ..nobody }
    }

    fn request(&self, method: Method, path: &str) -> poem::RequestBuilder {
        let request = Request::builder().method(method).uri(path.parse::<Uri>().unwrap());
        match &self.credentials {
            Some((header, value)) => request.header(*header, value),
            None => request,
        }
    }

    async fn answer(&self, request: Request) -> (u16, Response) {
        let response = self.api.call(request).await.unwrap();
        (response.status().as_u16(), response)
    }

    async fn ask(&self, request: Request) -> (u16, Value) {
        let (status, mut response) = self.answer(request).await;
        assert_eq!(response.header("content-type").unwrap(), "application/json");
        let body = response.take_body().into_string().await.unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(!body["message"].as_str().unwrap().is_empty(), "{body}");
        (status, body)
    }

    async fn post(&self, path: &str) -> (u16, Value) {
        self.ask(self.request(Method::POST, path).finish()).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(self.request(Method::GET, path).finish()).await
    }

    async fn delete(&self, path: &str) -> (u16, Value) {
        self.ask(self.request(Method::DELETE, path).finish()).await
    }
}

#[tokio::test]
async fn an_old_client_goes_through_everything() {
    let node = Client::stranger();
    let (alice, bob) = (node.user("alice").await, node.user("bob").await);
    for path in ["/createQueue?nameQueue=orders", "/createTopic?nameTopic=news"] {
        assert_eq!(alice.post(path).await.0, 200, "{path}");
    }
    assert_eq!(bob.post("/createQueue?nameQueue=parcels").await.0, 200);
    assert_eq!(alice.post("/subscribeToTopic?nameTopic=news&nameQueue=orders").await.0, 200);
    assert_eq!(bob.post("/vinculateQueue?nameExchange=sales&nameQueue=parcels").await.0, 200);

    let (status, sent) = alice.post("/publishMessage?nameTopic=news&message=good%20news").await;
    assert_eq!((status, &sent["delivered_to"]), (200, &1.into()));
    let (status, sent) = alice.post("/sendMessage?nameExchange=sales&message=for%20bob").await;
    assert_eq!((status, &sent["delivered_to"]), (200, &1.into()));

    let (_, queues) = alice.get("/getQueues").await;
    assert_eq!(queues["message"], "orders");
    assert_eq!(queues["queues"][0]["associated"], "news");
    assert_eq!(queues["queues"][0]["type"], "topic");
    assert_eq!(queues["queues"][0]["messages"], 1);
    let (_, queues) = bob.get("/getQueues").await;
    assert_eq!(queues["queues"][0]["associated"], "sales");
    assert_eq!(queues["queues"][0]["type"], "direct");
    let (_, topics) = alice.get("/getTopics").await;
    assert_eq!(topics["topics"][0]["nameTopic"], "news");
    assert_eq!(topics["topics"][0]["subscribers"][0], "orders");
    assert_eq!(bob.get("/getTopics").await.1["topics"].as_array().unwrap().len(), 0);

    let (status, got) = bob.get("/consumeMessage?nameQueue=parcels").await;
    assert_eq!((status, &got["message"]), (200, &"for bob".into()));
    assert_eq!((&got["sender"], &got["empty"]), (&"alice".into(), &false.into()));
    let (status, none) = bob.get("/consumeMessage?nameQueue=parcels").await;
    assert_eq!((status, &none["empty"]), (200, &true.into()));

    assert_eq!(alice.delete("/deleteQueue?nameQueue=orders").await.0, 200);
    let (_, topics) = alice.get("/getTopics").await;
    assert_eq!(topics["topics"][0]["subscribers"].as_array().unwrap().len(), 0, "it went with it");
    assert_eq!(alice.delete("/deleteTopic?nameTopic=news").await.0, 200);
    // A queue of the same name starts anew, and may be bound again.
    assert_eq!(alice.post("/createQueue?nameQueue=orders").await.0, 200);
    assert_eq!(alice.post("/vinculateQueue?nameExchange=sales&nameQueue=orders").await.0, 200);
    let (_, sent) = bob.post("/sendMessage?nameExchange=sales&message=both").await;
    assert_eq!(sent["delivered_to"], 2);
    assert_eq!(alice.post("/logoutUser").await.0, 200);
    assert_eq!(alice.get("/getQueues").await.0, 401);
    assert_eq!(alice.post("/logoutUser").await.0, 200, "also without a session");
}

#[tokio::test]
async fn what_is_refused_has_the_status_of_the_table() {
    let node = Client::stranger();
    let (alice, bob) = (node.user("alice").await, node.user("bob").await);
    alice.post("/createQueue?nameQueue=orders").await;
    alice.post("/createTopic?nameTopic=news").await;
    let refused = |who: &'static str, method: &'static str, path: &'static str, status: u16| {
        (who, method, path, status)
    };
    let rows = [
        refused("nobody", "POST", "/registerUser?username=carol", 400),
        refused("nobody", "POST", "/registerUser?username=carol&password=short", 400),
        refused("nobody", "POST", "/registerUser?username=a%20b&password=correct-horse", 400),
        refused("nobody", "POST", "/registerUser?username=alice&password=correct-horse", 409),
        refused("nobody", "POST", "/loginUser?username=alice", 400),
        refused("nobody", "POST", "/loginUser?username=alice&password=wrong-horse", 401),
        refused("nobody", "POST", "/createQueue", 401),
        refused("alice", "POST", "/createQueue", 400),
        refused("alice", "POST", "/createQueue?nameQueue=a%20b", 400),
        refused("alice", "POST", "/createQueue?nameQueue=orders", 400),
        refused("bob", "POST", "/createQueue?nameQueue=orders", 400),
        refused("bob", "POST", "/createTopic", 400),
        refused("bob", "POST", "/createTopic?nameTopic=news", 403),
        refused("alice", "POST", "/subscribeToTopic?nameTopic=news", 400),
        refused("alice", "POST", "/subscribeToTopic?nameTopic=none&nameQueue=orders", 400),
        refused("alice", "POST", "/subscribeToTopic?nameTopic=news&nameQueue=none", 400),
        refused("bob", "POST", "/subscribeToTopic?nameTopic=news&nameQueue=orders", 403),
        refused("bob", "POST", "/vinculateQueue?nameExchange=e&nameQueue=orders", 400),
        refused("alice", "POST", "/publishMessage?nameTopic=news", 400),
        refused("alice", "POST", "/publishMessage?nameTopic=none&message=x", 400),
        refused("bob", "POST", "/publishMessage?nameTopic=news&message=x", 403),
        refused("bob", "POST", "/sendMessage?nameExchange=none&message=x", 400),
        refused("bob", "GET", "/consumeMessage", 400),
        refused("bob", "GET", "/consumeMessage?nameQueue=orders", 403),
        refused("bob", "GET", "/consumeMessage?nameQueue=none", 403),
        refused("bob", "DELETE", "/deleteQueue?nameQueue=orders", 403),
        refused("bob", "DELETE", "/deleteQueue?nameQueue=none", 403),
        refused("bob", "DELETE", "/deleteTopic?nameTopic=news", 403),
        refused("alice", "DELETE", "/deleteTopic", 400),
        refused("alice", "GET", "/createQueue?nameQueue=x", 405),
    ];
    for (who, method, path, wanted) in rows {
        let client = match who {
            "alice" => &alice,
            "bob" => &bob,
            _ => &node,
        };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let (status, body) = client.ask(client.request(method, path).finish()).await;
        assert_eq!(status, wanted, "{who} {path}: {body}");
    }
    // One association at a time.
    alice.post("/subscribeToTopic?nameTopic=news&nameQueue=orders").await;
    for path in [
        "/subscribeToTopic?nameTopic=news&nameQueue=orders",
        "/vinculateQueue?nameExchange=e&nameQueue=orders",
    ] {
        assert_eq!(alice.post(path).await.0, 409, "{path}");
    }
    // Nobody wants it: that is no mistake on a topic.
    alice.delete("/deleteQueue?nameQueue=orders").await;
    let (status, sent) = alice.post("/publishMessage?nameTopic=news&message=x").await;
    assert_eq!((status, &sent["delivered_to"]), (200, &0.into()));
}

#[tokio::test]
async fn parameters_come_in_three_ways_and_sessions_in_three() {
    let node = Client::stranger();
    node.user("alice").await;
    let login = |content_type: &str, body: &str| {
        let request = node.request(Method::POST, "/loginUser");
        request.content_type(content_type).body(body.to_owned())
    };
    let form = login("application/x-www-form-urlencoded", "username=alice&password=correct-horse");
    assert_eq!(node.ask(form).await.0, 200);
    let json = login("application/json", r#"{"username":"alice","password":"correct-horse"}"#);
    let (status, response) = node.answer(json).await;
    assert_eq!(status, 200);
    let cookie = response.header("set-cookie").unwrap().to_owned();
    for part in ["Secure", "HttpOnly", "SameSite=Strict", "Max-Age=43200", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    for (content_type, body, wanted) in [
        ("application/json", r#"{"username":1}"#, 400),
        ("application/json", "{", 400),
        ("text/xml", "<a/>", 415),
    ] {
        assert_eq!(node.ask(login(content_type, body)).await.0, wanted, "{body}");
    }
    let two = node.request(Method::POST, "/loginUser?username=bob");
    let two = two.content_type("application/json");
    let two = two.body(r#"{"username":"alice","password":"correct-horse"}"#);
    assert_eq!(node.ask(two).await.0, 400, "two names");

    let pair = cookie.split(';').next().unwrap().to_owned();
    let browser = Client { api: node.api.clone(), credentials: Some(("cookie", pair)) };
    assert_eq!(browser.get("/getQueues").await.0, 200);
    // The main API ignores cookies.
    let main = browser.answer(browser.request(Method::GET, "/v1/queues").finish()).await;
    assert_eq!(main.0, 401);
    let basic = "Basic YWxpY2U6Y29ycmVjdC1ob3JzZQ==".to_owned();
    let plain = Client { api: node.api.clone(), credentials: Some(("authorization", basic)) };
    let request = plain.request(Method::GET, "/getQueues").header("accept", "text/plain");
    let (status, mut response) = plain.answer(request.finish()).await;
    assert_eq!(
        (status, response.header("content-type").unwrap()),
        (200, "text/plain; charset=utf-8")
    );
    assert_eq!(response.take_body().into_string().await.unwrap(), "No tiene colas.");
    let (status, response) =
        browser.answer(browser.request(Method::POST, "/logoutUser").finish()).await;
    assert_eq!(status, 200);
    assert!(response.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(browser.get("/getQueues").await.0, 401);
}

#[test]
fn the_document_has_every_route_once() {
    let document: Value = serde_json::from_str(&json()).unwrap();
    for row in ROWS {
        let operation = &document["paths"][row.path][row.method.to_lowercase()];
        assert_eq!(operation["operationId"], row.name);
        assert!(operation["responses"][row.success.0.to_string()].is_object(), "{}", row.name);
    }
    assert_eq!(document["paths"].as_object().unwrap().len(), ROWS.len());
    // A page would put it into a URL.
    let login = &document["paths"]["/loginUser"]["post"];
    assert!(login["parameters"].as_array().unwrap().iter().all(|p| p.get("example").is_none()));
}
