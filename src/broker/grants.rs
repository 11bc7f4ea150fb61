//! Grants: what owners allow others on their queues and topics. They lie in the object's record
//! and name users by id, so they change by its version and die with the user [R43, H55].

use super::changes::Step;
use super::cursors::{List, page_limit};
use super::objects::{Object, live, name_of};
use super::rights::{right_name, right_words};
use super::users::user_in_path;
use super::{Answer, Broker, Caller, Page, Refusal};
use crate::base::limits::GRANTS_PER_OBJECT_MAX;
use crate::protocol::record::{Grant, Grantee, Queue, Record, Right, Topic};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How every user is written.
const EVERYONE: &str = "*";

impl Broker {
    /// The grants on a queue, in the order of the grantees' names, for its owner.
    ///
    /// # Errors
    /// `Invalid`, `QueueNotFound`, `NotOwner`.
    pub async fn list_grants(
        &self,
        by: &Caller,
        queue: &str,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<Grant>> {
        self.list_grants_on::<Queue>(by, queue, cursor, limit)
    }

    /// The same of a topic.
    ///
    /// # Errors
    /// `Invalid`, `TopicNotFound`, `NotOwner`.
    pub async fn list_topic_grants(
        &self,
        by: &Caller,
        topic: &str,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<Grant>> {
        self.list_grants_on::<Topic>(by, topic, cursor, limit)
    }

    /// Gives a user (or `*`, everyone) exactly these rights on a queue, whatever it had.
    ///
    /// # Errors
    /// `Invalid`, `QueueNotFound`, `UserNotFound`, `NotOwner`, `Quota`, `Overloaded`,
    /// `NotEnoughReplicas`.
    pub async fn put_grant(
        &self,
        by: &Caller,
        queue: &str,
        username: &str,
        rights: impl IntoIterator<Item = Right>,
    ) -> Answer<Grant> {
        self.put_grant_on::<Queue>(by, queue, username, rights).await
    }

    /// The same on a topic.
    ///
    /// # Errors
    /// As [`Broker::put_grant`], with `TopicNotFound`.
    pub async fn put_topic_grant(
        &self,
        by: &Caller,
        topic: &str,
        username: &str,
        rights: impl IntoIterator<Item = Right>,
    ) -> Answer<Grant> {
        self.put_grant_on::<Topic>(by, topic, username, rights).await
    }

    /// Takes a user's (or everyone's) grant on a queue; none is as good.
    ///
    /// # Errors
    /// `Invalid`, `QueueNotFound`, `UserNotFound`, `NotOwner`, `Overloaded`, `NotEnoughReplicas`.
    pub async fn delete_grant(&self, by: &Caller, queue: &str, username: &str) -> Answer<()> {
        self.delete_grant_on::<Queue>(by, queue, username).await
    }

    /// The same on a topic.
    ///
    /// # Errors
    /// As [`Broker::delete_grant`], with `TopicNotFound`.
    pub async fn delete_topic_grant(&self, by: &Caller, topic: &str, username: &str) -> Answer<()> {
        self.delete_grant_on::<Topic>(by, topic, username).await
    }

    fn list_grants_on<T: Object>(
        &self,
        by: &Caller,
        name: &str,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<Grant>> {
        let limit = page_limit(limit)?;
        let (_, record) = self.object_named::<T>(name)?;
        let (_, object) = live::<T>(Some(&record))?;
        self.require_owner(by, object)?;
        let parts: [&[u8]; 2] = [b"grants", &record.generation.0];
        let list = List::new(&parts);
        let after = list.after(&self.keys, cursor)?;
        let living = object.grants().iter().filter(|(grantee, _)| self.is_alive(**grantee));
        let mut grants: Vec<_> = living.map(|(_, grant)| grant.clone()).collect();
        let name = |grant: &Grant| grant.grantee_name.clone().into_bytes();
        grants.retain(|grant| after.as_ref().is_none_or(|after| name(grant) > *after));
        grants.sort_by_key(name);
        grants.truncate(limit + 1);
        Ok(list.page(&self.keys, grants, limit, name))
    }

    async fn put_grant_on<T: Object>(
        &self,
        by: &Caller,
        name: &str,
        username: &str,
        rights: impl IntoIterator<Item = Right>,
    ) -> Answer<Grant> {
        let key = T::key(name)?;
        let rights = granted(rights, T::RIGHTS, T::WORD)?;
        let grantee_name = grantee_name(by, username)?;
        let words = right_words(&rights);
        let grant = Grant {
            rights,
            granted_by: by.name.to_string(),
            granted_ms: self.clock.wall_ms(),
            grantee_name,
        };
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, object) = live::<T>(latest)?;
            self.require_owner(by, object)?;
            let grantee = self.grantee(&grant.grantee_name)?;
            let mut next = self.without_dead_grants(object);
            next.grants_mut().insert(grantee, grant.clone());
            if next.grants().len() > GRANTS_PER_OBJECT_MAX {
                let limit = GRANTS_PER_OBJECT_MAX;
                return Err(Refusal::Quota { what: "grants on one object", limit });
            }
            Ok(Step::Write(self.changed(latest, next)))
        };
        self.alter(&key, rule).await?;
        let detail = format!("user={} rights={words}", grant.grantee_name);
        by.note("grant", (T::WORD, &name_of(&key)), &detail);
        Ok(grant)
    }

    async fn delete_grant_on<T: Object>(
        &self,
        by: &Caller,
        name: &str,
        username: &str,
    ) -> Answer<()> {
        let key = T::key(name)?;
        let username = grantee_name(by, username)?;
        let mut was_there = false;
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, object) = live::<T>(latest)?;
            self.require_owner(by, object)?;
            let grantee = self.grantee(&username)?;
            if !object.grants().contains_key(&grantee) {
                was_there = false;
                return Ok(Step::Keep(Arc::clone(latest)));
            }
            let mut next = self.without_dead_grants(object);
            next.grants_mut().remove(&grantee);
            was_there = true;
            Ok(Step::Write(self.changed(latest, next)))
        };
        self.alter(&key, rule).await?;
        if was_there {
            by.note("revoke", (T::WORD, &name_of(&key)), &format!("user={username}"));
        }
        Ok(())
    }

    fn grantee(&self, name: &str) -> Answer<Grantee> {
        if name == EVERYONE {
            return Ok(Grantee::Everyone);
        }
        let record = self.catalog.user(&user_in_path(name)?).ok_or(Refusal::UserNotFound)?;
        let user = record.user().ok_or(Refusal::UserNotFound)?;
        Ok(Grantee::User(user.id))
    }

    /// Grants of users that are gone give nothing; a change of the grants drops them.
    fn without_dead_grants<T: Object>(&self, object: &T) -> T {
        let mut next = object.clone();
        next.grants_mut().retain(|grantee, _| self.is_alive(*grantee));
        next
    }

    fn is_alive(&self, grantee: Grantee) -> bool {
        match grantee {
            Grantee::Everyone => true,
            Grantee::User(id) => self.catalog.user_by_id(id).is_some(),
        }
    }
}

