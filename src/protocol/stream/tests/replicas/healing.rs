//! What has to come when nothing fails any more: agreement, and a queue that runs empty.
use super::*;

impl Cluster {
    /// Each replica takes in what every other knows, twice.
    pub(super) fn tell_all(&mut self) {
        for (at, from) in [(0, 1), (1, 2), (2, 0), (0, 2), (2, 1), (1, 0)].repeat(2) {
            self.repair(at, from);
        }
    }

    /// Everybody hears everybody: all agree, and what is there is delivered and done with.
    pub(super) fn heal(&mut self) {
        self.now_ms += 10 * LEASE_MS;
        self.tell_all();
        let digests: BTreeSet<u64> =
            self.replicas.iter().map(|bench| bench.stream.summary(self.now_ms).digest()).collect();
        if digests.len() != 1 {
            let summaries: Vec<Summary> =
                self.replicas.iter().map(|bench| bench.stream.summary(self.now_ms)).collect();
            panic!("replicas that told each other everything differ: {summaries:#?}");
        }
        for dot in self.sent.clone() {
            let is_open = |bench: &Bench| bench.stream.is_open(Q, dot);
            let open = self.replicas.iter().filter(|bench| is_open(bench)).count();
            assert!(open == 3 || self.maybe_done.contains(&dot), "G1: {dot} is lost");
        }
        for dot in &self.done {
            assert!(!self.replicas[0].stream.is_open(Q, *dot), "G4: {dot} is back");
        }
        self.drain();
        self.tell_all();
        for Bench { me, messages, grants, attempts, .. } in &self.replicas {
            let left = (messages.keys().collect::<Vec<_>>(), grants, attempts);
            let is_clean = messages.is_empty() && grants.is_empty() && attempts.is_empty();
            assert!(is_clean, "{me} keeps rows of what is over: {left:#?}");
        }
    }

    pub(super) fn drain(&mut self) {
        for round in 0.. {
            if round == 500 {
                let left = |bench: &Bench| {
                    let places = bench.messages.keys();
                    let now_ms = self.now_ms;
                    let standing = |place: &Place| {
                        let stream = &bench.stream;
                        (
                            place.1,
                            stream.standing(Q, *place, now_ms),
                            stream.attempt(Q, place.1).copied(),
                        )
                    };
                    places.map(standing).collect::<Vec<_>>()
                };
                let left: Vec<_> = self.replicas.iter().map(left).collect();
                panic!("messages stay that nobody can get: {left:#?}");
            }
            self.now_ms += 2 * LEASE_MS;
            self.tell_all();
            (0..3).for_each(|n| self.wake(n));
            if let Some(place) = self.doomed(0) {
                self.lease(0, Purpose::Bury, place, 7, 7);
                continue;
            }
            if !self.replicas[0].stream.dead(Q, None, 1).is_empty() {
                self.take(Step::Redrive { at: 0, reach: 7 });
                continue;
            }
            let now_ms = self.now_ms;
            let Some((place, _)) = self.replicas[0].stream.pick(Q, 1, now_ms).pop() else { break };
            let before = self.won.len();
            self.lease(0, Purpose::Deliver, place, 7, 7);
            if self.won.len() > before {
                self.settle(before, 0, 7);
            }
        }
    }
}
