//! A disk that fails on purpose: a [`BlockFile`] in memory which models a write-back cache.
//!
//! What was written but not synced is *pending*. [`FaultDisk::power_loss`] decides the fate of
//! every pending write from a seed (kept, lost, or torn at sectors of 512 B) and gives the disk as
//! the next start finds it. The old one answers every write and sync with an error from then on.
//! It is sparse like a real file: only blocks that were written take up space, and `set_cap` is
//! the size of the disk in such blocks.
//!
//! Self-contained: use it with `#[path = "common/fault_disk.rs"] mod fault_disk;`.
#![allow(dead_code, missing_docs)]

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use tertulia::base::seams::BlockFile;

const SECTOR: usize = 512;
const BLOCK: usize = 4096;

#[derive(Debug)]
enum Pending {
    Write(u64, Vec<u8>),
    Len(u64),
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct FaultDisk {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a held sync may go on, and when one begins to wait.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What a reader sees.
    now: Vec<u8>,
    /// What the last sync made durable.
    durable: Vec<u8>,
    /// What came since, in order.
    pending: Vec<Pending>,
    /// Blocks of `now` that were written to.
    taken: Vec<bool>,
    power_is_off: bool,
    fail_sync: bool,
    fail_writes: bool,
    hold_sync: bool,
    syncs_held: usize,
    cap: Option<u64>,
    /// Writes, length changes and syncs until the power goes by itself.
    operations_left: Option<u64>,
    operations: u64,
    syncs: u64,
}

impl FaultDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// A disk that holds `image`, all of it durable.
    pub fn with_image(image: Vec<u8>) -> Self {
        let disk = Self::new();
        {
            let mut state = disk.lock();
            state.taken = vec![true; image.len().div_ceil(BLOCK)];
            state.durable.clone_from(&image);
            state.now = image;
        }
        disk
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Cuts the power and gives the disk as the next start finds it: of what was not synced, each
    /// write is kept, lost or torn, independently of the others and of their order. How many are
    /// kept varies with the seed, up to all of them: then what nobody was promised is there.
    pub fn power_loss(&self, seed: u64) -> Self {
        self.cut_power();
        let state = self.lock();
        let mut random = Xorshift::new(seed);
        let mut image = state.durable.clone();
        let kept_percent = [33, 66, 95, 100][random.below(4) as usize];
        for pending in &state.pending {
            let fate = if random.below(100) < kept_percent { 1 } else { 2 * random.below(2) };
            match (fate, pending) {
                (0, _) => {}
                (1, _) | (_, Pending::Len(_)) => pending.apply(&mut image),
                (_, Pending::Write(offset, bytes)) => {
                    for (sector, torn) in bytes.chunks(SECTOR).enumerate() {
                        if random.next().is_multiple_of(2) {
                            let offset = offset + (sector * SECTOR) as u64;
                            Pending::Write(offset, torn.to_vec()).apply(&mut image);
                        }
                    }
                }
            }
        }
        Self::with_image(image)
    }

    /// The disk as the next process finds it when this one was killed: all that it wrote, and what
    /// was not synced may still be lost. The old one fails from now on.
    pub fn outlive(&self) -> Self {
        self.cut_power();
        let mut state = self.lock();
        let disk = Self::new();
        {
            let mut next = disk.lock();
            next.now.clone_from(&state.now);
            next.durable.clone_from(&state.durable);
            next.pending = std::mem::take(&mut state.pending);
            next.taken.clone_from(&state.taken);
            next.cap = state.cap;
        }
        disk
    }

    /// What is durable.
    pub fn durable_image(&self) -> Vec<u8> {
        self.lock().durable.clone()
    }

    /// From now on every write and sync fails, held syncs too.
    pub fn cut_power(&self) {
        self.lock().power_is_off = true;
        self.shared.changed.notify_all();
    }

    /// The power goes by itself in the midst of the `n`th write, length change or sync from now.
    pub fn cut_power_after(&self, n: u64) {
        self.lock().operations_left = Some(n);
    }

    pub fn power_is_off(&self) -> bool {
        self.lock().power_is_off
    }

    /// Whether syncs fail with EIO.
    pub fn fail_sync(&self, fail: bool) {
        self.lock().fail_sync = fail;
    }

    /// Whether writes fail with EIO.
    pub fn fail_writes(&self, fail: bool) {
        self.lock().fail_writes = fail;
    }

    /// The size of the disk in bytes; `None` for no end.
    pub fn set_cap(&self, cap: Option<u64>) {
        self.lock().cap = cap;
    }

    /// Syncs do not return until `release_sync` (or the power goes).
    pub fn hold_sync(&self) {
        self.lock().hold_sync = true;
    }

    /// Lets held syncs go on.
    pub fn release_sync(&self) {
        self.lock().hold_sync = false;
        self.shared.changed.notify_all();
    }

    /// Blocks until a sync is being held.
    pub fn wait_for_held_sync(&self) {
        let mut state = self.lock();
        while state.syncs_held == 0 {
            state = self.shared.changed.wait(state).unwrap();
        }
    }

    /// How many syncs made something durable.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// How many writes, length changes and syncs there were.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Bytes of blocks that were written to.
    pub fn taken_bytes(&self) -> u64 {
        self.lock().taken_bytes()
    }

    /// All of what a reader sees.
    pub fn image(&self) -> Vec<u8> {
        self.lock().now.clone()
    }

    /// Flips bits of one byte behind everyone's back.
    pub fn flip(&self, offset: usize, mask: u8) {
        let mut state = self.lock();
        state.now[offset] ^= mask;
        if let Some(byte) = state.durable.get_mut(offset) {
            *byte ^= mask;
        }
    }
}

impl Pending {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Len(len) => image.resize(*len as usize, 0),
            Self::Write(offset, bytes) => {
                let offset = *offset as usize;
                let end = offset + bytes.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[offset..end].copy_from_slice(bytes);
            }
        }
    }
}

