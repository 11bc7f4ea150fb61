//! Passwords that were found right, so that HTTP Basic does not cost a scrypt per request [F21].
//!
//! An entry says: this password matched that version of that user's password, for a client at
//! that address. It names nobody and proves nothing by itself: every use looks up the user as it
//! is now. The address belongs to it because a hit asks no rate limit: from elsewhere the cache
//! must not answer a guess that the limits refuse.

use crate::base::ids::UserId;
use crate::base::limits::BASIC_CACHE_ENTRIES_MAX;
use crate::base::seams::Rng;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

/// A keyed hash of all that an entry says.
pub(super) type Checked = [u8; 32];

pub(super) struct BasicCache {
    /// Random per process: the entries are worth nothing outside it.
    key: Zeroizing<[u8; 32]>,
    entries: Mutex<Entries>,
}

/// The same entries twice: to be found, and in the order of their coming.
#[derive(Default)]
struct Entries {
    known: BTreeSet<Checked>,
    by_age: VecDeque<Checked>,
}

impl BasicCache {
    pub(super) fn new(rng: &dyn Rng) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill(&mut *key);
        Self { key, entries: Mutex::default() }
    }

    pub(super) fn entry(
        &self,
        user: UserId,
        password_version: u64,
        password: &str,
        address: IpAddr,
    ) -> Checked {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&*self.key).expect("HMAC takes a key of any length");
        mac.update(&user.0);
        mac.update(&password_version.to_le_bytes());
        mac.update(&address.to_canonical().to_string().len().to_le_bytes());
        mac.update(address.to_canonical().to_string().as_bytes());
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }

    pub(super) fn knows(&self, entry: &Checked) -> bool {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).known.contains(entry)
    }

    /// Remembers an entry; the oldest makes room.
    pub(super) fn remember(&self, entry: Checked) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !entries.known.insert(entry) {
            return;
        }
        entries.by_age.push_back(entry);
        if entries.by_age.len() > BASIC_CACHE_ENTRIES_MAX
            && let Some(oldest) = entries.by_age.pop_front()
        {
            entries.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::SystemRng;
    use std::net::Ipv4Addr;

    #[test]
    fn f21_an_entry_is_of_one_user_version_password_and_address() {
        let cache = BasicCache::new(&SystemRng);
        let (user, here) = (UserId([1; 16]), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let entry = cache.entry(user, 1, "secret", here);
        cache.remember(entry);
        assert!(cache.knows(&cache.entry(user, 1, "secret", here)));
        assert!(!cache.knows(&cache.entry(user, 2, "secret", here)));
        assert!(!cache.knows(&cache.entry(user, 1, "secreT", here)));
        assert!(!cache.knows(&cache.entry(UserId([2; 16]), 1, "secret", here)));
        let elsewhere = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        assert!(!cache.knows(&cache.entry(user, 1, "secret", elsewhere)));
        let other = BasicCache::new(&SystemRng);
        assert_ne!(other.entry(user, 1, "secret", here), entry);
    }

    #[test]
    fn the_oldest_entry_makes_room() {
        let cache = BasicCache::new(&SystemRng);
        let entry = |n: usize| {
            let mut entry = [0; 32];
            entry[..8].copy_from_slice(&n.to_le_bytes());
            entry
        };
        for n in 0..=BASIC_CACHE_ENTRIES_MAX {
            cache.remember(entry(n));
            cache.remember(entry(n));
        }
        assert!(!cache.knows(&entry(0)));
        assert!(cache.knows(&entry(1)));
        assert!(cache.knows(&entry(BASIC_CACHE_ENTRIES_MAX)));
    }
}
