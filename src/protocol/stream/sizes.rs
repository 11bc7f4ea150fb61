//! Bytes of each message here: four bytes of memory for each, not a map's entry. The disk has the
//! same blocks as rows, so that a long queue is known without reading its messages.

use crate::crdt::context::DotSet;
use crate::crdt::dot::{Dot, KeyedId, Origin};
use std::collections::BTreeMap;

/// Bytes of one size in a row.
const SIZE_BYTES: usize = size_of::<u32>();

/// Numbers of an origin that share a block.
const BLOCK: u64 = 256;

/// A block of sizes; 0: no message.
#[derive(Debug)]
struct Block {
    used: usize,
    sizes: Box<[u32; BLOCK as usize]>,
}

/// Sizes by dot.
#[derive(Debug, Default)]
pub struct Sizes {
    blocks: BTreeMap<(Origin, u64), Block>,
    keyed: BTreeMap<KeyedId, u32>,
    count: u64,
    total: u64,
}

impl Sizes {
    /// Messages.
    pub(super) fn len(&self) -> u64 {
        self.count
    }

    /// Bytes of all.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    fn slot(dot: Dot) -> Option<((Origin, u64), usize)> {
        let (origin, seq) = dot.origin()?;
        let index = usize::try_from(seq % BLOCK).unwrap_or(0);
        Some(((origin, seq / BLOCK), index))
    }

    /// Bytes of a message; 0 when it is not here.
    pub(super) fn get(&self, dot: Dot) -> u32 {
        match (Self::slot(dot), dot) {
            (Some((block, index)), _) => self.blocks.get(&block).map_or(0, |b| b.sizes[index]),
            (None, Dot::Keyed(id)) => self.keyed.get(&id).copied().unwrap_or(0),
            (None, _) => 0,
        }
    }

    pub(super) fn contains(&self, dot: Dot) -> bool {
        self.get(dot) > 0
    }

    /// Notes a message. One of no bytes counts as one, so that it is there.
    pub fn insert(&mut self, dot: Dot, bytes: usize) {
        self.remove(dot);
        let size = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        match (Self::slot(dot), dot) {
            (Some((block, index)), _) => {
                let new = || Block { used: 0, sizes: Box::new([0; BLOCK as usize]) };
                let block = self.blocks.entry(block).or_insert_with(new);
                block.sizes[index] = size;
                block.used += 1;
            }
            (None, Dot::Keyed(id)) => {
                self.keyed.insert(id, size);
            }
            (None, _) => return,
        }
        self.count += 1;
        self.total += u64::from(size);
    }

    /// Forgets a message; tells its bytes.
    pub(super) fn remove(&mut self, dot: Dot) -> u32 {
        let size = self.get(dot);
        if size == 0 {
            return 0;
        }
        match (Self::slot(dot), dot) {
            (Some((name, index)), _) => {
                if let Some(block) = self.blocks.get_mut(&name) {
                    block.sizes[index] = 0;
                    block.used -= 1;
                    if block.used == 0 {
                        self.blocks.remove(&name);
                    }
                }
            }
            (None, Dot::Keyed(id)) => {
                self.keyed.remove(&id);
            }
            (None, _) => {}
        }
        self.count -= 1;
        self.total -= u64::from(size);
        size
    }

    /// The dots of all messages.
    pub(super) fn dots(&self) -> DotSet {
        let mut dots = DotSet::new();
        for ((origin, number), block) in &self.blocks {
            let mut first = None;
            for (index, size) in (0..).zip(block.sizes.iter().chain([&0])) {
                let seq = (number * BLOCK).wrapping_add(index);
                match (*size > 0, first) {
                    (true, None) => first = Some(seq),
                    (false, Some(begin)) => {
                        dots.insert_range(*origin, begin, seq.wrapping_sub(1));
                        first = None;
                    }
                    _ => {}
                }
            }
        }
        for id in self.keyed.keys() {
            dots.insert(Dot::Keyed(*id));
        }
        dots
    }

    /// The name of the row that tells of a message: of a numbered one a dot of the same origin with
    /// the block's number, of a keyed one its own.
    #[must_use]
    pub fn row_of(dot: Dot) -> Dot {
        match dot {
            Dot::Minted { node, boot, seq } => Dot::Minted { node, boot, seq: seq / BLOCK },
            Dot::Derived { link, hop, node, boot, seq } => {
                Dot::Derived { link, hop, node, boot, seq: seq / BLOCK }
            }
            Dot::Keyed(_) => dot,
        }
    }

    /// A row as it is to be on the disk; `None`: none of its messages is here. A row is the first
    /// number in its block that is here, and from there to the last one a size each (0: not here).
    #[must_use]
    pub fn row(&self, name: Dot) -> Option<Vec<u8>> {
        let sizes = match (name.origin(), name) {
            (Some(block), _) => &self.blocks.get(&block)?.sizes[..],
            (None, Dot::Keyed(id)) => std::slice::from_ref(self.keyed.get(&id)?),
            (None, _) => return None,
        };
        let first = sizes.iter().position(|size| *size > 0)?;
        let last = sizes.iter().rposition(|size| *size > 0)?;
        let mut bytes = Vec::with_capacity(1 + (last - first + 1) * SIZE_BYTES);
        bytes.push(u8::try_from(first).ok()?);
        bytes.extend(sizes[first..=last].iter().flat_map(|size| size.to_le_bytes()));
        Some(bytes)
    }

    /// Takes in a row; `false`: it is none.
    #[must_use]
    pub fn read_row(&mut self, name: Dot, bytes: &[u8]) -> bool {
        let Some((first, sizes)) = bytes.split_first() else { return false };
        let (sizes, rest) = sizes.as_chunks::<SIZE_BYTES>();
        let room = if name.origin().is_some() { BLOCK } else { 1 };
        if !rest.is_empty() || u64::from(*first) + sizes.len() as u64 > room {
            return false;
        }
        for (index, size) in (u64::from(*first)..).zip(sizes) {
            let dot = match name {
                Dot::Minted { node, boot, seq } => {
                    let Some(seq) = seq.checked_mul(BLOCK) else { return false };
                    Dot::Minted { node, boot, seq: seq + index }
                }
                Dot::Derived { link, hop, node, boot, seq } => {
                    let Some(seq) = seq.checked_mul(BLOCK) else { return false };
                    Dot::Derived { link, hop, node, boot, seq: seq + index }
                }
                Dot::Keyed(_) => name,
            };
            let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
            if size > 0 {
                self.insert(dot, size);
            }
        }
        true
    }

    /// Bytes of those of some dots that are here.
    pub(super) fn of(&self, dots: &DotSet) -> u64 {
        dots.iter().map(|dot| u64::from(self.get(dot))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Boot, NodeId};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map_of_sizes(ops in prop::collection::vec((0..2_000u64, 0..9usize), 0..300)) {
            let (mut sizes, mut map) = (Sizes::default(), BTreeMap::new());
            for (n, bytes) in ops {
                let dot = if n % 7 == 0 {
                    Dot::Keyed(KeyedId([u8::try_from(n % 251).unwrap_or(0); 16]))
                } else {
                    Dot::Minted { node: NodeId(n % 2), boot: Boot(1), seq: n }
                };
                if bytes == 0 {
                    let was = map.remove(&dot).unwrap_or(0);
                    prop_assert_eq!(u64::from(sizes.remove(dot)), was);
                } else {
                    sizes.insert(dot, bytes);
                    map.insert(dot, bytes as u64);
                }
            }
            prop_assert_eq!(sizes.len(), map.len() as u64);
            prop_assert_eq!(sizes.total(), map.values().sum::<u64>());
            let mut all = DotSet::new();
            for (dot, size) in &map {
                prop_assert_eq!(u64::from(sizes.get(*dot)), *size);
                all.insert(*dot);
            }
            prop_assert_eq!(sizes.of(&all), sizes.total());
            prop_assert_eq!(&sizes.dots(), &all);
            // The rows tell the same.
            let mut again = Sizes::default();
            let names: std::collections::BTreeSet<Dot> =
                map.keys().map(|dot| Sizes::row_of(*dot)).collect();
            for name in names {
                let row = sizes.row(name).expect("one of its messages is here");
                prop_assert!(again.read_row(name, &row));
                prop_assert!(!Sizes::default().read_row(name, &row[..row.len() - 1]));
            }
            prop_assert_eq!(again.dots(), all);
            prop_assert_eq!((again.len(), again.total()), (sizes.len(), sizes.total()));
            prop_assert_eq!(sizes.blocks.is_empty(), map.keys().all(|d| d.origin().is_none()));
        }
    }
}
