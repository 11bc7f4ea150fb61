//! What replicas are asked and what they answer. Sent between nodes as postcard: enums are only
//! appended to, structs never change their fields.

use super::lease::Attempt;
use super::stream::{Identity, Mark, Place, SubscriptionSet};
use crate::base::ids::{Boot, Generation, NodeId, RequesterId, SubscriptionId};
use crate::crdt::context::DotSet;
use crate::crdt::dot::{Dot, KeyedId, Origin};
use crate::layout::view::ViewId;
use crate::message::envelope::Envelope;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Origins of copies, and up to which number nothing more can come by them: it counts as
    /// seen, so that contexts stay small [F16].
    pub closed: Vec<(Origin, u64)>,
}

/// Lease these messages to a requester.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseOp {
    /// Stream, record version, view.
    pub header: OpHeader,
    /// For which reader.
    pub reader: SubscriptionId,
    /// Fresh for each receive request [F9].
    pub requester: RequesterId,
    /// The name of the user who asked; empty for the broker itself.
    pub holder: String,
    /// What it is for.
    pub purpose: Purpose,
    /// The ballot's counter: the fence [R24].
    pub counter: u64,
    /// How long, in ms. Never a deadline: only durations travel [R22].
    pub duration_ms: u64,
    /// The messages.
    pub dots: Vec<LeaseDot>,
    /// To bury messages: how often each has failed, as far as the asker knows. A replica that
    /// missed a failure would otherwise keep one alive that the others call dead.
    pub failures: Vec<u32>,
}

/// What a lease is for [F18].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To hand ready messages out.
    Deliver,
    /// To hand dead messages out.
    DeliverDead,
    /// To put messages that failed too often among the dead: without end, to nobody.
    Bury,
    /// To drop messages whose time is over. Granted only where the replica's own clock says so.
    Expire,
}

/// One message of a lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LeaseDot {
    /// Where it stands in the dispatch order.
    pub place: Place,
    /// The message itself, for a replica that lacks it [R27].
    pub envelope: Option<Arc<Envelope>>,
    /// How long it was at the asker's replica, in ms.
    pub age_ms: u64,
    /// Of a keyed message: which of the contents that may stand under its name [R11].
    pub content_mac: Option<[u8; 32]>,
}

/// Settle, extend or release messages under a lease.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SettleOp {
    /// Stream, record version, view.
    pub header: OpHeader,
    /// For which reader.
    pub reader: SubscriptionId,
    /// Only tell what would be answered; write nothing [F4].
    pub check_only: bool,
    /// One per receipt.
    pub items: Vec<SettleItem>,
    /// Why messages among them failed.
    pub reasons: Reasons,
}

/// Why messages failed, sealed: by the message and the counter of the lease whose holder says so.
/// Nobody here can read them.
pub type Reasons = BTreeMap<(Dot, u64), Bytes>;

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
        /// What became of it.
        outcome: ReleaseOutcome,
        /// How long it is not due, in ms; none: at once, or the back-off after a failure.
        delay_ms: Option<u64>,
    },
    /// Undo a grant whose message was never handed out.
    Withdraw,
    /// It is done with, whoever holds it [R32]: a deletion, or a link that has copied it.
    Remove,
    /// A dead message is ready again, as if it had never failed.
    Redrive,
}

/// What became of a message that is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReleaseOutcome {
    /// Nobody worked on it.
    HandedBack,
    /// Working on it failed.
    Failed,
    /// It is dead at once.
    Poison,
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
    /// Which dots were seen?
    Context(OpHeader),
    /// Change what a reader, or the set of readers, is done with.
    Subscription(OpHeader, SubscriptionOp),
    /// Refuse these ballots for ever, unless you hold a running lease of theirs [F10].
    Disown(OpHeader, SubscriptionId, Vec<(RequesterId, u64)>),
    /// Undo all grants of a request, whose answer was lost, and grant it nothing more [R25].
    Withdraw(OpHeader, SubscriptionId, RequesterId),
    /// Which messages are leased to this request? [F26]
    Held(OpHeader, SubscriptionId, RequesterId),
}

