//! The content of one file: what the machine reads, and what a power cut would leave.
//!
//! Responsible for: unsynced changes on top of synced content. Always holds: while no sync failed,
//! synced content with all pending changes applied is what the machine reads. Not here: names.

use std::collections::BTreeSet;

use super::survival::Fate;

/// Space is taken in blocks of this size.
pub(super) const ALLOCATION: u64 = 4096;

/// A change that is not synced.
#[derive(Debug, Clone)]
pub(super) enum Pending {
    /// Bytes at a place. If it made the file longer, each part of it that survives does so too,
    /// and so may the length alone; otherwise it lies in a length that a change of length made,
    /// and is gone with that.
    Write {
        offset: u64,
        bytes: Vec<u8>,
        extends: bool,
    },
    SetLength(u64),
}

/// What became of pending changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Settled {
    pub lost: u64,
    pub torn: u64,
    pub survived: u64,
}

#[derive(Debug, Clone)]
pub(super) struct File {
    synced: Vec<u8>,
    now: Vec<u8>,
    pending: Vec<Pending>,
    pub mode: u32,
    /// Synced bytes with a flipped bit.
    flipped: BTreeSet<u64>,
    allocated: BTreeSet<u64>,
}

impl File {
    pub fn new(mode: u32) -> Self {
        Self {
            synced: Vec::new(),
            now: Vec::new(),
            pending: Vec::new(),
            mode,
            flipped: BTreeSet::new(),
            allocated: BTreeSet::new(),
        }
    }

    /// A file with synced content.
    pub fn with_content(mode: u32, content: Vec<u8>) -> Self {
        let allocated = (0..(content.len() as u64).div_ceil(ALLOCATION)).collect();
        Self {
            synced: content.clone(),
            now: content,
            allocated,
            ..Self::new(mode)
        }
    }

    pub fn length(&self) -> u64 {
        self.now.len() as u64
    }

    pub fn content(&self) -> &[u8] {
        &self.now
    }

    pub fn synced(&self) -> &[u8] {
        &self.synced
    }

    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn pending(&self) -> &[Pending] {
        &self.pending
    }

    pub fn used(&self) -> u64 {
        self.allocated.len() as u64 * ALLOCATION
    }

    /// At most `length` bytes from `offset`, and whether a flipped bit is among them.
    pub fn read(&self, offset: u64, length: u64) -> (Vec<u8>, bool) {
        let start = offset.min(self.length());
        let end = start.saturating_add(length).min(self.length());
        let rotten = self.flipped.range(start..end).any(|at| self.is_cached(*at));
        (self.now[index(start)..index(end)].to_vec(), rotten)
    }

    /// How many of these bytes can be written when `free` bytes of space are left.
    pub fn fitting(&self, offset: u64, length: usize, free: u64) -> usize {
        let end = offset + length as u64;
        let mut free = free / ALLOCATION;
        for block in offset / ALLOCATION..end.div_ceil(ALLOCATION) {
            if self.allocated.contains(&block) {
                continue;
            }
            if free == 0 {
                return index((block * ALLOCATION).saturating_sub(offset));
            }
            free -= 1;
        }
        length
    }

    pub fn write(&mut self, offset: u64, bytes: Vec<u8>) {
        let end = offset + bytes.len() as u64;
        let extends = end > self.length();
        if extends {
            self.now.resize(index(end), 0);
        }
        self.now[index(offset)..index(end)].copy_from_slice(&bytes);
        self.allocated
            .extend(offset / ALLOCATION..end.div_ceil(ALLOCATION));
        self.pending.push(Pending::Write {
            offset,
            bytes,
            extends,
        });
    }

    pub fn set_length(&mut self, length: u64) {
        self.now.resize(index(length), 0);
        self.forget_beyond(length);
        self.pending.push(Pending::SetLength(length));
    }

    /// The machine forgets what it has in memory of synced content, and reads it from the platter.
    pub fn reread(&mut self) {
        self.now.clone_from(&self.synced);
        for change in &self.pending {
            match change {
                Pending::SetLength(length) => self.now.resize(index(*length), 0),
                Pending::Write { offset, bytes, .. } => {
                    let (start, end) = (index(*offset), index(*offset) + bytes.len());
                    if end > self.now.len() {
                        self.now.resize(end, 0);
                    }
                    self.now[start..end].copy_from_slice(bytes);
                }
            }
        }
    }

    pub fn sync(&mut self) {
        self.settle(&Fate::everything());
    }

    /// Power goes: pending changes meet their fate, and nothing else is left.
    pub fn crash(&mut self, fate: &Fate) -> Settled {
        let settled = self.settle(fate);
        self.now.clone_from(&self.synced);
        self.forget_beyond(self.length());
        settled
    }

    /// Pending changes meet their fate without a power cut: the machine reads on what it wrote,
    /// and no later sync writes what was dropped.
    pub fn settle(&mut self, fate: &Fate) -> Settled {
        let mut settled = Settled::default();
        for (number, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let (alive, whole) = match change {
                Pending::SetLength(length) => {
                    let alive = fate.keeps_length(number);
                    if alive {
                        self.synced.resize(index(length), 0);
                    }
                    (alive, alive)
                }
                Pending::Write {
                    offset,
                    bytes,
                    extends,
                } => {
                    let (parts, whole) = fate.surviving(number, offset, bytes.len());
                    let end = index(offset) + bytes.len();
                    if extends && fate.keeps_length(number) && end > self.synced.len() {
                        self.synced.resize(end, 0);
                    }
                    for part in &parts {
                        let from = index(part.start - offset)..index(part.end - offset);
                        self.put(part.start, &bytes[from], extends);
                    }
                    (!parts.is_empty(), whole)
                }
            };
            match (alive, whole) {
                (_, true) => settled.survived += 1,
                (true, false) => settled.torn += 1,
                (false, false) => settled.lost += 1,
            }
        }
        settled
    }

    fn put(&mut self, offset: u64, bytes: &[u8], extends: bool) {
        let (start, end) = (index(offset), index(offset) + bytes.len());
        if extends && end > self.synced.len() {
            self.synced.resize(end, 0);
        }
        let end = end.min(self.synced.len());
        if start < end {
            self.synced[start..end].copy_from_slice(&bytes[..end - start]);
            self.flipped
                .retain(|at| !(start..end).contains(&index(*at)));
        }
    }

    /// Flips a bit of what is synced; false if there is no such bit.
    pub fn flip(&mut self, bit: u64) -> bool {
        let (at, mask) = (bit / 8, 1 << (bit % 8));
        let is_read = self.is_cached(at);
        let Some(byte) = self.synced.get_mut(index(at)) else {
            return false;
        };
        *byte ^= mask;
        self.flipped.insert(at);
        if let Some(byte) = self.now.get_mut(index(at))
            && is_read
        {
            *byte ^= mask;
        }
        true
    }

    /// True if the machine reads this byte as it is synced: nothing was written over it since.
    fn is_cached(&self, at: u64) -> bool {
        self.now.get(index(at)) == self.synced.get(index(at))
    }

    fn forget_beyond(&mut self, length: u64) {
        self.flipped.split_off(&length);
        self.allocated.split_off(&length.div_ceil(ALLOCATION));
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated file fits into memory")
}
