//! Checkers: pure functions over a history of invocations and answers. They trust nothing that
//! the product says of itself.

pub mod laws;

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// Something that happened, as the client saw it. A message is named by its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A send was invoked.
    Sending { body: String },
    /// It was acknowledged.
    Sent { body: String },
    /// It was refused for certain.
    NotSent { body: String },
    /// A message was delivered by a receive invoked when the history had `invoked` events.
    Delivered { body: String, fence: i64, invoked: usize },
    /// Its acknowledgement was invoked.
    Acking { body: String },
    /// Its acknowledgement was answered: final.
    Acked { body: String },
    /// Its acknowledgement was answered `lease-lost`.
    AckLost { body: String },
}

/// A history that many clients write.
#[derive(Debug, Default)]
pub struct History {
    events: Mutex<Vec<Event>>,
    /// The ids by which messages were called.
    ids: Mutex<BTreeMap<String, BTreeSet<String>>>,
    grown: tokio::sync::Notify,
}

impl History {
    pub fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.grown.notify_waiters();
    }

    /// An answer calls a message, at a place, by this id.
    pub fn note_id(&self, message: String, id: &str) {
        self.ids.lock().unwrap().entry(message).or_default().insert(id.to_owned());
    }

    pub fn len(&self) -> usize {
        self.events.lock().unwrap().len()
    }

    /// Returns once so many more events have happened; fails when that takes a minute.
    pub async fn grows_by(&self, events: usize) {
        let wanted = self.len() + events;
        let growth = async {
            loop {
                let mut grown = std::pin::pin!(self.grown.notified());
                grown.as_mut().enable();
                if self.len() >= wanted {
                    return;
                }
                grown.await;
            }
        };
        let minute = std::time::Duration::from_secs(60);
        tokio::time::timeout(minute, growth).await.expect("the load stands still");
    }

    /// Judges it by way of the file format, so that what is written is what is judged.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = check(&read(&write(&self.events.lock().unwrap())).unwrap());
        verdict.renamed = renamed(&self.ids.lock().unwrap());
        verdict
    }
}

/// A line of a history file: an operation on one message by one client. `src/bench/history.rs`
/// describes the fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    pub op: Op,
    pub process: u64,
    pub invoked_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub returned_ns: Option<u64>,
    pub message: String,
    pub outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence: Option<i64>,
    /// Where; one place for all when nobody says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Receive: the broker's name of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Receive, extend: the lease that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease_ms: Option<u64>,
    /// Send: its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Send: after which time it may be dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

impl Line {
    /// An operation that never ended.
    pub fn open(op: Op, process: u64, invoked_ns: u64, message: &str) -> Self {
        Self {
            op,
            process,
            invoked_ns,
            returned_ns: None,
            message: message.to_owned(),
            outcome: Outcome::Unknown,
            fence: None,
            queue: None,
            id: None,
            lease_ms: None,
            key: None,
            ttl_ms: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Send,
    Receive,
    Ack,
    /// What follows is for `laws` alone.
    Extend,
    Release,
    /// Of a whole queue.
    Purge,
    /// Of a whole queue: from when nothing more went wrong until it was empty.
    Drain,
    /// A receive that settles what it gives (`auto_ack`), of one message at most; which one nobody
    /// knows when its answer is lost.
    Take,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Stored,
    NotStored,
    Delivered,
    Done,
    Lost,
    Unknown,
}

/// When something is seen. At one instant beginnings come first: what cannot be told apart counts
/// as overlapping, which accuses nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Begins,
    Ends,
}

/// Reads a history file: its lines, in any order, become events in the order of time.
pub fn read(text: &str) -> Result<Vec<Event>, String> {
    let mut seen: Vec<(u64, Moment, Event)> = Vec::new();
    // A delivery, by its place among the events, and when its receive began.
    let mut receives: Vec<(u64, u64, Event)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let fails = |why: String| format!("line {}: {why}", at + 1);
        let line: Line = serde_json::from_str(line).map_err(|error| fails(error.to_string()))?;
        let Line { op, invoked_ns, returned_ns, message: body, outcome, fence, .. } = line;
        let begins = match op {
            Op::Send => Some(Event::Sending { body: body.clone() }),
            Op::Ack => Some(Event::Acking { body: body.clone() }),
            Op::Receive => None,
            Op::Extend | Op::Release | Op::Purge | Op::Drain | Op::Take => continue,
        };
        seen.extend(begins.map(|event| (invoked_ns, Moment::Begins, event)));
        let ends = match (op, outcome, fence) {
            (Op::Send, Outcome::Stored, None) => Event::Sent { body },
            (Op::Send, Outcome::NotStored, None) => Event::NotSent { body },
            (Op::Ack, Outcome::Done, None) => Event::Acked { body },
            (Op::Ack, Outcome::Lost, None) => Event::AckLost { body },
            (Op::Send | Op::Ack, Outcome::Unknown, None) => continue,
            (Op::Receive, Outcome::Delivered, Some(fence)) => {
                let returned_ns = returned_ns.ok_or_else(|| fails("never returned".to_owned()))?;
                let event = Event::Delivered { body, fence, invoked: 0 };
                receives.push((returned_ns, invoked_ns, event));
                continue;
            }
            other => return Err(fails(format!("{other:?} do not go together"))),
        };
        let returned_ns = returned_ns.ok_or_else(|| fails("an outcome without an end".into()))?;
        if returned_ns < invoked_ns {
            return Err(fails("it ended before it began".to_owned()));
        }
        seen.push((returned_ns, Moment::Ends, ends));
    }
    Ok(in_order(seen, receives))
}

