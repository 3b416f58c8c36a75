//! The one task that writes the log file.
//!
//! Responsible for: order and durability. Always holds: jobs reach the disk in the
//! order in which they were made; all that wait share one transaction and one sync; a
//! job nobody waits for is kept back until one is made that somebody waits for; what the
//! log loses leaves the file with the entries that come instead; after a failure every
//! job, waiting or later, is refused, and nothing is tried again. Not here: what stands
//! in the log ([`super::view`]).

use std::io;
use std::sync::{Arc, Weak};

use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::disk::Disk;
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::mutation::{self, Bug};
use openraft::storage::LogFlushed;
use prost::Message;
use redb::Durability;
use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::tables::{
    COMMITTED, LOG, LOG_FILE, META, PEERS, PURGED, VOTE, encode_mark, encode_vote,
};
use super::view::{Removed, View, note_stage};
use crate::raft::batch::WriteStage;
use crate::raft::convert;
use crate::raft::type_config::{Entry, LogId, NodeId, TypeConfig, Vote};
use crate::store::StoreError;
use crate::store::database::{SealedDatabase, Writing};

/// Jobs of one transaction; bounds how long the first one waits for the last.
const GROUP_MAX: usize = 256;
/// Lazy jobs that are kept back before they are written for their own sake.
const LAZY_MAX: usize = 64;

/// One change of the file.
pub enum Mutation {
    Append {
        removed: Removed,
        entries: Vec<Entry>,
        generation: u64,
    },
    Vote(Vote),
    Peer {
        node: NodeId,
        memory: pb::PeerMemory,
    },
    Close,
}

/// Who waits for it.
enum Waiter {
    Nobody,
    Caller(oneshot::Sender<Result<(), StoreError>>),
    Raft(LogFlushed<TypeConfig>),
}

/// A change and who waits for it.
pub struct Job {
    mutation: Mutation,
    waiter: Waiter,
}

impl Job {
    pub fn lazy(mutation: Mutation) -> Self {
        Self {
            mutation,
            waiter: Waiter::Nobody,
        }
    }

    pub fn awaited(mutation: Mutation, done: oneshot::Sender<Result<(), StoreError>>) -> Self {
        Self {
            mutation,
            waiter: Waiter::Caller(done),
        }
    }

    /// Entries that come, in place of those that go.
    pub fn append(
        removed: Removed,
        entries: Vec<Entry>,
        generation: u64,
        flushed: LogFlushed<TypeConfig>,
    ) -> Self {
        Self {
            mutation: Mutation::Append {
                removed,
                entries,
                generation,
            },
            waiter: Waiter::Raft(flushed),
        }
    }

    fn is_awaited(&self) -> bool {
        !matches!(self.waiter, Waiter::Nobody)
    }
}

/// Writes until it is told to close or the last [`super::LogStore`] is gone.
pub struct LogWriter {
    shared: Weak<Shared>,
    database: Arc<SealedDatabase>,
    disk: Arc<dyn Disk>,
    waiting: mpsc::Receiver<Job>,
    /// The mark that stands on disk.
    committed: Option<LogId>,
}

impl LogWriter {
    pub(super) fn new(shared: &Arc<Shared>, waiting: mpsc::Receiver<Job>) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            database: Arc::clone(&shared.database),
            disk: Arc::clone(&shared.disk),
            waiting,
            committed: shared.view().committed(),
        }
    }

    /// Writes what is asked for. Ends, with everything written, when it is told to close
    /// or no store is left, or at the first failure.
    ///
    /// # Errors
    /// The failure that closed the log.
    pub async fn run(mut self) -> Result<(), StoreError> {
        let mut group: Vec<Job> = Vec::new();
        loop {
            let Some(job) = self.waiting.recv().await else {
                return self.commit(group).await;
            };
            let mut urgent = job.is_awaited();
            group.push(job);
            while group.len() < GROUP_MAX
                && let Ok(job) = self.waiting.try_recv()
            {
                urgent |= job.is_awaited();
                group.push(job);
            }
            let close = group
                .iter()
                .any(|job| matches!(job.mutation, Mutation::Close));
            if urgent || group.len() >= LAZY_MAX {
                self.commit(std::mem::take(&mut group)).await?;
            }
            if close {
                return Ok(());
            }
        }
    }

    async fn commit(&mut self, group: Vec<Job>) -> Result<(), StoreError> {
        let (mutations, waiters): (Vec<_>, Vec<_>) = group
            .into_iter()
            .map(|job| (job.mutation, job.waiter))
            .unzip();
        let committed = self.with_view(|view| view.committed());
        let marked = committed
            .flatten()
            .filter(|_| committed != Some(self.committed));
        if mutations.is_empty() && marked.is_none() {
            return Ok(());
        }
        let database = Arc::clone(&self.database);
        let written = self
            .disk
            .run(move || write(&database, mutations, marked.as_ref()))
            .await
            .unwrap_or(Err(StoreError::Interrupted { file: LOG_FILE }));
        match written {
            Ok(mutations) => {
                self.committed = marked.or(self.committed);
                self.succeed(&mutations, waiters);
                Ok(())
            }
            Err(fault) => {
                self.fail(&fault, waiters);
                Err(fault)
            }
        }
    }

    fn succeed(&self, mutations: &[Mutation], waiters: Vec<Waiter>) {
        self.with_view(|view| {
            view.committed_through(mutations.iter().filter_map(|mutation| match mutation {
                Mutation::Append {
                    entries,
                    generation,
                    ..
                } => {
                    let last = entries.last()?.log_id.index;
                    Some((*generation, last.saturating_add(1)))
                }
                _ => None,
            }));
        });
        for mutation in mutations {
            if let Mutation::Append { entries, .. } = mutation {
                for entry in entries {
                    note_stage(entry, WriteStage::Durable);
                }
            }
        }
        for waiter in waiters {
            waiter.answer(&Ok(()));
        }
    }

    /// Refuses everything that waits; later calls find the channel closed.
    fn fail(&mut self, fault: &StoreError, waiters: Vec<Waiter>) {
        tracing::error!(error = %fault, "the log can no longer be written; this server stops");
        self.with_view(|view| view.fail(fault.clone()));
        self.waiting.close();
        let refused = Err(fault.clone());
        for waiter in waiters {
            waiter.answer(&refused);
        }
        while let Ok(job) = self.waiting.try_recv() {
            job.waiter.answer(&refused);
        }
    }

    fn with_view<R>(&self, work: impl FnOnce(&mut View) -> R) -> Option<R> {
        let shared = self.shared.upgrade()?;
        let mut view = shared.view();
        Some(work(&mut view))
    }
}

