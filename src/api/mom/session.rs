//! Who asks: as everywhere, or by the cookie that a login sets. Only these routes read it.

use super::answers::Refused;
use crate::api::auth;
use crate::api::scope::Here;
use crate::base::limits;
use crate::broker::Caller;
use poem::Request;
use poem::http::header::{AUTHORIZATION, COOKIE, HeaderValue};
use zeroize::Zeroizing;

/// The cookie's name.
const NAME: &str = "tertulia_session";

/// The header that sets the cookie; an empty token takes it away.
///
/// # Panics
/// Never: a token is visible ASCII.
pub fn set_cookie(token: &str) -> HeaderValue {
    let seconds = if token.is_empty() { 0 } else { limits::SESSION_SECONDS_DEFAULT };
    let text = Zeroizing::new(format!(
        "{NAME}={token}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Strict"
    ));
    let mut value = HeaderValue::try_from(text.as_str()).expect("a token is visible ASCII");
    value.set_sensitive(true);
    value
}

/// The token in the request's cookie.
fn cookie(request: &Request) -> Option<Zeroizing<String>> {
    let headers = request.headers().get_all(COOKIE).iter();
    let pairs = headers.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let mut values = pairs.filter_map(|pair| pair.trim().strip_prefix(NAME)?.strip_prefix('='));
    values.next().filter(|value| !value.is_empty()).map(|value| Zeroizing::new(value.to_owned()))
}

/// Whether a request says at all who asks.
pub fn has_credentials(request: &Request) -> bool {
    request.headers().contains_key(AUTHORIZATION) || cookie(request).is_some()
}

/// The caller; `None` when the request does not say.
///
/// # Errors
/// 401 for credentials that are no good, 403 for an API key with scopes: these routes do more
/// than a key is limited to.
pub async fn caller(request: &Request, here: &Here) -> Result<Option<Caller>, Refused> {
    let caller = match auth::identify(request, here).await? {
        Some(caller) => Some(caller),
        None => match cookie(request) {
            Some(token) => {
                let caller = here.app.broker.authenticate_bearer(&token, here.origin())?;
                let _ = here.user.set(caller.name.to_string());
                Some(caller)
            }
            None => None,
        },
    };
    if caller.as_ref().is_some_and(|caller| caller.scopes().is_some()) {
        return Err(Refused::new(403, "Una clave limitada no vale para estas rutas."));
    }
    Ok(caller)
}
