//! Deleting queues and topics: three steps, each completed by any reader that meets it [F5].
//!
//! The record goes live → sealed, which says how it ends; the data is sealed at a majority of its
//! replicas; the record goes sealed → free. Only then, and only on that positive record, is the
//! data dropped [R40]. Before the name is free, the subscriptions that read the topic, or deliver
//! into the queue, go. The worker below finishes what a crash or a lost quorum left, and ends the
//! subscriptions whose topic, queue or maker is gone.

use super::objects::{Object, name_of};
use super::{Answer, Broker, Caller, Outcome, Refusal, check_if_match};
use crate::base::ids::Generation;
use crate::base::names::QueueName;
use crate::base::seams::blocking;
use crate::metadata::Draft;
use crate::protocol::op::{self, Closes, Seal};
use crate::protocol::record::{Ending, Kind, Queue, Record, RecordKey, State, Topic, Value};
use crate::replication::scan;
use crate::store::WriteClass;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Rows deleted in one commit.
const CHUNK: usize = 1_000;
/// How often a deletion is judged anew when others change the queue.
const TRIES_MAX: usize = 16;
const CONTENDED: Refusal = Refusal::Overloaded { why: "others keep changing the same object" };
/// How often the worker looks by itself.
const PERIOD: Duration = Duration::from_secs(10);

/// What happens to the messages of a deleted queue or topic. Topics do not drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Messages {
    /// Gone at once and for good.
    Discard,
    /// Sends are refused; the queue goes when the last message is settled.
    Drain,
    /// Deleted only if empty, leased messages counted.
    Refuse,
}

/// How a deletion was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The queue is gone.
    Gone,
    /// The queue goes when its last message is settled.
    Draining,
}

impl Broker {
    /// Deletes a queue.
    ///
    /// # Errors
    /// [`Refusal`]; `NotEnoughReplicas` with an unknown outcome: the deletion has begun and will
    /// be completed.
    pub async fn delete_queue(
        &self,
        by: &Caller,
        name: &str,
        messages: Messages,
        if_match: Option<&str>,
    ) -> Answer<Deleted> {
        self.delete_object::<Queue>(by, name, messages, if_match).await
    }

    /// The same for either kind.
    pub(super) async fn delete_object<T: Object>(
        &self,
        by: &Caller,
        name: &str,
        messages: Messages,
        if_match: Option<&str>,
    ) -> Answer<Deleted> {
        for _ in 0..TRIES_MAX {
            let (key, record) = self.object_named::<T>(name)?;
            let object = T::of(&record.value).ok_or(T::NOT_FOUND)?.clone();
            self.require_owner(by, &object)?;
            check_if_match(if_match, &record)?;
            match self.delete_version(&key, &record, object, messages).await {
                // Somebody else changed it meanwhile: judged anew, unless the caller named a version.
                Err(Refusal::PreconditionFailed) if if_match.is_none() => {}
                Err(refusal) => return Err(refusal),
                Ok(deleted) => {
                    let (event, detail) = match (T::KIND, messages) {
                        (Kind::Topic, Messages::Refuse) => ("delete_topic", "messages=refuse"),
                        (Kind::Topic, _) => ("delete_topic", "messages=discard"),
                        (_, Messages::Discard) => ("delete_queue", "messages=discard"),
                        (_, Messages::Drain) => ("delete_queue", "messages=drain"),
                        (_, Messages::Refuse) => ("delete_queue", "messages=refuse"),
                    };
                    by.note(event, (T::WORD, &name_of(&key)), detail);
                    return Ok(deleted);
                }
            }
        }
        Err(CONTENDED)
    }

