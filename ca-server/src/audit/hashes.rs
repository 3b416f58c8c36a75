//! Hashes of the tree's nodes, as they were when the leaves were appended.
//!
//! Always: they are kept apart from the leaves, so that a leaf that is altered later can be named; at
//! the end of the log they hash to the root of the replicated state, or are not recorded; a record is
//! a tile of C2SP tlog-tiles. Recording follows the log at a distance of less than a second and never
//! holds it up.
//!
//! Not here: the leaves (`store::leaves`), and the root that counts (`state`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mintmark_runtime::disk::Disk;
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_tlog::proof::{ProofError, ReadError};
use mintmark_tlog::tile::{TILE_HEIGHT, TILE_WIDTH, decode_hashes, encode_hashes};
use mintmark_tlog::{Frontier, Hash, HashReader, inclusion_proof, leaf_hash, node_hash, root_at};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::tail::{
    CHUNK_BYTES_MAX, CHUNK_LEAVES_MAX, CommittedLeaves, Head, LeavesError, RecordedHashes,
    read_counted,
};
use crate::store::StoreError;
use crate::store::database::{Commit, IndexedTable, NamedTable, Reading, SealedDatabase, Trust};
use crate::store::record::Damage;

const HASHES_FILE: &str = "hashes.redb";
const TILES: IndexedTable = IndexedTable::new("tiles");
const META: NamedTable = NamedTable::new("meta");
const FRONTIER: &str = "frontier";

/// New leaves are recorded together when they are this old: each record costs two syncs of a disk
/// that has a log to write.
const LINGER: Duration = Duration::from_millis(500);
/// Pause before absent leaves are asked for again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Why hashes are not recorded, or cannot be read.
#[derive(Debug, Error)]
pub enum HashesError {
    /// The file failed.
    #[error("the hashes of the audit log cannot be read or written")]
    Store(#[from] StoreError),
    /// The leaves cannot be read.
    #[error("the audit leaves cannot be read")]
    Leaves(#[from] LeavesError),
    /// The leaves here do not hash to the replicated root.
    #[error("the first {size} audit leaves of this server are not those of the cluster")]
    Diverged {
        /// So many leaves.
        size: u64,
    },
    /// There are no hashes of so many leaves yet.
    #[error("hashes of {size} leaves are not recorded yet")]
    NotRecorded {
        /// So many leaves.
        size: u64,
    },
    /// A proof cannot be made.
    #[error("the proof cannot be made")]
    Proof(#[source] ProofError),
}

/// That a leaf is in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inclusion {
    /// Siblings on the way up, nearest first.
    pub hashes: Vec<Hash>,
    /// Root of the tree.
    pub root: Hash,
}

/// Recorded hashes. A clone shares them.
#[derive(Debug, Clone)]
pub struct HashStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    database: Arc<SealedDatabase>,
    disk: Arc<dyn Disk>,
    edge: Mutex<Edge>,
    size: watch::Sender<u64>,
    /// Held while tiles go to disk.
    writing: tokio::sync::Mutex<()>,
}

/// The right edge of the tree, and of each level of tiles.
#[derive(Debug, Clone, Default)]
struct Edge {
    frontier: Frontier,
    tiles: BTreeMap<u8, Vec<Hash>>,
}

impl HashStore {
    /// Opens or creates the file. Blocks.
    ///
    /// # Errors
    /// When the file cannot be used or is damaged.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, StoreError> {
        let database =
            SealedDatabase::open(&*disk, path, HASHES_FILE, Commit::TwoPhase, Trust::AsRead)?;
        let edge = Edge::load(&database.read()?)?;
        Ok(Self(Arc::new(Shared {
            size: watch::Sender::new(edge.frontier.size()),
            database: Arc::new(database),
            disk,
            edge: Mutex::new(edge),
            writing: tokio::sync::Mutex::default(),
        })))
    }

    /// Opens or creates the file in a folder.
    ///
    /// # Errors
    /// When the file cannot be used or is damaged.
    pub async fn open_in(disk: Arc<dyn Disk>, folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(HASHES_FILE);
        let opening = Arc::clone(&disk);
        let opened = disk.run(move || Self::open(opening, &path)).await;
        opened.unwrap_or(Err(StoreError::Interrupted { file: HASHES_FILE }))
    }

