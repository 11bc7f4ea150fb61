//! Deleting queues: three steps, each completed by any reader that meets it [F5].
//!
//! The record goes live → sealed, which says how it ends; the data is sealed at a majority of its
//! replicas; the record goes sealed → free. Only then, and only on that positive record, is the
//! data dropped [R40]. The worker below finishes what a crash or a lost quorum left.

use super::{Answer, Broker, Caller, Outcome, Refusal, check_if_match};
use crate::base::ids::Generation;
use crate::base::names::QueueName;
use crate::base::seams::blocking;
use crate::metadata::Draft;
use crate::protocol::op::{self, Closes, Seal};
use crate::protocol::record::{Ending, Kind, Queue, Record, RecordKey, State, Value};
use crate::replication::scan;
use crate::store::WriteClass;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Rows deleted in one commit.
const CHUNK: usize = 1_000;
/// How often a deletion is judged anew when others change the queue.
const TRIES_MAX: usize = 16;
/// How often the worker looks by itself.
const PERIOD: Duration = Duration::from_secs(10);

/// What happens to a deleted queue's messages.
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
        for _ in 0..TRIES_MAX {
            let (name, record) = self.queue_named(name)?;
            let value = record.queue().ok_or(Refusal::QueueNotFound)?.clone();
            self.require_owner(by, &value)?;
            check_if_match(if_match, &record)?;
            match self.delete_version(&name, &record, value, messages).await {
                // Somebody else changed it meanwhile: judged anew, unless the caller named a version.
                Err(Refusal::PreconditionFailed) if if_match.is_none() => {}
                Err(refusal) => return Err(refusal),
                Ok(deleted) => {
                    let detail = match messages {
                        Messages::Discard => "messages=discard",
                        Messages::Drain => "messages=drain",
                        Messages::Refuse => "messages=refuse",
                    };
                    by.note("delete_queue", ("queue", name.as_str()), detail);
                    return Ok(deleted);
                }
            }
        }
        Err(Refusal::Overloaded { why: "others keep changing the same queue" })
    }

    async fn delete_version(
        &self,
        name: &QueueName,
        record: &Record,
        value: Queue,
        messages: Messages,
    ) -> Answer<Deleted> {
        let ending = match messages {
            Messages::Drain => return self.drain(name, record, value).await,
            Messages::Discard => Ending::Discard,
            Messages::Refuse => {
                // A refusal changes nothing: neither an etag nor a drain that is under way. A drain's
                // seal comes first, or a send could follow the count.
                if value.ending == Ending::Drain {
                    self.seal_data(name, record, Closes::Sends).await?;
                }
                self.require_empty(record, &value).await?;
                if value.ending == Ending::Drain { Ending::Discard } else { Ending::IfEmpty }
            }
        };
        self.end(name, record, value, ending).await?;
        Ok(Deleted::Gone)
    }

    /// Deletes a queue whose owner goes.
    pub(crate) async fn delete_owned_queue(&self, name: &QueueName, record: &Record) -> Answer<()> {
        for _ in 0..TRIES_MAX {
            let latest = self.catalog.queue(name).filter(|it| it.generation == record.generation);
            let Some(latest) = latest else { return Ok(()) };
            let Some(value) = latest.queue() else { return Ok(()) };
            match self.end(name, &latest, value.clone(), Ending::Discard).await {
                Err(Refusal::PreconditionFailed) => {}
                other => return other,
            }
        }
        Err(Refusal::Overloaded { why: "others keep changing the same queue" })
    }

    /// Step one: the record says that and how the queue ends.
    async fn end(
        &self,
        name: &QueueName,
        record: &Record,
        mut value: Queue,
        ending: Ending,
    ) -> Answer<()> {
        value.ending = ending;
        let sealed = self.write(name, record, State::Sealed, Value::Queue(value)).await?;
        self.complete(name, &sealed).await
    }

    async fn drain(&self, name: &QueueName, record: &Record, mut value: Queue) -> Answer<Deleted> {
        if value.ending == Ending::Drain {
            return Ok(Deleted::Draining);
        }
        value.ending = Ending::Drain;
        let draining = self.write(name, record, State::Live, Value::Queue(value)).await?;
        self.seal_data(name, &draining, Closes::Sends).await?;
        self.deletions.notify_one();
        Ok(Deleted::Draining)
    }

    /// Steps two and three, from wherever they stand.
    async fn complete(&self, name: &QueueName, sealed: &Arc<Record>) -> Answer<()> {
        let Value::Queue(value) = &sealed.value else { return Ok(()) };
        self.seal_data(name, sealed, Closes::All).await?;
        if value.ending == Ending::IfEmpty {
            match self.require_empty(sealed, value).await {
                Err(Refusal::NotEmpty) => return self.revive(name, sealed, value.clone()).await,
                other => other?,
            }
        }
        // Noted first: whoever frees the name, and whatever becomes of this caller, the worker
        // drops the data once the record says so.
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).insert(sealed.generation);
        let freed = self.write(name, sealed, State::Free, Value::Nothing).await;
        self.deletions.notify_one();
        match freed {
            // Another reader was faster: what it decided stands.
            Err(Refusal::PreconditionFailed) => match self.catalog.queue(name) {
                Some(record) if record.generation == sealed.generation => Err(Refusal::NotEmpty),
                _ => Ok(()),
            },
            other => other.map(|_| ()),
        }
    }

    async fn require_empty(&self, record: &Record, value: &Queue) -> Answer<()> {
        let stream = self.stream_of(record, value)?;
        match self.coordinator.census(&stream).await {
            Some(0) => Ok(()),
            Some(_) => Err(Refusal::NotEmpty),
            None => Err(Refusal::NotEnoughReplicas { outcome: Outcome::Unknown }),
        }
    }

    /// A message was found: a greater live version lifts the seal.
    async fn revive(&self, name: &QueueName, sealed: &Record, mut value: Queue) -> Answer<()> {
        value.ending = Ending::No;
        match self.write(name, sealed, State::Live, Value::Queue(value)).await {
            Ok(_) | Err(Refusal::PreconditionFailed) => Err(Refusal::NotEmpty),
            Err(refusal) => Err(refusal),
        }
    }

    async fn seal_data(&self, name: &QueueName, record: &Record, closes: Closes) -> Answer<()> {
        let Value::Queue(value) = &record.value else { return Ok(()) };
        let stream = self.stream_of(record, value)?;
        let seal = Seal { record_version: record.version, closes, name: name.to_string() };
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
        name: &QueueName,
        from: &Record,
        state: State,
        value: Value,
    ) -> Answer<Arc<Record>> {
        let key = RecordKey::new(Kind::Queue, name.as_str());
        let draft = Draft { generation: from.generation, state, value };
        let changed = self.registers.change(key, from.version, draft).await;
        changed.map_err(|error| super::refusal_of_change(&error))
    }

    /// After a settle: the last message of a draining queue ends it.
    pub(super) fn after_settling(&self, name: &QueueName) {
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

    async fn finish_deletions(&self) {
        for (key, record) in self.catalog.sealed() {
            if let Some(name) = queue_name(&key)
                && let Err(refusal) = self.complete(&name, &record).await
                && !matches!(refusal, Refusal::NotEmpty)
            {
                tracing::warn!(queue = %name, ?refusal, "a deletion has to wait");
            }
        }
        for (name, record) in self.draining() {
            if let Err(refusal) = self.end_drained(&name, &record).await {
                tracing::warn!(queue = %name, ?refusal, "a drained queue has to wait");
            }
        }
        let dropped =
            std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        for generation in dropped {
            match self.catalog.queue_by_generation(generation) {
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
                tracing::warn!(stream = %generation, reason, "data of a deleted queue has to wait");
                self.dropped.lock().unwrap_or_else(PoisonError::into_inner).insert(generation);
            }
        }
    }

    fn draining(&self) -> Vec<(QueueName, Arc<Record>)> {
        let keep = |_: &RecordKey, record: &Record| matches!(&record.value, Value::Queue(q) if q.ending == Ending::Drain);
        let page = self.catalog.page(Kind::Queue, b"", None, usize::MAX, &keep);
        page.into_iter().filter_map(|(key, record)| Some((queue_name(&key)?, record))).collect()
    }

    async fn end_drained(&self, name: &QueueName, record: &Arc<Record>) -> Answer<()> {
        let Value::Queue(value) = &record.value else { return Ok(()) };
        // A crash may have come between the record and its seal.
        self.seal_data(name, record, Closes::Sends).await?;
        let stream = self.stream_of(record, value)?;
        if self.coordinator.census(&stream).await == Some(0) {
            tracing::info!(queue = %name, "a drained queue ends");
            self.end(name, record, value.clone(), Ending::Discard).await?;
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
        let key = RecordKey::new(Kind::Queue, seal.name.as_str());
        self.catalog.get(&key).is_some_and(|record| {
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

fn queue_name(key: &RecordKey) -> Option<QueueName> {
    if key.kind != Kind::Queue {
        return None;
    }
    QueueName::parse(std::str::from_utf8(&key.name).ok()?).ok()
}
