//! The permanent connection: a WebSocket with the subprotocol `tertulia.v1`.
//!
//! A web page of anywhere can open one, so an `Origin` must be this node's own or one that the
//! settings list, although a page has no credentials of ours unless its script was given them.

use super::Place;
use super::frames::{self, Named, Op, Outcome};
use super::metered::Metered;
use super::operations::perform;
use crate::api::auth::identify;
use crate::api::codes;
use crate::api::httpd::body::{BodiesFull, BodyMemory, Held};
use crate::api::httpd::in_flight::{InFlight, TooManyRequests, Working};
use crate::api::httpd::upgraded::Upgrades;
use crate::api::problem::{Problem, from_error};
use crate::api::scope::Here;
use crate::base::limits;
use crate::broker::consumers::{Handle, Terms};
use crate::broker::refusal::Refusal;
use crate::broker::standing::Standing;
use crate::broker::{Consumer, End, Farewell, ReceivedMessage, Window};
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{SinkExt as _, StreamExt as _};
use poem::http::header::{CONNECTION, HOST, ORIGIN, UPGRADE};
use poem::http::{HeaderMap, StatusCode};
use poem::{OnUpgrade, Request, Response};
use serde_json::Value;
use std::collections::BTreeMap;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

/// The subprotocol.
const PROTOCOL: &str = "tertulia.v1";

/// Answers `GET /v1/connect`.
pub async fn connect(request: Request) -> poem::Result<Response> {
    let here = Here::of(&request);
    let key = check(&request, &here)?;
    // What the scopes of an API key leave out each operation refuses by itself.
    let caller = identify(&request, &here).await?;
    let standing = caller.map(|caller| here.app.broker.standing(caller));
    let place = here.app.places.take("websocket")?;
    let parts =
        (request.data::<Upgrades>(), request.data::<BodyMemory>(), request.data::<InFlight>());
    let (Some(upgrades), Some(memory), Some(slot)) = parts else {
        return Err(not_a_websocket("header.Upgrade").into());
    };
    let upgrade = request.take_upgrade().map_err(|_| not_a_websocket("header.Upgrade"))?;
    let open = Opening { here, upgrade, memory: memory.clone(), slot: slot.clone(), place };
    let tasks = upgrades.clone();
    upgrades.serve(async move { open.serve(standing, tasks).await });
    Ok(Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, "websocket")
        .header("sec-websocket-accept", derive_accept_key(key.as_bytes()))
        .header("sec-websocket-protocol", PROTOCOL)
        .finish())
}

fn not_a_websocket(field: &str) -> Problem {
    Problem::invalid(field, "this is a WebSocket of version 13 over HTTP/1.1", "required")
}

/// Whether a header lists a word.
fn lists(headers: &HeaderMap, name: &str, word: &str) -> bool {
    let texts = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|it| it.trim().eq_ignore_ascii_case(word))
}

/// Checks the handshake, and answers its key.
fn check(request: &Request, here: &Here) -> Result<String, Problem> {
    let headers = request.headers();
    for (name, word) in
        [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13")]
    {
        if !lists(headers, name, word) {
            return Err(not_a_websocket(&format!("header.{name}")));
        }
    }
    if !lists(headers, "sec-websocket-protocol", PROTOCOL) {
        let message = format!("the subprotocol is {PROTOCOL}");
        return Err(Problem::invalid("header.sec-websocket-protocol", message, "required"));
    }
    if let Some(origin) = headers.get(ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let own = origin.split_once("://").map(|(_, host)| host);
        if (own.is_none() || own != host) && !here.app.cors_origins.iter().any(|it| it == origin) {
            let detail = "web pages of this origin may not connect; see http.cors_origins";
            return Err(Problem::new(codes::FORBIDDEN, detail));
        }
    }
    let key = headers.get("sec-websocket-key").and_then(|key| key.to_str().ok());
    key.map(str::to_owned).ok_or_else(|| not_a_websocket("header.sec-websocket-key"))
}

/// A connection that is going over.
struct Opening {
    here: Here,
    upgrade: OnUpgrade,
    memory: BodyMemory,
    slot: InFlight,
    place: Place,
}

impl Opening {
    async fn serve(self, standing: Option<Standing>, tasks: Upgrades) {
        let Ok(Ok(stream)) = timeout(limits::HANDSHAKE_TIME, self.upgrade).await else { return };
        let max = self.here.app.max_body_bytes;
        let config = WebSocketConfig::default()
            .max_message_size(Some(max))
            .max_frame_size(Some(max))
            .read_buffer_size(16 << 10)
            .write_buffer_size(0);
        let stream = Metered::new(stream, self.memory);
        let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        let standing = match standing {
            Some(standing) => Ok(standing),
            None => hello(&mut socket, &self.here).await,
        };
        let standing = match standing {
            Ok(standing) => standing,
            Err(leaving) => return close(&mut socket, leaving).await,
        };
        let connection = Connection {
            here: self.here,
            tasks,
            slot: self.slot,
            socket,
            standing,
            consumers: BTreeMap::new(),
            last_consumer: 0,
            pulls: FuturesUnordered::new(),
            retired: Vec::new(),
            operations: FuturesUnordered::new(),
            heard: Instant::now(),
            _place: self.place,
        };
        connection.run().await;
    }
}

type Socket = WebSocketStream<Metered>;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    /// The client closed it; with 1000, as it should.
    Closed {
        well: bool,
    },
    Broken,
    Silent,
    Stopping,
    /// No credentials, or none any more.
    Unauthenticated,
    TooLarge,
    NotText,
    Full,
}

