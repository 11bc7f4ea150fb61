//! Who may do what: denied unless said otherwise here.

use super::objects::Object;
use super::{Answer, Broker, Caller, Credential, Refusal};
use crate::base::ids::UserId;
use crate::base::names::QueueName;
use crate::protocol::record::{Grantee, Record, Right, User};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A right as the API writes it.
#[must_use]
pub fn right_name(right: Right) -> &'static str {
    match right {
        Right::Send => "send",
        Right::Receive => "receive",
        Right::Manage => "manage",
        Right::Browse => "browse",
        Right::Publish => "publish",
        Right::Subscribe => "subscribe",
    }
}

/// Rights as the audit writes them.
pub(super) fn right_words(rights: &BTreeSet<Right>) -> String {
    rights.iter().map(|right| right_name(*right)).collect::<Vec<_>>().join(",")
}

impl Broker {
    /// What the caller may do with a queue or a topic now: its owner and administrators everything,
    /// others what grants say; of that what the scopes of its API key cover. Judged by the user's
    /// record of this moment, so that a long wait may ask again [R45].
    #[must_use]
    pub fn rights_on<T: Object>(&self, by: &Caller, object: &T) -> BTreeSet<Right> {
        let mut rights = self.rights_of(by.user, object);
        if let Some(scopes) = by.scopes() {
            rights.retain(|right| scopes.contains(right));
        }
        rights
    }

    /// The same of a user who is not calling: for what the broker does in somebody's name.
    pub(crate) fn rights_of<T: Object>(&self, user: UserId, object: &T) -> BTreeSet<Right> {
        let Some(admin) = self.enabled_user(user, |user| user.admin) else {
            return BTreeSet::new();
        };
        if admin || object.owner() == user {
            return T::RIGHTS.iter().copied().collect();
        }
        let holders = [Grantee::Everyone, Grantee::User(user)];
        let grants = holders.iter().filter_map(|holder| object.grants().get(holder));
        grants.flat_map(|grant| grant.rights.iter().copied()).collect()
    }

    /// Whether what the caller was authenticated by is still good: for waits that outlast it [R45].
    #[must_use]
    pub fn is_current(&self, by: &Caller) -> bool {
        let now_ms = self.clock.wall_ms();
        let credential = match &by.credential {
            Credential::Session { key, .. } => {
                let record = self.catalog.live(key);
                let session = record.as_ref().and_then(|record| record.session());
                session.is_some_and(|session| {
                    session.expires_ms > now_ms
                        && self.enabled(by, |user| user.keeps(session)) == Some(true)
                })
            }
            Credential::ApiKey { id, .. } => {
                self.catalog.api_keys_of(by.user).iter().any(|(_, record)| {
                    record.api_key().is_some_and(|key| {
                        key.id == *id && key.expires_ms.is_none_or(|end| end > now_ms)
                    })
                })
            }
            Credential::Password => true,
        };
        credential && self.enabled(by, |_| ()).is_some()
    }

    fn enabled<T>(&self, by: &Caller, ask: impl FnOnce(&User) -> T) -> Option<T> {
        self.enabled_user(by.user, ask)
    }

    fn enabled_user<T>(&self, user: UserId, ask: impl FnOnce(&User) -> T) -> Option<T> {
        let (_, record) = self.catalog.user_by_id(user)?;
        record.user().filter(|user| !user.disabled).map(ask)
    }

    /// The live queue of that name in the path, if the caller has the right.
    pub(crate) fn queue_for(
        &self,
        by: &Caller,
        name: &str,
        right: Right,
    ) -> Answer<(QueueName, Arc<Record>)> {
        let (name, record) = self.queue_named(name)?;
        let queue = record.queue().ok_or(Refusal::QueueNotFound)?;
        self.require(by, queue, right)?;
        Ok((name, record))
    }

    /// Refuses when the caller lacks the right.
    pub(crate) fn require<T: Object>(&self, by: &Caller, object: &T, right: Right) -> Answer<()> {
        require_scope(by, right)?;
        if self.rights_on(by, object).contains(&right) {
            return Ok(());
        }
        Err(Refusal::Forbidden { needs: right_name(right) })
    }

