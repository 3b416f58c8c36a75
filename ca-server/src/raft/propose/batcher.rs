//! Gathers what waits into log entries.
//!
//! Responsible for: one entry at a time, as full as the queue; the commands' time.
//! Always holds: the next entry is handed over when the last one is durable here, so
//! commands gather exactly while the disk is busy; no entry bears the time of a clock that
//! is not known to be good; an entry that the library refuses without having handed it to
//! the log is refused for certain; one of which it will never tell anything does not hold
//! up those that follow. Not here: whether to try again.

use std::sync::Arc;

use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::task::Tasks;
use openraft::error::{ClientWriteError, RaftError};
use prost::Message;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::{Pending, Verdict};
use crate::raft::batch::{Batch, WriteStage};
use crate::raft::clocks::Clocks;
use crate::raft::machine::Progress;
use crate::raft::type_config::{NodeId, Raft};

/// Commands of one entry.
const BATCH_COMMANDS_MAX: usize = 256;
/// Bytes of one entry; one command may be as long on its own.
const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Entries that are written but not yet applied: several round trips' worth.
const UNAPPLIED_MAX: usize = 32;

/// Writes the leader's proposals.
pub struct Batcher {
    /// The library.
    pub raft: Raft,
    /// Where answers are awaited.
    pub tasks: Tasks,
    /// Time of commands.
    pub clocks: Clocks,
    /// What waits.
    pub pending: mpsc::Receiver<Pending>,
    /// What was applied, and how.
    pub progress: watch::Receiver<Progress>,
}

impl Batcher {
    /// Writes until nobody can propose any more or the process ends.
    pub async fn run(mut self) {
        let unapplied = Arc::new(Semaphore::new(UNAPPLIED_MAX));
        let token = self.tasks.token();
        let mut last_time_ms = i64::MIN;
        let mut next = None;
        loop {
            let Ok(permit) = Arc::clone(&unapplied).acquire_owned().await else {
                return;
            };
            let first = match next.take() {
                Some(first) => first,
                None => tokio::select! {
                    first = self.pending.recv() => match first {
                        Some(first) => first,
                        None => return,
                    },
                    () = token.cancelled() => return,
                },
            };
            let gathered = gather(&mut self.pending, first, &mut next);
            // One look: a clock that jumps after it is judged at the next one.
            let (time, state) = self.clocks.read();
            if !state.is_good() {
                let verdicts = gathered.into_iter().map(|pending| pending.verdict);
                refuse_all(verdicts, &not_accepted(None));
                continue;
            }
            last_time_ms = last_time_ms.max(time.unix_millis());
            let (commands, verdicts) = stamp(gathered, last_time_ms);
            reach(Step::ProposalGathered);
            let (batch, mut stage) = Batch::propose(&commands);
            let (done, mut finished) = oneshot::channel::<()>();
            let overtaken = overtaken(self.progress.clone());
            let decided = decide(self.raft.clone(), batch, stage.clone(), verdicts, overtaken);
            self.tasks.spawn_isolated("raft batch", async move {
                decided.await;
                drop((permit, done));
            });
            tokio::select! {
                // Either way the disk is free for the next entry.
                _ = stage.wait_for(|stage| *stage == WriteStage::Durable) => {}
                _ = &mut finished => {}
            }
        }
    }
}

/// Takes what waits, up to the bounds; what does not fit is left in `next`.
fn gather(
    pending: &mut mpsc::Receiver<Pending>,
    first: Pending,
    next: &mut Option<Pending>,
) -> Vec<Pending> {
    let mut bytes = first.command.encoded_len();
    let mut gathered = vec![first];
    while gathered.len() < BATCH_COMMANDS_MAX
        && let Ok(more) = pending.try_recv()
    {
        // Its proposer has given up, so it never was accepted.
        if more.verdict.is_closed() {
            continue;
        }
        bytes = bytes.saturating_add(more.command.encoded_len());
        if bytes > BATCH_BYTES_MAX {
            *next = Some(more);
            break;
        }
        gathered.push(more);
    }
    gathered
}

fn stamp(
    gathered: Vec<Pending>,
    time_ms: i64,
) -> (pb::CommandBatch, Vec<oneshot::Sender<Verdict>>) {
    let (commands, verdicts) = gathered
        .into_iter()
        .map(|pending| {
            let mut command = pending.command;
            command.time_ms = time_ms;
            (command, pending.verdict)
        })
        .unzip();
    (pb::CommandBatch { commands }, verdicts)
}

/// Waits until a snapshot is installed. The library says nothing of entries that it took the place of.
fn overtaken(mut progress: watch::Receiver<Progress>) -> impl Future<Output = ()> {
    let before = progress.borrow().installs;
    async move {
        let installed = progress.wait_for(|now| now.installs != before);
        if installed.await.is_err() {
            std::future::pending().await
        }
    }
}

/// Writes the batch, waits until it is applied or `overtaken`, and tells everybody.
async fn decide(
    raft: Raft,
    batch: Batch,
    stage: watch::Receiver<WriteStage>,
    verdicts: Vec<oneshot::Sender<Verdict>>,
    overtaken: impl Future<Output = ()>,
) {
    let written = tokio::select! {
        biased;
        written = raft.client_write(batch) => written,
        () = overtaken => {
            tracing::warn!("a snapshot took the place of a batch; its outcome is unknown");
            refuse_all(verdicts, &Verdict::Unknown);
            return;
        }
    };
    let untouched = *stage.borrow() == WriteStage::Waiting;
    match written {
        Ok(written) => {
            let log_index = written.log_id.index;
            for (verdict, result) in verdicts.into_iter().zip(written.data.0) {
                answer(
                    verdict,
                    match result {
                        Some(result) => Verdict::Committed {
                            log_index,
                            result: Box::new(result),
                        },
                        None => not_accepted(None),
                    },
                );
            }
        }
        // The library answers so both when it never took the entry and when a new
        // leader cut it off; only the log knows which.
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) if untouched => {
            refuse_all(verdicts, &not_accepted(to.leader_id));
        }
        Err(RaftError::Fatal(_)) if untouched => refuse_all(verdicts, &Verdict::Stopped),
        Err(error) => {
            tracing::warn!(%error, "the outcome of a batch is unknown");
            refuse_all(verdicts, &Verdict::Unknown);
        }
    }
}

fn not_accepted(leader: Option<NodeId>) -> Verdict {
    Verdict::NotAccepted { leader }
}

fn refuse_all(verdicts: impl IntoIterator<Item = oneshot::Sender<Verdict>>, verdict: &Verdict) {
    for waiting in verdicts {
        answer(waiting, verdict.clone());
    }
}

fn answer(waiting: oneshot::Sender<Verdict>, verdict: Verdict) {
    // Whoever gave up has called it unknown.
    let _ = waiting.send(verdict);
}