/// The first frame of a client without credentials.
async fn hello(socket: &mut Socket, here: &Here) -> Result<Standing, Leaving> {
    let broker = &here.app.broker;
    let first = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Err(Leaving::Closed { well: false }),
                Some(Ok(_)) => return Err(Leaving::NotText),
                Some(Err(error)) => return Err(why(&error)),
            }
        }
    };
    let text = tokio::select! {
        text = timeout(limits::HELLO_TIME, first) => text.map_err(|_| Leaving::Unauthenticated)??,
        () = broker.stopping() => return Err(Leaving::Stopping),
    };
    let (reference, op) = frames::read(&text);
    drop(socket.get_mut().take());
    let caller = match op {
        Ok(Op::Hello(hello)) => {
            broker.authenticate_bearer(hello.token.as_str(), here.origin()).map_err(Problem::from)
        }
        Ok(_) => Err(crate::api::problem::no_credentials()),
        Err(problem) => Err(problem),
    };
    let standing = caller.map(|caller| broker.standing(caller));
    let outcome = standing.as_ref().map(|_| Outcome::Done).map_err(|p| signed(p.clone(), here));
    let answer = frames::answer(reference.as_ref(), &outcome);
    let sent = socket.send(Message::text(answer)).await;
    sent.map_err(|_| Leaving::Broken)?;
    standing.map_err(|_| Leaving::Unauthenticated)
}

fn signed(mut problem: Problem, here: &Here) -> Problem {
    problem.request_id.clone_from(&here.request_id);
    problem.node.clone_from(&here.app.node);
    problem
}

/// What an error of the socket means.
fn why(error: &tungstenite::Error) -> Leaving {
    match error {
        tungstenite::Error::Capacity(_) => Leaving::TooLarge,
        tungstenite::Error::Utf8(_) => Leaving::NotText,
        tungstenite::Error::Io(e) if e.get_ref().is_some_and(|e| e.is::<BodiesFull>()) => {
            Leaving::Full
        }
        _ => Leaving::Broken,
    }
}

/// Time for the last words.
const CLOSE_TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// Says why it ends, and waits a little for the client to hear it.
async fn close(socket: &mut Socket, leaving: Leaving) {
    let words = match leaving {
        // The answer to the client's own words is on its way.
        Leaving::Closed { .. } | Leaving::Broken => None,
        Leaving::Silent => Some((1008, "silent for too long")),
        Leaving::Stopping => Some((1001, "the node stops")),
        Leaving::Unauthenticated => Some((4401, "no valid credentials")),
        Leaving::TooLarge => Some((1009, "the frame is too large")),
        Leaving::NotText => Some((1003, "frames are JSON texts")),
        Leaving::Full => Some((1013, "the node holds as many bodies as it can")),
    };
    let last_words = async {
        if leaving == Leaving::Stopping {
            let _ = socket.send(Message::text(frames::CLOSING)).await;
        }
        if let Some((code, reason)) = words {
            let frame = CloseFrame { code: code.into(), reason: reason.into() };
            let _ = socket.close(Some(frame)).await;
        }
        while let Some(Ok(_)) = socket.next().await {
            drop(socket.get_mut().take());
        }
        let _ = socket.get_mut().shutdown().await;
    };
    let _ = timeout(CLOSE_TIME, last_words).await;
}