impl Waiter {
    fn answer(self, result: &Result<(), StoreError>) {
        match self {
            Self::Nobody => {}
            // A receiver that is gone has stopped caring.
            Self::Caller(done) => drop(done.send(result.clone())),
            Self::Raft(flushed) => {
                flushed.log_io_completed(result.clone().map_err(io::Error::other));
            }
        }
    }
}

/// Writes the group in one transaction; hands the mutations back.
fn write(
    database: &SealedDatabase,
    mutations: Vec<Mutation>,
    committed: Option<&LogId>,
) -> Result<Vec<Mutation>, StoreError> {
    let appends = |mutation: &Mutation| matches!(mutation, Mutation::Append { .. });
    let durability = if mutation::is(Bug::LogNotSynced) && mutations.iter().any(appends) {
        Durability::None
    } else {
        Durability::Immediate
    };
    database.write_with(durability, |writing| {
        for mutation in &mutations {
            apply(writing, mutation)?;
        }
        if let Some(committed) = committed {
            writing.put_named(META, COMMITTED, &encode_mark(Some(committed)))?;
        }
        for mutation in &mutations {
            match mutation {
                Mutation::Append { removed, .. } => {
                    if removed.through.is_some() {
                        reach(Step::PurgeWriting);
                    }
                    reach(Step::LogAppending);
                }
                Mutation::Vote(_) | Mutation::Peer { .. } | Mutation::Close => {}
            }
        }
        Ok(())
    })?;
    for mutation in &mutations {
        match mutation {
            Mutation::Append { removed, .. } => {
                if removed.through.is_some() {
                    reach(Step::PurgeSynced);
                }
                reach(Step::LogSynced);
            }
            Mutation::Vote(_) => reach(Step::VoteSynced),
            Mutation::Peer { .. } | Mutation::Close => {}
        }
    }
    Ok(mutations)
}

fn apply(writing: &Writing, mutation: &Mutation) -> Result<(), StoreError> {
    match mutation {
        Mutation::Append {
            removed, entries, ..
        } => {
            remove(writing, removed)?;
            let records: Vec<(u64, Vec<u8>)> = entries
                .iter()
                .map(|entry| {
                    (
                        entry.log_id.index,
                        convert::entry_to_pb(entry).encode_to_vec(),
                    )
                })
                .collect();
            writing.put_all(
                LOG,
                records
                    .iter()
                    .map(|(index, bytes)| (*index, bytes.as_slice())),
            )
        }
        Mutation::Vote(_) if mutation::is(Bug::VoteNotKept) => Ok(()),
        Mutation::Vote(vote) => writing.put_named(META, VOTE, &encode_vote(vote)),
        Mutation::Peer { node, memory } => {
            writing.put_named(PEERS, &node.to_string(), &memory.encode_to_vec())
        }
        Mutation::Close => Ok(()),
    }
}

fn remove(writing: &Writing, removed: &Removed) -> Result<(), StoreError> {
    if let Some(since) = removed.since {
        writing.remove_range(LOG, since, u64::MAX)?;
    }
    if let Some(through) = &removed.through {
        writing.remove_range(LOG, 0, through.index.saturating_add(1))?;
        writing.put_named(META, PURGED, &encode_mark(Some(through)))?;
    }
    Ok(())
}
