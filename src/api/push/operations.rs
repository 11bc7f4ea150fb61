//! The operations of a WebSocket that ask the broker's replicas: the same calls as the routes, and
//! the same answers and problems.

use super::frames::{self, Op, Outcome};
use crate::api::dto::settlements::{LeaseView, release};
use crate::api::problem::Problem;
use crate::api::resources::messages::judge_batch;
use crate::api::resources::settlements::settle_one;
use crate::api::resources::topic_messages::judge_published;
use crate::broker::refusal::Refusal;
use crate::broker::standing::Standing;
use crate::broker::{Action, Broker, Durability, Settlement};
use std::sync::Arc;

/// What a route calls a header is a field of the frame.
fn about_frame(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Invalid(mut faults) => {
            for fault in &mut faults {
                if fault.field == "header.Idempotency-Key" {
                    fault.field = "idempotency_key".to_owned();
                }
            }
            Problem::faults(faults)
        }
        other => other.into(),
    }
}

/// Does what the REST routes do.
pub(super) async fn perform(
    broker: &Arc<Broker>,
    standing: &Standing,
    op: Op,
) -> Result<Outcome, Problem> {
    let by = &standing.by;
    let settle = async |settlement: Settlement| {
        let source = broker.source_of_receipt(&settlement.receipt)?;
        settle_one(broker, by, source.as_source(), settlement).await
    };
    match op {
        Op::Send(it) => {
            let messages = it.messages.into_iter().map(Into::into).collect();
            let key = it.idempotency_key.as_deref();
            let sent = broker.send(by, &it.queue, messages, Durability::Quorum, key).await;
            judge_batch(sent.map_err(about_frame)?).map(Outcome::Sent)
        }
        Op::Publish(it) => {
            let messages = it.messages.into_iter().map(Into::into).collect();
            let (durability, key) = (Durability::Quorum, it.idempotency_key.as_deref());
            let publish = broker.publish(by, &it.topic, messages, durability, false, key);
            judge_published(publish.await.map_err(about_frame)?).map(Outcome::Published)
        }
        Op::Ack(it) => {
            settle(Settlement::new(it.receipt, Action::Ack)).await.map(|_| Outcome::Done)
        }
        Op::Release(it) => {
            let release = release(it.receipt, it.outcome, it.delay_seconds, it.reason);
            settle(release).await.map(|_| Outcome::Done)
        }
        Op::Extend(it) => {
            let action = Action::Extend { lease_seconds: it.lease_seconds };
            let settlement = Settlement::new(it.receipt.clone(), action);
            let lease = settle(settlement).await?.ok_or_else(frames::internal)?;
            Ok(Outcome::Lease(LeaseView::new(it.receipt, &lease)))
        }
        _ => Err(frames::internal()),
    }
}
