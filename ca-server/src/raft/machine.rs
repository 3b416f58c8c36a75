//! The state machine: applies the log, makes and installs snapshots.
//!
//! Responsible for: openraft's state machine on a [`ReplicatedState`]. Always holds: the
//! state is the result of the log up to the applied entry, and nothing else touches it;
//! leaves are durable before the checkpoint that counts on them; state, applied log id
//! and membership of a checkpoint change in one transaction; a command that panics stops
//! the server with the entry's id. Not here: the commands (`crate::state`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::mutation::{self, Bug};
use mintmark_runtime::task::panic_message;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder};
use prost::Message;
use sha2::{Digest, Sha256};
use thiserror::Error;
use tokio::sync::watch;

use super::batch::{Batch, BatchResults};
use super::convert;
use super::marks::{Mark, Marks};
use super::replicated_state::ReplicatedState;
use super::snapshot::SnapshotBytes;
use super::type_config::{
    Entry, LogId, Snapshot, SnapshotMeta, StorageError, StorageIoError, StoredMembership,
    TypeConfig,
};
use super::waiters::{LocallyApplied, Waiters};
use crate::state::Position;
use crate::store::StoreError;
use crate::store::checkpoint::{Checkpoint, CheckpointStore};
use crate::store::leaves::LeafStore;