/// One history of all that was seen, with the places of receives' beginnings entered.
fn in_order(seen: Vec<(u64, Moment, Event)>, receives: Vec<(u64, u64, Event)>) -> Vec<Event> {
    let mut timed: Vec<(u64, Moment, Option<u64>, Event)> =
        seen.into_iter().map(|(ns, moment, event)| (ns, moment, None, event)).collect();
    let delivered = receives.into_iter();
    timed.extend(delivered.map(|(ns, began, event)| (ns, Moment::Ends, Some(began), event)));
    // Stable: what happened at once stays in the order of the file.
    timed.sort_by_key(|(ns, moment, ..)| (*ns, *moment));
    let times: Vec<(u64, Moment)> = timed.iter().map(|(ns, moment, ..)| (*ns, *moment)).collect();
    let place = |began: u64| times.partition_point(|time| *time < (began, Moment::Ends));
    let entered = timed.into_iter().map(|(_, _, began, event)| match (event, began) {
        (Event::Delivered { body, fence, .. }, Some(began)) => {
            Event::Delivered { body, fence, invoked: place(began) }
        }
        (event, _) => event,
    });
    entered.collect()
}

/// Writes a history as a file's text. Its clock counts events; every client is number 0.
pub fn write(history: &[Event]) -> String {
    let mut lines: Vec<Line> = Vec::new();
    // The last operation on each message that has not ended.
    let mut open: BTreeMap<(bool, &str), usize> = BTreeMap::new();
    for (at, event) in history.iter().enumerate() {
        // Between two events there is room for a receive to begin.
        let now = 2 * at as u64 + 1;
        let (op, body, outcome) = match event {
            Event::Sending { body } => (Op::Send, body, None),
            Event::Sent { body } => (Op::Send, body, Some(Outcome::Stored)),
            Event::NotSent { body } => (Op::Send, body, Some(Outcome::NotStored)),
            Event::Delivered { body, .. } => (Op::Receive, body, Some(Outcome::Delivered)),
            Event::Acking { body } => (Op::Ack, body, None),
            Event::Acked { body } => (Op::Ack, body, Some(Outcome::Done)),
            Event::AckLost { body } => (Op::Ack, body, Some(Outcome::Lost)),
        };
        let mut line = Line::open(op, 0, now, body);
        line.returned_ns = outcome.is_some().then_some(now);
        line.outcome = outcome.unwrap_or(Outcome::Unknown);
        if let Event::Delivered { fence, invoked, .. } = event {
            line.fence = Some(*fence);
            line.invoked_ns = 2 * *invoked as u64;
            lines.push(line);
            continue;
        }
        let key = (op == Op::Send, body.as_str());
        match (outcome, open.get(&key)) {
            (Some(outcome), Some(&began)) => {
                lines[began].outcome = outcome;
                lines[began].returned_ns = Some(now);
                open.remove(&key);
            }
            (Some(_), None) => lines.push(line),
            (None, _) => {
                open.insert(key, lines.len());
                lines.push(line);
            }
        }
    }
    let text = |line: &Line| serde_json::to_string(line).unwrap() + "\n";
    lines.iter().map(text).collect()
}