    async fn delete_version<T: Object>(
        &self,
        key: &RecordKey,
        record: &Record,
        object: T,
        messages: Messages,
    ) -> Answer<Deleted> {
        let ending = match messages {
            Messages::Drain => return self.drain(key, record, object).await,
            Messages::Discard => Ending::Discard,
            Messages::Refuse => {
                // A refusal changes nothing: neither an etag nor a drain that is under way. A drain's
                // seal comes first, or a send could follow the count.
                if object.ending() == Ending::Drain {
                    self.seal_data::<T>(key, record, Closes::Sends).await?;
                }
                self.require_empty(record, &object).await?;
                if object.ending() == Ending::Drain { Ending::Discard } else { Ending::IfEmpty }
            }
        };
        self.end(key, record, object, ending).await?;
        Ok(Deleted::Gone)
    }

    /// Deletes an object whose owner goes.
    pub(super) async fn delete_owned<T: Object>(
        &self,
        key: &RecordKey,
        record: &Record,
    ) -> Answer<()> {
        for _ in 0..TRIES_MAX {
            let latest = self.catalog.live(key).filter(|it| it.generation == record.generation);
            let Some(latest) = latest else { return Ok(()) };
            let Some(object) = T::of(&latest.value) else { return Ok(()) };
            match self.end(key, &latest, object.clone(), Ending::Discard).await {
                Err(Refusal::PreconditionFailed) => {}
                other => return other,
            }
        }
        Err(CONTENDED)
    }

    /// Deletes a queue whose owner goes.
    pub(crate) async fn delete_owned_queue(&self, name: &QueueName, record: &Record) -> Answer<()> {
        self.delete_owned::<Queue>(&RecordKey::new(Kind::Queue, name.as_str()), record).await
    }

    /// Step one: the record says that and how the object ends.
    async fn end<T: Object>(
        &self,
        key: &RecordKey,
        record: &Record,
        object: T,
        ending: Ending,
    ) -> Answer<()> {
        let value = object.with_ending(ending).into_value();
        let sealed = self.write(key, record, State::Sealed, value).await?;
        self.complete::<T>(key, &sealed).await
    }

    async fn drain<T: Object>(
        &self,
        key: &RecordKey,
        record: &Record,
        object: T,
    ) -> Answer<Deleted> {
        if object.ending() == Ending::Drain {
            return Ok(Deleted::Draining);
        }
        let value = object.with_ending(Ending::Drain).into_value();
        let draining = self.write(key, record, State::Live, value).await?;
        self.seal_data::<T>(key, &draining, Closes::Sends).await?;
        self.deletions.notify_one();
        Ok(Deleted::Draining)
    }

