//! Answers: a sentence, and what belongs to it.

use super::MomCall;
use crate::api::problem::{self, Problem};
use crate::broker::refusal::Refusal;
use poem::http::StatusCode;
use poem::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, SET_COOKIE};
use poem::{IntoResponse as _, Response};
use serde_json::{Map, Value};

/// A success.
pub struct Said {
    status: StatusCode,
    fields: Map<String, Value>,
    cookie: Option<HeaderValue>,
}

impl Said {
    /// A sentence alone.
    pub fn new(message: impl Into<String>) -> Self {
        let fields = [("message".to_owned(), Value::String(message.into()))];
        Self { status: StatusCode::OK, fields: fields.into_iter().collect(), cookie: None }
    }

    /// With another field.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// With a cookie that is set.
    pub fn cookie(self, cookie: HeaderValue) -> Self {
        Self { cookie: Some(cookie), ..self }
    }

    /// As 201.
    pub fn created(self) -> Self {
        Self { status: StatusCode::CREATED, ..self }
    }

    /// The same as an answer.
    pub fn respond(self, is_plain: bool) -> Response {
        let mut response = written(self.status, self.fields, is_plain);
        if let Some(cookie) = self.cookie {
            response.headers_mut().insert(SET_COOKIE, cookie);
        }
        response
    }
}

fn written(status: StatusCode, fields: Map<String, Value>, is_plain: bool) -> Response {
    let (content_type, text) = if is_plain {
        let message = fields.get("message").and_then(Value::as_str).unwrap_or_default();
        ("text/plain; charset=utf-8", message.to_owned())
    } else {
        ("application/json", Value::Object(fields).to_string())
    };
    Response::builder().status(status).content_type(content_type).body(text)
}

/// A refusal.
#[derive(Debug)]
pub struct Refused {
    status: u16,
    message: String,
    retry_after: Option<i32>,
}

impl Refused {
    /// This status, with a sentence.
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None }
    }

    /// The status it is answered with.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// What the framework refused.
    pub fn of_error(error: &poem::Error) -> Self {
        problem::from_error(error).into()
    }

    /// The same as an answer.
    pub fn respond(self, is_plain: bool) -> Response {
        let status = StatusCode::from_u16(self.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Said { status, ..Said::new(self.message) }.respond(is_plain);
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Problem::from(refusal).into()
    }
}

impl From<Problem> for Refused {
    /// Statuses are the problem's, but what is wrong with a parameter is 400 here.
    fn from(problem: Problem) -> Self {
        let status = u16::try_from(problem.status).unwrap_or(500);
        let field = problem.errors.as_ref().and_then(|errors| errors.first());
        let message = match (problem.code.as_str(), field) {
            ("validation", Some(field)) => {
                let name = field.field.rsplit(['.', '/']).next().unwrap_or_default();
                format!("Un valor no sirve ({name}): {}.", field.message)
            }
            (code, _) => sentence(code).to_owned(),
        };
        let status = if status == 422 { 400 } else { status };
        Self { status, message, retry_after: problem.retry_after_seconds }
    }
}

/// A problem's code in words.
fn sentence(code: &str) -> &'static str {
    match code {
        "unauthenticated" => "Inicie sesión primero: no hay una sesión abierta.",
        "bad-credentials" => "El usuario o la contraseña no son correctos.",
        "forbidden" => "No tiene permiso para eso.",
        "not-owner" => "Eso solo lo puede hacer su dueño.",
        "registration-closed" => "El registro está cerrado.",
        "queue-not-found" => "No existe esa cola.",
        "topic-not-found" => "No existe ese tópico.",
        "subscription-not-found" => "No existe esa asociación.",
        "method-not-allowed" => "Esta ruta no acepta ese método.",
        "body-timeout" => "El cuerpo de la petición no llegó a tiempo.",
        "name-taken" | "config-differs" => "Ese nombre ya está en uso.",
        "draining" => "La cola se está vaciando y ya no acepta mensajes.",
        "too-large" => "El mensaje o la petición es demasiado grande.",
        "unroutable" => "Ninguna cola está vinculada.",
        "rate-limited" => "Demasiados intentos: vuelva más tarde.",
        "in-flight-limit" | "quota" => "Se alcanzó un límite: vuelva más tarde.",
        "not-enough-replicas" => "No respondieron bastantes réplicas: repita la petición.",
        "overloaded" | "starting" | "not-ready" | "not-a-member" => {
            "El nodo no puede atender ahora: vuelva más tarde."
        }
        "malformed" | "validation" => "No se entiende la petición.",
        _ => "Algo falló en el servidor.",
    }
}

/// Says a problem that something before the handlers found, in the way of these routes.
pub fn speak(problem: Problem, call: MomCall, mut kept: Response) -> Response {
    let mut response = Refused::from(problem).respond(call.is_plain).into_response();
    // `Allow` and the like.
    let others = |name: &HeaderName| *name != CONTENT_TYPE && *name != RETRY_AFTER;
    for (name, value) in kept.headers_mut().drain() {
        if let Some(name) = name.filter(others) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
