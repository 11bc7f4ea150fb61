//! Worker: messages whose time is over are dropped, those that failed too often are buried, the
//! rows of purges removed.

use super::{Answer, Broker, Refusal};
use crate::base::ids::{Generation, SubscriptionId};
use crate::protocol::record::{Kind, Record, RecordKey};
use crate::replication::coordinator::StreamRef;
use crate::replication::rules;
use std::sync::Arc;
use std::time::Duration;

/// How often the worker looks by itself.
const PERIOD: Duration = Duration::from_secs(5);
/// Streams whose head is looked at in one go.
const HEADS: usize = 1_000;

impl Broker {
    /// Runs until the node stops.
    pub async fn run_upkeep(self: Arc<Self>) {
        let left_over = self.coordinator.replica().left_over().clone();
        let mut after = None;
        let mut heads_at = tokio::time::interval(PERIOD);
        heads_at.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = left_over.news.notified() => {}
                _ = heads_at.tick() => after = self.look_at_heads(after).await,
                () = self.stopping.cancelled() => return,
            }
            for generation in left_over.take() {
                if let Err(refusal) = self.attend(generation).await {
                    tracing::warn!(stream = %generation, %refusal, "what is left has to wait");
                    metrics::counter!("tertulia_upkeep_failures_total").increment(1);
                    let (left_over, generation) = (left_over.clone(), generation);
                    self.coordinator.replica().spawn().task(Box::pin(async move {
                        tokio::time::sleep(PERIOD).await;
                        left_over.note(generation);
                    }));
                }
            }
        }
    }

    fn live_stream(&self, record: &Record) -> Answer<StreamRef> {
        let queue = record.queue().ok_or(Refusal::QueueNotFound)?;
        self.stream_of(record, queue)
    }

    /// Deals with what is left to do in a stream. One that is gone has nothing left.
    async fn attend(&self, generation: Generation) -> Answer<()> {
        let record = self.catalog.queue_by_generation(generation).map(|(_, record)| record);
        let Some(stream) = record.and_then(|record| self.live_stream(&record).ok()) else {
            return Ok(());
        };
        let internal = |why| {
            tracing::debug!(%why, stream = %generation, "upkeep was refused");
            Refusal::Overloaded { why: "upkeep was refused" }
        };
        let cell = self.coordinator.replica().cell(generation).await.map_err(internal)?;
        for reader in cell.decide(|state| state.readers()) {
            let attended = self.coordinator.attend(&stream, reader).await.map_err(internal)?;
            if attended.buried > 0 {
                metrics::counter!("tertulia_messages_dead_total").increment(attended.buried);
            }
            if attended.expired + attended.buried > 0 {
                tracing::debug!(stream = %generation, ?attended, "messages ended");
            }
        }
        Ok(())
    }

    /// Looks whether the first message of some streams is over, those behind one name; answers
    /// where to go on.
    async fn look_at_heads(&self, after: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let keep = |_: &RecordKey, _: &Record| true;
        let page = self.catalog.page(Kind::Queue, b"", after.as_deref(), HEADS, &keep);
        let next = (page.len() == HEADS).then(|| page.last().map(|(key, _)| key.name.clone()));
        for (_, record) in page {
            let Some(queue) = record.queue() else { continue };
            let Ok(stream) = self.live_stream(&record) else { continue };
            let retention_ms = rules::of_queue(&queue.config).retention_ms;
            self.drop_expired(&stream, SubscriptionId::QUEUE, retention_ms).await;
        }
        next.flatten()
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