    /// Steps two and three, from wherever they stand.
    async fn complete<T: Object>(&self, key: &RecordKey, sealed: &Arc<Record>) -> Answer<()> {
        let Some(object) = T::of(&sealed.value) else { return Ok(()) };
        self.seal_data::<T>(key, sealed, Closes::All).await?;
        if object.ending() == Ending::IfEmpty {
            match self.require_empty(sealed, object).await {
                Err(Refusal::NotEmpty) => return self.revive(key, sealed, object.clone()).await,
                other => other?,
            }
        }
        self.end_dependents(sealed.generation).await?;
        // Noted first: whoever frees the name, and whatever becomes of this caller, the worker
        // drops the data once the record says so.
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).insert(sealed.generation);
        let freed = self.write(key, sealed, State::Free, Value::Nothing).await;
        self.deletions.notify_one();
        match freed {
            // Another reader was faster: what it decided stands.
            Err(Refusal::PreconditionFailed) => match self.catalog.live(key) {
                Some(record) if record.generation == sealed.generation => Err(Refusal::NotEmpty),
                _ => Ok(()),
            },
            other => other.map(|_| ()),
        }
    }

    async fn require_empty<T: Object>(&self, record: &Record, object: &T) -> Answer<()> {
        let stream = self.stream_of(record, object)?;
        match self.coordinator.census(&stream).await {
            Some(0) => Ok(()),
            Some(_) => Err(Refusal::NotEmpty),
            None => Err(Refusal::NotEnoughReplicas { outcome: Outcome::Unknown }),
        }
    }

    /// A message was found: a greater live version lifts the seal.
    async fn revive<T: Object>(&self, key: &RecordKey, sealed: &Record, object: T) -> Answer<()> {
        let value = object.with_ending(Ending::No).into_value();
        match self.write(key, sealed, State::Live, value).await {
            Ok(_) | Err(Refusal::PreconditionFailed) => Err(Refusal::NotEmpty),
            Err(refusal) => Err(refusal),
        }
    }

    async fn seal_data<T: Object>(
        &self,
        key: &RecordKey,
        record: &Record,
        closes: Closes,
    ) -> Answer<()> {
        let Some(object) = T::of(&record.value) else { return Ok(()) };
        let stream = self.stream_of(record, object)?;
        let seal = Seal { record_version: record.version, closes, name: sealed_name(key) };
        match self.coordinator.seal(&stream, seal).await {
            op::Outcome::Done => Ok(()),
            // The record already says so: the worker finishes it.
            op::Outcome::NotStored | op::Outcome::Unknown => {
                Err(Refusal::NotEnoughReplicas { outcome: Outcome::Unknown })
            }
        }
    }

    async fn write(
        &self,
        key: &RecordKey,
        from: &Record,
        state: State,
        value: Value,
    ) -> Answer<Arc<Record>> {
        let draft = Draft { generation: from.generation, state, value };
        let changed = self.registers.change(key.clone(), from.version, draft).await;
        changed.map_err(|error| super::refusal_of_change(&error))
    }

    /// After a settle: the last message of a draining queue ends it.
    pub(super) fn after_settling(&self, address: &super::Address) {
        let super::Address::Queue(name) = address else { return };
        let draining = self.catalog.queue(name).is_some_and(
            |record| matches!(&record.value, Value::Queue(q) if q.ending == Ending::Drain),
        );
        let count = |record: &Arc<Record>| {
            self.coordinator.replica().count_loaded(record.generation) == Some(0)
        };
        if draining && self.catalog.queue(name).as_ref().is_some_and(count) {
            self.deletions.notify_one();
        }
    }

    /// Worker: finishes deletions until the node stops.
    pub async fn run_deletions(self: Arc<Self>) {
        self.find_dropped().await;
        loop {
            self.finish_deletions().await;
            tokio::select! {
                () = self.deletions.notified() => {}
                () = tokio::time::sleep(PERIOD) => {}
                () = self.stopping.cancelled() => return,
            }
        }
    }

    pub(super) async fn finish_deletions(&self) {
        for (key, record) in self.catalog.sealed() {
            let completed = match key.kind {
                Kind::Queue => self.complete::<Queue>(&key, &record).await,
                Kind::Topic => self.complete::<Topic>(&key, &record).await,
                Kind::Subscription => self.stop_reading(&key, &record).await,
                _ => Ok(()),
            };
            if let Err(refusal) = completed
                && !matches!(refusal, Refusal::NotEmpty)
            {
                tracing::warn!(kind = ?key.kind, name = name_of(&key), ?refusal, "a deletion has to wait");
            }
        }
        self.finish_subscriptions().await;
        for (key, record) in self.draining() {
            if let Err(refusal) = self.end_drained(&key, &record).await {
                tracing::warn!(queue = name_of(&key), ?refusal, "a drained queue has to wait");
            }
        }
        let dropped =
            std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        for generation in dropped {
            match self.catalog.stream_by_generation(generation) {
                // Not freed yet: the record, not this list, says when.
                Some((_, record)) if record.state == State::Sealed => {
                    let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
                    dropped.insert(generation);
                    continue;
                }
                // It lives on.
                Some(_) => continue,
                None => {}
            }
            if let Err(reason) = self.drop_data(generation).await {
                tracing::warn!(stream = %generation, reason, "data of what is deleted has to wait");
                self.dropped.lock().unwrap_or_else(PoisonError::into_inner).insert(generation);
            }
        }
    }

    fn draining(&self) -> Vec<(RecordKey, Arc<Record>)> {
        let keep = |_: &RecordKey, record: &Record| matches!(&record.value, Value::Queue(q) if q.ending == Ending::Drain);
        self.catalog.page(Kind::Queue, b"", None, usize::MAX, &keep)
    }

    async fn end_drained(&self, key: &RecordKey, record: &Arc<Record>) -> Answer<()> {
        let Value::Queue(value) = &record.value else { return Ok(()) };
        // A crash may have come between the record and its seal.
        self.seal_data::<Queue>(key, record, Closes::Sends).await?;
        let stream = self.stream_of(record, value)?;
        if self.coordinator.census(&stream).await == Some(0) {
            tracing::info!(queue = name_of(key), "a drained queue ends");
            self.end(key, record, value.clone(), Ending::Discard).await?;
        }
        Ok(())
    }

    /// Finds data whose delete record is positive but whose rows are still here: what a crash
    /// between freeing the name and dropping the rows leaves.
    async fn find_dropped(&self) {
        let store = self.coordinator.replica().store().clone();
        let mut after = None;
        loop {
            let (store, from) = (store.clone(), after);
            let spawn = self.coordinator.replica().spawn();
            let read = blocking(&**spawn, move || scan::streams(&store, from)).await;
            let streams = match read {
                Ok(streams) => streams,
                Err(error) => {
                    tracing::error!(%error, "streams cannot be listed");
                    return;
                }
            };
            let Some((last, _)) = streams.last() else { return };
            after = Some(*last);
            let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
            for (generation, meta) in streams {
                if meta.seal.is_some_and(|seal| self.is_deleted(generation, &seal)) {
                    dropped.insert(generation);
                }
            }
        }
    }

    fn is_deleted(&self, generation: Generation, seal: &Seal) -> bool {
        if seal.closes != Closes::All {
            return false;
        }
        self.catalog.get(&key_of_seal(&seal.name)).is_some_and(|record| {
            let gone = record.state == State::Free || record.generation != generation;
            gone && record.version > seal.record_version
        })
    }

    /// Drops the rows of a deleted stream, in bounded pieces.
    async fn drop_data(&self, generation: Generation) -> Result<(), &'static str> {
        let store = self.coordinator.replica().store().clone();
        loop {
            store.barrier().await.map_err(|_| "the store has failed")?;
            let reader = store.clone();
            let read = move || scan::deletions(&reader, generation, CHUNK);
            let spawn = self.coordinator.replica().spawn();
            let ops = blocking(&**spawn, read).await.map_err(|_| "its rows cannot be read")?;
            if ops.is_empty() {
                self.coordinator.forget(generation);
                return Ok(());
            }
            let bytes = ops.len() * 64;
            let admission = store
                .admit(WriteClass::Reserve, bytes)
                .map_err(|_| "too many writes are waiting")?;
            store.submit(admission, ops).await.map_err(|_| "the store has failed")?;
        }
    }
}

/// What a topic's name begins with in a seal: names have no slash, so no queue is meant.
const TOPIC_SEAL: &str = "topic/";

/// The name by which a seal finds its record again. Persisted.
fn sealed_name(key: &RecordKey) -> String {
    match key.kind {
        Kind::Topic => format!("{TOPIC_SEAL}{}", name_of(key)),
        _ => name_of(key),
    }
}

/// The record that a seal means.
fn key_of_seal(name: &str) -> RecordKey {
    match name.strip_prefix(TOPIC_SEAL) {
        Some(topic) => RecordKey::new(Kind::Topic, topic),
        None => RecordKey::new(Kind::Queue, name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_finds_its_record_again() {
        for kind in [Kind::Queue, Kind::Topic] {
            let key = RecordKey::new(kind, "topic");
            assert_eq!(key_of_seal(&sealed_name(&key)), key);
        }
        assert_eq!(sealed_name(&RecordKey::new(Kind::Queue, "news")), "news");
        assert_eq!(sealed_name(&RecordKey::new(Kind::Topic, "news")), "topic/news");
    }
}
