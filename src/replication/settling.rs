//! Settling: what became of leased messages, recorded at a majority.

use super::coordinator::{Coordinator, StreamRef};
use super::peers::CallError;
use crate::base::ids::SubscriptionId;
use crate::protocol::op::{
    Answer, Outcome, Reasons, Refusal, Request, SettleItem, SettleOp, SettleVote,
};
use crate::protocol::quorum::Tally;
use std::sync::Arc;

/// How the settlement of one message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Durable on a majority.
    Done,
    /// The lease is another's, or was released; recorded nowhere.
    Lost,
    /// Refused everywhere before any write.
    Refused(Refusal),
    /// It may or may not be recorded; repeating it is safe.
    Unknown,
}

impl Coordinator {
    /// Settles, extends, releases. `late`: the leases are over as far as the holder can tell, so
    /// a majority is asked first, and a lease that is another's by now is answered
    /// [`Settled::Lost`] without writing anything [F4].
    pub async fn settle(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        items: Vec<SettleItem>,
        late: bool,
    ) -> Vec<Settled> {
        self.settle_because(stream, reader, items, late, Reasons::new()).await
    }

    /// The same, with reasons of those among them that failed.
    pub async fn settle_because(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        items: Vec<SettleItem>,
        late: bool,
        reasons: Reasons,
    ) -> Vec<Settled> {
        let alone = stream.view.replicas().len() == 1;
        if !late || alone {
            return self.settle_round(stream, reader, items, Some(reasons)).await;
        }
        let checked = self.settle_round(stream, reader, items.clone(), None).await;
        let open: Vec<SettleItem> = items
            .iter()
            .zip(&checked)
            .filter(|(_, checked)| **checked != Settled::Lost)
            .map(|(item, _)| *item)
            .collect();
        let settled = self.settle_round(stream, reader, open, Some(reasons)).await;
        let mut settled = settled.into_iter();
        let merge = |checked| match checked {
            Settled::Lost => Settled::Lost,
            _ => settled.next().unwrap_or(Settled::Unknown),
        };
        checked.into_iter().map(merge).collect()
    }

    /// Asks once; without reasons, not even none, only what would be answered.
    async fn settle_round(
        self: &Arc<Self>,
        stream: &StreamRef,
        reader: SubscriptionId,
        items: Vec<SettleItem>,
        reasons: Option<Reasons>,
    ) -> Vec<Settled> {
        let check_only = reasons.is_none();
        if items.is_empty() {
            return Vec::new();
        }
        let mut tallies: Vec<Tally> =
            items.iter().map(|_| Tally::new(stream.view.clone())).collect();
        let mut refusal = None;
        let (header, reasons) = (stream.header(), reasons.unwrap_or_default());
        let op = SettleOp { header, reader, check_only, items, reasons };
        let request = Arc::new(Request::Settle(op));
        let local = self.own_vote(request.clone());
        self.ask(stream, request, None, local, |node, answer| {
            for (i, tally) in tallies.iter_mut().enumerate() {
                match &answer {
                    Ok(Answer::Settled(votes)) => match votes.get(i) {
                        Some(SettleVote::Counted) => tally.yes(node),
                        Some(SettleVote::Lost) => tally.no(node),
                        // It takes no side: a repeat finds the message here.
                        Some(SettleVote::Lacking) | None => tally.lost(node),
                    },
                    // Who was not asked holds no opinion on whose the lease is.
                    Ok(Answer::Refused(_)) | Err(CallError::NotAsked) if check_only => {
                        tally.lost(node);
                    }
                    Ok(Answer::Refused(why)) => {
                        refusal = Some(*why);
                        tally.no(node);
                    }
                    Err(CallError::NotAsked) => tally.no(node),
                    Ok(_) | Err(CallError::Lost) => tally.lost(node),
                }
            }
            let certain = |t: &Tally| t.outcome().is_some() || (check_only && t.refused());
            tallies.iter().all(certain)
        })
        .await;
        tallies.iter().map(|tally| verdict(tally, refusal, check_only)).collect()
    }
}

fn verdict(tally: &Tally, refusal: Option<Refusal>, check_only: bool) -> Settled {
    if check_only && tally.refused() {
        return Settled::Lost;
    }
    match tally.outcome() {
        Some(Outcome::Done) => Settled::Done,
        Some(Outcome::NotStored) => refusal.map_or(Settled::Lost, Settled::Refused),
        Some(Outcome::Unknown) | None => Settled::Unknown,
    }
}