impl State {
    fn taken_bytes(&self) -> u64 {
        (self.taken.iter().filter(|taken| **taken).count() * BLOCK) as u64
    }

    /// Counts an operation; the power may go right in it: it is pending, and fails.
    fn operate(&mut self) -> io::Result<bool> {
        if self.power_is_off {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        if let Some(left) = &mut self.operations_left {
            *left = left.saturating_sub(1);
            self.power_is_off = *left == 0;
        }
        Ok(self.power_is_off)
    }

    /// Blocks of a write that take up space for the first time.
    fn new_blocks(&self, offset: u64, len: usize) -> Vec<usize> {
        let (first, end) = (offset as usize / BLOCK, (offset as usize + len).div_ceil(BLOCK));
        (first..end).filter(|block| !self.taken.get(*block).copied().unwrap_or(false)).collect()
    }

    fn put(&mut self, pending: Pending) {
        pending.apply(&mut self.now);
        self.taken.resize(self.now.len().div_ceil(BLOCK), false);
        self.pending.push(pending);
    }
}

fn cut(off: bool) -> io::Result<()> {
    if off { Err(io::Error::other("the power went")) } else { Ok(()) }
}

impl BlockFile for FaultDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.lock();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = offset.saturating_add(out.len());
        let bytes = state.now.get(offset..end);
        out.copy_from_slice(bytes.ok_or_else(|| io::Error::other("read past the end"))?);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let off = state.operate()?;
        if state.fail_writes {
            return Err(io::Error::other("EIO on write"));
        }
        let new = state.new_blocks(offset, bytes.len());
        let needed = (new.len() * BLOCK) as u64;
        if state.cap.is_some_and(|cap| needed > 0 && state.taken_bytes() + needed > cap) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.put(Pending::Write(offset, bytes.to_vec()));
        new.into_iter().for_each(|block| state.taken[block] = true);
        cut(off)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        let off = state.operate()?;
        state.put(Pending::Len(len));
        cut(off)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.lock();
        cut(state.operate()?)?;
        // What is written while the sync is on its way is not covered by it.
        let covered = state.pending.len();
        state.syncs_held += 1;
        self.shared.changed.notify_all();
        while state.hold_sync && !state.power_is_off {
            state = self.shared.changed.wait(state).unwrap();
        }
        state.syncs_held -= 1;
        cut(state.power_is_off)?;
        if state.fail_sync {
            return Err(io::Error::other("EIO on fsync"));
        }
        state.syncs += 1;
        let covered: Vec<_> = state.pending.drain(..covered).collect();
        covered.iter().for_each(|pending| pending.apply(&mut state.durable));
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.lock();
        Ok(state.cap.map_or(1 << 50, |cap| cap.saturating_sub(state.taken_bytes())))
    }
}

/// A small source of seeded randomness.
#[derive(Debug)]
pub struct Xorshift(u64);

impl Xorshift {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}