/// Why the state machine cannot go on.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A store failed.
    #[error("the store of the state failed")]
    Store(#[from] StoreError),
    /// A log entry that no leader of ours would write.
    #[error("log entry {0} holds no commands that can be decoded")]
    Entry(LogId),
    /// A newer server wrote it. Applying it in our way would part us from the others.
    #[error("log entry {0} holds a command that only a newer version of the server knows")]
    Newer(LogId),
    /// A defect: every member stops at the same entry.
    #[error("applying log entry {log_id} panicked: {message}")]
    Panic {
        /// The entry.
        log_id: LogId,
        /// What the panic said.
        message: String,
    },
    /// The state is not saved, because an entry was applied in part.
    #[error("the state stands in the middle of a log entry")]
    Broken,
    /// A checkpoint or snapshot that is no state.
    #[error("the snapshot cannot be decoded")]
    Snapshot(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The state machine of one member. A clone shares it.
pub struct Machine<S>(Arc<Shared<S>>);

impl<S> Clone for Machine<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<S> {
    core: RwLock<Core<S>>,
    checkpoints: CheckpointStore,
    /// What the checkpoint on disk covers. A snapshot that was built while a newer one
    /// was installed must not replace it: the log between them may be purged.
    saved: tokio::sync::Mutex<Option<LogId>>,
    leaves: LeafStore,
    waiters: Waiters,
    marks: Marks,
    /// What the last digest was taken of: the next snapshot, if it is made soon.
    digested: Mutex<Option<(SnapshotMeta, Bytes)>>,
    position: watch::Sender<Position>,
    progress: watch::Sender<Progress>,
    /// The first failure, which ended consensus here.
    fault: OnceLock<Arc<MachineError>>,
}

/// How far the log was applied here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The last entry.
    pub applied: Option<LogId>,
    /// Snapshots that were installed, each of which may have hidden commands of ours.
    pub installs: u64,
}

impl Progress {
    /// True when the entry was applied.
    #[must_use]
    pub fn has(&self, index: u64) -> bool {
        self.applied.is_some_and(|applied| applied.index >= index)
    }
}

struct Core<S> {
    state: S,
    /// Number of commands that were applied.
    command_index: u64,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// False once an entry could not be applied to its end. Such a state is never saved: what it has of
    /// the entry would be applied to it again.
    whole: bool,
}

/// What applying one entry yields.
#[derive(Default)]
struct EntryApplied {
    results: BatchResults,
    answers: Vec<(Vec<u8>, LocallyApplied)>,
    leaves: Vec<(u64, Vec<Vec<u8>>)>,
}

impl<S: ReplicatedState> Machine<S> {
    /// The machine as the last checkpoint has it; the log is replayed by openraft.
    ///
    /// # Errors
    /// When the checkpoint is damaged or no state.
    pub async fn open(
        checkpoints: CheckpointStore,
        leaves: LeafStore,
        waiters: Waiters,
        marks: Marks,
    ) -> Result<Self, MachineError> {
        let core = match checkpoints.load().await? {
            Some(checkpoint) => Core::from_checkpoint(checkpoint)?,
            None => Core {
                state: S::initial(),
                command_index: 0,
                applied: None,
                membership: StoredMembership::default(),
                whole: true,
            },
        };
        // A snapshot that was installed just before the end brought no leaves along.
        leaves.declare(core.state.audit_size());
        if let Some(mark) = core.mark() {
            marks.applied(mark);
        }
        let position = watch::Sender::new(core.state.position());
        let progress = watch::Sender::new(Progress {
            applied: core.applied,
            installs: 0,
        });
        Ok(Self(Arc::new(Shared {
            saved: tokio::sync::Mutex::new(core.applied),
            core: RwLock::new(core),
            checkpoints,
            leaves,
            waiters,
            marks,
            digested: Mutex::new(None),
            position,
            progress,
            fault: OnceLock::new(),
        })))
    }

    /// Looks at the state between two commands.
    pub fn read<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        self.with_core(|core| look(&core.state))
    }

    /// Changes whenever something was applied.
    #[must_use]
    pub fn position(&self) -> watch::Receiver<Position> {
        self.0.position.subscribe()
    }

    /// How far the log was applied. Changes after the answers of an entry were given.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.0.progress.subscribe()
    }

    /// Why consensus ended here, if the machine is why.
    #[must_use]
    pub fn fault(&self) -> Option<Arc<MachineError>> {
        self.0.fault.get().cloned()
    }

    /// Notes a failure; the library ends consensus for it.
    fn failed(&self, error: MachineError) -> AnyError {
        tracing::error!(%error, "the state machine failed; this server stops");
        let error = Arc::new(error);
        let any = AnyError::new(&*error);
        // A later one is a consequence of the first.
        let _ = self.0.fault.set(error);
        any
    }

    /// The audit leaves.
    #[must_use]
    pub fn leaves(&self) -> &LeafStore {
        &self.0.leaves
    }

    /// Changes the state behind the log's back, as rotten memory would.
    #[cfg(test)]
    pub(super) fn disturb(&self, change: impl FnOnce(&mut S)) {
        let mut core = self.0.core.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut core.state);
    }

    fn with_core<R>(&self, work: impl FnOnce(&Core<S>) -> R) -> R {
        work(&self.0.core.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn apply_entry(&self, entry: Entry) -> Result<BatchResults, MachineError> {
        let index = entry.log_id.index;
        let (done, mark, digested) = {
            let mut core = self.0.core.write().unwrap_or_else(PoisonError::into_inner);
            let done = core.apply(entry)?;
            let wanted = self.0.marks.want_digest(index);
            let digested = wanted.then(|| core.snapshot()).transpose()?;
            (done, core.mark(), digested)
        };
        if !done.leaves.is_empty() {
            reach(Step::EntryApplied);
        }
        for (first, leaves) in done.leaves {
            if let Err(error) = self.0.leaves.append(first, leaves).await {
                let mut core = self.0.core.write().unwrap_or_else(PoisonError::into_inner);
                core.whole = false;
                return Err(error.into());
            }
        }
        if !done.answers.is_empty() {
            reach(Step::EntryUnanswered);
        }
        for (ticket, applied) in done.answers {
            self.0.waiters.applied(&ticket, || applied);
        }
        if let Some(mark) = mark {
            self.note_mark(mark, digested);
        }
        Ok(done.results)
    }

    fn note_mark(&self, mut mark: Mark, digested: Option<(SnapshotMeta, Bytes)>) {
        if let Some((meta, content)) = digested {
            mark.state_sha256 = Some(Sha256::digest(&content).into());
            *self.digested() = Some((meta, content));
        }
        self.0.marks.applied(mark);
    }

    fn digested(&self) -> MutexGuard<'_, Option<(SnapshotMeta, Bytes)>> {
        let digested = self.0.digested.lock();
        digested.unwrap_or_else(PoisonError::into_inner)
    }

    /// The state to make a snapshot of: as it was digested, if that was lately, else as it is.
    fn content(&self) -> Result<(SnapshotMeta, Bytes), MachineError> {
        let lately = self.digested().take().filter(|(meta, _)| {
            let applied = self.with_core(|core| core.applied).map(|id| id.index);
            let digested = meta.last_log_id.map(|id| id.index);
            let lag = applied.unwrap_or(0).saturating_sub(digested.unwrap_or(0));
            lag < self.0.marks.digest_every() / 2
        });
        match lately {
            Some((_, content)) if mutation::is(Bug::SnapshotIsStale) => {
                Ok((self.with_core(Core::snapshot)?.0, content))
            }
            Some(digested) => Ok(digested),
            None => self.with_core(Core::snapshot),
        }
    }

    /// Tells watchers where the state stands now.
    fn publish(&self, installs: u64) {
        let (position, applied) = self.with_core(|core| (core.state.position(), core.applied));
        self.0
            .position
            .send_if_modified(|now| replace(now, position));
        self.0.progress.send_if_modified(|now| {
            let installs = now.installs.saturating_add(installs);
            replace(now, Progress { applied, installs })
        });
    }

    async fn checkpoint(&self) -> Result<Snapshot, MachineError> {
        let (meta, content) = self.content()?;
        reach(Step::SnapshotEncoded);
        self.0.leaves.flush().await?;
        reach(Step::SnapshotLeavesFlushed);
        self.save(&meta, content.clone()).await?;
        reach(Step::SnapshotSaved);
        Ok(Snapshot {
            meta,
            snapshot: Box::new(SnapshotBytes(content)),
        })
    }

    pub(super) async fn save(
        &self,
        meta: &SnapshotMeta,
        content: Bytes,
    ) -> Result<(), MachineError> {
        let mut saved = self.0.saved.lock().await;
        if *saved <= meta.last_log_id {
            self.0.checkpoints.save(head_of(meta), content).await?;
            *saved = meta.last_log_id;
        }
        Ok(())
    }

    async fn install(&self, meta: &SnapshotMeta, content: Bytes) -> Result<(), MachineError> {
        let core = Core::<S>::from_content(
            meta.last_log_id,
            meta.last_membership.clone(),
            content.clone(),
        )?;
        let size = core.state.audit_size();
        let mark = core.mark();
        reach(Step::InstallDecoded);
        self.save(meta, content).await?;
        reach(Step::InstallSaved);
        *self.0.core.write().unwrap_or_else(PoisonError::into_inner) = core;
        reach(Step::InstallSwitched);
        self.0.leaves.declare(size);
        *self.digested() = None;
        if let Some(mark) = mark {
            self.0.marks.installed(mark);
        }
        self.publish(1);
        Ok(())
    }
}

