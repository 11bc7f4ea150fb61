//! Settling leases: acknowledge, extend, release.

use super::messages::all_failed;
use crate::api::auth::Auth;
use crate::api::codes;
use crate::api::dto::settlements::{
    LeaseExtension, LeaseView, ReleaseRequest, SettlementRequest, SettlementResponse,
    SettlementResult, judge, release,
};
use crate::api::params::{Path, QueueSegment, ReceiptSegment};
use crate::api::payload::{Answer, Body, Empty};
use crate::api::problem::Problem;
use crate::broker::{Action, Broker, Caller, Fault, Lease, Refusal, Settlement, Source};
use poem_openapi::OpenApi;

/// The handlers of `/queues/{queue}/leases/{receipt}` and `/queues/{queue}/settlements`.
pub struct Settlements;

#[OpenApi(prefix_path = "/v1")]
impl Settlements {
    /// Acknowledge a message
    #[oai(path = "/queues/:queue/leases/:receipt", method = "delete", operation_id = "ack_message")]
    async fn ack(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// The receipt that `receive_messages` gave: paste yours.
        receipt: Path<ReceiptSegment>,
    ) -> Result<Empty, Problem> {
        settle_one(
            &auth.app.broker,
            &auth.caller,
            Source::Queue(&queue.0.0),
            Settlement::new(receipt.0.0, Action::Ack),
        )
        .await?;
        Ok(Empty::done())
    }

    /// Extend a lease
    #[oai(path = "/queues/:queue/leases/:receipt", method = "patch", operation_id = "extend_lease")]
    async fn extend(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// The receipt that `receive_messages` gave: paste yours.
        receipt: Path<ReceiptSegment>,
        body: Body<LeaseExtension>,
    ) -> Result<Answer<LeaseView>, Problem> {
        extend_one(&auth, Source::Queue(&queue.0.0), receipt.0.0, &body.0).await
    }

    /// Give a message back
    #[oai(
        path = "/queues/:queue/leases/:receipt/releases",
        method = "post",
        operation_id = "release_message"
    )]
    async fn release(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        /// The receipt that `receive_messages` gave: paste yours.
        receipt: Path<ReceiptSegment>,
        body: Body<ReleaseRequest>,
    ) -> Result<Empty, Problem> {
        let source = Source::Queue(&queue.0.0);
        let ReleaseRequest { outcome, delay_seconds, reason } = body.0;
        let release = release(receipt.0.0, outcome, delay_seconds, reason);
        settle_one(&auth.app.broker, &auth.caller, source, release).await?;
        Ok(Empty::done())
    }

    /// Settle many leases
    #[oai(path = "/queues/:queue/settlements", method = "post", operation_id = "settle_messages")]
    async fn settle(
        &self,
        auth: Auth,
        /// The queue's name.
        queue: Path<QueueSegment>,
        body: Body<SettlementRequest>,
    ) -> Result<Answer<SettlementResponse>, Problem> {
        settle_all(&auth, Source::Queue(&queue.0.0), body.0).await
    }
}

/// What the broker finds wrong with settlement `i`, as a fault of the field that asked for it.
fn placed(mut faults: Vec<Fault>, names: &[(&str, usize)]) -> Vec<Fault> {
    for fault in &mut faults {
        let rest = fault.field.strip_prefix("settlements[").and_then(|rest| rest.split_once("]."));
        if let Some((index, field)) = rest
            && let Some((list, index)) = index.parse().ok().and_then(|i: usize| names.get(i))
        {
            fault.field = format!("{list}[{index}].{field}");
        }
    }
    faults
}

/// Settles many leases.
pub(super) async fn settle_all(
    auth: &Auth,
    source: Source<'_>,
    body: SettlementRequest,
) -> Result<Answer<SettlementResponse>, Problem> {
    let (places, settlements) = body.split();
    let names: Vec<_> = places.iter().map(|p| (p.action.word(), p.index)).collect();
    let settling = auth.app.broker.settle(&auth.caller, source, settlements);
    let verdicts = settling.await.map_err(|refusal| match refusal {
        Refusal::Invalid(faults) => Problem::faults(placed(faults, &names)),
        other => other.into(),
    })?;
    let judged = places.into_iter().zip(verdicts);
    let judged: Vec<_> = judged.map(|(p, verdict)| SettlementResult::new(p, verdict)).collect();
    let open = |result: &SettlementResult| matches!(result.status.as_str(), "unknown" | "refused");
    if judged.iter().all(|(result, _)| open(result)) {
        let problems = judged.into_iter().filter_map(|(_, problem)| problem).collect();
        return Err(all_failed(problems, |i| format!("{}[{}]", names[i].0, names[i].1)));
    }
    let failed = judged.iter().filter(|(_, problem)| problem.is_some()).count();
    let results = judged.into_iter().map(|(result, _)| result).collect();
    let failed_count = i32::try_from(failed).unwrap_or(i32::MAX);
    Ok(Answer::ok(SettlementResponse { results, failed_count }))
}

/// Extends one lease.
pub(super) async fn extend_one(
    auth: &Auth,
    source: Source<'_>,
    receipt: String,
    body: &LeaseExtension,
) -> Result<Answer<LeaseView>, Problem> {
    let action = Action::Extend { lease_seconds: body.lease_seconds };
    let settlement = Settlement::new(receipt.clone(), action);
    let lease = settle_one(&auth.app.broker, &auth.caller, source, settlement).await?;
    let lease = lease.ok_or_else(|| Problem::new(codes::INTERNAL, "internal error"))?;
    Ok(Answer::ok(LeaseView::new(receipt, &lease)))
}

/// Settles one lease.
pub(in crate::api) async fn settle_one(
    broker: &Broker,
    by: &Caller,
    source: Source<'_>,
    settlement: Settlement,
) -> Result<Option<Lease>, Problem> {
    let settling = broker.settle(by, source, vec![settlement]);
    let verdicts = settling.await.map_err(|refusal| match refusal {
        Refusal::Invalid(mut faults) => {
            for fault in &mut faults {
                if let Some(field) = fault.field.strip_prefix("settlements[0].") {
                    fault.field = field.to_owned();
                }
            }
            Problem::faults(faults)
        }
        other => other.into(),
    })?;
    let verdict = verdicts.into_iter().next();
    let verdict = verdict.ok_or_else(|| Problem::new(codes::INTERNAL, "internal error"))?;
    judge(verdict).map_err(|(_, problem)| problem)
}
