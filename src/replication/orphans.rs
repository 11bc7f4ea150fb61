//! Old grants are checked with the other replicas, so that one that nobody holds does not hide its
//! messages until it runs out [F10].

use super::coordinator::{Coordinator, StreamRef};
use super::replica::Replica;
use super::rows::ROW_BYTES;
use super::stream_cell::StreamCell;
use crate::base::ids::{NodeId, RequesterId, SubscriptionId};
use crate::base::limits::GRANT_CHECK_TIME;
use crate::protocol::op::{Answer, OpHeader, Refusal, Request};
use crate::protocol::quorum::covers;
use crate::store::{Ticket, WriteClass};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Grants checked in one go.
const CHUNK: usize = 256;
/// How long the others have to answer.
const ANSWER_TIME: Duration = Duration::from_secs(5);

impl Replica {
    /// Refuses ballots for ever, durably, unless a lease of theirs runs here.
    pub(super) async fn disown(
        &self,
        header: &OpHeader,
        reader: SubscriptionId,
        ballots: &[(RequesterId, u64)],
    ) -> Result<(Ticket, Answer), Refusal> {
        let cell = self.cell_of(header).await?;
        let admission = self.admit(WriteClass::Reserve, ballots.len() * ROW_BYTES)?;
        let (ticket, disowned) = self.decide(&cell, reader, |stream, now_ms| {
            let (mut disowned, mut changes) = (Vec::with_capacity(ballots.len()), Vec::new());
            for ballot in ballots {
                let (is_refused, change) = stream.disown(reader, *ballot, now_ms);
                disowned.push(is_refused);
                changes.extend(change);
            }
            (self.submit(admission, cell.generation, stream, changes), disowned)
        });
        Ok((ticket, Answer::Disowned(disowned)))
    }

    /// Undoes what a request was granted here, and grants it nothing more [R25].
    pub(super) async fn withdraw(
        &self,
        header: &OpHeader,
        reader: SubscriptionId,
        requester: RequesterId,
    ) -> Result<(Ticket, Answer), Refusal> {
        let cell = self.cell_of(header).await?;
        let admission = self.admit(WriteClass::Reserve, CHUNK * ROW_BYTES)?;
        let ticket = self.decide(&cell, reader, |stream, now_ms| {
            let changes = stream.withdraw_request(reader, requester, now_ms)?;
            Ok(self.submit(admission, cell.generation, stream, changes))
        })?;
        Ok((ticket, Answer::Disowned(vec![true])))
    }
}

impl Coordinator {
    /// Worker: checks old grants now and then. Runs for ever.
    pub async fn run_grant_checks(self: Arc<Self>) {
        loop {
            tokio::time::sleep(GRANT_CHECK_TIME / 2).await;
            self.check_grants(GRANT_CHECK_TIME).await;
        }
    }

    /// Checks the grants of that age at this node's replica that were not checked yet.
    pub async fn check_grants(&self, age: Duration) {
        for cell in self.parts.replica.loaded() {
            if let Some(stream) = self.stream_of(cell.generation) {
                self.check_grants_of(&stream, &cell, age).await;
            }
        }
    }

    async fn check_grants_of(&self, stream: &StreamRef, cell: &Arc<StreamCell>, age: Duration) {
        let replica = &self.parts.replica;
        let now_ms = replica.service().now_ms();
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let before_ms = now_ms.saturating_sub(age_ms);
        let old = cell.decide(|state| state.unchecked_grants(before_ms, now_ms, CHUNK));
        let readers: BTreeSet<SubscriptionId> = old.iter().map(|(reader, ..)| *reader).collect();
        for reader in readers {
            let of_reader = old.iter().filter(|(id, ..)| *id == reader);
            let ballots: Vec<(RequesterId, u64)> =
                of_reader.map(|(_, requester, counter)| (*requester, *counter)).collect();
            self.check_ballots(stream, cell, reader, ballots).await;
        }
    }

    async fn check_ballots(
        &self,
        stream: &StreamRef,
        cell: &Arc<StreamCell>,
        reader: SubscriptionId,
        ballots: Vec<(RequesterId, u64)>,
    ) {
        let replica = &self.parts.replica;
        let me = replica.node();
        let request = Arc::new(Request::Disown(stream.header(), reader, ballots.clone()));
        let others: Vec<NodeId> =
            stream.view.replicas().into_iter().filter(|node| *node != me).collect();
        let ask = |node: NodeId| {
            let (peer, request) = (self.parts.peers.get(&node).cloned(), request.clone());
            async move { Some((node, peer?.call(request, ANSWER_TIME).await.ok()?.answer)) }
        };
        let told = |answer: Option<(NodeId, Answer)>| match answer {
            Some((node, Answer::Disowned(words))) => Some((node, words)),
            _ => None,
        };
        let answers: Vec<(NodeId, Vec<bool>)> = join_all(others.iter().map(|node| ask(*node)))
            .await
            .into_iter()
            .filter_map(told)
            .collect();
        for (i, (requester, _)) in ballots.iter().enumerate() {
            let disowns = |(node, words): &(NodeId, Vec<bool>)| {
                (words.get(i) == Some(&true)).then_some(*node)
            };
            let disowned_by: BTreeSet<NodeId> = answers.iter().filter_map(disowns).collect();
            if covers(&stream.view, &disowned_by) {
                self.drop_orphan(cell, reader, *requester);
            } else {
                // Held elsewhere too, or not everybody answered: then it is asked again.
                let is_sure = answers.len() == others.len();
                let again = (!is_sure).then(|| replica.service().now_ms());
                cell.decide(|state| state.checked(reader, *requester, again));
            }
        }
    }

    fn drop_orphan(&self, cell: &Arc<StreamCell>, reader: SubscriptionId, requester: RequesterId) {
        let replica = &self.parts.replica;
        let Ok(admission) = replica.admit(WriteClass::Reserve, CHUNK * ROW_BYTES) else { return };
        metrics::counter!("tertulia_orphan_grants_total").increment(1);
        tracing::info!(stream = %cell.generation, "a grant that nobody holds is dropped [F10]");
        // Nobody waits for it: what depends on it has its own commit behind this one.
        let _ticket = replica.decide(cell, reader, |stream, now_ms| {
            let changes = stream.drop_grant(reader, requester, now_ms);
            replica.submit(admission, cell.generation, stream, changes)
        });
    }
}