/// What a history proves. All but the counts must be empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged to the sender and never delivered, and nobody tried to acknowledge it.
    pub lost: BTreeSet<String>,
    /// Delivered and never sent.
    pub unexpected: BTreeSet<String>,
    /// Delivered although its send was refused for certain (C-FAIL).
    pub refused_but_came: BTreeSet<String>,
    /// Delivered by a receive invoked after its acknowledgement was answered (C-ACK).
    pub back_after_ack: BTreeSet<String>,
    /// Delivered with the fence of another delivery, or by a receive invoked after a delivery
    /// whose fence was higher (C-ATTEMPT).
    pub fence_fell: BTreeSet<String>,
    /// Acknowledged to the sender, and in the end nobody has tried to acknowledge or to delete it
    /// (C-CONS).
    pub left: BTreeSet<String>,
    /// Called by two ids at one place: two messages [G8, G15].
    pub renamed: BTreeSet<String>,
    /// Acknowledged sends.
    pub sent: usize,
    /// Deliveries.
    pub delivered: usize,
    /// Acknowledgements answered.
    pub acked: usize,
    /// Sends of unknown outcome that came out: legal.
    pub recovered: usize,
}

impl Verdict {
    /// Fails with everything that is wrong.
    pub fn assert_clean(&self, run: &str) {
        let wrong = [
            &self.lost,
            &self.unexpected,
            &self.refused_but_came,
            &self.back_after_ack,
            &self.fence_fell,
            &self.left,
            &self.renamed,
        ];
        assert!(wrong.iter().all(|set| set.is_empty()), "{run}: {self:?}");
    }

    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.delivered += other.delivered;
        self.acked += other.acked;
        self.recovered += other.recovered;
    }
}

/// Judges a history that ends with the queue drained.
pub fn check(history: &[Event]) -> Verdict {
    let mut verdict = Verdict::default();
    let (mut sending, mut sent, mut refused) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let (mut delivered, mut acking) = (BTreeSet::new(), BTreeSet::new());
    let mut acked: BTreeMap<&str, usize> = BTreeMap::new();
    // By message: when its deliveries were answered, and with which fence.
    let mut fences: BTreeMap<&str, Vec<(usize, i64)>> = BTreeMap::new();
    for (at, event) in history.iter().enumerate() {
        match event {
            Event::Sending { body } => {
                sending.insert(body.as_str());
            }
            Event::Sent { body } => {
                sent.insert(body.as_str());
            }
            Event::NotSent { body } => {
                refused.insert(body.as_str());
            }
            Event::Delivered { body, fence, invoked } => {
                verdict.delivered += 1;
                delivered.insert(body.as_str());
                if !sending.contains(body.as_str()) {
                    verdict.unexpected.insert(body.clone());
                }
                if acked.get(body.as_str()).is_some_and(|acked| invoked > acked) {
                    verdict.back_after_ack.insert(body.clone());
                }
                let earlier = fences.entry(body).or_default();
                // Answers of receives that overlapped may come in either order.
                let falls = |(answered, other): &(usize, i64)| {
                    other == fence || (answered < invoked && other > fence)
                };
                if earlier.iter().any(falls) {
                    verdict.fence_fell.insert(body.clone());
                }
                earlier.push((at, *fence));
            }
            Event::Acking { body } | Event::AckLost { body } => {
                acking.insert(body.as_str());
            }
            Event::Acked { body } => {
                acking.insert(body.as_str());
                acked.entry(body).or_insert(at);
            }
        }
    }
    let ended: BTreeSet<&str> = delivered.union(&acking).copied().collect();
    verdict.lost = sent.difference(&ended).map(|body| (*body).to_owned()).collect();
    verdict.left = sent.difference(&acking).map(|body| (*body).to_owned()).collect();
    verdict.refused_but_came =
        refused.intersection(&delivered).map(|body| (*body).to_owned()).collect();
    verdict.sent = sent.len();
    verdict.acked = acked.len();
    verdict.recovered = delivered.difference(&sent).count();
    verdict
}

