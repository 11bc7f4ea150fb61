//! What queues and topics have in common: a name, an owner, grants, and messages under a key.

use super::changes::Step;
use super::cursors::{List, page_limit};
use super::users::user_in_path;
use super::{Answer, Broker, Caller, Entry, Fault, Page, Refusal};
use crate::base::ids::UserId;
use crate::base::names::{QueueName, TopicName};
use crate::metadata::Draft;
use crate::protocol::record::{
    Ending, Grant, Grantee, Kind, Queue, Record, RecordKey, Right, State, Topic, Value,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A queue or a topic.
pub trait Object: Clone + Send + Sync {
    /// The kind of its record.
    const KIND: Kind;
    /// The same in a word.
    const WORD: &'static str;
    /// All rights on it: what its owner holds, and what a grant may give.
    const RIGHTS: &'static [Right];
    /// The same in words.
    const ANY_RIGHT: &'static str;
    /// There is none of that name.
    const NOT_FOUND: Refusal;

    /// The object that a value describes, whatever its record's state.
    fn of(value: &Value) -> Option<&Self>;
    /// The value that describes it.
    fn into_value(self) -> Value;
    /// The key of its record, from a name in the path.
    ///
    /// # Errors
    /// `Invalid`: it is no name.
    fn key(name: &str) -> Answer<RecordKey>;
    /// The names of a user's live ones and their records, in the order of names.
    fn owned_by(broker: &Broker, user: UserId) -> Vec<(RecordKey, Arc<Record>)>;

    /// Who may delete it.
    fn owner(&self) -> UserId;
    /// Who else may do what.
    fn grants(&self) -> &BTreeMap<Grantee, Grant>;
    /// The same, to be changed.
    fn grants_mut(&mut self) -> &mut BTreeMap<Grantee, Grant>;
    /// Whether and how it ends.
    fn ending(&self) -> Ending;
    /// The key of its messages, wrapped.
    fn data_key(&self) -> &[u8];
    /// Copies wanted.
    fn replicas(&self) -> i32;
    /// The same with another owner.
    #[must_use]
    fn with_owner(self, owner: UserId) -> Self;
    /// The same with another ending.
    #[must_use]
    fn with_ending(self, ending: Ending) -> Self;
    /// The same, changed at that wall time in ms.
    #[must_use]
    fn updated(self, now_ms: u64) -> Self;
}

macro_rules! object {
    ($type:ident, $name:ident, $word:literal, $field:literal, $any:literal, $not_found:ident,
        $owned:ident, [$($right:ident),*]) => {
        impl Object for $type {
            const KIND: Kind = Kind::$type;
            const WORD: &'static str = $word;
            const RIGHTS: &'static [Right] = &[$(Right::$right),*];
            const ANY_RIGHT: &'static str = $any;
            const NOT_FOUND: Refusal = Refusal::$not_found;

            fn of(value: &Value) -> Option<&Self> {
                match value {
                    Value::$type(object) => Some(object),
                    _ => None,
                }
            }
            fn into_value(self) -> Value {
                Value::$type(self)
            }
            fn key(name: &str) -> Answer<RecordKey> {
                let name = $name::parse(name);
                let name = name.map_err(|e| Refusal::invalid($field, "name", e.to_string()))?;
                Ok(RecordKey::new(Kind::$type, name.as_str()))
            }
            fn owned_by(broker: &Broker, user: UserId) -> Vec<(RecordKey, Arc<Record>)> {
                let owned = broker.catalog.$owned(user).into_iter();
                let keyed = |(name, record): ($name, Arc<Record>)| {
                    (RecordKey::new(Kind::$type, name.as_str()), record)
                };
                owned.map(keyed).collect()
            }
            fn owner(&self) -> UserId {
                self.owner
            }
            fn grants(&self) -> &BTreeMap<Grantee, Grant> {
                &self.grants
            }
            fn grants_mut(&mut self) -> &mut BTreeMap<Grantee, Grant> {
                &mut self.grants
            }
            fn ending(&self) -> Ending {
                self.ending
            }
            fn data_key(&self) -> &[u8] {
                &self.data_key
            }
            fn replicas(&self) -> i32 {
                self.config.replicas
            }
            fn with_owner(self, owner: UserId) -> Self {
                Self { owner, ..self }
            }
            fn with_ending(self, ending: Ending) -> Self {
                Self { ending, ..self }
            }
            fn updated(self, now_ms: u64) -> Self {
                Self { updated_ms: now_ms, ..self }
            }
        }
    };
}

object!(
    Queue,
    QueueName,
    "queue",
    "path.queue",
    "send, receive, browse or manage",
    QueueNotFound,
    queues_of,
    [Send, Receive, Browse, Manage]
);
object!(
    Topic,
    TopicName,
    "topic",
    "path.topic",
    "publish, subscribe or manage",
    TopicNotFound,
    topics_of,
    [Publish, Subscribe, Manage]
);

/// The object of a live record.
pub(super) fn live<T: Object>(latest: Option<&Arc<Record>>) -> Answer<(&Arc<Record>, &T)> {
    let latest = latest.filter(|record| record.state == State::Live).ok_or(T::NOT_FOUND)?;
    Ok((latest, T::of(&latest.value).ok_or(T::NOT_FOUND)?))
}

/// A live object with its name.
pub(super) fn entry<T: Object>(key: &RecordKey, record: Arc<Record>) -> Answer<Entry<T>> {
    let value = live::<T>(Some(&record))?.1.clone();
    Ok(Entry { name: name_of(key), record, value })
}

/// The name in a record's key.
pub(super) fn name_of(key: &RecordKey) -> String {
    String::from_utf8_lossy(&key.name).into_owned()
}

impl Broker {
    /// The live object of that name in the path.
    pub(super) fn object_named<T: Object>(&self, name: &str) -> Answer<(RecordKey, Arc<Record>)> {
        let key = T::key(name)?;
        let record = self.catalog.live(&key).ok_or(T::NOT_FOUND)?;
        Ok((key, record))
    }

    /// The next version of a live object.
    pub(super) fn changed<T: Object>(&self, latest: &Record, next: T) -> Draft {
        let value = next.updated(self.clock.wall_ms()).into_value();
        Draft { generation: latest.generation, state: State::Live, value }
    }

    /// Gives an object another owner, unless it has another already or is gone.
    pub(super) async fn transfer<T: Object>(
        &self,
        key: &RecordKey,
        from: UserId,
        to: UserId,
    ) -> Answer<()> {
        let rule = |latest: Option<&Arc<Record>>| {
            let (latest, object) = live::<T>(latest)?;
            if object.owner() != from {
                return Ok(Step::Keep(Arc::clone(latest)));
            }
            Ok(Step::Write(self.changed(latest, object.clone().with_owner(to))))
        };
        match self.alter(key, rule).await {
            Err(refusal) if refusal != T::NOT_FOUND => Err(refusal),
            _ => Ok(()),
        }
    }

    /// The objects that the caller has a right on, in the order of names; of one owner (a name or
    /// `me`) if given. An owner that is not there has none.
    pub(super) fn list_objects<T: Object>(
        &self,
        by: &Caller,
        owner: Option<&str>,
        prefix: &str,
        cursor: Option<&str>,
        limit: i32,
    ) -> Answer<Page<Entry<T>>> {
        let limit = page_limit(limit)?;
        let owner_id = match owner {
            Some(owner) => Some(self.owner_named(by, owner)?),
            None => None,
        };
        // `me` is another list for every caller, and no owner is not the owner "".
        let filter = owner_id.flatten().map_or([0; 16], |id| id.0);
        let list_name = format!("{}s", T::WORD);
        let parts: [&[u8]; 4] =
            [list_name.as_bytes(), &[u8::from(owner.is_some())], &filter, prefix.as_bytes()];
        let list = List::new(&parts);
        let after = list.after(&self.keys, cursor)?;
        let found = match owner_id {
            None => self.visible::<T>(by, prefix, after.as_deref(), limit + 1),
            Some(Some(id)) => self.visible_of::<T>(by, id, prefix, after.as_deref(), limit + 1),
            Some(None) => Vec::new(),
        };
        let name = |entry: &Entry<T>| entry.name.clone().into_bytes();
        Ok(list.page(&self.keys, found, limit, name))
    }

    fn owner_named(&self, by: &Caller, owner: &str) -> Answer<Option<UserId>> {
        if owner == "me" {
            return Ok(Some(by.user));
        }
        let name = user_in_path(owner).map_err(|refusal| match refusal {
            Refusal::Invalid(faults) => Refusal::Invalid(
                faults.into_iter().map(|it| Fault { field: "query.owner".into(), ..it }).collect(),
            ),
            other => other,
        })?;
        Ok(self.catalog.user(&name).and_then(|record| record.user().map(|user| user.id)))
    }

    fn visible<T: Object>(
        &self,
        by: &Caller,
        prefix: &str,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<Entry<T>> {
        let may_see = |_: &RecordKey, record: &Record| {
            T::of(&record.value).is_some_and(|object| !self.rights_on(by, object).is_empty())
        };
        let found = self.catalog.page(T::KIND, prefix.as_bytes(), after, limit, &may_see);
        found.into_iter().filter_map(|(key, record)| entry(&key, record).ok()).collect()
    }

    fn visible_of<T: Object>(
        &self,
        by: &Caller,
        owner: UserId,
        prefix: &str,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<Entry<T>> {
        let wanted = |key: &RecordKey| {
            key.name.starts_with(prefix.as_bytes())
                && after.is_none_or(|after| key.name.as_slice() > after)
        };
        let owned = T::owned_by(self, owner).into_iter().filter(|(key, _)| wanted(key));
        let entries = owned.filter_map(|(key, record)| entry::<T>(&key, record).ok());
        let visible = entries.filter(|entry| !self.rights_on(by, &entry.value).is_empty());
        visible.take(limit).collect()
    }
}
