//! What a run needs on the broker and takes away again: a user, a session, a queue.

use super::exchange::{PAUSE, Problem, REQUEST_TIME};
use super::http::{Answer, Authorization, ClientError, Connection, Failure};
use super::plan::Credentials;
use crate::base::names::QueueName;
use crate::base::rng::Rng;
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;
use zeroize::Zeroizing;

/// Pauses between tries when the broker says "later".
const TRIES_MAX: u32 = 5;
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// There is no client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A token that fits no header.
    #[error("the token has characters that no token has")]
    Token,
    /// The broker was not reached.
    #[error("{what}: no answer ({}); is the broker up, and does --ca belong to it?", .failure.word())]
    Unreachable {
        /// What was tried.
        what: &'static str,
        /// How it ended.
        failure: Failure,
    },
    /// The broker said no.
    #[error("{what}: {status} {code}: {detail}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// The HTTP status.
        status: u16,
        /// The problem's code.
        code: String,
        /// The problem in words.
        detail: String,
    },
}

/// What was made for the run.
pub(super) struct Guest {
    connection: Connection,
    pub authorization: Authorization,
    pub queue: QueueName,
    made_queue: bool,
    made_session: bool,
    made_user: Option<String>,
    /// What the person who started the run should know.
    pub remarks: Vec<String>,
}

/// Makes a request, a few times if the broker says "later".
async fn ask(
    connection: &mut Connection,
    what: &'static str,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<Answer, BenchError> {
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let mut tries = 0;
    loop {
        tries += 1;
        let reply = connection.call(method.clone(), path, body.clone(), REQUEST_TIME).await;
        let answer = reply.map_err(|failure| BenchError::Unreachable { what, failure })?;
        if tries == TRIES_MAX || !matches!(answer.status, 429 | 503) {
            return Ok(answer);
        }
        let asked = answer.retry_after_seconds.map_or(PAUSE, Duration::from_secs);
        tokio::time::sleep(asked.clamp(PAUSE, PAUSE_MAX)).await;
    }
}

fn refused(what: &'static str, answer: &Answer) -> BenchError {
    let problem = Problem::of(answer);
    let (code, detail) = (problem.code.into_owned(), problem.detail.into_owned());
    BenchError::Refused { what, status: answer.status, code, detail }
}

fn expect(what: &'static str, answer: Answer, status: u16) -> Result<Value, BenchError> {
    if answer.status != status {
        return Err(refused(what, &answer));
    }
    Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
}

impl Guest {
    /// Logs in (registers first, if told to) and sees to the queue. What was made is taken away
    /// again if a later step fails.
    ///
    /// # Errors
    /// [`BenchError`] of the step that failed.
    pub async fn arrive(
        connection: Connection,
        credentials: &Credentials,
        queue: Option<&QueueName>,
        run: &str,
        rng: &dyn Rng,
    ) -> Result<Self, BenchError> {
        let fresh = format!("bench-{run}");
        let queue = match queue {
            Some(queue) => queue.clone(),
            None => QueueName::parse(&fresh).expect("a word and a run's name are a name"),
        };
        let nobody = Authorization::bearer("").ok_or(BenchError::Token)?;
        let mut guest = Self {
            connection,
            authorization: nobody,
            queue,
            made_queue: false,
            made_session: false,
            made_user: None,
            remarks: Vec::new(),
        };
        let mut settled = guest.log_in(credentials, &fresh, rng).await;
        if settled.is_ok() {
            settled = guest.find_queue().await;
        }
        match settled {
            Ok(()) => Ok(guest),
            Err(error) => {
                guest.leave().await;
                Err(error)
            }
        }
    }

    async fn log_in(
        &mut self,
        credentials: &Credentials,
        fresh: &str,
        rng: &dyn Rng,
    ) -> Result<(), BenchError> {
        match credentials {
            Credentials::Token(token) => {
                self.authorize(token)?;
                Ok(())
            }
            Credentials::Password { username, password } => {
                self.open_session(username, password).await
            }
            Credentials::Register => {
                let random = rng.bytes::<16>();
                let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
                let password = Zeroizing::new(password);
                self.register(fresh, &password).await?;
                self.open_session(fresh, &password).await
            }
        }
    }

    fn authorize(&mut self, token: &str) -> Result<(), BenchError> {
        self.authorization = Authorization::bearer(token).ok_or(BenchError::Token)?;
        self.connection.authorize(&self.authorization);
        Ok(())
    }

    async fn register(&mut self, username: &str, password: &str) -> Result<(), BenchError> {
        let what = "registering a user for the run (or give --username or --token-file)";
        let body = json!({ "username": username, "password": password });
        let answer = ask(&mut self.connection, what, Method::POST, "/v1/users", &body).await?;
        let user = expect(what, answer, 201)?;
        self.made_user = Some(username.to_owned());
        let roles = user["roles"].as_array();
        if roles.is_some_and(|roles| roles.iter().any(|role| role == "admin")) {
            // The last administrator stays: whoever runs the bench must be able to log in as it.
            self.made_user = None;
            self.remarks.push(format!(
                "this broker had no user, so {username} is its administrator now and stays; \
                 its password is {password}"
            ));
        }
        Ok(())
    }

    async fn open_session(&mut self, username: &str, password: &str) -> Result<(), BenchError> {
        let what = "logging in";
        let body = json!({ "username": username, "password": password });
        let answer = ask(&mut self.connection, what, Method::POST, "/v1/sessions", &body).await?;
        let session = expect(what, answer, 201)?;
        self.made_session = true;
        self.authorize(session["token"].as_str().unwrap_or_default())
    }

    async fn find_queue(&mut self) -> Result<(), BenchError> {
        let path = format!("/v1/queues/{}", self.queue.as_str());
        let what = "making the queue";
        let answer = ask(&mut self.connection, what, Method::PUT, &path, &json!({})).await?;
        match answer.status {
            201 => self.made_queue = true,
            200 => {}
            409 => {
                // Somebody else's: enough if he shared it.
                let shared =
                    ask(&mut self.connection, what, Method::GET, &path, &Value::Null).await?;
                expect(what, shared, 200)?;
            }
            _ => return Err(refused(what, &answer)),
        }
        Ok(())
    }

    /// Takes away what was made; what stays is a remark.
    pub async fn leave(&mut self) {
        if self.made_queue {
            let path = format!("/v1/queues/{}", self.queue.as_str());
            self.delete("deleting the queue", &path).await;
        }
        if let Some(username) = self.made_user.take() {
            // The session goes with it.
            self.delete("deleting the user", &format!("/v1/users/{username}")).await;
        } else if self.made_session {
            self.delete("ending the session", "/v1/sessions/current").await;
        }
    }

    async fn delete(&mut self, what: &'static str, path: &str) {
        let reply = ask(&mut self.connection, what, Method::DELETE, path, &Value::Null).await;
        match reply {
            // 404: somebody deleted it meanwhile.
            Ok(answer) if matches!(answer.status, 204 | 404) => {}
            Ok(answer) => self.remarks.push(refused(what, &answer).to_string()),
            Err(error) => self.remarks.push(error.to_string()),
        }
    }
}
