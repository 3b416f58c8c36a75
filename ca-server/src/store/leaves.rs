//! The leaves of the audit tree.
//!
//! Responsible for: their bytes, by index. Always holds: what is read is what `apply`
//! appended, or was fetched from a peer and hashed up to a root of the replicated state;
//! a leaf that is not here is said to be absent, never skipped. New leaves wait in
//! memory and reach the disk in bulk: before every checkpoint ([`LeafStore::flush`]),
//! and when many wait; a crash in between costs nothing, for the log is replayed from
//! the checkpoint. A leaf that the disk gives back damaged, or not at all, is missing
//! from then on, and comes back from the log or from peers. Not here: the tree
//! (`mintmark_tlog`), and who fetches (`crate::raft`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::disk::Disk;
use prost::Message;
use thiserror::Error;

use super::StoreError;
use super::database::{Commit, IndexedTable, NamedTable, SealedDatabase, Trust};
use super::ranges::Ranges;
use super::record::Damage;

const LEAVES_FILE: &str = "leaves.redb";
const LEAVES: IndexedTable = IndexedTable::new("leaves");
const META: NamedTable = NamedTable::new("meta");
const MANIFEST: &str = "manifest";

/// Leaves that may wait in memory: some megabytes.
const WAITING_MAX: usize = 16 * 1024;

/// Why leaves cannot be read.
#[derive(Debug, Clone, Error)]
pub enum ReadLeavesError {
    /// A leaf of the range is still being fetched from peers.
    #[error("audit leaf {first_absent} is not here yet")]
    Absent {
        /// The first such leaf.
        first_absent: u64,
    },
    /// The range reaches beyond the tree.
    #[error("the audit log has {end} leaves")]
    BeyondEnd {
        /// Number of leaves.
        end: u64,
    },
    /// The store failed.
    #[error("the audit leaves cannot be read")]
    Store(#[source] StoreError),
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Manifest {
    end: u64,
    missing: Ranges,
    unverified: Ranges,
}

#[derive(Debug, Default)]
struct Memory {
    manifest: Manifest,
    manifest_changed: bool,
    /// Leaves that are not on disk yet.
    waiting: BTreeMap<u64, Bytes>,
}

struct Shared {
    database: Arc<SealedDatabase>,
    disk: Arc<dyn Disk>,
    memory: Mutex<Memory>,
    /// Held while leaves go to disk, so that they get there in order.
    writing: tokio::sync::Mutex<()>,
}

/// The leaves of one member. A clone shares them.
#[derive(Clone)]
pub struct LeafStore(Arc<Shared>);

impl LeafStore {
    /// Opens or creates the file. Blocks.
    ///
    /// # Errors
    /// When the file cannot be used or its manifest is damaged.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, StoreError> {
        let database =
            SealedDatabase::open(&*disk, path, LEAVES_FILE, Commit::TwoPhase, Trust::AsRead)?;
        let manifest = match database.read()?.named(META, MANIFEST)? {
            Some(bytes) => Manifest::decode(&bytes).ok_or_else(|| StoreError::Damaged {
                file: LEAVES_FILE,
                record: format!("meta/{MANIFEST}"),
                damage: Damage::Content,
            })?,
            None => Manifest::default(),
        };
        Ok(Self(Arc::new(Shared {
            database: Arc::new(database),
            disk,
            memory: Mutex::new(Memory {
                manifest,
                ..Memory::default()
            }),
            writing: tokio::sync::Mutex::new(()),
        })))
    }

    /// Number of leaves that the tree has here, absent ones included.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.memory().manifest.end
    }

    /// Appends leaves as `apply` made them, the first one at `first`.
    ///
    /// # Errors
    /// When the disk fails, or a replayed leaf differs from the stored one.
    pub async fn append(&self, first: u64, leaves: Vec<Vec<u8>>) -> Result<(), StoreError> {
        let known = self.take_in(first, &leaves);
        for (index, leaf) in known {
            match self
                .read_raw(index, index.saturating_add(1), usize::MAX)
                .await
            {
                Ok(stored) if stored.first().is_some_and(|stored| stored.as_ref() != leaf) => {
                    return Err(StoreError::LeafDiffers { index });
                }
                Ok(_) => {}
                // It counts as missing now, and here it is.
                Err(StoreError::Damaged { .. } | StoreError::Missing { .. }) => {
                    self.take_in(index, &[leaf.to_vec()]);
                }
                Err(error) => return Err(error),
            }
        }
        if self.memory().waiting.len() > WAITING_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    /// Puts new leaves into memory; returns those that a replay brings again.
    fn take_in<'l>(&self, first: u64, leaves: &'l [Vec<u8>]) -> Vec<(u64, &'l [u8])> {
        let mut known = Vec::new();
        let mut memory = self.memory();
        for (index, leaf) in (first..).zip(leaves) {
            let next = index.saturating_add(1);
            let manifest = &memory.manifest;
            let fetched = manifest.missing.first_within(index, next).is_some()
                || manifest.unverified.first_within(index, next).is_some();
            if index < manifest.end && !fetched {
                known.push((index, leaf.as_slice()));
                continue;
            }
            memory.declare(index);
            memory.manifest.end = memory.manifest.end.max(next);
            memory.manifest.missing.remove(index, next);
            memory.manifest.unverified.remove(index, next);
            memory.manifest_changed = true;
            memory.waiting.insert(index, Bytes::copy_from_slice(leaf));
        }
        known
    }

