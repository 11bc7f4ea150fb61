//! Who administers first: the configured administrator, or else the cluster's first user.

use super::audit::{Act, OK};
use super::changes::Step;
use super::users::{live, live_user, new_user, user_key};
use super::{Answer, Broker, Origin, Refusal};
use crate::base::ids::{Generation, UserId};
use crate::base::names::UserName;
use crate::metadata::Draft;
use crate::protocol::record::{Kind, Record, RecordKey, State, User, Value};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

impl Broker {
    /// Makes sure that the configured administrator exists and is one. The password is set only
    /// when the user is made by this call. For the start.
    ///
    /// # Errors
    /// `Invalid` when name or password may not be, `Overloaded`, `NotEnoughReplicas`.
    pub async fn ensure_admin(&self, name: &str, password: &str) -> Answer<()> {
        let name = UserName::parse(name)
            .map_err(|e| Refusal::invalid("username", "name", e.to_string()))?;
        if self.catalog.user(&name).is_none() {
            new_user(name.as_str(), password)?;
            match self.create_user(&name, password, true).await {
                // Another was faster: then it must be made one.
                Ok(()) | Err(Refusal::NameTaken { .. }) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        // Somebody else may have taken the name: who is made administrator proves to be meant.
        let record = self.catalog.user(&name).ok_or(Refusal::UserNotFound)?;
        let user = record.user().ok_or(Refusal::UserNotFound)?;
        if !user.admin {
            let busy = |_| Refusal::Overloaded { why: "too many passwords are being checked" };
            let proved = self.passwords.verify(password, Some(&user.password)).await;
            if !proved.map_err(busy)? {
                return Err(Refusal::NameTaken { what: "user" });
            }
        }
        if self.make_admin(&name).await? {
            note_crowned(name.as_str(), "as configured");
        }
        Ok(())
    }

    /// Sees to it that somebody administers a cluster without a configured administrator: by a
    /// register of its own, so that two nodes make one. Its candidate is the oldest user, whoever
    /// calls. It is decided after the user exists, as a claim for a user whose making a crash or
    /// a taken name prevented would have to be taken back while the next one is at it; whoever
    /// finds that a crash came between completes it: the next registration, and the sweep.
    pub(super) async fn crown_first_admin(&self) -> Answer<()> {
        let needed = || {
            let nobody = self.catalog.count_admins() == 0 && self.catalog.count_users() > 0;
            nobody && !self.settings.admin_configured
        };
        if !needed() {
            return Ok(());
        }
        let _admins = self.admins.lock().await;
        if !needed() {
            return Ok(());
        }
        let Some(candidate) = self.oldest_user() else { return Ok(()) };
        let rng = &*self.rng;
        let rule = |latest: Option<&Arc<Record>>| {
            if let Some(latest) = latest
                && let Value::FirstAdmin(first) = &latest.value
                && self.catalog.user_by_id(*first).is_some()
            {
                return Ok(Step::Keep(Arc::clone(latest)));
            }
            let generation = latest.map_or_else(|| Generation::random(rng), |it| it.generation);
            let value = Value::FirstAdmin(candidate);
            Ok(Step::Write(Draft { generation, state: State::Live, value }))
        };
        let first = self.alter(&RecordKey::new(Kind::FirstAdmin, Vec::new()), rule).await?;
        if let Value::FirstAdmin(first) = first.value
            && let Some((name, _)) = self.catalog.user_by_id(first)
            && self.make_admin(&name).await?
        {
            note_crowned(name.as_str(), "the first user of this cluster");
        }
        Ok(())
    }

    /// Whoever registered first of those who are there.
    fn oldest_user(&self) -> Option<UserId> {
        let all = |_: &RecordKey, _: &Record| true;
        let users = self.catalog.page(Kind::User, b"", None, usize::MAX, &all);
        let by_age = users.iter().filter_map(|(_, record)| record.user());
        by_age.min_by_key(|user| (user.created_ms, user.id)).map(|user| user.id)
    }

    /// Answers whether it was none before.
    async fn make_admin(&self, name: &UserName) -> Answer<bool> {
        let mut news = false;
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, user) = live_user(latest)?;
            news = !user.admin;
            if user.admin {
                return Ok(Step::Keep(Arc::clone(latest)));
            }
            let next = User { admin: true, updated_ms: self.clock.wall_ms(), ..user.clone() };
            Ok(Step::Write(live(latest.generation, next)))
        };
        self.alter(&user_key(name), rule).await?;
        Ok(news)
    }
}

/// Nobody's request made it: the node itself did.
fn note_crowned(name: &str, why: &str) {
    let act = Act {
        event: "first_admin",
        actor: "(node)",
        object: ("user", name),
        outcome: OK,
        detail: why,
    };
    act.note(&Origin::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)));
}