    /// Number of leaves whose hashes are recorded.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.edge().frontier.size()
    }

    /// Waits until the hashes of `size` leaves are recorded. Cancel safe.
    pub async fn reached(&self, size: u64) {
        let mut sizes = self.0.size.subscribe();
        // The sender is `self`.
        let _ = sizes.wait_for(|now| *now >= size).await;
    }

    /// Records the leaves that follow. With `head`, they reach to it and have to hash to its root.
    ///
    /// # Errors
    /// When they do not, or the disk fails.
    async fn append(&self, leaves: &[Bytes], head: Option<&Head>) -> Result<(), HashesError> {
        let _in_order = self.0.writing.lock().await;
        let mut edge = self.edge().clone();
        let mut changed = BTreeMap::new();
        for leaf in leaves {
            edge.push(leaf_hash(leaf), &mut changed);
        }
        let size = edge.frontier.size();
        if head.is_some_and(|head| head.size != size || head.root != edge.frontier.root()) {
            return Err(HashesError::Diverged { size });
        }
        let database = Arc::clone(&self.0.database);
        let frontier = edge.frontier.encode();
        self.run(move || {
            database.write(|writing| {
                let tiles = changed.iter().map(|(key, tile)| (*key, tile.as_slice()));
                writing.put_all(TILES, tiles)?;
                writing.put_named(META, FRONTIER, &frontier)?;
                reach(Step::HashesWriting);
                Ok(())
            })
        })
        .await?;
        reach(Step::HashesRecorded);
        *self.edge() = edge;
        self.0.size.send_replace(size);
        Ok(())
    }

    /// Proves that a leaf is among the first `size`.
    ///
    /// # Errors
    /// When it is not, or so many are not recorded.
    pub async fn inclusion(&self, index: u64, size: u64) -> Result<Inclusion, HashesError> {
        if size > self.size() {
            return Err(HashesError::NotRecorded { size });
        }
        let database = Arc::clone(&self.0.database);
        let prove = move || {
            let tiles = Tiles(database.read()?);
            let made = inclusion_proof(&tiles, index, size).and_then(|hashes| {
                Ok(Inclusion {
                    hashes,
                    root: root_at(&tiles, size)?,
                })
            });
            Ok(made)
        };
        self.run(prove).await?.map_err(HashesError::Proof)
    }

    fn edge(&self) -> MutexGuard<'_, Edge> {
        self.0.edge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let finished = self.0.disk.run(work).await;
        finished.unwrap_or(Err(StoreError::Interrupted { file: HASHES_FILE }))
    }
}

#[async_trait]
impl RecordedHashes for HashStore {
    async fn leaf_hashes(&self, start: u64, end: u64) -> Result<Vec<Hash>, LeavesError> {
        let end = end.min(self.size());
        let database = Arc::clone(&self.0.database);
        let read = move || {
            let tiles = Tiles(database.read()?);
            let mut hashes = Vec::new();
            let mut next = start;
            while next < end {
                let (number, offset) = (next / TILE_WIDTH, next % TILE_WIDTH);
                let tile = tiles.tile(0, number)?.unwrap_or_default();
                let wanted = end
                    .saturating_sub(number.saturating_mul(TILE_WIDTH))
                    .min(TILE_WIDTH);
                let part = slice(&tile, offset, wanted).ok_or_else(|| missing(0, number))?;
                hashes.extend_from_slice(part);
                next = next.saturating_add(part.len() as u64);
            }
            Ok(hashes)
        };
        self.run(read)
            .await
            .map_err(|error| LeavesError::Store(error.into()))
    }
}

impl Edge {
    fn load(reading: &Reading) -> Result<Self, StoreError> {
        let Some(frontier) = reading.named(META, FRONTIER)? else {
            return Ok(Self::default());
        };
        let damaged = |record: String| StoreError::Damaged {
            file: HASHES_FILE,
            record,
            damage: Damage::Content,
        };
        let frontier =
            Frontier::decode(&frontier).map_err(|_| damaged(format!("meta/{FRONTIER}")))?;
        let mut edge = Self {
            frontier,
            tiles: BTreeMap::new(),
        };
        let mut nodes = edge.frontier.size();
        for level in 0..=tile_level(u8::MAX) {
            let (number, width) = (nodes / TILE_WIDTH, nodes % TILE_WIDTH);
            if width > 0 {
                let tile =
                    read_tile(reading, level, number)?.ok_or_else(|| missing(level, number))?;
                // Written together with the frontier, so exactly as wide.
                if tile.len() as u64 != width {
                    return Err(damaged(format!("tiles/{}", key(level, number))));
                }
                edge.tiles.insert(level, tile);
            }
            nodes = number;
        }
        Ok(edge)
    }

    /// Appends a leaf's hash; puts the tiles that change into `changed`.
    fn push(&mut self, leaf: Hash, changed: &mut BTreeMap<u64, Vec<u8>>) {
        for node in self.frontier.push(leaf) {
            if !node.level.is_multiple_of(TILE_HEIGHT) {
                continue;
            }
            let level = tile_level(node.level);
            let tile = self.tiles.entry(level).or_default();
            tile.push(node.hash);
            changed.insert(key(level, node.index / TILE_WIDTH), encode_hashes(tile));
            if tile.len() as u64 == TILE_WIDTH {
                self.tiles.remove(&level);
            }
        }
    }
}

