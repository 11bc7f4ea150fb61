//! Parameters: from the query string, and for `POST` also from a form or JSON body, which keeps
//! passwords out of URLs.

use super::answers::Refused;
use super::table::{Parameter, Row};
use crate::api::scope::Here;
use poem::http::Method;
use poem::http::header::CONTENT_TYPE;
use poem::web::Form;
use poem::{FromRequest as _, Request, RequestBody};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// What a request says, by the parameter's name.
pub struct Given(BTreeMap<&'static str, Zeroizing<String>>);

impl Given {
    /// The value of a parameter that the row has.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value.as_str())
    }

    /// The value of a parameter that is not looked at again.
    pub fn take(&mut self, name: &str) -> String {
        self.0.remove(name).map_or_else(String::new, |mut value| std::mem::take(&mut *value))
    }
}

/// Reads what the row needs. What it does not know it leaves alone, as the original did.
///
/// # Errors
/// 400 for one that is missing, given twice with two meanings, or in a body that cannot be read.
pub async fn read(
    row: &Row,
    request: &Request,
    body: &mut RequestBody,
    here: &Here,
) -> Result<Given, Refused> {
    let mut pairs = here.query.clone();
    if request.method() == Method::POST {
        pairs.extend(from_body(request, body, here).await?);
    }
    let mut given: BTreeMap<&'static str, Zeroizing<String>> = BTreeMap::new();
    for (name, value) in pairs {
        let value = Zeroizing::new(value);
        let Some(known) = row.parameters.iter().find(|known| known.name == name) else { continue };
        if given.get(known.name).is_some_and(|before| *before != value) {
            return Err(Refused::new(400, format!("El parámetro {name} viene dos veces.")));
        }
        given.insert(known.name, value);
    }
    for Parameter { name, .. } in row.parameters {
        if given.get(name).is_none_or(|value| value.is_empty()) {
            return Err(Refused::new(400, format!("Falta el parámetro {name}.")));
        }
    }
    Ok(Given(given))
}

async fn from_body(
    request: &Request,
    body: &mut RequestBody,
    here: &Here,
) -> Result<Vec<(String, String)>, Refused> {
    let unreadable = || Refused::new(400, "No se puede leer el cuerpo de la petición.");
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        let form = Form::<Vec<(String, String)>>::from_request(request, body);
        return Ok(Box::pin(form).await.map_err(|_| unreadable())?.0);
    }
    let bytes = body.take().map_err(|_| unreadable())?.into_bytes_limit(here.app.max_body_bytes);
    let bytes = Box::pin(bytes).await.map_err(|error| Refused::of_error(&error.into()))?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Refused::new(415, "El cuerpo tiene que ser un formulario o JSON."));
    }
    let texts = serde_json::from_slice::<BTreeMap<String, String>>(&bytes);
    let unfit = |_| Refused::new(400, "El cuerpo tiene que ser un objeto JSON de textos.");
    Ok(texts.map_err(unfit)?.into_iter().collect())
}
