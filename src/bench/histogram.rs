//! A histogram of durations: exact to less than one percent, of fixed size, cheap to record into.

/// Bits that a value keeps: two neighbours within one bucket differ by less than 1/128.
const KEPT_BITS: u32 = 7;
/// Buckets of each power of two.
const STEPS: usize = 1 << KEPT_BITS;
/// Values below `2 * STEPS` have a bucket each; above, each power of two has `STEPS` buckets.
const BUCKETS: usize = STEPS * (u64::BITS - KEPT_BITS + 1) as usize;

/// How often which nanoseconds occurred. 58 KiB whatever is recorded.
#[derive(Clone)]
pub struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), count: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Adds one duration, in nanoseconds.
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, in nanoseconds, exactly; 0 when nothing was recorded.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The duration that `per_mille` of 1000 recorded ones do not exceed, in nanoseconds, rounded
    /// up by less than one percent; 0 when nothing was recorded.
    #[must_use]
    pub fn quantile_ns(&self, per_mille: u32) -> u64 {
        let rank = (u128::from(self.count) * u128::from(per_mille)).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return last_of(bucket).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

/// Where a value is counted.
fn bucket(value: u64) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let dropped = bits.saturating_sub(KEPT_BITS + 1);
    // Where bits were dropped, `kept` is at least STEPS: one run of STEPS buckets per shift.
    let kept = (value >> dropped) as usize;
    dropped as usize * STEPS + kept
}

/// The greatest value that is counted there.
fn last_of(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let dropped = bucket / STEPS - 1;
    let kept = (bucket - dropped * STEPS) as u64;
    (kept << dropped) | ((1 << dropped) - 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_edges_have_buckets() {
        for value in [0, 1, 127, 128, 255, 256, 257, 511, 512, u64::MAX - 1, u64::MAX] {
            let bucket = bucket(value);
            assert!(bucket < BUCKETS, "{value}");
            assert!(last_of(bucket) >= value, "{value}");
        }
        assert_eq!(last_of(BUCKETS - 1), u64::MAX);
        assert_eq!(Histogram::default().quantile_ns(500), 0);
    }

    proptest! {
        #[test]
        fn buckets_are_in_order_without_gaps(value in any::<u64>()) {
            let here = bucket(value);
            prop_assert!(last_of(here) >= value);
            prop_assert!(here == 0 || last_of(here - 1) < value);
        }

        #[test]
        fn quantiles_are_those_of_the_sorted_values(
            mut values in prop::collection::vec(0..u64::MAX >> 8, 1..300),
            shift in 0..56u32,
            per_mille in 0..=1000u32,
        ) {
            values.iter_mut().for_each(|value| *value >>= shift);
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.record(*value));
            values.sort_unstable();
            let rank = (values.len() * per_mille as usize).div_ceil(1000).max(1);
            let exact = values[rank - 1];
            let said = histogram.quantile_ns(per_mille);
            prop_assert!(said >= exact, "{said} < {exact}");
            prop_assert!(said - exact <= exact / 128, "{said} far above {exact}");
            prop_assert_eq!(histogram.max_ns(), *values.last().unwrap());
            prop_assert_eq!(histogram.count(), values.len() as u64);
        }
    }
}
