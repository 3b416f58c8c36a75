//! Which faults a disk has, and which of them became active.
//!
//! Responsible for: the words of faults and counters. Always holds: the default has no fault. Not
//! here: how a fault changes an operation (`super::platter`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A kind of operation that a crash can hit and an error can come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reads bytes of a file.
    Read,
    /// Writes bytes of a file.
    Write,
    /// Changes the length of a file.
    SetLength,
    /// Makes the content of a file durable.
    Sync,
    /// Creates a file.
    Create,
    /// Creates a folder.
    CreateFolder,
    /// Renames a file.
    Rename,
    /// Removes a file.
    Remove,
    /// Makes names durable.
    SyncFolder,
}

/// Operations so far, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operations(BTreeMap<Operation, u64>);

impl Operations {
    /// Of one kind.
    #[must_use]
    pub fn of(&self, operation: Operation) -> u64 {
        self.0.get(&operation).copied().unwrap_or(0)
    }

    /// Of all kinds: the number of the next one.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub(super) fn count(&mut self, operation: Operation) {
        *self.0.entry(operation).or_default() += 1;
    }
}

/// How long a piece of blocking work waits before it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// At least.
    pub min: Duration,
    /// At most.
    pub max: Duration,
}

/// Faults that come by themselves, each operation drawing from the seed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Faults {
    /// Probability that an operation of a kind fails.
    pub errors: BTreeMap<Operation, f64>,
    /// Probability that a bit of synced content flips before an operation.
    pub rot: f64,
    /// Only files under this path have errors and rot; all with `None`.
    pub only: Option<PathBuf>,
    /// Slowness.
    pub latency: Option<Latency>,
}

/// Which faults became active: a simulation whose faults never did tests nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Power cuts.
    pub crashes: u64,
    /// Of these, in the middle of an operation.
    pub crashes_in_operation: u64,
    /// Of these, with unsynced writes or names.
    pub crashes_with_unsynced: u64,
    /// Processes killed.
    pub kills: u64,
    /// Unsynced writes and changes of length that a power cut lost.
    pub writes_lost: u64,
    /// Unsynced writes of which a part of the blocks survived.
    pub writes_torn: u64,
    /// Unsynced writes that survived all the same.
    pub writes_survived: u64,
    /// Unsynced changes of names that a power cut lost.
    pub names_lost: u64,
    /// Temporary files that a power cut left behind.
    pub temporaries_left: u64,
    /// Errors injected, failed syncs included.
    pub errors: u64,
    /// Failed syncs of files or folders.
    pub syncs_failed: u64,
    /// Writes that a failed sync dropped although the machine still reads them.
    pub writes_dropped: u64,
    /// Writes refused or cut short because the disk was full.
    pub full: u64,
    /// Bits flipped.
    pub bits_flipped: u64,
    /// Reads that returned a flipped bit.
    pub flips_read: u64,
    /// Pieces of work that waited.
    pub delays: u64,
    /// I/O tried by an ended life.
    pub after_end: u64,
}
