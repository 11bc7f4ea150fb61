//! Keyed messages are forgotten when their window is over and *no* replica has them open: one that
//! missed the ack would otherwise bring the message back to those that forgot it [F1].

use super::coordinator::{Coordinator, StreamRef};
use super::repair::{RepairAnswer, RepairRequest};
use super::rows::ROW_BYTES;
use super::stream_cell::StreamCell;
use crate::base::ids::NodeId;
use crate::base::limits::RETIRE_PERIOD;
use crate::crdt::dot::KeyedId;
use crate::store::WriteClass;
use futures_util::future::join_all;
use std::sync::Arc;

/// Keyed messages looked at in one go.
const CHUNK: usize = 2_048;

impl Coordinator {
    /// Worker: forgets keyed messages that are over. Runs for ever.
    pub async fn run_retiring(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RETIRE_PERIOD).await;
            self.retire_keyed().await;
        }
    }

    /// Forgets keyed messages that are over at every replica, in all streams in memory.
    pub async fn retire_keyed(&self) {
        for cell in self.parts.replica.loaded() {
            if let Some(stream) = self.stream_of(cell.generation) {
                self.retire_keyed_of(&stream, &cell).await;
            }
        }
    }

    async fn retire_keyed_of(&self, stream: &StreamRef, cell: &Arc<StreamCell>) {
        let replica = &self.parts.replica;
        let asked = replica.look(cell, |state, now_ms| state.retirable(now_ms, CHUNK));
        if asked.is_empty() {
            return;
        }
        let me = replica.node();
        let others: Vec<NodeId> =
            stream.view.replicas().into_iter().filter(|node| *node != me).collect();
        let ask = |node: NodeId| {
            let request = RepairRequest::Settled(stream.generation, asked.clone());
            async move { self.ask_repair(node, request).await }
        };
        // All of them, not a majority: the one that is away may be the one that missed the ack.
        let mut are_over = vec![true; asked.len()];
        for answer in join_all(others.into_iter().map(ask)).await {
            let Ok(RepairAnswer::Settled(settled)) = answer else { return };
            for (i, is_over) in are_over.iter_mut().enumerate() {
                *is_over &= settled.get(i) == Some(&true);
            }
        }
        let over = asked.into_iter().zip(are_over).filter(|(_, is_over)| *is_over);
        let ids: Vec<KeyedId> = over.map(|(id, _)| id).collect();
        let Ok(admission) = replica.admit(WriteClass::Reserve, ids.len() * ROW_BYTES) else {
            return;
        };
        // Nobody waits for it.
        let _ticket = replica.look(cell, |state, now_ms| {
            let changes = state.retire(&ids, now_ms);
            replica.submit(admission, cell.generation, state, changes)
        });
    }
}
