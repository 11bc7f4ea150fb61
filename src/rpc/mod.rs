//! Layer 4: calls between nodes, as length-delimited postcard frames over any byte stream.
//!
//! Knows: frames, deadlines, cancellation, bounds on what is under way.
//! Must not know: what a call means: it carries a kind and bytes; wire types live with their
//! owner, and `node` fills the table of handlers.
//! Way in: `replication::peers`. Way out: a byte stream of `base::seams::Net`.

mod client;
mod server;

pub use client::Client;
pub use server::{Handler, serve};

use crate::base::limits;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::codec::LengthDelimitedCodec;

/// One frame. Only appended to.
#[derive(Debug, Serialize, Deserialize)]
enum Frame {
    /// Answer this within the deadline.
    Call { id: u64, kind: u16, deadline_ms: u32, body: Bytes },
    /// Nobody waits for that answer any more.
    Cancel { id: u64 },
    /// The answer.
    Answer { id: u64, body: Result<Bytes, Refusal> },
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

fn encode(frame: &Frame) -> Bytes {
    postcard::to_stdvec(frame).expect("a frame always encodes").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_the_frames() {
        let call = Frame::Call { id: 1, kind: 2, deadline_ms: 3, body: Bytes::from_static(b"ab") };
        assert_eq!(&encode(&call)[..], [0, 1, 2, 3, 2, b'a', b'b']);
        assert_eq!(&encode(&Frame::Cancel { id: 1 })[..], [1, 1]);
        let answer = Frame::Answer { id: 1, body: Err(Refusal::Failed) };
        assert_eq!(&encode(&answer)[..], [2, 1, 1, 2]);
    }
}
