//! What was sent and what came back: the bench trusts nothing that the broker says of itself.
//!
//! A message is a number of its producer, so that three bits remember it for the whole run.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Names a message of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageNumber {
    /// Whose message.
    pub producer: usize,
    /// Which of it, from 0 without gaps.
    pub seq: u64,
}

/// What became of a send, as far as its answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// On disk: it must come.
    Stored,
    /// Refused for certain: it must not come.
    NotStored,
    /// It may come.
    Unknown,
}

impl Outcome {
    /// Its word in a history.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::NotStored => "not_stored",
            Self::Unknown => "unknown",
        }
    }
}

/// What a delivery was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It came for the first time.
    First,
    /// It had come before.
    Duplicate,
    /// Nobody sent it.
    Unexpected,
}

/// A set of numbers that are dense from 0.
#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    /// Adds a number; tells whether it was new.
    fn insert(&mut self, n: u64) -> bool {
        let word = usize::try_from(n / 64).unwrap_or(usize::MAX);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        let bit = 1 << (n % 64);
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    fn contains(&self, n: u64) -> bool {
        let word = usize::try_from(n / 64).unwrap_or(usize::MAX);
        self.0.get(word).is_some_and(|bits| bits & (1 << (n % 64)) != 0)
    }

    fn len(&self) -> u64 {
        self.0.iter().map(|bits| u64::from(bits.count_ones())).sum()
    }

    /// How many numbers are in `keep` and, as `wanted` says, in `other` or not.
    fn count_with(&self, other: &Self, wanted: bool) -> u64 {
        let other = other.0.iter().copied().chain(std::iter::repeat(0));
        let kept = |(own, other): (&u64, u64)| own & if wanted { other } else { !other };
        self.0.iter().zip(other).map(|pair| u64::from(kept(pair).count_ones())).sum()
    }
}

/// The messages of one producer. Invariant: every number in a set is below `attempted`.
#[derive(Debug, Default)]
struct Account {
    attempted: u64,
    stored: Bits,
    refused: Bits,
    received: Bits,
}

/// What a whole run comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Messages that a send was begun for.
    pub attempted: u64,
    /// Acknowledged to their producers.
    pub stored: u64,
    /// Refused for certain.
    pub not_stored: u64,
    /// Different messages that came.
    pub received: u64,
    /// Stored and never received.
    pub lost: u64,
    /// Received without being acknowledged or refused: legal.
    pub recovered: u64,
    /// Received although refused for certain.
    pub refused_but_came: u64,
}

/// The accounts of all producers: three bits a message.
#[derive(Debug)]
pub struct Ledger {
    accounts: Vec<Mutex<Account>>,
    /// Stored and not received yet.
    missing: AtomicI64,
    /// Rung when nothing is missing any more.
    complete: Notify,
}

impl Ledger {
    /// Empty accounts.
    #[must_use]
    pub fn new(producers: usize) -> Self {
        let accounts = (0..producers).map(|_| Mutex::default()).collect();
        Self { accounts, missing: AtomicI64::new(0), complete: Notify::new() }
    }

    fn account(&self, producer: usize) -> MutexGuard<'_, Account> {
        self.accounts[producer].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next `count` numbers of a producer; returns the first. To be called before the
    /// send begins.
    pub fn attempt(&self, producer: usize, count: u64) -> u64 {
        let mut account = self.account(producer);
        let first = account.attempted;
        account.attempted += count;
        first
    }

    /// Notes how a send ended.
    pub fn sent(&self, number: MessageNumber, outcome: Outcome) {
        let mut account = self.account(number.producer);
        match outcome {
            Outcome::Stored => {
                if account.stored.insert(number.seq) && !account.received.contains(number.seq) {
                    self.missing.fetch_add(1, Ordering::AcqRel);
                }
            }
            Outcome::NotStored => {
                account.refused.insert(number.seq);
            }
            Outcome::Unknown => {}
        }
    }

