//! Worker: messages whose time is over are dropped, those that failed too often are buried, the
//! rows of purges removed.

use super::{Answer, Broker, Refusal};
use crate::base::ids::{Generation, SubscriptionId};
use crate::protocol::record::{Kind, Record, RecordKey, State, Value};
use crate::replication::coordinator::StreamRef;
use crate::replication::rules;
use std::sync::Arc;
use std::time::Duration;

/// How often the worker looks by itself.
const PERIOD: Duration = Duration::from_secs(5);
/// How long it rests after it could not win what is over, and as much again by chance: what it
/// gives back rings for it at once.
const REST_MS: u64 = 100;
/// Streams whose head is looked at in one go.
const HEADS: usize = 1_000;

impl Broker {
    /// Runs until the node stops.
    pub async fn run_upkeep(self: Arc<Self>) {
        let left_over = self.coordinator.replica().left_over().clone();
        // What a crash left between two streams is dealt with first.
        self.note_links();
        let mut after = None;
        let mut heads_at = tokio::time::interval(PERIOD);
        heads_at.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = left_over.news.notified() => {}
                _ = heads_at.tick() => after = self.look_at_heads(after).await,
                () = self.stopping.cancelled() => return,
            }
            let mut is_some_left = false;
            for generation in left_over.take() {
                let attended = self.attend(generation).await;
                is_some_left |= attended.as_ref().is_ok_and(|left| *left);
                if let Err(refusal) = attended {
                    tracing::warn!(stream = %generation, %refusal, "what is left has to wait");
                    metrics::counter!("tertulia_upkeep_failures_total").increment(1);
                    let (left_over, generation) = (left_over.clone(), generation);
                    self.coordinator.replica().spawn().task(Box::pin(async move {
                        tokio::time::sleep(PERIOD).await;
                        left_over.note(generation);
                    }));
                }
            }
            if is_some_left {
                let rest = Duration::from_millis(REST_MS + self.rng.below(REST_MS));
                tokio::select! {
                    () = tokio::time::sleep(rest) => {}
                    () = self.stopping.cancelled() => return,
                }
            }
        }
    }

    pub(super) fn live_stream(&self, record: &Record) -> Option<StreamRef> {
        if record.state != State::Live {
            return None;
        }
        let stream = match &record.value {
            Value::Queue(queue) => self.stream_of(record, queue),
            Value::Topic(topic) => self.stream_of(record, topic),
            _ => return None,
        };
        stream.ok()
    }

    /// Deals with what is left to do in a stream. One that is gone has nothing left. Whether
    /// something could not be won.
    pub(super) async fn attend(&self, generation: Generation) -> Answer<bool> {
        let Some((key, record)) = self.catalog.stream_by_generation(generation) else {
            return Ok(false);
        };
        let Some(stream) = self.live_stream(&record) else { return Ok(false) };
        let mut is_some_left = false;
        let internal = |why| {
            tracing::debug!(%why, stream = %generation, "upkeep was refused");
            Refusal::Overloaded { why: "upkeep was refused" }
        };
        let cell = self.coordinator.replica().cell(generation).await.map_err(internal)?;
        for reader in cell.decide(|state| state.readers()) {
            let attended =
                self.coordinator.attend(&stream.anew(), reader).await.map_err(internal)?;
            is_some_left |= attended.is_some_left;
            if attended.buried > 0 {
                metrics::counter!("tertulia_messages_dead_total").increment(attended.buried);
            }
            if attended.expired + attended.buried > 0 {
                tracing::debug!(stream = %generation, ?attended, "messages ended");
            }
        }
        self.move_dead(&key, &record, &stream).await;
        if let Value::Topic(topic) = &record.value {
            self.forward_left(&record, topic).await.map_err(internal)?;
        }
        Ok(is_some_left)
    }

    /// Looks whether the first message of some streams is over, those behind one name; answers
    /// where to go on: queues first, then topics.
    pub(super) async fn look_at_heads(
        &self,
        after: Option<(Kind, Vec<u8>)>,
    ) -> Option<(Kind, Vec<u8>)> {
        let (kind, after) = match after {
            Some((kind, after)) => (kind, Some(after)),
            None => (Kind::Queue, None),
        };
        let keep = |_: &RecordKey, _: &Record| true;
        let page = self.catalog.page(kind, b"", after.as_deref(), HEADS, &keep);
        let last = page.last().map(|(key, _)| key.name.clone());
        let is_end = page.len() < HEADS;
        for (_, record) in page {
            let Some(stream) = self.live_stream(&record) else { continue };
            if self.has_links(&record) {
                self.coordinator.replica().left_over().note(record.generation);
            }
            match &record.value {
                Value::Queue(queue) => {
                    let retention_ms = rules::of_queue(&queue.config).retention_ms;
                    self.drop_expired(&stream, SubscriptionId::QUEUE, retention_ms).await;
                }
                Value::Topic(topic) => {
                    let retention_ms =
                        u64::try_from(topic.config.retention_seconds).unwrap_or(0) * 1_000;
                    for (_, reader) in self.catalog.subscriptions_of(record.generation) {
                        let id = SubscriptionId::of(reader.generation);
                        self.drop_expired(&stream.anew(), id, retention_ms).await;
                    }
                }
                _ => {}
            }
        }
        match (is_end, kind) {
            (false, _) => last.map(|last| (kind, last)),
            (true, Kind::Queue) => Some((Kind::Topic, Vec::new())),
            (true, _) => None,
        }
    }

    async fn drop_expired(&self, stream: &StreamRef, reader: SubscriptionId, retention_ms: u64) {
        let coordinator = &self.coordinator;
        let is_over = coordinator.head_is_over(stream, reader, retention_ms).await;
        if !matches!(is_over, Ok(true)) {
            return;
        }
        if let Err(why) = coordinator.expire_head(stream, reader, retention_ms).await {
            tracing::debug!(%why, stream = %stream.generation, "expired messages have to wait");
        }
    }
}
