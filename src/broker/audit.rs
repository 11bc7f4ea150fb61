//! The audit: one line for each thing that changes who may do what, and for each try to get in.
//!
//! All lines have the target `audit` and the same fields, so that a filter sends them elsewhere and
//! a machine reads them. None holds a secret, a hash or a message.

use super::{Caller, Origin, Refusal};
use crate::base::names::UserName;

/// Done as asked.
pub(super) const OK: &str = "ok";

/// Who is meant where what was given is no name: it may be a password in the wrong field.
pub(super) const NO_NAME: &str = "(no name)";

/// Something to be noted.
pub(super) struct Act<'a> {
    /// What was done.
    pub(super) event: &'static str,
    /// Who did it, or says so.
    pub(super) actor: &'a str,
    /// To what: its kind and its name.
    pub(super) object: (&'static str, &'a str),
    /// What became of it.
    pub(super) outcome: &'static str,
    /// What else there is to know; may be empty.
    pub(super) detail: &'a str,
}

impl Act<'_> {
    /// Writes the line.
    pub(super) fn note(&self, origin: &Origin) {
        let Self { event, actor, object: (kind, name), outcome, detail } = *self;
        let (address, request_id) = (origin.address.to_canonical(), &*origin.request_id);
        tracing::info!(
            target: "audit", event, actor, object = format_args!("{kind}/{name}"), outcome, detail,
            %address, request_id,
        );
    }
}

impl Caller {
    /// Notes what this caller has done.
    pub(super) fn note(&self, event: &'static str, object: (&'static str, &str), detail: &str) {
        let actor = self.name.as_str();
        Act { event, actor, object, outcome: OK, detail }.note(&self.origin);
    }
}

/// Notes a try by name that was refused.
pub(super) fn note_refused(event: &'static str, name: &str, refusal: &Refusal, origin: &Origin) {
    let name = UserName::parse(name).map_or(NO_NAME.to_owned(), |it| it.to_string());
    let (actor, object) = (name.as_str(), ("user", name.as_str()));
    Act { event, actor, object, outcome: outcome(refusal), detail: "" }.note(origin);
}

/// A refusal in a word, for lines and metrics.
pub(super) fn outcome(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::BadCredentials => "bad_credentials",
        Refusal::RateLimited { .. } => "rate_limited",
        Refusal::RegistrationClosed => "closed",
        Refusal::NameTaken { .. } => "name_taken",
        Refusal::Invalid(_) => "invalid",
        Refusal::Unauthenticated => "unauthenticated",
        Refusal::Forbidden { .. } | Refusal::OutOfScope { .. } | Refusal::NotOwner { .. } => {
            "forbidden"
        }
        Refusal::NotEnoughReplicas { .. } => "unknown",
        _ => "overloaded",
    }
}