    /// Notes a delivery.
    pub fn received(&self, number: MessageNumber) -> Arrival {
        if number.producer >= self.accounts.len() {
            return Arrival::Unexpected;
        }
        let mut account = self.account(number.producer);
        if number.seq >= account.attempted {
            return Arrival::Unexpected;
        }
        if !account.received.insert(number.seq) {
            return Arrival::Duplicate;
        }
        if account.stored.contains(number.seq) && self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.complete.notify_waiters();
        }
        Arrival::First
    }

    /// Messages stored and not received yet.
    #[must_use]
    pub fn missing(&self) -> u64 {
        u64::try_from(self.missing.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// Returns when all that was stored has come. To be called when nothing is sent any more.
    pub async fn completed(&self) {
        loop {
            let rung = self.complete.notified();
            if self.missing() == 0 {
                return;
            }
            rung.await;
        }
    }

    /// The sum of all accounts.
    #[must_use]
    pub fn balance(&self) -> Balance {
        let mut sum = Balance::default();
        for producer in 0..self.accounts.len() {
            let account = self.account(producer);
            sum.attempted += account.attempted;
            sum.stored += account.stored.len();
            sum.not_stored += account.refused.len();
            sum.received += account.received.len();
            sum.lost += account.stored.count_with(&account.received, false);
            let refused_but_came = account.received.count_with(&account.refused, true);
            sum.refused_but_came += refused_but_came;
            let unstored = account.received.count_with(&account.stored, false);
            sum.recovered += unstored.saturating_sub(refused_but_came);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const PRODUCERS: usize = 3;

    #[derive(Clone, Debug)]
    enum Step {
        Attempt {
            producer: usize,
            count: u64,
        },
        /// Ends the send of an attempted message that has no answer yet, if that is one.
        Answer {
            producer: usize,
            seq: u64,
            outcome: Outcome,
        },
        Arrive {
            producer: usize,
            seq: u64,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let outcome = prop_oneof![
            4 => Just(Outcome::Stored),
            1 => Just(Outcome::NotStored),
            1 => Just(Outcome::Unknown)
        ];
        prop_oneof![
            (0..PRODUCERS, 1..40u64)
                .prop_map(|(producer, count)| Step::Attempt { producer, count }),
            (0..PRODUCERS, 0..150u64, outcome).prop_map(|(producer, seq, outcome)| Step::Answer {
                producer,
                seq,
                outcome
            }),
            (0..=PRODUCERS, 0..150u64).prop_map(|(producer, seq)| Step::Arrive { producer, seq }),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_sets_of_names(steps in prop::collection::vec(step(), 0..300)) {
            let ledger = Ledger::new(PRODUCERS);
            let mut next = [0; PRODUCERS];
            let (mut attempted, mut answered) = (BTreeSet::new(), BTreeSet::new());
            let (mut stored, mut refused, mut received) =
                (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
            for step in steps {
                match step {
                    Step::Attempt { producer, count } => {
                        prop_assert_eq!(ledger.attempt(producer, count), next[producer]);
                        attempted.extend((0..count).map(|i| (producer, next[producer] + i)));
                        next[producer] += count;
                    }
                    Step::Answer { producer, seq, outcome } => {
                        let name = (producer, seq);
                        if !attempted.contains(&name) || !answered.insert(name) {
                            continue;
                        }
                        ledger.sent(MessageNumber { producer, seq }, outcome);
                        match outcome {
                            Outcome::Stored => stored.insert(name),
                            Outcome::NotStored => refused.insert(name),
                            Outcome::Unknown => false,
                        };
                    }
                    Step::Arrive { producer, seq } => {
                        let arrival = ledger.received(MessageNumber { producer, seq });
                        let expected = if !attempted.contains(&(producer, seq)) {
                            Arrival::Unexpected
                        } else if received.insert((producer, seq)) {
                            Arrival::First
                        } else {
                            Arrival::Duplicate
                        };
                        prop_assert_eq!(arrival, expected);
                    }
                }
                prop_assert_eq!(ledger.missing(), stored.difference(&received).count() as u64);
            }
            let came = received.intersection(&refused).count() as u64;
            prop_assert_eq!(ledger.balance(), Balance {
                attempted: attempted.len() as u64,
                stored: stored.len() as u64,
                not_stored: refused.len() as u64,
                received: received.len() as u64,
                lost: stored.difference(&received).count() as u64,
                recovered: received.difference(&stored).count() as u64 - came,
                refused_but_came: came,
            });
        }
    }

    #[tokio::test]
    async fn who_waits_is_told_when_the_last_one_came() {
        let ledger = Ledger::new(1);
        ledger.attempt(0, 2);
        let number = |seq| MessageNumber { producer: 0, seq };
        ledger.sent(number(0), Outcome::Stored);
        ledger.sent(number(1), Outcome::Stored);
        ledger.received(number(0));
        let mut waits = Box::pin(ledger.completed());
        assert!(futures_util::poll!(&mut waits).is_pending());
        ledger.received(number(1));
        waits.await;
    }
}
