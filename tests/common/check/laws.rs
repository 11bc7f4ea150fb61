//! The laws, judged over the lines of a history: what clients did, when it began and ended on one
//! clock, and what they were told. Two operations are ordered only when one ended before the other
//! began; all else accuses nobody.

use super::{Line, Op, Outcome};
use std::collections::{BTreeMap, BTreeSet};

/// What a history must keep to.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// By how much a lease may end early, in thousandths: what a clock outside its bound takes.
    pub early_per_mille: u64,
    /// How long a queue may take to run empty, in ns.
    pub drain_ns: u64,
}

/// What breaks them. All sets must be empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// total-queue: acknowledged, never delivered, and nobody took it away.
    pub lost: BTreeSet<String>,
    /// total-queue: delivered and never sent.
    pub unexpected: BTreeSet<String>,
    /// total-queue: a keyed send that is two messages.
    pub doubled: BTreeSet<String>,
    /// C-FAIL: delivered although every send of it was refused for certain.
    pub refused_but_came: BTreeSet<String>,
    /// C-ACK: delivered by a receive that began after an acknowledgement was answered.
    pub back_after_ack: BTreeSet<String>,
    /// C-ATTEMPT: a later delivery whose fence is not above an earlier one's.
    pub fence_fell: BTreeSet<String>,
    /// C-LEASE: two held it at one time.
    pub held_twice: BTreeSet<String>,
    /// Delivered by a receive that began after a purge was answered which took it.
    pub back_after_purge: BTreeSet<String>,
    /// `auto_ack` gives a message at most once.
    pub taken_twice: BTreeSet<String>,
    /// C-CONS: acknowledged to its sender, and nobody can say what became of it.
    pub unaccounted: BTreeSet<String>,
    /// C-DRAIN: a queue with messages that did not run empty in time.
    pub not_drained: BTreeSet<String>,
    /// What was counted.
    pub counts: Counts,
}

/// What a history had in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub sent: usize,
    pub delivered: usize,
    pub acked: usize,
    /// Sends of unknown outcome that came out: legal.
    pub recovered: usize,
    /// Messages without a key that came under two ids: legal only when they were sent twice.
    pub duplicated: usize,
    pub holds: usize,
}

impl Findings {
    /// Names and members of the sets that are not empty.
    pub fn wrong(&self) -> Vec<(&'static str, &BTreeSet<String>)> {
        let all = [
            ("lost", &self.lost),
            ("unexpected", &self.unexpected),
            ("doubled", &self.doubled),
            ("refused_but_came", &self.refused_but_came),
            ("back_after_ack", &self.back_after_ack),
            ("fence_fell", &self.fence_fell),
            ("held_twice", &self.held_twice),
            ("back_after_purge", &self.back_after_purge),
            ("taken_twice", &self.taken_twice),
            ("unaccounted", &self.unaccounted),
            ("not_drained", &self.not_drained),
        ];
        all.into_iter().filter(|(_, set)| !set.is_empty()).collect()
    }
}

/// All that happened to one message: by its queue and its body.
#[derive(Default)]
struct Story<'a> {
    sends: Vec<&'a Line>,
    receives: Vec<&'a Line>,
    acks: Vec<&'a Line>,
    takes: Vec<&'a Line>,
    /// What ends or moves a lease: acks, releases, extensions.
    settles: Vec<&'a Line>,
}

fn ended(line: &Line) -> u64 {
    line.returned_ns.unwrap_or(u64::MAX)
}

/// Judges a history that ends with its queues drained.
pub fn judge(lines: &[Line], terms: Terms) -> Findings {
    let mut stories: BTreeMap<(&str, &str), Story<'_>> = BTreeMap::new();
    let mut purges: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    let mut findings = Findings::default();
    // Takes whose answer was lost: each may have had one message.
    let mut unseen: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut used, mut drained) = (BTreeSet::new(), BTreeSet::new());
    for line in lines {
        let queue = line.queue.as_deref().unwrap_or_default();
        match line.op {
            Op::Purge => purges.entry(queue).or_default().push(line),
            Op::Take if line.outcome == Outcome::Unknown => {
                *unseen.entry(queue).or_default() += 1;
            }
            Op::Drain => {
                let took = ended(line).saturating_sub(line.invoked_ns);
                if line.outcome == Outcome::Done && took <= terms.drain_ns {
                    drained.insert(queue);
                }
            }
            _ => {
                let story = stories.entry((queue, &line.message)).or_default();
                match line.op {
                    Op::Send => story.sends.push(line),
                    Op::Receive => story.receives.push(line),
                    Op::Take => {
                        story.receives.push(line);
                        story.takes.push(line);
                    }
                    Op::Ack => {
                        story.acks.push(line);
                        story.settles.push(line);
                    }
                    _ => story.settles.push(line),
                }
            }
        }
    }
    for ((queue, body), story) in &stories {
        if story.sends.iter().any(|send| send.outcome == Outcome::Stored) {
            used.insert(*queue);
        }
        let none = Vec::new();
        let unseen = unseen.entry(queue).or_default();
        tell(&mut findings, body, story, purges.get(queue).unwrap_or(&none), unseen, terms);
    }
    findings.not_drained = used.difference(&drained).map(|queue| (*queue).to_owned()).collect();
    findings
}

