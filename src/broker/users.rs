//! Users: who they are, their passwords, and who administers.

use super::audit::{Act, OK, note_refused};
use super::changes::{Step, free_draft};
use super::cursors::{List, page_limit};
use super::{
    Answer, Broker, Caller, Credential, Entry, Fault, Origin, Page, Refusal, check_if_match,
};
use crate::base::ids::{Generation, SessionId, UserId};
use crate::base::names::UserName;
use crate::metadata::Draft;
use crate::protocol::record::{Kind, Record, RecordKey, State, User, Value};
use std::net::IpAddr;
use std::sync::Arc;

/// Characters of a password: `PASSWORD_CHARS.0` to `PASSWORD_CHARS.1`.
const PASSWORD_CHARS: (usize, usize) = (8, 128);

/// What is to change of a user; what is absent stays.
#[derive(Clone, Default)]
pub struct UserPatch {
    /// A new password.
    pub password: Option<String>,
    /// The old one: whoever changes the own password must know it.
    pub current_password: Option<String>,
    /// Whether the user administers.
    pub admin: Option<bool>,
    /// Whether no credential of the user is accepted.
    pub disabled: Option<bool>,
}

/// What becomes of a deleted user's queues and topics. Its subscriptions go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owned {
    /// While there are any, the user is not deleted.
    Refuse,
    /// They go too.
    Delete,
    /// They get another owner.
    Transfer(UserName),
}

impl Broker {
    /// A live user's name.
    #[must_use]
    pub fn user_name(&self, id: UserId) -> Option<String> {
        self.catalog.user_by_id(id).map(|(name, _)| name.to_string())
    }

    /// Makes a user. The first one of a cluster without a configured administrator becomes it.
    ///
    /// # Errors
    /// `RegistrationClosed`, `RateLimited` by address, `Invalid`, `NameTaken`, `Overloaded`,
    /// `NotEnoughReplicas`.
    pub async fn register(
        &self,
        by: Option<&Caller>,
        origin: impl Into<Origin>,
        name: &str,
        password: &str,
    ) -> Answer<Entry<User>> {
        let origin = origin.into();
        let registered = self.try_register(by, &origin, name, password).await;
        if let Err(refusal) = &registered {
            note_refused("register", name, refusal, &origin);
        }
        registered
    }

    async fn try_register(
        &self,
        by: Option<&Caller>,
        origin: &Origin,
        name: &str,
        password: &str,
    ) -> Answer<Entry<User>> {
        let by_admin = by.is_some_and(|by| self.is_admin(by));
        if !self.settings.registration_open && !by_admin {
            return Err(Refusal::RegistrationClosed);
        }
        let name = new_user(name, password)?;
        if !by_admin {
            self.registrations.take(&rate_key(origin.address), self.clock.boottime_ms())?;
        }
        self.create_user(&name, password, false).await?;
        let actor = by.map_or(name.as_str(), |by| by.name.as_str());
        let object = ("user", name.as_str());
        Act { event: "register", actor, object, outcome: OK, detail: "" }.note(origin);
        self.crown_first_admin().await?;
        let record = self.catalog.user(&name).ok_or(Refusal::UserNotFound)?;
        entry(&name, record)
    }

    /// A user, for itself or an administrator; `me` is the caller.
    ///
    /// # Errors
    /// `Forbidden` for others, whether or not the user exists; `Invalid`, `UserNotFound`.
    pub async fn get_user(&self, by: &Caller, name: &str) -> Answer<Entry<User>> {
        let name = self.user_for(by, name)?;
        let record = self.catalog.user(&name).ok_or(Refusal::UserNotFound)?;
        entry(&name, record)
    }

