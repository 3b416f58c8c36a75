//! Log, vote and what must be in step with them, in one file.
//!
//! Responsible for: openraft's log storage on [`SealedDatabase`]. Always holds: writes
//! reach the disk in the order in which they were made, many in one sync (group
//! commit); an entry can be read as soon as `append` returns, out of the unsynced tail,
//! and its callback fires when it is durable; after a failed write nothing is written
//! any more. Marks are lazy: they ride with the next write that somebody waits for, so a
//! crash leaves a prefix of the writes, never a hole. What is truncated or purged leaves
//! the file in the transaction of the next append, never earlier: a conflicting tail goes
//! when its replacement comes, and a log that a snapshot takes the place of goes when the
//! snapshot is durable, because the library appends nothing before. Not here: what
//! entries mean.

mod tables;
mod view;
mod writer;

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::disk::Disk;
use mintmark_runtime::failpoint::{Step, reach};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogReader};
use tokio::sync::{mpsc, oneshot};

pub use self::tables::Owner;
use self::tables::{LOG_FILE, Opened};
use self::view::View;
pub use self::writer::LogWriter;
use self::writer::{Job, Mutation};
use super::batch::WriteStage;
use super::type_config::{Entry, LogId, NodeId, StorageError, StorageIoError, TypeConfig, Vote};
use crate::store::StoreError;
use crate::store::database::{Commit, SealedDatabase, Trust};

/// Jobs that may wait for the writer. openraft waits for each of its own, so this is
/// reached only by a burst of marks; then the maker of the next one waits.
const JOBS_MAX: usize = 1024;
/// Entries of one answer to a replication stream: below every limit on messages, and
/// enough to keep the line busy for one round trip.
const READ_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The log of one member. A clone is another reader of the same log.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    database: Arc<SealedDatabase>,
    disk: Arc<dyn Disk>,
    owner: Owner,
    view: Mutex<View>,
    jobs: mpsc::Sender<Job>,
}

