//! Reading the log from some leaf on, and going on as leaves are committed.
//!
//! Always: leaves come in order and without gaps; a chunk is bounded, and the next one is read only
//! when the last one was taken, so that a slow reader costs a chunk of memory; a reader that says where
//! it stopped goes on exactly there.
//!
//! Not here: who may read (`policy`), and the wire (`api::audit`).

use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use mintmark_tlog::{Hash, leaf_hash};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// Leaves in one chunk.
pub const CHUNK_LEAVES_MAX: u64 = 1_000;
/// Bytes of leaves in one chunk, about: the last leaf may exceed it. Far below the 4 MiB that gRPC
/// clients take by default.
pub const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// The log at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Hash,
}

/// Why leaves cannot be read.
#[derive(Debug, Error)]
pub enum LeavesError {
    /// They are being fetched from other servers.
    #[error("audit leaf {0} is not on this server yet")]
    Absent(u64),
    /// The log is shorter.
    #[error("the audit log has {size} leaves")]
    Beyond {
        /// Number of leaves.
        size: u64,
    },
    /// The store failed.
    #[error("the audit leaves cannot be read")]
    Store(#[source] Box<dyn Error + Send + Sync>),
}

/// Where committed leaves come from.
#[async_trait]
pub trait CommittedLeaves: Send + Sync + Debug {
    /// Name of the log: its origin. `None` before there is a cluster.
    fn origin(&self) -> Option<String>;

    /// The log as this server has applied it.
    fn head(&self) -> Head;

    /// Waits until the log has more than `size` leaves. Cancel safe.
    async fn grown(&self, size: u64);

    /// The leaves from `start` up to, not including, `end`, which is more than `start`: at least one,
    /// fewer than asked when they take more than `bytes_max`.
    async fn read(&self, start: u64, end: u64, bytes_max: usize)
    -> Result<Vec<Bytes>, LeavesError>;
}

/// A leaf is stored a moment after the state counts it: it is looked for so often, at this distance.
const STORING_TRIES: u32 = 1_000;
const STORING_PAUSE: Duration = Duration::from_millis(2);

/// Reads leaves that the head has counted, waiting until they are stored.
///
/// # Errors
/// When they are absent, or not stored for seconds, or the store fails.
pub async fn read_counted(
    leaves: &dyn CommittedLeaves,
    start: u64,
    end: u64,
    bytes_max: usize,
) -> Result<Vec<Bytes>, LeavesError> {
    let mut stored = end;
    for _ in 0..STORING_TRIES {
        match leaves.read(start, stored, bytes_max).await {
            // Nothing would tell this from the end of the log.
            Ok(read) if read.is_empty() => return Err(LeavesError::Absent(start)),
            Err(LeavesError::Beyond { size }) if size > start => stored = size.min(end),
            Err(LeavesError::Beyond { .. }) => tokio::time::sleep(STORING_PAUSE).await,
            read => return read,
        }
    }
    Err(LeavesError::Absent(start))
}

/// Hashes of leaves as they were recorded when the leaves were appended, kept apart from them.
#[async_trait]
pub trait RecordedHashes: Send + Sync + Debug {
    /// The hashes from `start` up to, not including, `end`; fewer at the end of what is recorded.
    async fn leaf_hashes(&self, start: u64, end: u64) -> Result<Vec<Hash>, LeavesError>;
}

/// What a reader asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TailRequest {
    /// The first leaf; with `from_end`, how many leaves before the end.
    pub start: u64,
    /// Go on with leaves to come.
    pub follow: bool,
    /// End after so many leaves; 0: never.
    pub limit: u64,
    /// Count `start` from the end.
    pub from_end: bool,
}

/// Some consecutive leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Index of the first one.
    pub first_index: u64,
    /// Their canonical bytes.
    pub leaves: Vec<Bytes>,
    /// The recorded hash of each.
    pub leaf_hashes: Vec<Hash>,
    /// Number of leaves that the log has.
    pub tree_size: u64,
}

/// Why a reader gets no more leaves.
#[derive(Debug, Error)]
pub enum TailError {
    /// It asks for leaves that do not exist.
    #[error("leaf {start} is outside the log, which has {size} leaves")]
    OutOfRange {
        /// The leaf asked for.
        start: u64,
        /// The size of the log.
        size: u64,
    },
    /// They cannot be read.
    #[error("the log cannot be read")]
    Leaves(#[from] LeavesError),
    /// The server ends.
    #[error("this server is shutting down")]
    ShuttingDown,
}

/// What a reader reads from.
#[derive(Debug, Clone)]
pub struct Log {
    /// The leaves.
    pub leaves: Arc<dyn CommittedLeaves>,
    /// Their recorded hashes, where they are kept.
    pub hashes: Option<Arc<dyn RecordedHashes>>,
}

impl Log {
    /// Streams leaves as asked, until the end of the log, the limit or `ending`.
    ///
    /// # Errors
    /// When it should begin beyond the end of the log.
    pub fn tail(
        &self,
        request: TailRequest,
        ending: CancellationToken,
    ) -> Result<impl Stream<Item = Result<Chunk, TailError>> + Send + use<>, TailError> {
        let size = self.leaves.head().size;
        let start = if request.from_end {
            size.saturating_sub(request.start)
        } else {
            request.start
        };
        if start > size {
            return Err(TailError::OutOfRange { start, size });
        }
        let limit = if request.limit == 0 {
            u64::MAX
        } else {
            request.limit
        };
        let last = if request.follow { u64::MAX } else { size };
        let end = start.saturating_add(limit).min(last);
        Ok(self.clone().stream(start, end, ending))
    }

    fn stream(
        self,
        start: u64,
        end: u64,
        ending: CancellationToken,
    ) -> impl Stream<Item = Result<Chunk, TailError>> + Send {
        try_stream! {
            let mut next = start;
            while next < end {
                let size = self.leaves.head().size;
                if size <= next {
                    let grown = ending.run_until_cancelled(self.leaves.grown(next)).await;
                    grown.ok_or(TailError::ShuttingDown)?;
                    continue;
                }
                let chunk = self.chunk(next, end.min(size), size).await?;
                next = next.saturating_add(chunk.leaves.len() as u64);
                yield chunk;
            }
        }
    }

    /// A chunk that begins at `start` and ends before `end`, which is more.
    async fn chunk(&self, start: u64, end: u64, tree_size: u64) -> Result<Chunk, LeavesError> {
        let end = end.min(start.saturating_add(CHUNK_LEAVES_MAX));
        let leaves = read_counted(&*self.leaves, start, end, CHUNK_BYTES_MAX).await?;
        let end = start.saturating_add(leaves.len() as u64);
        let mut leaf_hashes = match &self.hashes {
            Some(hashes) => hashes.leaf_hashes(start, end).await?,
            None => Vec::new(),
        };
        leaf_hashes.truncate(leaves.len());
        // What was appended just now is not recorded yet, nor can it have been altered since.
        let unrecorded = leaves.iter().skip(leaf_hashes.len());
        let unrecorded: Vec<Hash> = unrecorded.map(|leaf| leaf_hash(leaf)).collect();
        leaf_hashes.extend(unrecorded);
        Ok(Chunk {
            first_index: start,
            leaves,
            leaf_hashes,
            tree_size,
        })
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
