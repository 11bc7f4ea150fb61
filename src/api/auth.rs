//! Who asks: HTTP Basic, or a session token or API key as Bearer, on every request. Comes first
//! among a handler's arguments, so that no stranger's body is parsed.

use super::httpd::in_flight::InFlight;
use super::problem::{self, Problem};
use super::scope::{Here, Scope};
use super::spec::operations::Operation;
use crate::broker::Caller;
use crate::broker::refusal::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use poem::http::header::AUTHORIZATION;
use poem::{FromRequest, Request, RequestBody};
use std::ops::Deref;
use zeroize::Zeroizing;

/// The caller, checked, with the request's scope.
pub struct Auth {
    /// Who it is.
    pub caller: Caller,
    /// Its hold on one of the node's slots for requests; absent where nothing caps them.
    pub slot: Option<InFlight>,
    here: Here,
}

impl Deref for Auth {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        &self.here
    }
}

impl<'a> FromRequest<'a> for Auth {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        let here = Here::of(request);
        match authenticate(request, &here).await? {
            Some(caller) => Ok(Self { caller, slot: request.data().cloned(), here }),
            None => Err(problem::no_credentials().into()),
        }
    }
}

/// The caller where the route is public: no credentials are fine, wrong ones are not.
pub struct Visitor {
    /// Who it is, if it said so.
    pub caller: Option<Caller>,
    here: Here,
}

impl Deref for Visitor {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        &self.here
    }
}

impl<'a> FromRequest<'a> for Visitor {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        let here = Here::of(request);
        Ok(Self { caller: authenticate(request, &here).await?, here })
    }
}

/// What an `Authorization` header says.
enum Credentials {
    Basic { name: String, password: Zeroizing<String> },
    Bearer(Zeroizing<String>),
}

/// Reads the header's text. `None`: neither scheme, or not shaped like it.
fn parse(header: &str) -> Option<Credentials> {
    let (scheme, rest) = header.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
        return Some(Credentials::Bearer(Zeroizing::new(rest.to_owned())));
    }
    if scheme.eq_ignore_ascii_case("basic") {
        let bytes = Zeroizing::new(STANDARD.decode(rest).ok()?);
        let (name, password) = std::str::from_utf8(&bytes).ok()?.split_once(':')?;
        let password = Zeroizing::new(password.to_owned());
        return Some(Credentials::Basic { name: name.to_owned(), password });
    }
    None
}

/// The caller of a request, if its credentials are good for the operation; `None` when it brings
/// no `Authorization` header.
async fn authenticate(request: &Request, here: &Here) -> Result<Option<Caller>, Problem> {
    let caller = identify(request, here).await?;
    let limited = caller.as_ref().is_some_and(|caller| caller.scopes().is_some());
    if limited && !here.operation.is_some_and(Operation::takes_scoped_keys) {
        return Err(
            Refusal::OutOfScope { needs: "users, sessions, API keys, administration" }.into()
        );
    }
    Ok(caller)
}

/// Who sends a request, whatever the scopes of its API key: they are still to be looked at.
pub(super) async fn identify(request: &Request, here: &Here) -> Result<Option<Caller>, Problem> {
    let mut headers = request.headers().get_all(AUTHORIZATION).iter();
    let Some(header) = headers.next() else { return Ok(None) };
    let credentials = match (header.to_str(), headers.next()) {
        (Ok(text), None) => parse(text),
        _ => None,
    };
    let broker = &here.app.broker;
    let checked = match credentials {
        Some(Credentials::Bearer(token)) => broker.authenticate_bearer(&token, here.origin()),
        Some(Credentials::Basic { name, password }) => {
            broker.authenticate_basic(&name, &password, here.origin()).await
        }
        None => Err(Refusal::Unauthenticated),
    };
    let caller = checked.map_err(|refusal| match refusal {
        // `bad-credentials` is the word of a login; elsewhere all credentials fail alike.
        Refusal::BadCredentials => Refusal::Unauthenticated,
        other => other,
    })?;
    let _ = here.user.set(caller.name.to_string());
    Ok(Some(caller))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        assert!(matches!(parse("Bearer tts_x"), Some(Credentials::Bearer(t)) if *t == "tts_x"));
        assert!(matches!(parse("bEARER  x "), Some(Credentials::Bearer(t)) if *t == "x"));
        let basic = format!("Basic {}", STANDARD.encode("alice:pass:word"));
        let Some(Credentials::Basic { name, password }) = parse(&basic) else { panic!("basic") };
        assert_eq!((name.as_str(), password.as_str()), ("alice", "pass:word"));
        for wrong in ["", "Bearer", "Bearer ", "Basic !!", "Basic YWxpY2U=", "Digest x"] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