type Pulled = (u32, Consumer, Result<ReceivedMessage, End>);

/// An open connection.
struct Connection {
    here: Here,
    tasks: Upgrades,
    slot: InFlight,
    socket: Socket,
    standing: Standing,
    consumers: BTreeMap<u32, Handle>,
    last_consumer: u32,
    /// The consumers that wait for a message.
    pulls: FuturesUnordered<BoxFuture<'static, Pulled>>,
    /// Those to which nothing more comes, with what they left unsettled.
    retired: Vec<Consumer>,
    /// The answers to come.
    operations: FuturesUnordered<BoxFuture<'static, String>>,
    /// When the client last gave a sign of life.
    heard: Instant,
    _place: Place,
}

fn pull(name: u32, mut consumer: Consumer) -> BoxFuture<'static, Pulled> {
    Box::pin(async move {
        let pulled = consumer.next().await;
        (name, consumer, pulled)
    })
}

impl Connection {
    async fn run(mut self) {
        let leaving = match self.talk().await {
            Ok(never) => match never {},
            Err(leaving) => leaving,
        };
        let farewell = match leaving {
            Leaving::Closed { well: true } => Farewell::HandedBack,
            _ => Farewell::Failed,
        };
        // Those that wait are reached by their handles.
        let mut consumers = std::mem::take(&mut self.retired);
        for handle in self.consumers.values() {
            handle.cancel();
        }
        while let Some((_, consumer, pulled)) = self.pulls.next().await {
            if let Ok(message) = pulled {
                consumer.take_back(&message);
            }
            consumers.push(consumer);
        }
        let released = join_all(consumers.into_iter().map(|consumer| consumer.end(farewell)));
        tokio::join!(released, close(&mut self.socket, leaving));
    }