/// The tiles on disk.
struct Tiles(Reading);

impl Tiles {
    fn tile(&self, level: u8, number: u64) -> Result<Option<Vec<Hash>>, StoreError> {
        read_tile(&self.0, level, number)
    }
}

impl HashReader for Tiles {
    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        let absent = || ReadError::Missing { level, index };
        let (tiles, above) = (tile_level(level), u32::from(level % TILE_HEIGHT));
        // The node's subtree lies in one tile, because widths are powers of two.
        let count = 1_u64 << above;
        let first = index.checked_mul(count).ok_or_else(absent)?;
        let tile = self.tile(tiles, first / TILE_WIDTH);
        let tile = tile.map_err(|error| ReadError::Failed {
            level,
            index,
            source: error.into(),
        })?;
        let tile = tile.ok_or_else(absent)?;
        let offset = first % TILE_WIDTH;
        let part = slice(&tile, offset, offset.saturating_add(count)).ok_or_else(absent)?;
        subtree_root(part).ok_or_else(absent)
    }
}

/// Root over a power of two of neighbouring nodes.
fn subtree_root(nodes: &[Hash]) -> Option<Hash> {
    let mut level = nodes.to_vec();
    while level.len() > 1 {
        let (pairs, _) = level.as_chunks::<2>();
        level = pairs
            .iter()
            .map(|[left, right]| node_hash(left, right))
            .collect();
    }
    level.first().copied()
}

fn read_tile(reading: &Reading, level: u8, number: u64) -> Result<Option<Vec<Hash>>, StoreError> {
    let key = key(level, number);
    let mut found = None;
    reading.range(TILES, key, key.saturating_add(1), |_, bytes| {
        let tile = decode_hashes(&bytes).ok_or_else(|| StoreError::Damaged {
            file: HASHES_FILE,
            record: format!("tiles/{key}"),
            damage: Damage::Content,
        })?;
        found = Some(tile.to_vec());
        Ok(false)
    })?;
    Ok(found)
}

fn slice(tile: &[Hash], start: u64, end: u64) -> Option<&[Hash]> {
    tile.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// Level of the tiles that hold the nodes of a level of the tree.
fn tile_level(level: u8) -> u8 {
    // Trees have at most 64 levels.
    (level / TILE_HEIGHT).min(7)
}

/// Key of a tile: its level above its number, which has at most 56 bits, for a leaf has at most 64.
fn key(level: u8, number: u64) -> u64 {
    u64::from(level) << 56 | number
}

fn missing(level: u8, number: u64) -> StoreError {
    StoreError::Missing {
        file: HASHES_FILE,
        record: format!("tiles/{}", key(level, number)),
    }
}

/// Records hashes as leaves are committed.
#[derive(Debug)]
pub struct HashKeeper {
    leaves: Arc<dyn CommittedLeaves>,
    hashes: HashStore,
}

impl HashKeeper {
    /// Records the hashes of `leaves` in `hashes`.
    #[must_use]
    pub fn new(leaves: Arc<dyn CommittedLeaves>, hashes: HashStore) -> Self {
        Self { leaves, hashes }
    }

    /// Runs until `ending`, or until the leaves turn out not to be those of the cluster.
    pub async fn run(self, ending: CancellationToken) {
        let _ = ending.run_until_cancelled(self.record()).await;
    }

    async fn record(&self) {
        loop {
            match self.catch_up().await {
                Ok(()) => {
                    self.leaves.grown(self.hashes.size()).await;
                    tokio::time::sleep(LINGER).await;
                }
                Err(HashesError::Leaves(LeavesError::Absent(leaf))) => {
                    tracing::debug!(leaf, "audit leaves are still being fetched");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => {
                    // Readers compute hashes from leaves from here on; serving goes on.
                    tracing::error!(%error, "hashes of the audit log are no longer recorded");
                    return;
                }
            }
        }
    }

    async fn catch_up(&self) -> Result<(), HashesError> {
        let head = self.leaves.head();
        loop {
            let start = self.hashes.size();
            if start >= head.size {
                return Ok(());
            }
            let end = head.size.min(start.saturating_add(CHUNK_LEAVES_MAX));
            let leaves = read_counted(&*self.leaves, start, end, CHUNK_BYTES_MAX).await?;
            let reached = start.saturating_add(leaves.len() as u64);
            self.hashes
                .append(&leaves, (reached == head.size).then_some(&head))
                .await?;
        }
    }
}

#[cfg(test)]
mod tests;