/// Changes to readers as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SubscriptionOp {
    /// Settle exactly these for a reader, whatever grants exist [R32].
    Purge(SubscriptionId, DotSet),
    /// Read from now on for these subscriptions: the next version of the set.
    Put(SubscriptionSet),
    /// Messages that a new reader gets although they are older than it.
    Adopt(SubscriptionId, Vec<Place>),
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
    /// One verdict per message of the Store.
    Stored(Vec<StoreVote>),
    /// One verdict per message of the Lease.
    Leased(Vec<LeaseVote>),
    /// One verdict per item of the Settle.
    Settled(Vec<SettleVote>),
    /// The seal is durable here.
    Sealed,
    /// Messages present, leased ones included; of a purge: messages taken out.
    Counted(u64),
    /// The dots seen.
    Seen(DotSet),
    /// The set, or the adopted messages, are durable here.
    Joined,
    /// One word per ballot: whether it is refused from now on.
    Disowned(Vec<bool>),
    /// What is leased to the request here.
    Held(Vec<Attempt>),
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
    /// The subscription set has changed: the coordinator evaluates filters anew [R36].
    #[error("the subscriptions have changed")]
    StaleSet,
    /// The stream holds as many bytes as it may.
    #[error("the stream is full")]
    Full,
    /// As many keys are remembered as may be; none is forgotten before its time [F1].
    #[error("too many keys are remembered")]
    TooManyKeys,
    /// As many delayed, limited and grouped messages are remembered as fit.
    #[error("too many messages wait with a time or a group")]
    TooManyMarks,
    /// No such reader.
    #[error("the stream has no such reader")]
    NoReader,
    /// It is about messages that are not here yet: they are on their way.
    #[error("the replica lacks messages that this is about")]
    Behind,
    /// The node is not among the stream's replicas: it has no vote [R1, F15].
    #[error("the node is no replica of the stream")]
    NotMember,
}

/// A replica's verdict on storing one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreVote {
    /// Stored, durably.
    Stored,
    /// It was here already, or was settled.
    Known,
    /// Its name is taken by another content [R11]: nothing was written.
    OtherContent,
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
    /// It is not what the lease is for: not due yet, dead, alive, or not over [F11].
    NotFit,
    /// An older message of its group comes first [F25].
    Blocked,
    /// It failed too often, as this replica counts: it is to be buried.
    Exhausted {
        /// How often.
        failures: u32,
    },
    /// Another content stands here under that name [R11]: the lease is not about it.
    OtherContent,
}

/// A replica's verdict on one item of a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettleVote {
    /// Done, durably.
    Counted,
    /// The lease is another's by now, or was released: nothing is stored [F4].
    Lost,
    /// The message is not here yet, and what is said about it cannot be kept without it: nothing
    /// is stored [F23].
    Lacking,
}

/// The rows of a stream that a decision changes; the replica writes them in one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A message, as it is kept.
    PutMessage(Place, Vec<u8>),
    /// No reader wants the message any more.
    DeleteMessage(Place),
    /// A message of a topic is unsettled for a reader.
    PutOpen(SubscriptionId, Place),
    /// The reader is done with it.
    DeleteOpen(SubscriptionId, Place),
    /// A message's times and group.
    PutMark(Dot, Mark),
    /// They are not needed any more.
    DeleteMark(Dot),
    /// A keyed message's identity [F1].
    PutIdentity(KeyedId, Identity),
    /// Its window is over and it is settled.
    DeleteIdentity(KeyedId),
    /// A grant: one row per request.
    PutGrant(SubscriptionId, RequesterId, super::lease::GrantRow),
    /// All messages of the grant have gone on.
    DeleteGrant(SubscriptionId, RequesterId),
    /// One message's attempt, where it differs from its grant's row.
    PutAttempt(SubscriptionId, Dot, Attempt),
    /// The attempt is over.
    DeleteAttempt(SubscriptionId, Dot),
    /// Why a reader's message failed last, sealed; stays until it is settled or redriven.
    PutReason(SubscriptionId, Dot, Bytes),
    /// The reason is not needed any more.
    DeleteReason(SubscriptionId, Dot),
    /// Context and seal of the stream.
    PutMeta,
    /// Floor and purge of a reader.
    PutReader(SubscriptionId),
    /// The reader is gone.
    DeleteReader(SubscriptionId),
    /// The subscription set.
    PutSet,
}
