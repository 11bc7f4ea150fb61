//! Proving who one is: by name and password, by a session, by an API key.

use super::audit::{self, Act};
use super::changes::Step;
use super::cursors::{List, page_limit};
use super::users::rate_key;
use super::{Answer, Broker, Caller, Credential, Origin, Page, Refusal};
use crate::base::ids::{Generation, SessionId};
use crate::base::limits::{SESSION_SECONDS_MAX, SESSIONS_PER_USER_MAX};
use crate::base::names::UserName;
use crate::metadata::Draft;
use crate::protocol::record::{Kind, Record, RecordKey, Session, State, User, Value};
use crate::security::{Token, TokenKind};
use std::net::IpAddr;
use std::sync::Arc;

/// Seconds of a session, at least.
const SESSION_SECONDS_MIN: i32 = 60;

/// What a new session is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Seconds until it ends by itself: 60 s to 30 d.
    pub ttl_seconds: i32,
    /// It is good only from the address that logs in.
    pub bound: bool,
}

impl From<i32> for Terms {
    /// So many seconds, from anywhere.
    fn from(ttl_seconds: i32) -> Self {
        Self { ttl_seconds, bound: false }
    }
}

/// A session that has begun.
pub struct NewSession {
    /// Its token, which nobody sees again.
    pub token: Token,
    /// The session.
    pub session: Session,
    /// Whose it is.
    pub user_name: String,
}

impl Broker {
    /// Who a session's token or an API key belongs to.
    ///
    /// # Errors
    /// `Unauthenticated`, whatever is wrong with it.
    pub fn authenticate_bearer(&self, token: &str, origin: impl Into<Origin>) -> Answer<Caller> {
        self.bearer(token, origin.into()).ok_or(Refusal::Unauthenticated)
    }

    fn bearer(&self, token: &str, origin: Origin) -> Option<Caller> {
        let (kind, hash) = self.keys.token_hash(token)?;
        let kind = match kind {
            TokenKind::Session => Kind::Session,
            TokenKind::ApiKey => Kind::ApiKey,
        };
        let key = RecordKey::new(kind, hash);
        let record = self.catalog.live(&key)?;
        let (user, expires_ms, credential) = match &record.value {
            Value::Session(it) => {
                (it.user, Some(it.expires_ms), Credential::Session { id: it.id, key })
            }
            Value::ApiKey(it) => {
                let scopes = it.scopes.clone();
                (it.user, it.expires_ms, Credential::ApiKey { id: it.id, scopes })
            }
            _ => return None,
        };
        if expires_ms.is_some_and(|end| end <= self.clock.wall_ms()) {
            return None;
        }
        let (name, owner) = self.catalog.user_by_id(user)?;
        let user = owner.user().filter(|user| !user.disabled)?;
        if let Some(session) = record.session() {
            if !user.keeps(session) {
                return None;
            }
            if session.bound && session.address != address_text(origin.address) {
                let id = session.id.to_string();
                let (event, object, outcome) = ("use_session", ("session", &*id), "elsewhere");
                Act { event, actor: name.as_str(), object, outcome, detail: "" }.note(&origin);
                return None;
            }
        }
        // An API key with scopes does not administer.
        let limited = matches!(&credential, Credential::ApiKey { scopes: Some(_), .. });
        Some(Caller { user: user.id, name, admin: user.admin && !limited, credential, origin })
    }

    /// Who name and password belong to, as HTTP Basic sends them with every request.
    ///
    /// # Errors
    /// `BadCredentials`, `RateLimited`, `Overloaded`.
    pub async fn authenticate_basic(
        &self,
        name: &str,
        password: &str,
        origin: impl Into<Origin>,
    ) -> Answer<Caller> {
        let origin = origin.into();
        let address = origin.address;
        // Also what is remembered waits while the address has had its tries: else guesses against
        // the cache, from the address of a client in the cache, would be free.
        let within = self.logins.check(&rate_key(address), self.clock.boottime_ms());
        within.inspect_err(|refusal| note_login_refused("login", name, refusal, &origin))?;
        if let Some(caller) = self.remembered(name, password, &origin) {
            return Ok(caller);
        }
        let (name, user) = self.check_password(name, password, &origin, "login").await?;
        let entry = self.basic.entry(user.id, user.password_version, password, address);
        self.basic.remember(entry);
        let caller = caller(name, &user, &origin);
        // Once, as long as it is remembered: with each request would be a flood.
        caller.note("login", ("user", caller.name.as_str()), "basic");
        Ok(caller)
    }

    fn remembered(&self, name: &str, password: &str, origin: &Origin) -> Option<Caller> {
        let name = UserName::parse(name).ok()?;
        let record = self.catalog.user(&name)?;
        // The user as it is now [F21]; a disabled one costs what an unknown one costs.
        let user = record.user().filter(|user| !user.disabled)?;
        let entry = self.basic.entry(user.id, user.password_version, password, origin.address);
        self.basic.knows(&entry).then(|| caller(name, user, origin))
    }

