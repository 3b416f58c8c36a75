//! Agreement: many intents become one command, and each comes back as committed or refused.
//!
//! Always: a [`Committed`] is made here and nowhere else, after this server applied the command that
//! accepted the intent; it is not `Clone` and is never written down. While commands are under way,
//! intents wait at most [`WAIT_MAX`] for company; with none under way they do not wait at all.
//!
//! Not here: the decision (`state::issuance`), the signature (`release`).

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use mintmark_proto::mintmark::raft::v1::intent::Subject;
use mintmark_proto::mintmark::raft::v1::{
    Actor, CommandResult, Intent, IssueBatch, ItemResult, Refusal, actor, command,
};
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::mutation::{self, Bug};
use mintmark_runtime::task::Tasks;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::prepared::Prepared;
use crate::Consensus;
use crate::raft::{ProposeError, Proposed};

/// Most intents in one command: a command is one log record, and 256 are about 80 KiB.
pub const INTENTS_MAX: usize = 256;
/// Longest wait for company, when other commands are under way.
pub const WAIT_MAX: Duration = Duration::from_millis(3);
/// Commands under way at once; more would only queue in front of the disk.
const IN_FLIGHT_MAX: usize = 8;
/// Requests that may wait to be put into a command; beyond, callers are refused.
const QUEUE_MAX: usize = 1024;

/// Where a leaf stands in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafPosition {
    /// Epoch of the log.
    pub epoch: u64,
    /// Index of the leaf.
    pub index: u64,
}

/// Something whose intent was accepted by `apply()` on this server.
#[derive(Debug)]
#[must_use = "an accepted intent that is not signed stays a leaf without an SVID"]
pub struct Committed<P> {
    prepared: P,
    leaf: LeafPosition,
    accepted_at: Instant,
}

impl<P: Prepared> Committed<P> {
    /// What was agreed to.
    #[must_use]
    pub fn prepared(&self) -> &P {
        &self.prepared
    }

    /// Its place in the audit log.
    #[must_use]
    pub fn leaf(&self) -> LeafPosition {
        self.leaf
    }

    /// When this server learned of it.
    #[must_use]
    pub fn accepted_at(&self) -> Instant {
        self.accepted_at
    }

    /// As if `apply()` had accepted it.
    #[cfg(test)]
    pub(super) fn accepted(prepared: P, accepted_at: Instant) -> Self {
        Self {
            prepared,
            leaf: LeafPosition { epoch: 1, index: 0 },
            accepted_at,
        }
    }

    /// Uses it up.
    pub(super) fn into_prepared(self) -> P {
        self.prepared
    }
}

/// Why an intent was not committed.
#[derive(Debug, Clone, Error)]
pub enum CommitError {
    /// `apply()` refused it; a leaf says so, unless it was stale.
    #[error("refused: {detail}")]
    Refused {
        /// On what ground.
        refusal: Refusal,
        /// In words.
        detail: String,
    },
    /// The command was not accepted by the log, or its fate is unknown.
    #[error("the cluster did not take the request")]
    Propose(#[source] ProposeError),
    /// Too much is waiting.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The result does not fit the command.
    #[error("the replicated state gave {got} results for {sent} intents")]
    Mismatch {
        /// Intents in the command.
        sent: usize,
        /// Results.
        got: usize,
    },
}

/// Intents of one caller that travel together.
struct Job {
    actor: Option<Actor>,
    intents: Vec<Intent>,
    reply: oneshot::Sender<Result<JobResult, CommitError>>,
}

struct JobResult {
    epoch: u64,
    items: Vec<ItemResult>,
}

/// Hands intents to the log.
#[derive(Debug, Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Job>,
}

impl Batcher {
    /// Starts the task that makes commands of intents.
    #[must_use]
    pub fn start(consensus: Consensus, node_id: u64, tasks: &Tasks) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let worker = Worker {
            consensus,
            node_id,
            jobs,
            token: tasks.token(),
        };
        tasks.spawn("issuance batches", worker.run());
        Self { queue }
    }

    /// Commits what was prepared, in order. `actor` is set when the leaves must name somebody else
    /// than this server and the requesting agent.
    pub async fn commit<P: Prepared>(
        &self,
        actor: Option<Actor>,
        prepared: Vec<P>,
    ) -> Vec<Result<Committed<P>, CommitError>> {
        let mut prepared = VecDeque::from(prepared);
        let mut waiting = Vec::new();
        while !prepared.is_empty() {
            let part: Vec<P> = prepared.drain(..prepared.len().min(INTENTS_MAX)).collect();
            let intents = part.iter().map(|one| one.intent().clone()).collect();
            let (reply, result) = oneshot::channel();
            let job = Job {
                actor: actor.clone(),
                intents,
                reply,
            };
            let sent = self.queue.try_send(job).map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => CommitError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => CommitError::ShuttingDown,
            });
            waiting.push((part, sent.map(|()| result)));
        }
        let mut outcomes = Vec::new();
        for (part, result) in waiting {
            if mutation::is(Bug::SignedBeforeCommit) && part.iter().all(is_for_workload) {
                outcomes.extend(part.into_iter().map(presumed));
                continue;
            }
            let result = match result {
                Ok(result) => result.await.unwrap_or(Err(CommitError::ShuttingDown)),
                Err(error) => Err(error),
            };
            outcomes.extend(pair(part, result));
        }
        outcomes
    }
}

fn is_for_workload<P: Prepared>(prepared: &P) -> bool {
    matches!(prepared.intent().subject, Some(Subject::Entry(_)))
}