    /// The tree has at least `size` leaves: those beyond the end are missing.
    pub fn declare(&self, size: u64) {
        self.memory().declare(size);
    }

    /// The first range that has to be fetched from peers.
    #[must_use]
    pub fn first_missing(&self) -> Option<(u64, u64)> {
        self.memory().manifest.missing.first()
    }

    /// True if leaves were fetched whose hashes nobody has checked yet.
    #[must_use]
    pub fn has_unverified(&self) -> bool {
        !self.memory().manifest.unverified.is_empty()
    }

    /// True if every leaf that the tree has is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let memory = self.memory();
        memory.manifest.missing.is_empty() && memory.manifest.unverified.is_empty()
    }

    /// Stores fetched leaves; they are not read until [`LeafStore::accept_fetched`].
    /// Leaves that are not missing are ignored.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn fill(&self, first: u64, leaves: Vec<Bytes>) -> Result<(), StoreError> {
        {
            let mut memory = self.memory();
            for (index, leaf) in (first..).zip(leaves) {
                let next = index.saturating_add(1);
                if memory.manifest.missing.first_within(index, next).is_none() {
                    continue;
                }
                memory.manifest.missing.remove(index, next);
                memory.manifest.unverified.insert(index, next);
                memory.manifest_changed = true;
                memory.waiting.insert(index, leaf);
            }
        }
        self.flush().await
    }

    /// The fetched leaves below `size` hash to the root of the state.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn accept_fetched(&self, size: u64) -> Result<(), StoreError> {
        {
            let mut memory = self.memory();
            memory.manifest.unverified.remove(0, size);
            memory.manifest_changed = true;
        }
        self.flush().await
    }

    /// They do not: all that was fetched is missing again.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn reject_fetched(&self) -> Result<(), StoreError> {
        {
            let mut memory = self.memory();
            let unverified = std::mem::take(&mut memory.manifest.unverified);
            for (start, end) in unverified.iter() {
                memory.manifest.missing.insert(start, end);
            }
            memory.manifest_changed = true;
        }
        self.flush().await
    }

    /// Makes everything durable that was appended.
    ///
    /// # Errors
    /// When the disk fails; the file then takes no further write.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let _in_order = self.0.writing.lock().await;
        let (waiting, manifest) = {
            let mut memory = self.memory();
            if memory.waiting.is_empty() && !memory.manifest_changed {
                return Ok(());
            }
            memory.manifest_changed = false;
            (memory.waiting.clone(), memory.manifest.encode())
        };
        let database = Arc::clone(&self.0.database);
        let waiting = self
            .run(move || {
                database.write(|writing| {
                    let leaves = waiting.iter().map(|(index, leaf)| (*index, leaf.as_ref()));
                    writing.put_all(LEAVES, leaves)?;
                    writing.put_named(META, MANIFEST, &manifest)
                })?;
                Ok(waiting)
            })
            .await?;
        let mut memory = self.memory();
        for (index, written) in waiting {
            if memory.waiting.get(&index) == Some(&written) {
                memory.waiting.remove(&index);
            }
        }
        Ok(())
    }

    /// The leaves from `start` up to, not including, `end`; at least one unless the
    /// range is empty, fewer than asked when they take more than `bytes_max`.
    ///
    /// # Errors
    /// When the range is not all here.
    pub async fn read(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, ReadLeavesError> {
        {
            let memory = self.memory();
            let manifest = &memory.manifest;
            if end > manifest.end {
                return Err(ReadLeavesError::BeyondEnd { end: manifest.end });
            }
            if let Some(first_absent) = manifest.first_absent(start, end) {
                return Err(ReadLeavesError::Absent { first_absent });
            }
        }
        let read = self.read_raw(start, end, bytes_max).await;
        read.map_err(
            |error| match self.memory().manifest.first_absent(start, end) {
                Some(first_absent) => ReadLeavesError::Absent { first_absent },
                None => ReadLeavesError::Store(error),
            },
        )
    }

    /// As [`LeafStore::read`], unverified leaves included. Missing ones are an error of
    /// the store.
    ///
    /// # Errors
    /// When a leaf is not here or damaged.
    pub async fn read_raw(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, StoreError> {
        // What waits is taken first: it may reach the disk meanwhile, never the reverse.
        let waiting: BTreeMap<u64, Bytes> = self
            .memory()
            .waiting
            .range(start..end.max(start))
            .map(|(index, leaf)| (*index, leaf.clone()))
            .collect();
        let mut stored = Stored::default();
        if (waiting.len() as u64) < end.saturating_sub(start) {
            let database = Arc::clone(&self.0.database);
            stored = self
                .run(move || Stored::read(&database, start, end, bytes_max))
                .await?;
        }
        stored.leaves.extend(waiting);
        let mut out = Vec::new();
        let mut bytes = 0_usize;
        for index in start..end {
            let Some(leaf) = stored.leaves.remove(&index) else {
                let error = stored.damaged.remove(&index);
                let lost = std::iter::once(index).chain(stored.damaged.into_keys());
                lost.for_each(|index| self.memory().lose(index));
                return Err(error.unwrap_or_else(|| StoreError::Missing {
                    file: LEAVES_FILE,
                    record: format!("leaves/{index}"),
                }));
            };
            bytes = bytes.saturating_add(leaf.len());
            out.push(leaf);
            if bytes >= bytes_max {
                break;
            }
        }
        Ok(out)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let finished = self.0.disk.run(work).await;
        finished.unwrap_or(Err(StoreError::Interrupted { file: LEAVES_FILE }))
    }
}

impl Memory {
    fn declare(&mut self, size: u64) {
        let end = self.manifest.end;
        if size > end {
            self.manifest.missing.insert(end, size);
            self.manifest.end = size;
            self.manifest_changed = true;
        }
    }

    /// The disk did not give back what was written.
    fn lose(&mut self, index: u64) {
        let next = index.saturating_add(1);
        let manifest = &mut self.manifest;
        if index >= manifest.end || manifest.missing.first_within(index, next).is_some() {
            return;
        }
        tracing::error!(
            index,
            "an audit leaf is damaged on this disk; it is asked for from the other servers"
        );
        manifest.unverified.remove(index, next);
        manifest.missing.insert(index, next);
        self.manifest_changed = true;
    }
}

impl Manifest {
    /// The first leaf of the range that nobody may read yet.
    fn first_absent(&self, start: u64, end: u64) -> Option<u64> {
        [&self.missing, &self.unverified]
            .into_iter()
            .filter_map(|ranges| ranges.first_within(start, end))
            .min()
    }

    fn encode(&self) -> Vec<u8> {
        let ranges = |ranges: &Ranges| {
            ranges
                .iter()
                .map(|(start, end)| pb::leaf_manifest::Range { start, end })
                .collect()
        };
        pb::LeafManifest {
            end: self.end,
            missing: ranges(&self.missing),
            unverified: ranges(&self.unverified),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let manifest = pb::LeafManifest::decode(bytes).ok()?;
        let ranges = |ranges: Vec<pb::leaf_manifest::Range>| {
            Ranges::from_pairs(ranges.into_iter().map(|range| (range.start, range.end)))
        };
        Some(Self {
            end: manifest.end,
            missing: ranges(manifest.missing),
            unverified: ranges(manifest.unverified),
        })
    }
}

/// What the disk has of a range.
#[derive(Default)]
struct Stored {
    leaves: BTreeMap<u64, Bytes>,
    damaged: BTreeMap<u64, StoreError>,
}

impl Stored {
    fn read(
        database: &SealedDatabase,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Self, StoreError> {
        let mut stored = Self::default();
        let mut bytes = 0_usize;
        database
            .read()?
            .range_as_found(LEAVES, start, end, |index, leaf| {
                match leaf {
                    Ok(leaf) => {
                        bytes = bytes.saturating_add(leaf.len());
                        stored.leaves.insert(index, leaf.into());
                    }
                    Err(damage) => drop(stored.damaged.insert(index, damage)),
                }
                Ok(bytes < bytes_max)
            })?;
        Ok(stored)
    }
}