fn replace<T: PartialEq>(now: &mut T, next: T) -> bool {
    let changed = *now != next;
    *now = next;
    changed
}

impl<S: ReplicatedState> Core<S> {
    fn from_checkpoint(checkpoint: Checkpoint) -> Result<Self, MachineError> {
        let head = checkpoint.head;
        let invalid = |error: convert::ConvertError| MachineError::Snapshot(error.into());
        let applied = convert::optional_log_id(head.applied).map_err(invalid)?;
        let membership = convert::stored_membership_from_pb(head.membership).map_err(invalid)?;
        Self::from_content(applied, membership, checkpoint.content)
    }

    fn from_content(
        applied: Option<LogId>,
        membership: StoredMembership,
        content: Bytes,
    ) -> Result<Self, MachineError> {
        let content = pb::SnapshotContent::decode(content)
            .map_err(|error| MachineError::Snapshot(error.into()))?;
        let state = S::decode(&content.state).map_err(MachineError::Snapshot)?;
        if state.audit_size() != content.leaf_count {
            return Err(MachineError::Snapshot(
                "the number of leaves differs from the manifest".into(),
            ));
        }
        Ok(Self {
            state,
            command_index: content.command_index,
            applied,
            membership,
            whole: true,
        })
    }

    /// The state after the last entry; none before the first.
    fn mark(&self) -> Option<Mark> {
        Some(Mark {
            log_index: self.applied?.index,
            audit_size: self.state.audit_size(),
            audit_root: self.state.audit_root(),
            state_sha256: None,
        })
    }