    /// Begins a session. Above 100 of a user, the oldest ends.
    ///
    /// # Errors
    /// `Invalid` for a life outside 60 s to 30 d, `BadCredentials`, `RateLimited`, `Overloaded`,
    /// `NotEnoughReplicas`.
    pub async fn log_in(
        &self,
        name: &str,
        password: &str,
        terms: impl Into<Terms>,
        origin: impl Into<Origin>,
    ) -> Answer<NewSession> {
        let (terms, origin) = (terms.into(), origin.into());
        let ttl_ms = session_ms(terms.ttl_seconds)?;
        let (name, user) = self.check_password(name, password, &origin, "login").await?;
        let (token, hash) = self.keys.mint_token(TokenKind::Session, &*self.rng);
        let now_ms = self.clock.wall_ms();
        let session = Session {
            id: SessionId::random(&*self.rng),
            user: user.id,
            user_name: name.to_string(),
            created_ms: now_ms,
            expires_ms: now_ms + ttl_ms,
            address: address_text(origin.address),
            epoch: user.sessions_epoch,
            bound: terms.bound,
        };
        let key = RecordKey::new(Kind::Session, hash);
        self.create(&key, Value::Session(session.clone())).await?;
        // A new password or `disabled` that came meanwhile has ended the sessions it could see.
        if !self.is_as_checked(&name, &user) {
            self.free(&key).await?;
            return Err(Refusal::BadCredentials);
        }
        let by = caller(name.clone(), &user, &origin);
        by.note("login", ("session", &session.id.to_string()), "");
        self.end_oldest(&user).await?;
        Ok(NewSession { token, session, user_name: name.to_string() })
    }