    /// Refuses when the caller is neither the owner nor an administrator, or came by an API key
    /// that does not let it manage.
    pub(crate) fn require_owner<T: Object>(&self, by: &Caller, object: &T) -> Answer<()> {
        require_scope(by, Right::Manage)?;
        if self.may_act_for(by, object.owner()) {
            return Ok(());
        }
        Err(Refusal::NotOwner { what: T::WORD })
    }

    /// Whether the caller is that user or administers, and is not disabled. Scopes are not asked.
    pub(crate) fn may_act_for(&self, by: &Caller, owner: UserId) -> bool {
        self.enabled(by, |user| user.admin).is_some_and(|admin| admin || owner == by.user)
    }

    /// Refuses when the caller is no administrator (any more).
    pub(crate) fn require_admin(&self, by: &Caller) -> Answer<()> {
        if self.is_admin(by) { Ok(()) } else { Err(Refusal::Forbidden { needs: "admin" }) }
    }

    /// Whether the caller administers now. An API key with scopes never does.
    pub(crate) fn is_admin(&self, by: &Caller) -> bool {
        by.scopes().is_none() && self.enabled(by, |user| user.admin).unwrap_or(false)
    }

    /// The live queue of that name in the path.
    pub(crate) fn queue_named(&self, name: &str) -> Answer<(QueueName, Arc<Record>)> {
        let name = queue_name(name)?;
        let record = self.catalog.queue(&name).ok_or(Refusal::QueueNotFound)?;
        Ok((name, record))
    }
}

/// Refuses when the caller came by an API key whose scopes lack the right.
pub(crate) fn require_scope(by: &Caller, right: Right) -> Answer<()> {
    match by.scopes() {
        Some(scopes) if !scopes.contains(&right) => {
            Err(Refusal::OutOfScope { needs: right_name(right) })
        }
        _ => Ok(()),
    }
}