impl LogStore {
    /// Opens the log or makes an empty one that belongs to `owner` (whose incarnation
    /// is then kept; an existing log keeps its own). Checks every record. The log takes
    /// writes while [`LogWriter::run`] runs. Blocks.
    ///
    /// # Errors
    /// When the file cannot be used or a record of it is damaged.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        owner: &Owner,
    ) -> Result<(Self, LogWriter), StoreError> {
        let database =
            SealedDatabase::open(&*disk, path, LOG_FILE, Commit::OnePhase, Trust::Checked)?;
        let database = Arc::new(database);
        let Opened { owner, view } = tables::load(&database, owner)?;
        let (jobs, waiting) = mpsc::channel(JOBS_MAX);
        let shared = Arc::new(Shared {
            database,
            disk,
            owner,
            view: Mutex::new(view),
            jobs,
        });
        let writer = LogWriter::new(&shared, waiting);
        Ok((Self { shared }, writer))
    }

    /// Whose log it is.
    #[must_use]
    pub fn owner(&self) -> &Owner {
        &self.shared.owner
    }

    /// True if nothing was ever voted or written here.
    #[must_use]
    pub fn is_pristine(&self) -> bool {
        let view = self.shared.view();
        view.vote().is_none() && view.last().is_none()
    }

    /// The last entry that stands in the log, durable or not.
    #[must_use]
    pub fn last_log_id(&self) -> Option<LogId> {
        self.shared.view().last()
    }

    /// The vote that stands here, durable or not.
    #[must_use]
    pub fn vote(&self) -> Option<Vote> {
        self.shared.view().vote()
    }

    /// [`Self::last_log_id`] and [`Self::vote`], of one moment.
    #[must_use]
    pub fn standing(&self) -> (Option<LogId>, Option<Vote>) {
        let view = self.shared.view();
        (view.last(), view.vote())
    }

    /// The last entry that is known to be committed.
    #[must_use]
    pub fn committed(&self) -> Option<LogId> {
        self.shared.view().committed()
    }

    /// True if this very entry stands in the log.
    #[must_use]
    pub fn holds(&self, log_id: LogId) -> bool {
        self.shared.view().log_id_at(log_id.index) == Some(log_id)
    }

    /// The last entry that the log had and has no more.
    #[must_use]
    pub fn purged(&self) -> Option<LogId> {
        self.shared.view().purged()
    }

    /// Gives the log up if this entry, which the state has applied, does not stand in it: a snapshot
    /// was installed and nothing came after it.
    pub fn give_up_unless_holds(&self, applied: LogId) {
        let mut view = self.shared.view();
        if view.log_id_at(applied.index) != Some(applied) {
            view.purge(applied);
        }
    }

    /// Why the log takes no further write, if it does not.
    #[must_use]
    pub fn fault(&self) -> Option<StoreError> {
        self.shared.view().fault().cloned()
    }

    /// What this member remembers of its peers.
    #[must_use]
    pub fn peers(&self) -> Vec<(NodeId, pb::PeerMemory)> {
        self.shared.view().peers()
    }

    /// Remembers a peer; durable when this returns if `durably`, else with a later write.
    ///
    /// # Errors
    /// When the log is closed.
    pub async fn remember_peer(
        &self,
        node: NodeId,
        memory: pb::PeerMemory,
        durably: bool,
    ) -> Result<(), StoreError> {
        self.shared.view().remember(node, memory.clone());
        let mutation = Mutation::Peer { node, memory };
        if durably {
            self.shared.write_and_wait(mutation).await
        } else {
            self.shared.submit(Job::lazy(mutation)).await
        }
    }

    /// Makes everything durable that was written so far; the log takes nothing after.
    ///
    /// # Errors
    /// When the log was closed before.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.shared.write_and_wait(Mutation::Close).await
    }

    /// Number of transactions that reached the disk since it was opened.
    #[must_use]
    #[cfg(test)]
    pub fn commits(&self) -> u64 {
        self.shared.view().commits()
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        let (from_disk, mut tail) = {
            let view = self.shared.view();
            if let Some(fault) = view.fault() {
                return Err(fault.clone());
            }
            view.read(start, end)
        };
        let mut entries = match from_disk {
            Some((start, end)) => {
                let database = Arc::clone(&self.shared.database);
                self.shared
                    .disk
                    .run(move || tables::read(&database, start, end, bytes_max))
                    .await
                    .map_err(|_| StoreError::Interrupted { file: LOG_FILE })??
            }
            None => Vec::new(),
        };
        let whole = entries.last().map_or(from_disk.is_none(), |last| {
            Some(last.log_id.index.saturating_add(1)) == from_disk.map(|(_, end)| end)
        });
        if whole {
            let mut bytes: usize = entries.iter().map(view::weight).sum();
            tail.retain(|entry| {
                let fits = entries.is_empty() && bytes == 0 || bytes < bytes_max;
                bytes = bytes.saturating_add(view::weight(entry));
                fits
            });
            entries.append(&mut tail);
        }
        Ok(entries)
    }
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn submit(&self, job: Job) -> Result<(), StoreError> {
        let sent = self.jobs.send(job).await;
        sent.map_err(|_| self.view().closed_because(LOG_FILE))
    }

    async fn write_and_wait(&self, mutation: Mutation) -> Result<(), StoreError> {
        let (done, wait) = oneshot::channel();
        self.submit(Job::awaited(mutation, done)).await?;
        wait.await
            .unwrap_or_else(|_| Err(self.view().closed_because(LOG_FILE)))
    }
}

/// The range as a half-open one.
fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn reading(fault: StoreError) -> StorageError {
    StorageIoError::read_logs(AnyError::new(&fault)).into()
}

fn writing(fault: StoreError) -> StorageError {
    StorageIoError::write_logs(AnyError::new(&fault)).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        let (start, end) = half_open(&range);
        self.read(start, end, usize::MAX).await.map_err(reading)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let read = self.read(start, end, READ_BYTES_MAX).await;
        // A leader purges nothing that a follower still gets. So this reads for one that leads no more:
        // a later leader's snapshot takes the place of the log at any moment. It gets nothing.
        let purged = self.purged().map(|purged| purged.index);
        if purged >= Some(start) && self.fault().is_none() {
            return Ok(Vec::new());
        }
        read.map_err(reading)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let view = self.shared.view();
        Ok(LogState {
            last_purged_log_id: view.purged(),
            last_log_id: view.last(),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.shared.view().set_vote(*vote);
        let written = self.shared.write_and_wait(Mutation::Vote(*vote)).await;
        written.map_err(|fault| StorageIoError::write_vote(AnyError::new(&fault)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.shared.view().vote())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.shared.view().set_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.shared.view().committed())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        for entry in &entries {
            view::note_stage(entry, WriteStage::Appended);
        }
        let (generation, removed) = self.shared.view().append(&entries);
        let job = Job::append(removed, entries, generation, callback);
        self.shared.submit(job).await.map_err(writing)
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.shared.view().truncate(log_id.index);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        reach(Step::PurgeRequested);
        self.shared.view().purge(log_id);
        Ok(())
    }
}
