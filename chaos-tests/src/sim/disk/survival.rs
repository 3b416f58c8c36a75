//! What a power cut leaves of unsynced writes.
//!
//! Responsible for: drawing, from the seed, which blocks of which writes reach the platter. Always
//! holds: a block that survives with a write has all earlier writes to the same block, because the
//! machine's page cache writes whole blocks; blocks are independent of each other; changes of
//! length, and the length that a write at the end brings, survive as a prefix, because they are
//! journaled in order, with or without the blocks: what is missing then reads as zeros. Not here:
//! applying it (`super::file`).

use std::collections::BTreeMap;
use std::ops::Range;

use rand::Rng;
use rand::rngs::SmallRng;

use super::file::Pending;

/// A kind of survival; drawn from the seed unless given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Nothing that was not synced.
    Nothing,
    /// Everything.
    Everything,
    /// The first writes, and of the next one perhaps some blocks: a disk that keeps order.
    Prefix,
    /// Some writes, each whole.
    Subset,
    /// Every block for itself: writes are torn at random blocks.
    Scattered,
}

impl Survival {
    pub(super) fn draw(rng: &mut SmallRng) -> Self {
        match rng.gen_range(0..8) {
            0 => Self::Nothing,
            1 => Self::Everything,
            2 | 3 => Self::Prefix,
            4 | 5 => Self::Subset,
            _ => Self::Scattered,
        }
    }
}

/// What a power cut did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrashReport {
    /// How unsynced writes survived.
    pub survival: Survival,
    /// Size of the blocks at which writes tear: 512 or 4096.
    pub block: u64,
    /// The operation that it hit, by number, if it hit one.
    pub operation: Option<u64>,
    /// Writes of which nothing is left.
    pub lost: u64,
    /// Writes of which a part is left.
    pub torn: u64,
    /// Writes that survived.
    pub survived: u64,
    /// Changes of names that are lost.
    pub names_lost: u64,
}

/// The fate of the pending writes of one file: write number `i` survives in a block if `i` is
/// below that block's bound.
#[derive(Debug)]
pub(super) struct Fate {
    block: u64,
    lengths: usize,
    others: usize,
    blocks: BTreeMap<u64, usize>,
}

impl Fate {
    pub(super) fn everything() -> Self {
        Self {
            block: 4096,
            lengths: usize::MAX,
            others: usize::MAX,
            blocks: BTreeMap::new(),
        }
    }

    pub(super) fn draw(
        survival: Survival,
        block: u64,
        pending: &[Pending],
        rng: &mut SmallRng,
    ) -> Self {
        let mut fate = Self {
            block,
            lengths: 0,
            others: 0,
            blocks: BTreeMap::new(),
        };
        match survival {
            Survival::Nothing => {}
            Survival::Everything => return Self::everything(),
            Survival::Prefix => fate.draw_prefix(pending, rng),
            Survival::Subset => {
                for (number, change) in pending.iter().enumerate() {
                    if rng.gen_bool(0.5) {
                        fate.keep(number, change, |_| true);
                    }
                }
            }
            Survival::Scattered => {
                for (number, change) in pending.iter().enumerate() {
                    fate.keep(number, change, |_| rng.gen_bool(0.5));
                }
            }
        }
        fate
    }

    fn draw_prefix(&mut self, pending: &[Pending], rng: &mut SmallRng) {
        let whole = rng.gen_range(0..=pending.len());
        self.lengths = whole;
        self.others = whole;
        if let Some(next) = pending.get(whole)
            && rng.gen_bool(0.5)
        {
            let mut alive = true;
            self.keep(whole, next, |_| {
                alive &= rng.gen_bool(0.7);
                alive
            });
        }
    }

    /// Lets write `number` survive in those of its blocks that are chosen.
    fn keep(&mut self, number: usize, change: &Pending, mut chosen: impl FnMut(u64) -> bool) {
        match change {
            Pending::SetLength(_) => {
                if chosen(0) {
                    self.lengths = number + 1;
                }
            }
            Pending::Write {
                offset,
                bytes,
                extends,
            } => {
                if *extends && chosen(u64::MAX) {
                    self.lengths = number + 1;
                }
                for part in parts(*offset, bytes.len(), self.block) {
                    let block = part.start / self.block;
                    if chosen(block) {
                        self.blocks.insert(block, number + 1);
                    }
                }
            }
        }
    }

    pub(super) fn keeps_length(&self, number: usize) -> bool {
        number < self.lengths
    }

    /// The ranges of a write that survive, and whether that is all of it.
    pub(super) fn surviving(
        &self,
        number: usize,
        offset: u64,
        length: usize,
    ) -> (Vec<Range<u64>>, bool) {
        if self.blocks.is_empty() && number < self.others {
            let all = offset..offset + length as u64;
            return (std::iter::once(all).collect(), true);
        }
        let mut whole = true;
        let parts = parts(offset, length, self.block)
            .filter(|part| {
                let bound = self.blocks.get(&(part.start / self.block));
                let alive = number < bound.copied().unwrap_or(self.others).max(self.others);
                whole &= alive;
                alive
            })
            .collect();
        (parts, whole)
    }
}

/// Cuts a range at the boundaries of blocks.
fn parts(offset: u64, length: usize, block: u64) -> impl Iterator<Item = Range<u64>> {
    let end = offset + length as u64;
    let mut next = offset;
    std::iter::from_fn(move || {
        (next < end).then(|| {
            let start = next;
            next = end.min((start / block + 1) * block);
            start..next
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_range_is_cut_at_blocks() {
        let cut: Vec<_> = parts(500, 600, 512).collect();
        assert_eq!(cut, [500..512, 512..1024, 1024..1100]);
        assert_eq!(parts(512, 512, 512).count(), 1);
        assert_eq!(parts(7, 0, 512).count(), 0);
    }

    #[test]
    fn a_block_never_has_a_later_write_without_an_earlier_one() {
        let pending: Vec<Pending> = (0..6_u64)
            .map(|n| Pending::Write {
                offset: n * 100,
                bytes: vec![1; 1000],
                extends: true,
            })
            .collect();
        for seed in 0..200 {
            let mut rng = SmallRng::seed_from_u64(seed);
            for survival in [Survival::Prefix, Survival::Subset, Survival::Scattered] {
                let fate = Fate::draw(survival, 512, &pending, &mut rng);
                for block in 0..4 {
                    let alive: Vec<bool> = (0..6)
                        .map(|n| !fate.surviving(n, block * 512, 512).0.is_empty())
                        .collect();
                    assert!(alive.is_sorted_by(|a, b| a >= b), "{survival:?} {alive:?}");
                }
            }
        }
    }
}