/// Messages that were called by more than one id.
fn renamed(ids: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    ids.iter().filter(|(_, ids)| ids.len() > 1).map(|(message, _)| message.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(word: &str, body: &str) -> Event {
        let body = body.to_owned();
        match word {
            "sending" => Event::Sending { body },
            "sent" => Event::Sent { body },
            "refused" => Event::NotSent { body },
            _ => Event::Acked { body },
        }
    }

    fn delivered(body: &str, fence: i64, invoked: usize) -> Event {
        Event::Delivered { body: body.to_owned(), fence, invoked }
    }

    #[test]
    fn each_checker_objects_to_what_it_is_for() {
        let lost = check(&[event("sending", "a"), event("sent", "a")]);
        assert_eq!(lost.lost.len(), 1);
        assert_eq!(check(&[delivered("a", 1, 0)]).unexpected.len(), 1);
        let came = [event("sending", "a"), event("refused", "a"), delivered("a", 1, 2)];
        assert_eq!(check(&came).refused_but_came.len(), 1);
        let mut back = vec![event("sending", "a"), event("sent", "a"), delivered("a", 1, 2)];
        back.push(event("acked", "a"));
        back.push(delivered("a", 2, 3));
        assert!(check(&back).back_after_ack.is_empty(), "that receive began before the answer");
        back.push(delivered("a", 3, 5));
        assert_eq!(check(&back).back_after_ack.len(), 1);
        back.push(delivered("a", 3, 4));
        assert_eq!(check(&back).fence_fell.len(), 1);
        let mut fell = vec![event("sending", "a"), delivered("a", 2, 1)];
        fell.push(delivered("a", 1, 1));
        assert!(check(&fell).fence_fell.is_empty(), "these receives overlapped");
        fell.push(delivered("a", 1, 3));
        assert_eq!(check(&fell).fence_fell.len(), 1);
        let mut left = vec![event("sending", "a"), event("sent", "a"), delivered("a", 1, 2)];
        assert_eq!((check(&left).left.len(), check(&left).lost.len()), (1, 0));
        left.push(Event::Acking { body: "a".to_owned() });
        assert!(check(&left).left.is_empty());
        let history = History::default();
        history.note_id("q a".to_owned(), "x");
        history.note_id("q a".to_owned(), "x");
        assert!(history.verdict().renamed.is_empty());
        history.note_id("q a".to_owned(), "y");
        assert_eq!(history.verdict().renamed.len(), 1);
        assert_eq!(check(&read(&write(&back)).unwrap()), check(&back));
    }

    fn step() -> impl Strategy<Value = Event> {
        (0..7u8, "[abc]", 0..6i64, 0..60usize).prop_map(|(what, body, fence, ago)| match what {
            0 => Event::Sending { body },
            1 => Event::Sent { body },
            2 => Event::NotSent { body },
            3 => Event::Acking { body },
            4 => Event::Acked { body },
            5 => Event::AckLost { body },
            _ => Event::Delivered { body, fence, invoked: ago },
        })
    }

    proptest! {
        #[test]
        fn a_history_is_judged_alike_in_memory_and_in_its_file(
            mut events in prop::collection::vec(step(), 0..40),
        ) {
            for (at, event) in events.iter_mut().enumerate() {
                if let Event::Delivered { invoked, .. } = event {
                    *invoked = at.saturating_sub(*invoked);
                }
            }
            // An answer without a question begins and ends at once; in memory it never began.
            let mut began = BTreeSet::new();
            let events: Vec<Event> = events
                .into_iter()
                .filter(|event| match event {
                    Event::Sending { body } => began.insert((true, body.clone())),
                    Event::Acking { body } => began.insert((false, body.clone())),
                    Event::Sent { body } | Event::NotSent { body } => {
                        began.contains(&(true, body.clone()))
                    }
                    Event::Acked { body } | Event::AckLost { body } => {
                        began.contains(&(false, body.clone()))
                    }
                    Event::Delivered { .. } => true,
                })
                .collect();
            let text = write(&events);
            prop_assert_eq!(check(&read(&text).unwrap()), check(&events));
            let backwards: String = text.lines().rev().flat_map(|line| [line, "\n"]).collect();
            prop_assert_eq!(check(&read(&backwards).unwrap()), check(&events));
        }
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused() {
        let line = |rest: &str| {
            read(&format!("{{\"process\":1,\"message\":\"a\",\"invoked_ns\":5,{rest}}}"))
        };
        assert!(line("\"op\":\"send\",\"outcome\":\"unknown\"").is_ok());
        for rest in [
            "\"op\":\"send\",\"outcome\":\"stored\"",
            "\"op\":\"send\",\"outcome\":\"stored\",\"returned_ns\":4",
            "\"op\":\"send\",\"outcome\":\"done\",\"returned_ns\":6",
            "\"op\":\"receive\",\"outcome\":\"delivered\",\"returned_ns\":6",
            "\"op\":\"receive\",\"outcome\":\"delivered\",\"fence\":6",
            "\"op\":\"send\",\"outcome\":\"unknown\",\"colour\":\"red\"",
        ] {
            assert!(line(rest).is_err(), "{rest}");
        }
    }
}