fn tell(
    findings: &mut Findings,
    body: &str,
    story: &Story<'_>,
    purges: &[&Line],
    unseen: &mut usize,
    terms: Terms,
) {
    let note = |set: &mut BTreeSet<String>, wrong: bool| {
        if wrong {
            set.insert(body.to_owned());
        }
    };
    let stored = story.sends.iter().any(|send| send.outcome == Outcome::Stored);
    let came = !story.receives.is_empty();
    let refused = story.sends.iter().all(|send| send.outcome == Outcome::NotStored);
    let began = story.sends.iter().map(|send| send.invoked_ns).min();
    let purged = purges.iter().any(|purge| began.is_some_and(|began| began < ended(purge)));
    let mortal = story.sends.iter().any(|send| send.ttl_ms.is_some());
    let settled = !story.takes.is_empty();
    let settled = settled || story.acks.iter().any(|ack| ack.outcome != Outcome::Lost);
    let mut missing = stored && !settled && !purged && !mortal;
    if missing && *unseen > 0 {
        *unseen -= 1;
        missing = false;
    }
    note(&mut findings.lost, missing && !came);
    note(&mut findings.unexpected, came && story.sends.is_empty());
    note(&mut findings.refused_but_came, came && !story.sends.is_empty() && refused);
    note(&mut findings.unaccounted, missing && came);
    // A purge takes what was acknowledged before it began; nothing that it took comes again.
    let sent_at =
        story.sends.iter().filter(|send| send.outcome == Outcome::Stored).map(|s| ended(s));
    let sent_at = sent_at.min().unwrap_or(u64::MAX);
    let gone_at = purges.iter().filter(|p| p.outcome == Outcome::Done && sent_at < p.invoked_ns);
    let gone_at = gone_at.map(|purge| ended(purge)).min().unwrap_or(u64::MAX);
    let after = |at: u64| story.receives.iter().any(|receive| receive.invoked_ns > at);
    note(&mut findings.back_after_purge, after(gone_at));
    let acked_at = story.acks.iter().filter(|ack| ack.outcome == Outcome::Done).map(|a| ended(a));
    let acked_at = acked_at.chain(story.takes.iter().map(|take| ended(take))).min();
    note(&mut findings.back_after_ack, acked_at.is_some_and(after));
    let ids: BTreeSet<_> = story.receives.iter().map(|receive| receive.id.as_deref()).collect();
    let keyed = story.sends.iter().any(|send| send.key.is_some());
    let once = keyed || story.sends.len() == 1;
    note(&mut findings.doubled, ids.len() > 1 && once);
    note(&mut findings.taken_twice, story.takes.len() > ids.len());
    note(&mut findings.fence_fell, fence_fell(&story.receives));
    let holds = holds(story, terms);
    note(&mut findings.held_twice, overlap(&holds));
    let counts = &mut findings.counts;
    counts.sent += usize::from(stored);
    counts.delivered += story.receives.len();
    counts.acked += usize::from(acked_at.is_some());
    counts.recovered += usize::from(came && !stored);
    counts.duplicated += usize::from(ids.len() > 1 && !once);
    counts.holds += holds.len();
}

fn fence_fell(receives: &[&Line]) -> bool {
    let pairs = receives.iter().enumerate().flat_map(|(at, a)| {
        receives.iter().enumerate().filter(move |(other, _)| *other != at).map(move |(_, b)| (a, b))
    });
    pairs
        .filter(|(a, b)| a.id == b.id)
        .any(|(a, b)| a.fence == b.fence || (ended(a) < b.invoked_ns && a.fence > b.fence))
}

/// When one lease was held for certain, and which: from an answer that gave or extended it to the
/// first settlement that could have ended it, or to its end counted from before it was asked for.
type Hold<'a> = (u64, u64, (Option<&'a str>, Option<i64>));