    /// All users whose names begin with `prefix`, in the order of names, for administrators.
    ///
    /// # Errors
    /// `Forbidden`, `Invalid`.
    pub async fn list_users(
        &self,
        by: &Caller,
        prefix: &str,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<Entry<User>>> {
        self.require_admin(by)?;
        let limit = page_limit(limit)?;
        let parts: [&[u8]; 2] = [b"users", prefix.as_bytes()];
        let list = List::new(&parts);
        let after = list.after(&self.keys, cursor)?;
        let all = |_: &RecordKey, _: &Record| true;
        let prefix = prefix.as_bytes();
        let found = self.catalog.page(Kind::User, prefix, after.as_deref(), limit + 1, &all);
        let entries = found.into_iter().filter_map(|(key, record)| {
            let name = UserName::parse(std::str::from_utf8(&key.name).ok()?).ok()?;
            entry(&name, record).ok()
        });
        let name = |entry: &Entry<User>| entry.name.clone().into_bytes();
        Ok(list.page(&self.keys, entries.collect(), limit, name))
    }

    /// Changes a user. A user may change its own password, knowing the old one; an administrator
    /// may change all. A new password and `disabled` end the user's sessions, but not the one that
    /// a user changes its own password from.
    ///
    /// # Errors
    /// `Forbidden` (also for the last administrator, who stays one), `UserNotFound`, `Invalid`,
    /// `PreconditionFailed`, `RateLimited`, `Overloaded`, `NotEnoughReplicas`.
    pub async fn update_user(
        &self,
        by: &Caller,
        name: &str,
        patch: UserPatch,
        if_match: Option<&str>,
    ) -> Answer<Entry<User>> {
        let name = self.user_for(by, name)?;
        if patch.admin.is_some() || patch.disabled.is_some() {
            self.require_admin(by)?;
        }
        let record = self.catalog.user(&name).ok_or(Refusal::UserNotFound)?;
        let id = record.user().ok_or(Refusal::UserNotFound)?.id;
        check_if_match(if_match, &record)?;
        let known_version = self.check_current(by, &name, &record, &patch).await?;
        let password = match &patch.password {
            Some(password) => Some(self.hash(password).await?),
            None => None,
        };
        let _admins = self.admins.lock().await;
        let mut ends_sessions = false;
        let mut changed = false;
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, user) = live_user(latest)?;
            check_if_match(if_match, latest)?;
            // Hashing took its time: the name may be another user's by now, and the caller may
            // administer no more.
            if user.id != id {
                return Err(Refusal::UserNotFound);
            }
            if by.user != id {
                self.require_admin(by)?;
            }
            if known_version.is_some_and(|version| version != user.password_version) {
                return Err(wrong_password());
            }
            let mut next = self.patched(user, &patch, password.as_deref())?;
            ends_sessions = password.is_some() || (next.disabled && !user.disabled);
            changed = next != *user;
            if !changed {
                return Ok(Step::Keep(Arc::clone(latest)));
            }
            if ends_sessions {
                next.sessions_epoch += 1;
                next.spared = self.session_to_spare(by, user).filter(|_| !next.disabled);
            }
            let next = User { updated_ms: self.clock.wall_ms(), ..next };
            Ok(Step::Write(live(latest.generation, next)))
        };
        let record = self.alter(&user_key(&name), rule).await?;
        if changed {
            note_update(by, &name, &patch);
        }
        if ends_sessions {
            // They are over already: this only clears their records away.
            self.clear_ended_sessions(&record).await?;
        }
        entry(&name, record)
    }

    /// Deletes a user with its sessions, API keys and (as they name its id) grants.
    ///
    /// # Errors
    /// `Forbidden` (also for the last administrator), `UserNotFound`, `StillOwns`, `Invalid`,
    /// `Quota` of the new owner, `PreconditionFailed`, `Overloaded`, `NotEnoughReplicas`.
    pub async fn delete_user(
        &self,
        by: &Caller,
        name: &str,
        owned: Owned,
        if_match: Option<&str>,
    ) -> Answer<()> {
        let name = self.user_for(by, name)?;
        let record = self.catalog.user(&name).ok_or(Refusal::UserNotFound)?;
        let user = record.user().ok_or(Refusal::UserNotFound)?;
        check_if_match(if_match, &record)?;
        // Now, so that nothing goes for a user who stays; and below, where the lock makes it sure.
        self.require_another_admin(user)?;
        self.give_up_objects(&name, user, &owned).await?;
        let _admins = self.admins.lock().await;
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, now) = live_user(latest)?;
            check_if_match(if_match, latest)?;
            if now.id != user.id {
                return Err(Refusal::UserNotFound);
            }
            if by.user != now.id {
                self.require_admin(by)?;
            }
            self.require_another_admin(now)?;
            Ok(Step::Write(free_draft(latest)))
        };
        self.alter(&user_key(&name), rule).await?;
        // Something may have come between: later ones are refused, as their owner is gone.
        self.give_up_objects(&name, user, &Owned::Delete).await?;
        self.end_subscriptions_by(user.id).await?;
        by.note("delete_user", ("user", name.as_str()), "");
        let sessions = self.catalog.sessions_of(user.id);
        let api_keys = self.catalog.api_keys_of(user.id);
        let keys = sessions.into_iter().chain(api_keys).map(|(key, _)| key).collect();
        self.free_all(keys).await?;
        Ok(())
    }

    /// The user of that name in the path, whom the caller may see and change: itself, or anyone
    /// for an administrator.
    fn user_for(&self, by: &Caller, name: &str) -> Answer<UserName> {
        if name == "me" || name == by.name.as_str() {
            return Ok(by.name.clone());
        }
        let name = user_in_path(name)?;
        self.require_admin(by)?;
        Ok(name)
    }

    pub(super) async fn create_user(
        &self,
        name: &UserName,
        password: &str,
        admin: bool,
    ) -> Answer<()> {
        let key = user_key(name);
        let taken =
            |latest: Option<&Arc<Record>>| latest.is_some_and(|record| record.state != State::Free);
        // Before the hash: a name that is taken shall not cost one.
        if taken(self.catalog.get(&key).as_ref()) {
            return Err(Refusal::NameTaken { what: "user" });
        }
        let password = self.hash(password).await?;
        let rng = &*self.rng;
        let (id, now_ms) = (UserId::random(rng), self.clock.wall_ms());
        let rule = |latest: Option<&Arc<Record>>| {
            if taken(latest) {
                return Err(Refusal::NameTaken { what: "user" });
            }
            let user = User {
                id,
                password: password.clone(),
                password_version: 1,
                admin,
                disabled: false,
                created_ms: now_ms,
                updated_ms: now_ms,
                sessions_epoch: 0,
                spared: None,
            };
            Ok(Step::Write(live(Generation::random(rng), user)))
        };
        self.alter(&key, rule).await.map(|_| ())
    }

    /// Checks the password in the patch, and for the own one also the old one; answers the version
    /// of the password that the old one matched.
    async fn check_current(
        &self,
        by: &Caller,
        name: &UserName,
        record: &Record,
        patch: &UserPatch,
    ) -> Answer<Option<u64>> {
        let Some(password) = &patch.password else { return Ok(None) };
        check_password_rule(name.as_str(), password)
            .map_err(|fault| Refusal::Invalid(vec![fault]))?;
        let user = record.user().ok_or(Refusal::UserNotFound)?;
        if user.id != by.user {
            return Ok(None);
        }
        let Some(current) = &patch.current_password else {
            let message = "changing the own password needs the current one";
            return Err(Refusal::invalid("current_password", "required", message));
        };
        match self.check_password(name.as_str(), current, &by.origin, "set_password").await {
            Ok(_) => Ok(Some(user.password_version)),
            Err(Refusal::BadCredentials) => Err(wrong_password()),
            Err(refusal) => Err(refusal),
        }
    }

    async fn hash(&self, password: &str) -> Answer<String> {
        let busy = |_| Refusal::Overloaded { why: "too many passwords are being checked" };
        self.passwords.hash(password).await.map_err(busy)
    }

    fn patched(&self, user: &User, patch: &UserPatch, hash: Option<&str>) -> Answer<User> {
        let mut next = user.clone();
        next.admin = patch.admin.unwrap_or(user.admin);
        next.disabled = patch.disabled.unwrap_or(user.disabled);
        if let Some(hash) = hash {
            hash.clone_into(&mut next.password);
            next.password_version += 1;
        }
        if !next.admin || next.disabled {
            self.require_another_admin(user)?;
        }
        Ok(next)
    }

    /// Refuses when this user is the only enabled administrator. Sure only under the lock `admins`.
    fn require_another_admin(&self, user: &User) -> Answer<()> {
        if user.admin && !user.disabled && self.catalog.count_admins() <= 1 {
            return Err(Refusal::Forbidden { needs: "another administrator" });
        }
        Ok(())
    }

    /// The session that a user changes its own password from, if it still is one.
    fn session_to_spare(&self, by: &Caller, user: &User) -> Option<SessionId> {
        let Credential::Session { key, .. } = &by.credential else { return None };
        let record = self.catalog.live(key)?;
        record.session().filter(|session| user.keeps(session)).map(|session| session.id)
    }

    async fn clear_ended_sessions(&self, record: &Record) -> Answer<()> {
        let Some(user) = record.user() else { return Ok(()) };
        let sessions = self.catalog.sessions_of(user.id).into_iter();
        let ended = sessions.filter(|(_, it)| it.session().is_some_and(|it| !user.keeps(it)));
        self.free_all(ended.map(|(key, _)| key).collect()).await?;
        Ok(())
    }
}