    /// The caller's own sessions, the oldest first.
    ///
    /// # Errors
    /// `Invalid`.
    pub async fn list_sessions(
        &self,
        by: &Caller,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<Session>> {
        let now_ms = self.clock.wall_ms();
        let records = self.catalog.sessions_of(by.user);
        let sessions = records.iter().filter_map(|(_, record)| record.session());
        let user = self.catalog.user_by_id(by.user);
        let user = user.as_ref().and_then(|(_, record)| record.user());
        let goes_on = |it: &&Session| it.expires_ms > now_ms && user.is_some_and(|u| u.keeps(it));
        let living = sessions.filter(goes_on).cloned();
        let order = |session: &Session| place(session.created_ms, &session.id.0);
        self.page_of_own(b"sessions", by, cursor, limit, living.collect(), order)
    }

    /// Ends the session that the caller came by; nothing accepts it once this is answered.
    ///
    /// # Errors
    /// `SessionNotFound` when the caller came otherwise, `Overloaded`, `NotEnoughReplicas`.
    pub async fn log_out_current(&self, by: &Caller) -> Answer<()> {
        let Credential::Session { key, id } = &by.credential else {
            return Err(Refusal::SessionNotFound);
        };
        self.free(key).await?;
        by.note("logout", ("session", &id.to_string()), "");
        Ok(())
    }

    /// Ends a session: one's own, or anyone's for an administrator.
    ///
    /// # Errors
    /// `SessionNotFound` also for other people's; `Overloaded`, `NotEnoughReplicas`.
    pub async fn delete_session(&self, by: &Caller, id: &str) -> Answer<()> {
        let id = SessionId::parse(id).ok_or(Refusal::SessionNotFound)?;
        let found = self.catalog.session_by_id(id);
        let (key, record) = found.ok_or(Refusal::SessionNotFound)?;
        let own = record.session().is_some_and(|session| session.user == by.user);
        if !own && !self.is_admin(by) {
            return Err(Refusal::SessionNotFound);
        }
        self.free(&key).await?;
        by.note("end_session", ("session", &id.to_string()), "");
        Ok(())
    }

    /// Frees up to 500 sessions and API keys that expired or whose user is gone, publishes what
    /// callers left behind, and crowns who was left uncrowned. Answers how many it freed. For a worker.
    ///
    /// # Errors
    /// `Overloaded`, `NotEnoughReplicas`.
    pub async fn sweep(&self) -> Answer<usize> {
        self.registers.publish_accepted().await;
        self.crown_first_admin().await?;
        self.free_all(self.catalog.sweep(self.clock.wall_ms())).await
    }

    /// Checks name and password, at the cost of one scrypt whoever it is, within the rates of the
    /// address and the name. Answers the user as it was found to be. Refusals are noted as `event`.
    pub(super) async fn check_password(
        &self,
        name: &str,
        password: &str,
        origin: &Origin,
        event: &'static str,
    ) -> Answer<(UserName, User)> {
        let checked = self.try_password(name, password, origin.address).await;
        match &checked {
            Ok(_) => count_login(audit::OK),
            Err(refusal) => note_login_refused(event, name, refusal, origin),
        }
        checked
    }

    async fn try_password(
        &self,
        name: &str,
        password: &str,
        address: IpAddr,
    ) -> Answer<(UserName, User)> {
        let now_ms = self.clock.boottime_ms();
        self.logins.take(&rate_key(address), now_ms)?;
        let name = UserName::parse(name).ok();
        if let Some(name) = &name {
            self.failures.check(name, now_ms)?;
        }
        let record = name.as_ref().and_then(|name| self.catalog.user(name));
        let user = record.as_deref().and_then(Record::user);
        let hash = user.map(|user| user.password.as_str());
        let busy = |_| Refusal::Overloaded { why: "too many passwords are being checked" };
        let matches = self.passwords.verify(password, hash).await.map_err(busy)?;
        let Some(name) = name else { return Err(Refusal::BadCredentials) };
        match user {
            Some(user) if matches && self.is_as_checked(&name, user) => Ok((name, user.clone())),
            _ => {
                self.failures.count(&name, now_ms);
                Err(Refusal::BadCredentials)
            }
        }
    }

    /// Whether the user is the same, with the same password, not disabled, nor has been meanwhile.
    fn is_as_checked(&self, name: &UserName, checked: &User) -> bool {
        self.catalog.user(name).is_some_and(|record| {
            record.user().is_some_and(|now| {
                now.id == checked.id
                    && now.password_version == checked.password_version
                    && now.sessions_epoch == checked.sessions_epoch
                    && !now.disabled
            })
        })
    }

    async fn end_oldest(&self, user: &User) -> Answer<()> {
        let sessions = self.catalog.sessions_of(user.id);
        let surplus = sessions.len().saturating_sub(SESSIONS_PER_USER_MAX);
        self.free_all(sessions.into_iter().take(surplus).map(|(key, _)| key).collect()).await?;
        Ok(())
    }

    /// Makes the record of a credential, whose key is random and so never was used before.
    pub(super) async fn create(&self, key: &RecordKey, value: Value) -> Answer<()> {
        let rng = &*self.rng;
        let rule = |latest: Option<&Arc<Record>>| match latest {
            Some(_) => Err(Refusal::Internal),
            None => Ok(Step::Write(Draft {
                generation: Generation::random(rng),
                state: State::Live,
                value: value.clone(),
            })),
        };
        self.alter(key, rule).await.map(|_| ())
    }

    /// A page of what the caller has few of: of all of it, in the order of `order`.
    pub(super) fn page_of_own<T>(
        &self,
        kind: &[u8],
        by: &Caller,
        cursor: Option<&str>,
        limit: i32,
        mut all: Vec<T>,
        order: impl Fn(&T) -> Vec<u8>,
    ) -> Answer<Page<T>> {
        let limit = page_limit(limit)?;
        let parts: [&[u8]; 2] = [kind, &by.user.0];
        let list = List::new(&parts);
        if let Some(after) = list.after(&self.keys, cursor)? {
            all.retain(|item| order(item) > after);
        }
        all.sort_by_key(&order);
        all.truncate(limit + 1);
        Ok(list.page(&self.keys, all, limit, order))
    }
}

/// Where a credential stands among its user's: by its making, then by its public name.
pub(super) fn place(created_ms: u64, id: &[u8; 16]) -> Vec<u8> {
    [&created_ms.to_be_bytes()[..], id].concat()
}

fn session_ms(ttl_seconds: i32) -> Answer<u64> {
    match u64::try_from(ttl_seconds) {
        Ok(seconds) if (SESSION_SECONDS_MIN..=SESSION_SECONDS_MAX).contains(&ttl_seconds) => {
            Ok(seconds * 1_000)
        }
        _ => {
            let message =
                format!("a session lives {SESSION_SECONDS_MIN} to {SESSION_SECONDS_MAX} s");
            Err(Refusal::invalid("ttl_seconds", "range", message))
        }
    }
}

fn caller(name: UserName, user: &User, origin: &Origin) -> Caller {
    let (credential, origin) = (Credential::Password, origin.clone());
    Caller { user: user.id, name, admin: user.admin, credential, origin }
}

/// An address as a session's record holds it.
fn address_text(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

fn count_login(outcome: &'static str) {
    metrics::counter!("tertulia_logins_total", "outcome" => outcome).increment(1);
}

fn note_login_refused(event: &'static str, name: &str, refusal: &Refusal, origin: &Origin) {
    count_login(audit::outcome(refusal));
    audit::note_refused(event, name, refusal, origin);
}

#[cfg(test)]
mod tests;
