//! Entropy: the only place that asks the operating system for random bytes, so that a
//! simulation can hand every node a seeded source instead.

/// A source of random bytes, fit for keys and ids.
pub trait Rng: Send + Sync {
    /// Fills the buffer.
    fn fill(&self, buffer: &mut [u8]);
}

impl dyn Rng + '_ {
    /// An array of random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut out = [0; N];
        self.fill(&mut out);
        out
    }

    /// 64 random bits.
    #[must_use]
    pub fn u64(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A number below a bound that is not 0, for jitter: as good as even while the bound is small.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        self.u64() % bound.max(1)
    }
}

/// The operating system's entropy.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    fn fill(&self, buffer: &mut [u8]) {
        // Without entropy there are no keys: nothing sensible can go on.
        getrandom::fill(buffer).expect("the operating system gives random bytes");
    }
}
