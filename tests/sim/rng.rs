//! Entropy from the seed: for a node by its seam, for what asks libc by a `getrandom` of our own.

use crate::common::fault_disk::Xorshift;
use std::cell::Cell;
use std::sync::Mutex;
use tertulia::base::rng::Rng;

/// A node's entropy.
pub struct SimRng(Mutex<Xorshift>);

impl SimRng {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Xorshift::new(seed)))
    }
}

impl Rng for SimRng {
    fn fill(&self, buffer: &mut [u8]) {
        let mut random = self.0.lock().unwrap();
        buffer.fill_with(|| (random.next() >> 24) as u8);
    }
}

thread_local! {
    /// Per thread: what other threads of the test binary take changes nothing here.
    static STATE: Cell<u64> = const { Cell::new(0x9e37_79b9_7f4a_7c15) };
}

/// Seeds what this thread gets from libc. For a thread that has asked for nothing yet.
pub fn seed_thread(seed: u64) {
    STATE.with(|state| state.set(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
}

/// libc's `getrandom` in this binary: `RandomState`, `rand` and `uuid` ask it. Each thread has a
/// stream of its own, and a run is one thread.
///
/// # Safety
/// `buffer` holds `len` bytes, as libc's demands.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, len: usize, _flags: u32) -> isize {
    STATE.with(|state| {
        let mut x = state.get();
        for at in 0..len {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            // SAFETY: `at` is below `len`.
            unsafe { *buffer.add(at) = (x >> 24) as u8 };
        }
        state.set(x);
    });
    len as isize
}