/// The rights of a grant, if they are those of the object's kind.
fn granted(
    rights: impl IntoIterator<Item = Right>,
    fitting: &[Right],
    kind: &'static str,
) -> Answer<BTreeSet<Right>> {
    let mut set = BTreeSet::new();
    for (index, right) in rights.into_iter().enumerate() {
        if !fitting.contains(&right) {
            let message = format!("there is no right to {} on a {kind}", right_name(right));
            return Err(Refusal::invalid(&format!("rights[{index}]"), "kind", message));
        }
        set.insert(right);
    }
    if set.is_empty() {
        let message = "a grant gives at least one right; to take all, delete it";
        return Err(Refusal::invalid("rights", "length", message));
    }
    Ok(set)
}

/// The grantee's name from the path; `me` is the caller.
fn grantee_name(by: &Caller, username: &str) -> Answer<String> {
    match username {
        EVERYONE => Ok(EVERYONE.to_owned()),
        "me" => Ok(by.name.to_string()),
        other => user_in_path(other).map(|name| name.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::broker::testing::*;
    use crate::broker::{Owned, QueueChange};
    use futures_util::future::join_all;

    fn set(rights: &[Right]) -> BTreeSet<Right> {
        rights.iter().copied().collect()
    }

    async fn scene() -> (Arc<Broker>, Caller, Caller, Caller) {
        let broker = broker();
        let root = user(&broker, "root").await;
        let ana = user(&broker, "ana").await;
        let eva = user(&broker, "eva").await;
        broker.put_queue(&ana, "q", QueueChange::default()).await.unwrap();
        (broker, root, ana, eva)
    }

    async fn names(broker: &Broker, by: &Caller) -> Vec<String> {
        let page = broker.list_grants(by, "q", None, 100).await.unwrap();
        page.items.into_iter().map(|grant| grant.grantee_name).collect()
    }

    #[tokio::test]
    async fn a_put_replaces_and_a_delete_takes_all() {
        let (broker, root, ana, eva) = scene().await;
        let both = set(&[Right::Send, Right::Receive]);
        let grant = broker.put_grant(&ana, "q", "eva", both.clone()).await.unwrap();
        assert_eq!((grant.granted_by.as_str(), grant.grantee_name.as_str()), ("ana", "eva"));
        assert_eq!(grant.rights, both);
        broker.put_grant(&root, "q", "eva", set(&[Right::Manage])).await.unwrap();
        let queue = || broker.queue_named("q").unwrap().1.queue().unwrap().clone();
        assert_eq!(broker.rights_on(&eva, &queue()), set(&[Right::Manage]));
        broker.put_grant(&ana, "q", "*", set(&[Right::Send])).await.unwrap();
        broker.put_grant(&ana, "q", "me", set(&[Right::Send])).await.unwrap();
        assert_eq!(names(&broker, &ana).await, ["*", "ana", "eva"]);
        for _ in 0..2 {
            broker.delete_grant(&ana, "q", "eva").await.unwrap();
            broker.delete_grant(&ana, "q", "*").await.unwrap();
        }
        assert!(broker.rights_on(&eva, &queue()).is_empty());
        assert_eq!(names(&broker, &root).await, ["ana"]);
    }

    #[tokio::test]
    async fn only_owner_and_administrators_see_and_change_grants() {
        let (broker, _, ana, eva) = scene().await;
        broker.put_grant(&ana, "q", "eva", set(&[Right::Manage])).await.unwrap();
        let refused = Refusal::NotOwner { what: "queue" };
        let rights = set(&[Right::Send]);
        assert_eq!(broker.put_grant(&eva, "q", "eva", rights).await, Err(refused.clone()));
        assert_eq!(broker.delete_grant(&eva, "q", "eva").await, Err(refused.clone()));
        assert_eq!(broker.list_grants(&eva, "q", None, 100).await, Err(refused));
    }

    #[tokio::test]
    async fn what_a_grant_must_name() {
        let (broker, _, ana, _) = scene().await;
        let rights = || set(&[Right::Send]);
        let put = |queue, username, rights| broker.put_grant(&ana, queue, username, rights);
        assert_eq!(put("x", "eva", rights()).await, Err(Refusal::QueueNotFound));
        assert_eq!(put("q", "nobody", rights()).await, Err(Refusal::UserNotFound));
        assert_eq!(fault(&put("q", "eva", set(&[])).await.unwrap_err()), "rights");
        let of_topics = vec![Right::Browse, Right::Publish, Right::Subscribe];
        let refused = broker.put_grant(&ana, "q", "eva", of_topics).await.unwrap_err();
        assert_eq!(fault(&refused), "rights[1]");
        broker.put_grant(&ana, "q", "eva", Queue::RIGHTS.iter().copied()).await.unwrap();
        assert_eq!(fault(&put("q", "not a name", rights()).await.unwrap_err()), "path.username");
        assert_eq!(fault(&put("no/queue", "eva", rights()).await.unwrap_err()), "path.queue");
        let delete = |queue, username| broker.delete_grant(&ana, queue, username);
        assert_eq!(delete("x", "eva").await, Err(Refusal::QueueNotFound));
        assert_eq!(delete("q", "nobody").await, Err(Refusal::UserNotFound));
    }

    #[tokio::test]
    async fn h55_a_grant_dies_with_its_user() {
        let (broker, root, ana, _) = scene().await;
        broker.put_grant(&ana, "q", "eva", set(&[Right::Receive])).await.unwrap();
        broker.delete_user(&root, "eva", Owned::Refuse, None).await.unwrap();
        assert!(names(&broker, &ana).await.is_empty());
        let again = user(&broker, "eva").await;
        let queue = || broker.queue_named("q").unwrap().1.queue().unwrap().clone();
        assert!(broker.rights_on(&again, &queue()).is_empty());
        broker.put_grant(&ana, "q", "root", set(&[Right::Send])).await.unwrap();
        assert_eq!(queue().grants.len(), 1);
    }

    #[tokio::test]
    async fn grants_at_once_all_count() {
        let (broker, _, ana, _) = scene().await;
        let users = join_all((0..10).map(|n| {
            let broker = &broker;
            async move { user(broker, &format!("u{n}")).await }
        }))
        .await;
        let rights = || set(&[Right::Send]);
        let puts = users.iter().map(|it| broker.put_grant(&ana, "q", it.name.as_str(), rights()));
        for put in join_all(puts).await {
            put.unwrap();
        }
        assert_eq!(names(&broker, &ana).await.len(), 10);
        let first = broker.list_grants(&ana, "q", None, 6).await.unwrap();
        let next = broker.list_grants(&ana, "q", first.next.as_deref(), 6).await.unwrap();
        assert_eq!((next.items[0].grantee_name.as_str(), next.items.len()), ("u6", 4));
        assert_eq!(next.next, None);
    }

    #[tokio::test]
    async fn a_queue_has_at_most_1000_grants() {
        let (broker, _, ana, _) = scene().await;
        let (name, record) = broker.queue_named("q").unwrap();
        let mut queue = record.queue().unwrap().clone();
        let grant = broker.put_grant(&ana, "q", "*", set(&[Right::Send])).await.unwrap();
        let (_, record) = broker.queue_named("q").unwrap();
        for n in 0..GRANTS_PER_OBJECT_MAX - 1 {
            let id = user_id(&broker, n).await;
            queue.grants.insert(Grantee::User(id), grant.clone());
        }
        queue.grants.insert(Grantee::Everyone, grant);
        let full = broker.changed(&record, queue);
        broker
            .registers
            .change(crate::broker::queues::queue_key(&name), record.version, full)
            .await
            .unwrap();
        let refused = broker.put_grant(&ana, "q", "eva", set(&[Right::Send])).await;
        let limit = GRANTS_PER_OBJECT_MAX;
        assert_eq!(refused, Err(Refusal::Quota { what: "grants on one object", limit }));
        broker.put_grant(&ana, "q", "*", set(&[Right::Receive])).await.unwrap();
    }

    /// A user that is there, made without a password's cost and the rates of registration.
    async fn user_id(broker: &Broker, n: usize) -> crate::base::ids::UserId {
        let root = broker.catalog.user(&crate::base::names::UserName::parse("root").unwrap());
        let mut made = root.unwrap().user().unwrap().clone();
        made.id = crate::base::ids::UserId::random(&*broker.rng);
        made.admin = false;
        let key = crate::protocol::record::RecordKey::new(
            crate::protocol::record::Kind::User,
            format!("made{n}"),
        );
        let id = made.id;
        broker.create(&key, crate::protocol::record::Value::User(made)).await.unwrap();
        id
    }
}