    /// Reads, pushes and answers until it ends.
    async fn talk(&mut self) -> Result<std::convert::Infallible, Leaving> {
        let broker = self.here.app.broker.clone();
        let mut ticks = tokio::time::interval(limits::CONSUMER_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pinged = Instant::now();
        loop {
            let has_room = self.operations.len() < limits::CONNECTION_OPERATIONS_MAX;
            tokio::select! {
                () = broker.stopping() => return Err(Leaving::Stopping),
                _ = ticks.tick() => {
                    self.tidy()?;
                    if pinged.elapsed() >= limits::PING_PERIOD {
                        pinged = Instant::now();
                        self.write(Message::Ping(bytes::Bytes::new())).await?;
                    }
                }
                Some(answer) = self.operations.next() => self.write(Message::text(answer)).await?,
                Some(pulled) = self.pulls.next() => self.pushed(pulled).await?,
                read = self.socket.next(), if has_room => self.hear(read).await?,
            }
        }
    }

    /// What has to be looked at now and then.
    fn tidy(&mut self) -> Result<(), Leaving> {
        if !self.here.app.broker.stands(&self.standing) {
            return Err(Leaving::Unauthenticated);
        }
        if self.heard.elapsed() >= limits::SILENCE_TIME {
            return Err(Leaving::Silent);
        }
        self.retired.retain(|consumer| consumer.handle().unsettled() > 0);
        Ok(())
    }

    /// Writes one message: while the client takes none, none is made.
    async fn write(&mut self, message: Message) -> Result<(), Leaving> {
        let sent = timeout(limits::BODY_TIME, self.socket.send(message)).await;
        sent.map_err(|_| Leaving::Silent)?.map_err(|_| Leaving::Broken)
    }

    async fn pushed(&mut self, (name, consumer, pulled): Pulled) -> Result<(), Leaving> {
        let text = match pulled {
            Ok(message) => {
                self.pulls.push(pull(name, consumer));
                frames::message(&format!("c{name}"), &message.into())
            }
            Err(end) => {
                self.consumers.remove(&name);
                self.retired.push(consumer);
                match end {
                    End::Stopping => return Err(Leaving::Stopping),
                    End::Cancelled => return Ok(()),
                    End::Refused(Refusal::Unauthenticated) => return Err(Leaving::Unauthenticated),
                    End::Refused(refusal) => {
                        frames::ended(&format!("c{name}"), &signed(refusal.into(), &self.here))
                    }
                }
            }
        };
        self.write(Message::text(text)).await
    }

    async fn hear(
        &mut self,
        read: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<(), Leaving> {
        self.heard = Instant::now();
        let held = self.socket.get_mut().take();
        match read {
            None => Err(Leaving::Closed { well: false }),
            Some(Err(error)) => Err(why(&error)),
            Some(Ok(Message::Close(frame))) => {
                let well = frame.is_some_and(|frame| u16::from(frame.code) == 1000);
                Err(Leaving::Closed { well })
            }
            Some(Ok(Message::Text(text))) => {
                if !self.here.app.broker.stands(&self.standing) {
                    return Err(Leaving::Unauthenticated);
                }
                self.operate(&text, held).await
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
            Some(Ok(_)) => Err(Leaving::NotText),
        }
    }

    async fn operate(&mut self, text: &str, held: Held) -> Result<(), Leaving> {
        let (reference, op) = frames::read(text);
        let outcome = match op {
            Ok(Op::Subscribe(wanted)) => self.subscribe(wanted),
            Ok(Op::Credit(more)) => self.credit(&more.consumer, more.credit),
            Ok(Op::Unsubscribe(it)) => self.consumer(&it.consumer).map(|handle| {
                handle.cancel();
                Outcome::Done
            }),
            Ok(Op::Hello(_)) => {
                Err(Problem::invalid("op", "this connection is authenticated", "repeated"))
            }
            Ok(op) => match self.slot.another() {
                Ok(slot) => {
                    self.begin(reference, op, (held, slot));
                    return Ok(());
                }
                Err(full @ TooManyRequests) => Err(from_error(&full.into())),
            },
            Err(problem) => Err(problem),
        };
        let outcome = outcome.map_err(|problem| signed(problem, &self.here));
        self.write(Message::text(frames::answer(reference.as_ref(), &outcome))).await
    }

    /// Begins what asks the broker's replicas: it runs to its end, also without the connection.
    fn begin(&mut self, reference: Option<Value>, op: Op, hold: (Held, Working)) {
        let (broker, standing) = (self.here.app.broker.clone(), self.standing.clone());
        let (done, result) = oneshot::channel();
        self.tasks.run(async move {
            let outcome = perform(&broker, &standing, op).await;
            let _ = done.send(outcome);
            drop(hold);
        });
        let here = self.here.clone();
        self.operations.push(Box::pin(async move {
            let outcome = match timeout(limits::OPERATION_TIME, result).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err(frames::internal()),
                Err(_) => Err(frames::too_late()),
            };
            let outcome = outcome.map_err(|problem| signed(problem, &here));
            frames::answer(reference.as_ref(), &outcome)
        }));
    }

    fn subscribe(&mut self, wanted: frames::Subscribe) -> Result<Outcome, Problem> {
        let limit = limits::CONSUMERS_PER_CONNECTION_MAX;
        if self.pulls.len() + self.retired.len() >= limit {
            return Err(Refusal::Quota { what: "consumers of one connection", limit }.into());
        }
        let source = wanted.source().ok_or_else(frames::internal)?;
        let terms = Terms {
            source,
            lease_seconds: wanted.lease_seconds,
            window: Window::Credit(usize::try_from(wanted.credit).unwrap_or(0)),
        };
        let consumer = self.here.app.broker.consume(self.standing.clone(), terms)?;
        self.last_consumer += 1;
        let name = self.last_consumer;
        self.consumers.insert(name, consumer.handle());
        self.pulls.push(pull(name, consumer));
        Ok(Outcome::Consumer(Named { consumer: format!("c{name}") }))
    }

    fn consumer(&self, name: &str) -> Result<&Handle, Problem> {
        let number = name.strip_prefix('c').and_then(|number| number.parse().ok());
        let found = number.and_then(|number: u32| self.consumers.get(&number));
        found.ok_or_else(frames::no_consumer)
    }

    fn credit(&self, consumer: &str, credit: i32) -> Result<Outcome, Problem> {
        self.consumer(consumer)?.add_credit(usize::try_from(credit).unwrap_or(0))?;
        Ok(Outcome::Done)
    }
}
