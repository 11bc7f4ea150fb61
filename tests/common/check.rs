//! Checkers: pure functions over a history of invocations and answers. They trust nothing that
//! the product says of itself.

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
pub struct History(Mutex<Vec<Event>>);

impl History {
    pub fn note(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn verdict(&self) -> Verdict {
        check(&self.0.lock().unwrap())
    }
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
    /// Delivered with a fence not above an earlier one's (C-ATTEMPT).
    pub fence_fell: BTreeSet<String>,
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
    let mut fences: BTreeMap<&str, i64> = BTreeMap::new();
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
                if fences.insert(body, *fence).is_some_and(|earlier| earlier >= *fence) {
                    verdict.fence_fell.insert(body.clone());
                }
            }
            Event::Acking { body } => {
                acking.insert(body.as_str());
            }
            Event::Acked { body } => {
                acked.entry(body).or_insert(at);
            }
            Event::AckLost { .. } => {}
        }
    }
    verdict.lost = sent.difference(&delivered).map(|body| (*body).to_owned()).collect();
    verdict.refused_but_came =
        refused.intersection(&delivered).map(|body| (*body).to_owned()).collect();
    verdict.sent = sent.len();
    verdict.acked = acked.len();
    verdict.recovered = delivered.difference(&sent).count();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