/// The key of a user's record.
pub(crate) fn user_key(name: &UserName) -> RecordKey {
    RecordKey::new(Kind::User, name.as_str())
}

/// A user's name from the path.
pub(crate) fn user_in_path(name: &str) -> Answer<UserName> {
    UserName::parse(name).map_err(|e| Refusal::invalid("path.username", "name", e.to_string()))
}

/// What rates by address count together: an IPv6 client has a /64 to itself.
pub(super) fn rate_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = u128::from(v6) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        v4 => v4,
    }
}

pub(super) fn live(generation: Generation, user: User) -> Draft {
    Draft { generation, state: State::Live, value: Value::User(user) }
}

pub(super) fn live_user(latest: Option<&Arc<Record>>) -> Answer<(&Arc<Record>, &User)> {
    let latest = latest.ok_or(Refusal::UserNotFound)?;
    Ok((latest, latest.user().ok_or(Refusal::UserNotFound)?))
}

fn entry(name: &UserName, record: Arc<Record>) -> Answer<Entry<User>> {
    let value = record.user().ok_or(Refusal::UserNotFound)?.clone();
    Ok(Entry { name: name.to_string(), record, value })
}

/// Notes what an update changed, each kind of change by its own name.
fn note_update(by: &Caller, name: &UserName, patch: &UserPatch) {
    let object = ("user", name.as_str());
    if patch.password.is_some() {
        by.note("set_password", object, "");
    }
    let flag = |what: &str, given: Option<bool>| given.map(|yes| format!("{what}={yes}"));
    let flags = [flag("admin", patch.admin), flag("disabled", patch.disabled)];
    let flags = flags.into_iter().flatten().collect::<Vec<_>>().join(" ");
    if !flags.is_empty() {
        by.note("update_user", object, &flags);
    }
}

fn wrong_password() -> Refusal {
    Refusal::invalid("current_password", "wrong", "this is not the current password")
}

pub(super) fn new_user(name: &str, password: &str) -> Answer<UserName> {
    let parsed = UserName::parse(name);
    let bad_name = parsed.clone().err().map(|e| Fault::new("username", "name", e.to_string()));
    let bad_password = check_password_rule(name, password).err();
    match parsed {
        Ok(name) if bad_password.is_none() => Ok(name),
        _ => Err(Refusal::Invalid(bad_name.into_iter().chain(bad_password).collect())),
    }
}

fn check_password_rule(name: &str, password: &str) -> Result<(), Fault> {
    let (least, most) = PASSWORD_CHARS;
    if !(least..=most).contains(&password.chars().count()) {
        let message = format!("a password has {least} to {most} characters");
        return Err(Fault::new("password", "length", message));
    }
    if password == name {
        return Err(Fault::new("password", "same-as-name", "the password is not the name"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