    fn snapshot(&self) -> Result<(SnapshotMeta, Bytes), MachineError> {
        if !self.whole {
            return Err(MachineError::Broken);
        }
        let content = pb::SnapshotContent {
            command_index: self.command_index,
            state: self.state.encode(),
            leaf_count: self.state.audit_size(),
        };
        let snapshot_id = self.applied.map_or_else(String::new, |id| {
            format!(
                "{}-{}-{}",
                id.leader_id.term, id.leader_id.node_id, id.index
            )
        });
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id,
        };
        Ok((meta, content.encode_to_vec().into()))
    }

    fn apply(&mut self, entry: Entry) -> Result<EntryApplied, MachineError> {
        self.whole = false;
        let done = match entry.payload {
            EntryPayload::Blank => EntryApplied::default(),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                EntryApplied::default()
            }
            EntryPayload::Normal(batch) => self.apply_batch(entry.log_id, &batch)?,
        };
        self.applied = Some(entry.log_id);
        self.whole = true;
        Ok(done)
    }

    fn apply_batch(&mut self, log_id: LogId, batch: &Batch) -> Result<EntryApplied, MachineError> {
        let commands = batch.decode().map_err(|_| MachineError::Entry(log_id))?;
        let mut done = EntryApplied::default();
        for command in commands {
            if command.term != 0 && command.term != log_id.leader_id.term {
                done.results.0.push(None);
                continue;
            }
            if !S::understands(&command) {
                return Err(MachineError::Newer(log_id));
            }
            let index = self.command_index.saturating_add(1);
            let state = &mut self.state;
            let applied = catch_unwind(AssertUnwindSafe(|| state.apply(index, &command))).map_err(
                |panic| MachineError::Panic {
                    log_id,
                    message: panic_message(panic.as_ref()),
                },
            )?;
            self.command_index = index;
            if !applied.leaves.is_empty() {
                done.leaves.push((applied.first_leaf_index, applied.leaves));
            }
            if !command.ticket.is_empty() {
                let answer = LocallyApplied {
                    result: applied.result.clone(),
                    position: self.state.position(),
                };
                done.answers.push((command.ticket, answer));
            }
            done.results.0.push(Some(applied.result));
        }
        Ok(done)
    }
}

fn head_of(meta: &SnapshotMeta) -> pb::CheckpointHead {
    pb::CheckpointHead {
        applied: meta.last_log_id.as_ref().map(convert::log_id_to_pb),
        membership: Some(convert::stored_membership_to_pb(&meta.last_membership)),
        snapshot_id: meta.snapshot_id.clone(),
        length: 0,
        sha256: Vec::new(),
    }
}

impl<S: ReplicatedState> RaftSnapshotBuilder<TypeConfig> for Machine<S> {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let built = self.checkpoint().await;
        built.map_err(|error| StorageIoError::write_snapshot(None, self.failed(error)).into())
    }
}

impl<S: ReplicatedState> RaftStateMachine<TypeConfig> for Machine<S> {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok(self.with_core(|core| (core.applied, core.membership.clone())))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<BatchResults>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let mut results = Vec::with_capacity(entries.len());
        for entry in entries {
            let log_id = entry.log_id;
            let applied = self.apply_entry(entry).await.map_err(|error| {
                StorageError::from(StorageIoError::apply(log_id, self.failed(error)))
            })?;
            results.push(applied);
            self.publish(0);
        }
        Ok(results)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotBytes>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotBytes>,
    ) -> Result<(), StorageError> {
        let installed = self.install(meta, snapshot.0).await;
        installed.map_err(|error| StorageIoError::write_snapshot(None, self.failed(error)).into())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let loaded = self.0.checkpoints.load().await;
        let unreadable = |error| StorageIoError::read_snapshot(None, self.failed(error));
        let Some(checkpoint) = loaded.map_err(|error| unreadable(error.into()))? else {
            return Ok(None);
        };
        let meta = meta_of(checkpoint.head)
            .map_err(|error| unreadable(MachineError::Snapshot(error.into())))?;
        Ok(Some(Snapshot {
            meta,
            snapshot: Box::new(SnapshotBytes(checkpoint.content)),
        }))
    }
}

fn meta_of(head: pb::CheckpointHead) -> Result<SnapshotMeta, convert::ConvertError> {
    Ok(SnapshotMeta {
        last_log_id: convert::optional_log_id(head.applied)?,
        last_membership: convert::stored_membership_from_pb(head.membership)?,
        snapshot_id: head.snapshot_id,
    })
}
