//! How often something may be tried in a minute.

use super::{Answer, Refusal};
use crate::base::limits::RATE_ENTRIES_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

const WINDOW_MS: u64 = 60_000;

/// Counts tries by key. A key's minute begins with its first try; times are of a clock that never
/// steps, in ms.
pub(crate) struct Rates<K> {
    limit: u32,
    windows: Mutex<Windows<K>>,
}

/// Never more than `RATE_ENTRIES_MAX` keys: the oldest makes room.
struct Windows<K> {
    /// When the key's minute began, and the tries in it.
    by_key: BTreeMap<K, (u64, u32)>,
    /// The same keys, by that beginning.
    by_age: BTreeSet<(u64, K)>,
}

impl<K: Ord + Clone> Rates<K> {
    pub(crate) fn new(limit: u32) -> Self {
        let windows = Windows { by_key: BTreeMap::new(), by_age: BTreeSet::new() };
        Self { limit, windows: Mutex::new(windows) }
    }

    fn lock(&self) -> MutexGuard<'_, Windows<K>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses when the key had its tries.
    pub(crate) fn check(&self, key: &K, now_ms: u64) -> Answer<()> {
        self.lock().check(key, now_ms, self.limit)
    }

    /// Counts a try.
    pub(crate) fn count(&self, key: &K, now_ms: u64) {
        self.lock().count(key, now_ms);
    }

    /// Counts a try, or refuses it and does not count it.
    pub(crate) fn take(&self, key: &K, now_ms: u64) -> Answer<()> {
        let mut windows = self.lock();
        windows.check(key, now_ms, self.limit)?;
        windows.count(key, now_ms);
        Ok(())
    }
}

impl<K: Ord + Clone> Windows<K> {
    fn check(&self, key: &K, now_ms: u64, limit: u32) -> Answer<()> {
        let Some((began_ms, tries)) = self.by_key.get(key) else { return Ok(()) };
        let left_ms = (began_ms + WINDOW_MS).saturating_sub(now_ms);
        if *tries < limit || left_ms == 0 {
            return Ok(());
        }
        let retry_after_seconds = i32::try_from(left_ms.div_ceil(1_000)).unwrap_or(i32::MAX);
        Err(Refusal::RateLimited { retry_after_seconds })
    }

    fn count(&mut self, key: &K, now_ms: u64) {
        while let Some((began_ms, _)) = self.by_age.first()
            && began_ms + WINDOW_MS <= now_ms
        {
            self.forget_oldest();
        }
        if let Some((_, tries)) = self.by_key.get_mut(key) {
            *tries = tries.saturating_add(1);
            return;
        }
        if self.by_key.len() >= RATE_ENTRIES_MAX {
            self.forget_oldest();
        }
        self.by_key.insert(key.clone(), (now_ms, 1));
        self.by_age.insert((now_ms, key.clone()));
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.by_age.pop_first() {
            self.by_key.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_its_tries_and_then_another_begins() {
        let rates = Rates::new(3);
        for n in 0..3 {
            assert_eq!(rates.take(&"ana", 1_000 + n), Ok(()));
        }
        let refused = |seconds| Err(Refusal::RateLimited { retry_after_seconds: seconds });
        assert_eq!(rates.take(&"ana", 1_500), refused(60));
        assert_eq!(rates.check(&"ana", 60_001), refused(1));
        assert_eq!(rates.check(&"ana", 60_999), refused(1));
        assert_eq!(rates.take(&"eva", 1_500), Ok(()));
        assert_eq!(rates.take(&"ana", 61_000), Ok(()));
        assert_eq!(rates.take(&"ana", 61_000), Ok(()));
    }

    #[test]
    fn the_oldest_makes_room_and_what_is_over_is_forgotten() {
        let rates = Rates::new(1);
        for n in 0..=RATE_ENTRIES_MAX {
            rates.count(&n, 5);
        }
        assert_eq!(rates.lock().by_key.len(), RATE_ENTRIES_MAX);
        assert_eq!(rates.check(&0, 6), Ok(()));
        assert!(rates.check(&1, 6).is_err());
        rates.count(&7, 60_005);
        assert_eq!(rates.lock().by_key.len(), 1);
        assert_eq!(rates.lock().by_age.len(), 1);
    }
}
