//! What replicas are asked and what they answer. Sent between nodes as postcard: enums are only
//! appended to, structs never change their fields.

use super::lease::Attempt;
use super::stream::Place;
use crate::base::ids::{Boot, Generation, NodeId, RequesterId};
use crate::crdt::dot::Dot;
use crate::layout::view::ViewId;
use crate::message::envelope::Envelope;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How a write ended [R30].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Durable on a majority.
    Done,
    /// Refused everywhere before any write: it will never take effect.
    NotStored,
    /// No majority confirmed: it may or may not take effect.
    Unknown,
}

/// Who answers: carried by every vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voter {
    /// The node.
    pub node: NodeId,
    /// Its boot, so that a rolled-back node is found out [R4].
    pub boot: Boot,
    /// The commit that made the vote durable [R6].
    pub commit: u64,
}

/// What every data operation carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpHeader {
    /// The stream.
    pub stream: Generation,
    /// The version of its record that the coordinator acted on [F20].
    pub record_version: u64,
    /// The view in which votes will be counted [R3].
    pub view: ViewId,
}

/// Keep these messages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreOp {
    /// Stream, record version, view.
    pub header: OpHeader,
    /// The messages, in the sender's order.
    pub envelopes: Vec<Arc<Envelope>>,
}

/// Lease these messages to a requester.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseOp {
    /// Stream, record version, view.
    pub header: OpHeader,
    /// Fresh for each receive request [F9].
    pub requester: RequesterId,
    /// The ballot's counter: the fence [R24].
    pub counter: u64,
    /// How long, in ms. Never a deadline: only durations travel [R22].
    pub duration_ms: u64,
    /// The messages.
    pub dots: Vec<LeaseDot>,
}

/// One message of a lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseDot {
    /// Where it stands in the dispatch order.
    pub place: Place,
    /// The message itself, for a replica that lacks it [R27].
    pub envelope: Option<Arc<Envelope>>,
}

/// Settle, extend or release messages under a lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SettleOp {
    /// Stream, record version, view.
    pub header: OpHeader,
    /// Only tell what would be answered; write nothing [F4].
    pub check_only: bool,
    /// One per receipt.
    pub items: Vec<SettleItem>,
}

/// What a holder wants of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettleItem {
    /// The message.
    pub place: Place,
    /// The holder.
    pub requester: RequesterId,
    /// The lease's counter.
    pub counter: u64,
    /// Leases of the message when this one began, itself included.
    pub receive_count: u32,
    /// Failures of the message when this one began.
    pub failure_count: u32,
    /// What to do.
    pub action: SettleAction,
}

/// What to do with one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettleAction {
    /// It is done with, for ever.
    Ack,
    /// The lease ends this long from now, in ms.
    Extend {
        /// In ms.
        duration_ms: u64,
    },
    /// Give it back.
    Release {
        /// Whether that counts as a failure.
        failed: bool,
    },
    /// Undo a grant whose message was never handed out.
    Withdraw,
}

/// Close a stream to sends, or to everything, on the strength of a record version [F5].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The record version that asked for it; a greater live version lifts it.
    pub record_version: u64,
    /// What it closes.
    pub closes: Closes,
    /// The queue's name, by which a restarted node finds the record to finish by.
    pub name: String,
}

/// What a seal closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Closes {
    /// Sends only: the stream drains.
    Sends,
    /// Everything: the stream is being deleted.
    All,
}

/// What a replica may be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Keep messages.
    Store(StoreOp),
    /// Lease messages.
    Lease(LeaseOp),
    /// Settle, extend, release.
    Settle(SettleOp),
    /// Close the stream.
    Seal(OpHeader, Seal),
    /// How many messages are there?
    Census(OpHeader),
}

/// What a replica answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Who answers.
    pub voter: Voter,
    /// The answer.
    pub answer: Answer,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Refused before any write.
    Refused(Refusal),
    /// All messages of the Store are durable here.
    Stored,
    /// One verdict per message of the Lease.
    Leased(Vec<LeaseVote>),
    /// One verdict per item of the Settle.
    Settled(Vec<SettleVote>),
    /// The seal is durable here.
    Sealed,
    /// Messages present, leased ones included.
    Counted(u64),
}

/// Why a replica refuses a whole operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Its layout is newer: the coordinator restarts the operation [R3].
    #[error("the layout has changed")]
    ViewChanged,
    /// The stream is closed to this.
    #[error("the stream is sealed")]
    Sealed,
    /// A known dot with other content [R11].
    #[error("the message's name is taken by another content")]
    OtherContent,
    /// A Store from a boot below the highest seen of that node [R17].
    #[error("the message comes from an earlier life of its node")]
    StaleBoot,
    /// A Store stamped more than 500 ms ahead [F24].
    #[error("the message's stamp lies in the future")]
    ClockAhead,
    /// Too many writes are waiting.
    #[error("too many writes are waiting for the disk")]
    Overloaded,
    /// The disk's reserve is reached.
    #[error("the disk is full up to its reserve")]
    DiskFull,
    /// The replica is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// A replica's verdict on leasing one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseVote {
    /// Granted, durably.
    Granted {
        /// Leases so far, this one included.
        receive_count: u32,
        /// Failures so far.
        failure_count: u32,
    },
    /// Done with already.
    Settled,
    /// Another requester's lease runs.
    Held,
    /// The counter is not above this one [R24].
    LowBallot {
        /// What it must be above.
        above: u64,
    },
    /// The payload is not here: ask again with it [R27].
    NeedsPayload,
}

/// A replica's verdict on one item of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettleVote {
    /// Done, durably.
    Counted,
    /// The lease is another's by now, or was released: nothing is stored [F4].
    Lost,
}

/// The rows of a stream that a decision changes; the replica writes them in one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A message.
    PutMessage(Arc<Envelope>),
    /// A message is settled.
    DeleteMessage(Place),
    /// A grant: one row per request.
    PutGrant(RequesterId, super::lease::GrantRow),
    /// All messages of the grant have gone on.
    DeleteGrant(RequesterId),
    /// One message's attempt, where it differs from its grant's row.
    PutAttempt(Dot, Attempt),
    /// The attempt is over.
    DeleteAttempt(Dot),
    /// Context, floor and seal of the stream.
    PutMeta,
}
