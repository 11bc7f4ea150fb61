//! Layer 4: calls between nodes, as length-delimited postcard frames over mTLS, or over any byte
//! stream.
//!
//! Knows: frames, deadlines, cancellation, bounds on what is under way; who a far end is, and how
//! to reach it again and again.
//! Must not know: what a call means: it carries a kind and bytes; wire types live with their
//! owner, and `node` fills the table of handlers.
//! Way in: `replication::peers`. Way out: a byte stream of `base::seams::Net`.
//!
//! Each [`Class`] of calls has a connection of its own. A repair's 30 MiB in front of a vote would
//! delay the vote as long as both share one stream of bytes, however they are weighed against each
//! other inside; on two connections the kernel shares the line, and each has its own bound.
//!
//! # No call is begun late [R54]
//! A frame may lie in a buffer for an hour: of a frozen process, of a line that stalls. Clocks of
//! two nodes may be any distance apart, so no stamp of the caller's can tell. The answering end
//! therefore times calls by *its own* clock: every [`limits::PEER_BEAT_TIME`] it tells its reading
//! in a `Beat`, and a call carries the last reading that its caller had heard when it left. That
//! reading was taken before the call left, so `now - heard` is never less than the time that the
//! call was under way, whatever the clocks. A call that is older than its deadline (the rest of its
//! operation's life) and [`limits::CALL_SLACK_TIME`] is refused before it is looked at, and one
//! that is begun has only what is left. So nothing is begun later than the life of an operation and
//! the slack after the operation began: 10.5 s. The caller sends each beat back, and either end
//! drops a connection on which it reads nothing for [`limits::PEER_QUIET_TIME`].

mod client;
mod dialing;
mod doors;
mod greeting;
mod link;
mod server;

pub use client::Client;
pub use dialing::{Dial, DialError, Dialer};
pub use doors::Doors;
pub use greeting::{Greeting, Myself, Unwelcome};
pub use link::{Link, LinkParts};
pub use server::{Handler, serve};

use crate::base::limits;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{Sink, SinkExt as _};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::codec::LengthDelimitedCodec;

/// What calls are for: each class has a connection and a bound of its own, so that none starves
/// another. Only appended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// Records and the layout.
    Control,
    /// Reads and writes of streams.
    Data,
    /// Bringing replicas up to date.
    Repair,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Control, Self::Data, Self::Repair];

    /// Its name, in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Data => "data",
            Self::Repair => "repair",
        }
    }

    /// Calls of the class at once on one connection.
    #[must_use]
    pub fn calls_max(self) -> usize {
        match self {
            Self::Control => limits::CALLS_CONTROL_MAX,
            Self::Data => limits::CALLS_DATA_MAX,
            Self::Repair => limits::CALLS_REPAIR_MAX,
        }
    }
}

/// Makes calls of another node.
pub trait Caller: Send + Sync {
    /// Calls it.
    ///
    /// # Errors
    /// [`CallError`]; `NotSent`, `Refused(Overloaded)` and `Refused(Late)` mean that nothing was done.
    fn call(
        &self,
        class: Class,
        kind: u16,
        body: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>>;
    /// Whether an answer is to be expected: false once it was found unreachable or silent.
    fn is_up(&self) -> bool;
}

/// One frame. Only appended to.
#[derive(Debug, Serialize, Deserialize)]
enum Frame {
    /// Answer this within the deadline.
    /// `heard_ms`: the last beat that was heard before this left; 0: none.
    Call { id: u64, kind: u16, deadline_ms: u32, heard_ms: u64, body: Bytes },
    /// Nobody waits for that answer any more.
    Cancel { id: u64 },
    /// The answer.
    Answer { id: u64, body: Result<Bytes, Refusal> },
    /// How long the answering end has served this connection, by its own clock; the caller sends
    /// it back.
    Beat { at_ms: u64 },
}

/// Why the far end did not answer a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// It has too many calls under way; nothing was done.
    #[error("the far end is overloaded")]
    Overloaded,
    /// It knows no such kind of call; nothing was done.
    #[error("the far end does not know this call")]
    UnknownKind,
    /// It began and could not finish: whether it was done is not known.
    #[error("the far end failed")]
    Failed,
    /// It came too late; nothing was done.
    #[error("the call came too late")]
    Late,
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The call never left: nothing was done.
    #[error("the call was not sent")]
    NotSent,
    /// It left, and no answer came: whether it was done is not known.
    #[error("no answer came")]
    Lost,
    /// The far end refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(limits::FRAME_BYTES_MAX).new_codec()
}

/// Writes frames until nobody sends any more or the connection breaks; one flush for all that is
/// ready.
async fn write_frames(mut sink: impl Sink<Bytes> + Unpin, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        let mut sent = sink.feed(frame).await;
        while let (Ok(()), Ok(frame)) = (&sent, frames.try_recv()) {
            sent = sink.feed(frame).await;
        }
        if sent.is_err() || sink.flush().await.is_err() {
            return;
        }
    }
}

fn encode(frame: &Frame) -> Bytes {
    postcard::to_stdvec(frame).expect("a frame always encodes").into()
}

#[cfg(test)]
mod late_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_the_frames() {
        let call = Frame::Call {
            id: 1,
            kind: 2,
            deadline_ms: 3,
            heard_ms: 4,
            body: Bytes::from_static(b"ab"),
        };
        assert_eq!(&encode(&call)[..], [0, 1, 2, 3, 4, 2, b'a', b'b']);
        assert_eq!(&encode(&Frame::Cancel { id: 1 })[..], [1, 1]);
        let answer = Frame::Answer { id: 1, body: Err(Refusal::Failed) };
        assert_eq!(&encode(&answer)[..], [2, 1, 1, 2]);
        assert_eq!(&encode(&Frame::Beat { at_ms: 5 })[..], [3, 5]);
    }
}