fn holds<'a>(story: &Story<'a>, terms: Terms) -> Vec<Hold<'a>> {
    let mut holds = Vec::new();
    for receive in &story.receives {
        let Some(lease_ms) = receive.lease_ms else { continue };
        let which = (receive.id.as_deref(), receive.fence);
        let length = |ms: u64| ms * 1_000 * (1_000 - terms.early_per_mille);
        let of_it = story.settles.iter().filter(|s| s.fence == receive.fence);
        let (extends, ends): (Vec<&Line>, Vec<&Line>) =
            of_it.copied().partition(|settle| settle.op == Op::Extend);
        let over = ends.iter().map(|end| end.invoked_ns).min().unwrap_or(u64::MAX);
        // An extension may also shorten what it meets.
        let shorter = |from: u64| {
            let later = extends.iter().filter(|extend| ended(extend) > from);
            later.map(|e| e.invoked_ns + length(e.lease_ms.unwrap_or(0))).min()
        };
        let mut hold = |line: &Line, ms: u64| {
            let (from, asked) = (ended(line), line.invoked_ns + length(ms));
            let to = asked.min(over).min(shorter(from).unwrap_or(u64::MAX));
            if from < to {
                holds.push((from, to, which));
            }
        };
        hold(receive, lease_ms);
        for extend in extends.iter().filter(|extend| extend.outcome == Outcome::Done) {
            hold(extend, extend.lease_ms.unwrap_or(0));
        }
    }
    holds
}