/// What nobody has agreed to, as if everybody had.
fn presumed<P: Prepared>(prepared: P) -> Result<Committed<P>, CommitError> {
    Ok(Committed {
        prepared,
        leaf: LeafPosition { epoch: 0, index: 0 },
        accepted_at: Instant::now(),
    })
}

/// Joins what was prepared with what the state said to each.
fn pair<P: Prepared>(
    part: Vec<P>,
    result: Result<JobResult, CommitError>,
) -> Vec<Result<Committed<P>, CommitError>> {
    let accepted_at = Instant::now();
    match result {
        Err(error) => part.iter().map(|_| Err(error.clone())).collect(),
        Ok(result) => part
            .into_iter()
            .zip(result.items)
            .map(|(prepared, item)| match item.refusal() {
                Refusal::Unspecified => {
                    let leaf = LeafPosition {
                        epoch: result.epoch,
                        index: item.leaf_index,
                    };
                    Ok(Committed {
                        prepared,
                        leaf,
                        accepted_at,
                    })
                }
                refusal => Err(CommitError::Refused {
                    refusal,
                    detail: item.detail,
                }),
            })
            .collect(),
    }
}

struct Worker {
    consensus: Consensus,
    node_id: u64,
    jobs: mpsc::Receiver<Job>,
    token: tokio_util::sync::CancellationToken,
}

type InFlight = FuturesUnordered<BoxFuture<'static, ()>>;

impl Worker {
    async fn run(mut self) {
        let mut in_flight = InFlight::new();
        let mut pending: VecDeque<Job> = VecDeque::new();
        let mut since: Option<Instant> = None;
        loop {
            let idle = in_flight.is_empty();
            let waited = since.is_some_and(|since| since.elapsed() >= WAIT_MAX);
            let full = pending.iter().map(|job| job.intents.len()).sum::<usize>() >= INTENTS_MAX;
            if !pending.is_empty() && in_flight.len() < IN_FLIGHT_MAX && (idle || waited || full) {
                in_flight.push(self.propose(next_batch(&mut pending)));
                since = (!pending.is_empty()).then(Instant::now);
                continue;
            }
            let deadline = since.map(|since| since + WAIT_MAX);
            tokio::select! {
                biased;
                () = self.token.cancelled() => break,
                job = self.jobs.recv(), if !full => match job {
                    Some(job) => {
                        pending.push_back(job);
                        self.take_waiting(&mut pending);
                        since = since.or_else(|| Some(Instant::now()));
                    }
                    None => break,
                },
                Some(()) = in_flight.next(), if !idle => {}
                () = sleep_until(deadline), if in_flight.len() < IN_FLIGHT_MAX => {}
            }
        }
        // What was proposed may be applied; its callers still want to know.
        while in_flight.next().await.is_some() {}
    }

    /// Takes what else is there already, so that a burst becomes one command.
    fn take_waiting(&mut self, pending: &mut VecDeque<Job>) {
        let mut intents: usize = pending.iter().map(|job| job.intents.len()).sum();
        while intents < INTENTS_MAX {
            let Ok(job) = self.jobs.try_recv() else { break };
            intents = intents.saturating_add(job.intents.len());
            pending.push_back(job);
        }
    }

    fn propose(&self, batch: Vec<Job>) -> BoxFuture<'static, ()> {
        let consensus = self.consensus.clone();
        let server = Actor {
            kind: actor::Kind::Server.into(),
            node_id: self.node_id,
            ..Actor::default()
        };
        let actor = batch
            .first()
            .and_then(|job| job.actor.clone())
            .unwrap_or(server);
        Box::pin(async move {
            let intents: Vec<Intent> = batch
                .iter()
                .flat_map(|job| job.intents.iter().cloned())
                .collect();
            let sent = intents.len();
            let body = command::Body::IssueBatch(IssueBatch { intents });
            reach(Step::IssuanceBatched);
            let result = consensus.propose(body, actor, None).await;
            distribute(batch, sent, result);
        })
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Takes jobs off the front that fit into one command and have the same actor.
fn next_batch(pending: &mut VecDeque<Job>) -> Vec<Job> {
    let mut batch: Vec<Job> = Vec::new();
    let mut intents = 0_usize;
    while let Some(job) = pending.front() {
        let total = intents.saturating_add(job.intents.len());
        let same_actor = batch.first().is_none_or(|first| first.actor == job.actor);
        if !batch.is_empty() && (total > INTENTS_MAX || !same_actor) {
            break;
        }
        intents = total;
        batch.extend(pending.pop_front());
    }
    batch
}

/// Gives each job its part of the result. A caller that has gone is no error.
fn distribute(batch: Vec<Job>, sent: usize, result: Result<Proposed, ProposeError>) {
    let result = match result {
        Ok(proposed) => check(proposed.result, sent),
        Err(error) => Err(CommitError::Propose(error)),
    };
    match result {
        Err(error) => {
            for job in batch {
                let _ = job.reply.send(Err(error.clone()));
            }
        }
        Ok(result) => {
            let mut items = result.items.into_iter();
            for job in batch {
                let part = items.by_ref().take(job.intents.len()).collect();
                let _ = job.reply.send(Ok(JobResult {
                    epoch: result.epoch,
                    items: part,
                }));
            }
        }
    }
}

fn check(result: CommandResult, sent: usize) -> Result<CommandResult, CommitError> {
    if result.refusal() != Refusal::Unspecified {
        return Err(CommitError::Refused {
            refusal: result.refusal(),
            detail: result.detail,
        });
    }
    if result.items.len() != sent {
        return Err(CommitError::Mismatch {
            sent,
            got: result.items.len(),
        });
    }
    Ok(result)
}

#[cfg(test)]
mod tests;
