//! What a night of runs has to see now and then: a workload that never brings it about proves
//! nothing of it. Taken from what clients saw, so that the product needs nothing for it.

use crate::common::check::{Line, Op, Outcome};
use std::collections::BTreeMap;

/// Seen by clients as they go.
pub const KEYED_REPEAT: &str = "a keyed send repeated was answered from memory";
pub const BURIED: &str = "a dead letter was received";
pub const REDRIVEN: &str = "dead letters were redriven";
pub const PURGED: &str = "a purge took messages";
pub const BROWSED: &str = "messages were browsed";
pub const ELSEWHERE: &str = "an ack was done at another node than the receive";
/// Seen in the history.
const CAME: &str = "a send of unknown outcome came";
const CAME_NOT: &str = "a send of unknown outcome did not come";
const REFUSED: &str = "a send was refused for certain";
const LAPSED: &str = "a lease lapsed and its message came again";
const LATE: &str = "a settlement came too late for its lease";
const UNSURE: &str = "a settlement ended without an answer";
const TAKEN: &str = "auto_ack took a message";
const TAKEN_UNSEEN: &str = "auto_ack ended without an answer";
const EXTENDED: &str = "a lease was extended";
const RELEASED: &str = "a lease was released and its message came again";
const RACED: &str = "two sends of one key overlapped";
const POINTS: [&str; 17] = [
    KEYED_REPEAT,
    BURIED,
    REDRIVEN,
    PURGED,
    BROWSED,
    ELSEWHERE,
    CAME,
    CAME_NOT,
    REFUSED,
    LAPSED,
    LATE,
    UNSURE,
    TAKEN,
    TAKEN_UNSEEN,
    EXTENDED,
    RELEASED,
    RACED,
];

/// All points, hit never.
pub fn none() -> BTreeMap<String, u64> {
    POINTS.iter().map(|point| ((*point).to_owned(), 0)).collect()
}

/// How often each point was hit in a run.
pub fn points(history: &[Line], seen: &BTreeMap<&'static str, u64>) -> BTreeMap<String, u64> {
    let mut points = none();
    let mut hit = |point: &str, times: usize| {
        *points.entry(point.to_owned()).or_default() += times as u64;
    };
    seen.iter().for_each(|(point, times)| hit(point, *times as usize));
    let mut stories: BTreeMap<(&str, &str), Vec<&Line>> = BTreeMap::new();
    for line in history {
        let queue = line.queue.as_deref().unwrap_or_default();
        stories.entry((queue, &line.message)).or_default().push(line);
    }
    for lines in stories.values() {
        let of = |op: Op| lines.iter().filter(move |line| line.op == op);
        let count = |op: Op, outcome: Outcome| of(op).filter(|l| l.outcome == outcome).count();
        let came = count(Op::Receive, Outcome::Delivered) + count(Op::Take, Outcome::Delivered) > 0;
        let sends: Vec<_> = of(Op::Send).collect();
        let is_unsure = !sends.is_empty() && sends.iter().all(|s| s.outcome == Outcome::Unknown);
        hit(CAME, usize::from(is_unsure && came));
        hit(CAME_NOT, usize::from(is_unsure && !came));
        hit(REFUSED, count(Op::Send, Outcome::NotStored));
        let settles = |fence| {
            let settles = lines.iter().filter(|l| matches!(l.op, Op::Ack | Op::Release));
            settles.filter(move |l| l.fence == fence)
        };
        for receive in of(Op::Receive) {
            let again = of(Op::Receive).any(|later| later.fence > receive.fence);
            let settled = settles(receive.fence).collect::<Vec<_>>();
            hit(LAPSED, usize::from(again && settled.is_empty()));
            let done = |l: &&&&Line| l.op == Op::Release && l.outcome == Outcome::Done;
            hit(RELEASED, usize::from(again && settled.iter().any(|l| done(&l))));
        }
        hit(LATE, count(Op::Ack, Outcome::Lost) + count(Op::Release, Outcome::Lost));
        hit(UNSURE, count(Op::Ack, Outcome::Unknown) + count(Op::Release, Outcome::Unknown));
        hit(TAKEN, count(Op::Take, Outcome::Delivered));
        hit(TAKEN_UNSEEN, count(Op::Take, Outcome::Unknown));
        hit(EXTENDED, count(Op::Extend, Outcome::Done));
        let end = |line: &Line| line.returned_ns.unwrap_or(u64::MAX);
        let races = sends.windows(2).any(|two| {
            let (a, b) = (two[0], two[1]);
            a.key.is_some() && a.invoked_ns < end(b) && b.invoked_ns < end(a)
        });
        hit(RACED, usize::from(races));
    }
    points
}