fn overlap(holds: &[Hold<'_>]) -> bool {
    holds.iter().enumerate().any(|(at, (from, to, which))| {
        let later = &holds[at + 1..];
        later.iter().any(|(f, t, other)| other != which && from < t && f < to)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { early_per_mille: 0, drain_ns: 60_000_000_000 };
    const SECOND: u64 = 1_000_000_000;

    fn line(op: Op, from: u64, to: u64, outcome: Outcome) -> Line {
        let mut line = Line::open(op, 0, from, "a");
        line.queue = Some("q".into());
        line.returned_ns = (to > 0).then_some(to);
        line.outcome = outcome;
        line
    }

    fn sent() -> Line {
        line(Op::Send, 1, 2, Outcome::Stored)
    }

    fn got(from: u64, to: u64, fence: i64) -> Line {
        let mut line = line(Op::Receive, from, to, Outcome::Delivered);
        (line.fence, line.lease_ms, line.id) = (Some(fence), Some(1_000), Some("1".into()));
        line
    }

    fn of(mut line: Line, fence: i64) -> Line {
        line.fence = Some(fence);
        line
    }

    fn acked(from: u64, to: u64, fence: i64) -> Line {
        of(line(Op::Ack, from, to, Outcome::Done), fence)
    }

    fn drained() -> Line {
        line(Op::Drain, 100 * SECOND, 101 * SECOND, Outcome::Done)
    }

    fn wrong(lines: &[Line]) -> Vec<&'static str> {
        judge(lines, TERMS).wrong().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_good_story_breaks_no_law() {
        let lines = [
            sent(),
            got(3, 4, 1),
            got(SECOND + 5, SECOND + 6, 2),
            acked(SECOND + 7, SECOND + 8, 2),
        ];
        let mut lines = lines.to_vec();
        lines.push(drained());
        assert_eq!(wrong(&lines), [""; 0]);
        let counts = judge(&lines, TERMS).counts;
        assert_eq!((counts.sent, counts.delivered, counts.acked, counts.holds), (1, 2, 1, 2));
    }

    #[test]
    fn each_law_objects_to_what_breaks_it() {
        assert_eq!(wrong(&[sent(), drained()]), ["lost"]);
        assert_eq!(wrong(&[got(3, 4, 1)]), ["unexpected"]);
        let refused = line(Op::Send, 1, 2, Outcome::NotStored);
        assert_eq!(wrong(&[refused, got(3, 4, 1)]), ["refused_but_came"]);
        let back = [sent(), got(3, 4, 1), acked(5, 6, 1), got(7, 8, 2), drained()];
        assert_eq!(wrong(&back), ["back_after_ack"]);
        let racing = [sent(), got(3, 4, 1), acked(5, 8, 1), got(7, 9, 2), drained()];
        assert_eq!(wrong(&racing), [""; 0], "that receive began before the answer");
        let second = got(2 * SECOND, 2 * SECOND + 1, 1);
        let ack = acked(2 * SECOND + 2, 2 * SECOND + 3, 1);
        assert_eq!(wrong(&[sent(), got(3, 4, 2), second, ack, drained()]), ["fence_fell"]);
        let lost = of(line(Op::Ack, 5, 6, Outcome::Lost), 1);
        assert_eq!(wrong(&[sent(), got(3, 4, 1), lost, drained()]), ["unaccounted"]);
        let ack = acked(5, 6, 1);
        assert_eq!(wrong(&[sent(), got(3, 4, 1), ack.clone()]), ["not_drained"]);
        let late = line(Op::Drain, SECOND, 62 * SECOND, Outcome::Done);
        assert_eq!(wrong(&[sent(), got(3, 4, 1), ack, late]), ["not_drained"]);
    }

    #[test]
    fn a_keyed_send_is_one_message() {
        let mut keyed = sent();
        keyed.key = Some("k".into());
        let mut other = got(5, 6, 1);
        other.id = Some("2".into());
        let (first, second) = (acked(7, 8, 1), acked(9, 10, 1));
        // Both leases are of fence 1; only the ids tell the messages apart.
        let mut lines = vec![keyed.clone(), keyed, got(5, 6, 1), other, first, second, drained()];
        assert!(wrong(&lines).contains(&"doubled"));
        lines[0].key = None;
        lines[1].key = None;
        assert!(!wrong(&lines).contains(&"doubled"));
        assert_eq!(judge(&lines, TERMS).counts.duplicated, 1);
    }

    #[test]
    fn c_lease_two_may_not_hold_one_message() {
        let two = |second: Line| {
            let ack = acked(second.returned_ns.unwrap() + 1, second.returned_ns.unwrap() + 2, 2);
            wrong(&[sent(), got(3, 4, 1), second, ack, drained()])
        };
        assert_eq!(two(got(SECOND / 2, SECOND / 2 + 1, 2)), ["held_twice"]);
        assert_eq!(two(got(SECOND / 2, SECOND + 4, 2)), [""; 0], "the first may be over by then");
        let released = of(line(Op::Release, 5, 0, Outcome::Unknown), 1);
        let second = got(SECOND / 2, SECOND / 2 + 1, 2);
        let ack = acked(SECOND, SECOND + 1, 2);
        let given = [sent(), got(3, 4, 1), released, second, ack.clone(), drained()];
        assert_eq!(wrong(&given), [""; 0]);
        let mut extended = of(line(Op::Extend, 5, 6, Outcome::Done), 1);
        extended.lease_ms = Some(10_000);
        let second = got(2 * SECOND, 2 * SECOND + 1, 2);
        let ack = acked(3 * SECOND, 3 * SECOND + 1, 2);
        let lines = [sent(), got(3, 4, 1), extended.clone(), second, ack, drained()];
        assert_eq!(wrong(&lines), ["held_twice"]);
        extended.outcome = Outcome::Unknown;
        let mut lines = lines.to_vec();
        lines[2] = extended;
        assert_eq!(wrong(&lines), [""; 0]);
    }

    #[test]
    fn what_a_receive_settles_is_given_once() {
        let take = |from: u64, fence: i64| {
            let mut take = line(Op::Take, from, from + 3, Outcome::Delivered);
            (take.fence, take.id) = (Some(fence), Some("1".into()));
            take
        };
        assert_eq!(wrong(&[sent(), take(3, 1), drained()]), [""; 0]);
        assert_eq!(wrong(&[sent(), take(3, 1), take(4, 2), drained()]), ["taken_twice"]);
        let back = [sent(), take(3, 1), got(7, 8, 2), drained()];
        assert_eq!(wrong(&back), ["back_after_ack"]);
        let mut unseen = line(Op::Take, 3, 0, Outcome::Unknown);
        unseen.message = String::new();
        assert_eq!(wrong(&[sent(), unseen.clone(), drained()]), [""; 0], "it may have had it");
        let mut second = sent();
        second.message = "b".into();
        assert_eq!(wrong(&[sent(), second, unseen, drained()]), ["lost"], "it had one at most");
    }

    #[test]
    fn what_was_purged_is_gone() {
        let purge = line(Op::Purge, 3, 4, Outcome::Done);
        assert_eq!(wrong(&[sent(), purge.clone(), drained()]), [""; 0]);
        assert_eq!(wrong(&[sent(), purge, got(5, 6, 1), drained()]), ["back_after_purge"]);
        let mut mortal = sent();
        mortal.ttl_ms = Some(1);
        assert_eq!(wrong(&[mortal, drained()]), [""; 0]);
    }
}