/// A queue's name from the path.
pub(crate) fn queue_name(name: &str) -> Answer<QueueName> {
    QueueName::parse(name).map_err(|e| Refusal::invalid("path.queue", "name", e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::broker::testing::*;
    use crate::broker::{QueueChange, UserPatch};
    use crate::protocol::record::Queue;

    fn set(rights: &[Right]) -> BTreeSet<Right> {
        rights.iter().copied().collect()
    }

    #[tokio::test]
    async fn rights_are_denied_unless_given() {
        let broker = broker();
        let admin = user(&broker, "root").await;
        let owner = user(&broker, "ana").await;
        let other = user(&broker, "eva").await;
        let third = user(&broker, "leo").await;
        broker.put_queue(&owner, "q", QueueChange::default()).await.unwrap();
        let queue = || broker.queue_named("q").unwrap().1.queue().unwrap().clone();
        let all = set(Queue::RIGHTS);
        assert_eq!(broker.rights_on(&owner, &queue()), all);
        assert_eq!(broker.rights_on(&admin, &queue()), all);
        assert!(broker.rights_on(&other, &queue()).is_empty());
        broker.put_grant(&owner, "q", "*", set(&[Right::Send])).await.unwrap();
        broker.put_grant(&owner, "q", "eva", set(&[Right::Receive])).await.unwrap();
        assert_eq!(broker.rights_on(&other, &queue()), set(&[Right::Send, Right::Receive]));
        assert_eq!(broker.rights_on(&third, &queue()), set(&[Right::Send]));
        let needs = |needs| Some(Refusal::Forbidden { needs });
        assert!(broker.queue_for(&other, "q", Right::Receive).is_ok());
        assert_eq!(broker.queue_for(&other, "q", Right::Manage).err(), needs("manage"));
        assert_eq!(broker.queue_for(&third, "q", Right::Receive).err(), needs("receive"));
        assert_eq!(broker.queue_for(&third, "x", Right::Send).err(), Some(Refusal::QueueNotFound));
        assert_eq!(broker.require_owner(&owner, &queue()), Ok(()));
        assert_eq!(broker.require_owner(&admin, &queue()), Ok(()));
        let not_owner = Err(Refusal::NotOwner { what: "queue" });
        assert_eq!(broker.require_owner(&other, &queue()), not_owner);
    }

    #[tokio::test]
    async fn r45_a_caller_of_earlier_is_judged_as_of_now() {
        let broker = broker();
        let admin = user(&broker, "root").await;
        let second = user(&broker, "ana").await;
        let make_admin = UserPatch { admin: Some(true), ..UserPatch::default() };
        broker.update_user(&admin, "ana", make_admin, None).await.unwrap();
        let second = Caller { admin: true, ..second };
        broker.put_queue(&admin, "q", QueueChange::default()).await.unwrap();
        let queue = broker.queue_named("q").unwrap().1.queue().unwrap().clone();
        assert_eq!(broker.rights_on(&second, &queue).len(), Queue::RIGHTS.len());
        let session = log_in(&broker, "ana").await;
        assert!(broker.is_current(&session));
        let demote = UserPatch { admin: Some(false), ..UserPatch::default() };
        broker.update_user(&admin, "ana", demote, None).await.unwrap();
        assert!(broker.rights_on(&second, &queue).is_empty());
        assert!(broker.require_admin(&second).is_err());
        broker.log_out_current(&session).await.unwrap();
        assert!(!broker.is_current(&session));
        assert!(broker.is_current(&second));
        broker.delete_user(&admin, "ana", crate::broker::Owned::Refuse, None).await.unwrap();
        assert!(!broker.is_current(&second));
    }

    /// The user of an API key with these scopes.
    async fn scoped(broker: &Broker, by: &Caller, scopes: &[Right]) -> Caller {
        let made = broker.create_api_key(by, "scoped", None, Some(set(scopes))).await.unwrap();
        broker.authenticate_bearer(made.0.as_str(), HERE).unwrap()
    }

    #[tokio::test]
    async fn a_key_gives_no_more_than_its_scopes_also_to_owners_and_administrators() {
        let broker = broker();
        let admin = user(&broker, "root").await;
        let owner = user(&broker, "ana").await;
        broker.put_queue(&owner, "q", QueueChange::default()).await.unwrap();
        let queue = || broker.queue_named("q").unwrap().1.queue().unwrap().clone();
        for by in [&owner, &admin] {
            let key = scoped(&broker, by, &[Right::Receive, Right::Publish]).await;
            assert_eq!(broker.rights_on(&key, &queue()), set(&[Right::Receive]));
            assert!(broker.queue_for(&key, "q", Right::Receive).is_ok());
            let refused = broker.queue_for(&key, "q", Right::Send).err();
            assert_eq!(refused, Some(Refusal::OutOfScope { needs: "send" }));
            let manage = Refusal::OutOfScope { needs: "manage" };
            assert_eq!(broker.require_owner(&key, &queue()), Err(manage.clone()));
            let made = broker.put_queue(&key, "other", QueueChange::default()).await;
            assert_eq!(made.err(), Some(manage.clone()));
            let there = broker.put_queue(&key, "q", QueueChange::default()).await;
            assert_eq!(there.err(), Some(manage));
            assert!(!broker.is_admin(&key) && !key.admin);
        }
    }

    #[tokio::test]
    async fn a_key_with_all_scopes_manages_but_never_administers() {
        let broker = broker();
        let admin = user(&broker, "root").await;
        let owner = user(&broker, "ana").await;
        let key = scoped(&broker, &owner, &Right::ALL).await;
        broker.put_queue(&key, "q", QueueChange::default()).await.unwrap();
        let queue = broker.queue_named("q").unwrap().1.queue().unwrap().clone();
        assert_eq!(broker.rights_on(&key, &queue), set(Queue::RIGHTS));
        let of_admin = scoped(&broker, &admin, &Right::ALL).await;
        assert_eq!(broker.require_owner(&of_admin, &queue), Ok(()));
        assert!(broker.require_admin(&of_admin).is_err());
    }

    #[tokio::test]
    async fn what_scopes_leave_out_is_not_listed() {
        let broker = broker();
        let owner = user(&broker, "ana").await;
        let eva = user(&broker, "eva").await;
        for (name, right) in [("a", Right::Send), ("b", Right::Receive)] {
            broker.put_queue(&owner, name, QueueChange::default()).await.unwrap();
            broker.put_grant(&owner, name, "eva", [right]).await.unwrap();
        }
        let key = scoped(&broker, &eva, &[Right::Receive]).await;
        let listed = broker.list_queues(&key, None, "", None, 100).await.unwrap();
        let names: Vec<_> = listed.items.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, ["b"]);
        assert!(broker.get_queue(&key, "b").await.is_ok());
        assert!(broker.get_queue(&key, "a").await.is_err());
    }
}
