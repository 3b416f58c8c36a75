//! From a command to its local application.
//!
//! Responsible for: batches on the leader, forwarding elsewhere, retries, and saying
//! truly what became of a proposal. Always holds: a command is answered as applied only
//! after it was applied *here*; it is called refused only if it stands in no log, or
//! stands there void; everything else is unknown. It is proposed a second time only if
//! it carries an idempotency key or its first time is known to be void. Not here: what
//! commands do.
//!
//! A command is meant for the leader of one term and void in an entry of any other
//! (`Command.term`). Terms never fall along a log, so whoever has applied an entry of a
//! later term, and not the command, knows that the command never happens, whatever
//! message about it is still under way.

mod batcher;

use std::time::Duration;

use mintmark_proto::mintmark::raft::v1 as pb;
use prost::Message;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

pub use self::batcher::Batcher;
use super::clocks::{ClockOffset, Clocks};
use super::config::RaftConfig;
use super::machine::Progress;
use super::marks::Divergence;
use super::peers::{Peers, Remote};
use super::status::StatusWatch;
use super::type_config::NodeId;
use super::waiters::{LocallyApplied, Waiters, Waiting};
use crate::state::Position;

/// Commands that may wait for a batch. Beyond it the caller is told to slow down.
const QUEUE_MAX: usize = 1024;
/// Longest command. Batches of intents, the greatest commands there are, take a tenth.
pub const COMMAND_LEN_MAX: usize = 1024 * 1024;
/// Pause before a proposal is tried again; a new leader is noticed without it.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Version of the commands that this server writes.
const COMMAND_VERSION: u32 = 1;

/// Why a proposal has no result.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// It may have been applied, or may be yet. A retry with the same idempotency key
    /// returns its result.
    #[error("the outcome of the command is unknown")]
    Unknown,
    /// No leader took it in time; it changes nothing.
    #[error("the cluster has no leader")]
    NoLeader,
    /// Too many commands wait; it changes nothing.
    #[error("too many commands are waiting")]
    Overloaded,
    /// It is longer than the log takes; it changes nothing.
    #[error("the command is too long")]
    TooLarge,
    /// This server's clock is wrong; it changes nothing.
    #[error("this server's clock is {0}, so it does not propose")]
    ClockSkew(ClockOffset),
    /// This server no longer takes part; it changes nothing.
    #[error("this server has left consensus")]
    Stopped,
}

/// A command that was applied on this server. There is one for each proposal.
#[derive(Debug, PartialEq)]
pub struct Proposed {
    /// What apply returned.
    pub result: pb::CommandResult,
    /// Where the state stood after it.
    pub position: Position,
    /// Only this module makes such a value.
    minted: Minted,
}

#[derive(Debug, PartialEq)]
struct Minted;

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It was committed and applied on the leader.
    Committed {
        /// Where it stands.
        log_index: u64,
        /// What apply returned there.
        result: Box<pb::CommandResult>,
    },
    /// It stands in no log.
    NotAccepted {
        /// Who may be the leader.
        leader: Option<NodeId>,
    },
    /// It may stand in a log.
    Unknown,
    /// As not accepted: too much waits.
    Overloaded,
    /// As not accepted, for good.
    TooLarge,
    /// As not accepted: consensus has ended here.
    Stopped,
}

/// A command on its way into a batch.
#[derive(Debug)]
pub struct Pending {
    command: pb::Command,
    verdict: oneshot::Sender<Verdict>,
}

/// Proposes commands. A clone shares everything.
#[derive(Clone)]
pub struct Proposer {
    own: NodeId,
    queue: mpsc::Sender<Pending>,
    waiters: Waiters,
    peers: Peers,
    status: StatusWatch,
    progress: watch::Receiver<Progress>,
    clocks: Clocks,
    diverged: watch::Receiver<Option<Divergence>>,
    timeout: Duration,
}

impl Proposer {
    /// A proposer, and the queue for the [`Batcher`].
    #[must_use]
    pub fn new(
        config: &RaftConfig,
        waiters: Waiters,
        peers: Peers,
        status: StatusWatch,
        progress: watch::Receiver<Progress>,
        (clocks, diverged): (Clocks, watch::Receiver<Option<Divergence>>),
    ) -> (Self, mpsc::Receiver<Pending>) {
        let (queue, pending) = mpsc::channel(QUEUE_MAX);
        let proposer = Self {
            own: config.node_id,
            queue,
            waiters,
            peers,
            status,
            progress,
            clocks,
            diverged,
            timeout: config.propose_timeout,
        };
        (proposer, pending)
    }

    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(
        &self,
        body: pb::command::Body,
        actor: pb::Actor,
        idempotency: Option<[u8; 16]>,
    ) -> Result<Proposed, ProposeError> {
        if let Some(skew) = self.clocks.judge().skew() {
            return Err(ProposeError::ClockSkew(skew));
        }
        if self.diverged.borrow().is_some() {
            return Err(ProposeError::Stopped);
        }
        let mut waiting = self.waiters.open();
        let command = pb::Command {
            version: COMMAND_VERSION,
            time_ms: 0,
            actor: Some(actor),
            idempotency_key: idempotency.map(Vec::from).unwrap_or_default(),
            proposer: self.own,
            ticket: waiting.ticket().to_vec(),
            term: 0,
            body: Some(body),
        };
        if command.encoded_len() > COMMAND_LEN_MAX {
            return Err(ProposeError::TooLarge);
        }
        let deadline = self.deadline();
        let mut attempt = Attempt {
            proposer: self,
            command,
            deadline,
            installs: self.progress.borrow().installs,
            may_be_accepted: false,
        };
        match tokio::time::timeout_at(deadline, attempt.drive(&mut waiting)).await {
            Ok(outcome) => outcome,
            Err(_) if attempt.may_be_accepted => Err(ProposeError::Unknown),
            Err(_) => Err(ProposeError::NoLeader),
        }
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.timeout).unwrap_or(now)
    }

    /// Takes a command that another member forwards. The verdict is that of this server
    /// as leader.
    pub async fn take_forwarded(&self, command: pb::Command) -> Verdict {
        if command.encoded_len() > COMMAND_LEN_MAX {
            return Verdict::TooLarge;
        }
        let status = self.status.get();
        if status.leader != Some(self.own) || status.term != command.term {
            let leader = status.leader;
            return Verdict::NotAccepted { leader };
        }
        self.enqueue(command).await
    }

    /// Hands the command to the batcher.
    async fn enqueue(&self, command: pb::Command) -> Verdict {
        if self.diverged.borrow().is_some() {
            return Verdict::Stopped;
        }
        let (verdict, decided) = oneshot::channel();
        match self.queue.try_send(Pending { command, verdict }) {
            Ok(()) => decided.await.unwrap_or(Verdict::Unknown),
            Err(mpsc::error::TrySendError::Full(_)) => Verdict::Overloaded,
            Err(mpsc::error::TrySendError::Closed(_)) => Verdict::Stopped,
        }
    }

    async fn forward(&self, to: &Remote, command: &pb::Command, deadline: Instant) -> Verdict {
        let time = deadline.saturating_duration_since(Instant::now());
        let request = || pb::ProposeRequest {
            command: command.encode_to_vec(),
            deadline_ms: u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        };
        let answer = self
            .peers
            .call(to, time, request, |mut client, request| async move {
                client.propose(request).await
            })
            .await;
        match answer {
            Ok(answer) => Verdict::from_pb(answer),
            Err(error) => {
                tracing::debug!(%error, "a proposal could not be forwarded");
                Verdict::Unknown
            }
        }
    }
}

/// One proposal under way.
struct Attempt<'a> {
    proposer: &'a Proposer,
    command: pb::Command,
    deadline: Instant,
    /// Snapshots installed before it began.
    installs: u64,
    may_be_accepted: bool,
}

impl Attempt<'_> {
    /// Tries until there is an answer; the caller bounds the time.
    async fn drive(&mut self, waiting: &mut Waiting) -> Result<Proposed, ProposeError> {
        loop {
            let next = tokio::select! {
                biased;
                applied = waiting.applied() => return Ok(applied.into()),
                next = self.attempt() => next,
            };
            match next {
                Next::Committed { log_index, result } => {
                    return Ok(self.applied_through(waiting, log_index, result).await);
                }
                Next::Final(error) => return Err(error),
                Next::Again => {}
            }
        }
    }

    /// Proposes once, and finds out whether it may be proposed again.
    async fn attempt(&mut self) -> Next {
        let proposer = self.proposer;
        let (leader, term) = proposer.status.leader().await;
        self.command.term = term;
        // Until the verdict is there the command may be anywhere.
        let earlier = std::mem::replace(&mut self.may_be_accepted, true);
        let verdict = tokio::select! {
            biased;
            () = self.voided() => None,
            verdict = self.submit(leader) => Some(verdict),
        };
        match verdict {
            Some(Verdict::Committed { log_index, result }) => {
                return Next::Committed { log_index, result };
            }
            Some(Verdict::Unknown) if self.command.idempotency_key.is_empty() => {
                self.voided().await;
                self.may_be_accepted = false;
            }
            Some(Verdict::Unknown) => {}
            None => self.may_be_accepted = false,
            Some(refused) => {
                self.may_be_accepted = earlier;
                if let Some(error) = refused.final_error().filter(|_| !earlier) {
                    return Next::Final(error);
                }
            }
        }
        tokio::select! {
            () = proposer.status.leadership_changed() => {}
            () = tokio::time::sleep(RETRY_PAUSE) => {}
        }
        Next::Again
    }

    /// Waits until the command, as it was last proposed, can no longer happen.
    async fn voided(&self) {
        let mut progress = self.proposer.progress.clone();
        let later = progress.wait_for(|now| {
            let term = now.applied.map_or(0, |applied| applied.leader_id.term);
            // What a snapshot brought along may have been ours.
            now.installs == self.installs && term > self.command.term
        });
        if later.await.is_err() {
            std::future::pending().await
        }
    }

    async fn submit(&self, leader: Remote) -> Verdict {
        let proposer = self.proposer;
        if leader.node == proposer.own {
            proposer.enqueue(self.command.clone()).await
        } else {
            proposer
                .forward(&leader, &self.command, self.deadline)
                .await
        }
    }

    /// Waits for local application. A snapshot that covers the entry brings the state
    /// but no answer; then the leader's stands in.
    async fn applied_through(
        &self,
        waiting: &mut Waiting,
        log_index: u64,
        result: Box<pb::CommandResult>,
    ) -> Proposed {
        let mut progress = self.proposer.progress.clone();
        tokio::select! {
            biased;
            applied = waiting.applied() => return applied.into(),
            // The sender is the state machine, which lives as long as this server.
            _ = progress.wait_for(|now| now.has(log_index)) => {}
        }
        let position = self.proposer.status.position();
        let applied = waiting.try_applied();
        let leaders = || LocallyApplied {
            result: *result,
            position,
        };
        applied.unwrap_or_else(leaders).into()
    }
}

/// What follows an attempt.
enum Next {
    Committed {
        log_index: u64,
        result: Box<pb::CommandResult>,
    },
    Final(ProposeError),
    Again,
}

impl From<LocallyApplied> for Proposed {
    fn from(applied: LocallyApplied) -> Self {
        Self {
            result: applied.result,
            position: applied.position,
            minted: Minted,
        }
    }
}

impl Verdict {
    /// The error, if another attempt is of no use.
    fn final_error(&self) -> Option<ProposeError> {
        match self {
            Self::Overloaded => Some(ProposeError::Overloaded),
            Self::TooLarge => Some(ProposeError::TooLarge),
            Self::Stopped => Some(ProposeError::Stopped),
            Self::Committed { .. } | Self::NotAccepted { .. } | Self::Unknown => None,
        }
    }

    /// For the wire.
    #[must_use]
    pub fn into_pb(self) -> pb::ProposeResponse {
        use pb::propose_response::Outcome;
        let mut answer = pb::ProposeResponse::default();
        let outcome = match self {
            Self::Committed { log_index, result } => {
                answer.log_index = log_index;
                answer.result = result.encode_to_vec();
                Outcome::Applied
            }
            Self::NotAccepted { leader } => {
                answer.leader_id = leader.unwrap_or(0);
                Outcome::NotAccepted
            }
            Self::Stopped => Outcome::NotAccepted,
            Self::Unknown => Outcome::Unknown,
            Self::Overloaded => Outcome::Overloaded,
            Self::TooLarge => Outcome::TooLarge,
        };
        answer.set_outcome(outcome);
        answer
    }

    fn from_pb(answer: pb::ProposeResponse) -> Self {
        use pb::propose_response::Outcome;
        match answer.outcome() {
            Outcome::Applied => match pb::CommandResult::decode(answer.result.as_slice()) {
                Ok(result) => Self::Committed {
                    log_index: answer.log_index,
                    result: Box::new(result),
                },
                Err(_) => Self::Unknown,
            },
            Outcome::NotAccepted => Self::NotAccepted {
                leader: Some(answer.leader_id).filter(|leader| *leader != 0),
            },
            Outcome::Overloaded => Self::Overloaded,
            Outcome::TooLarge => Self::TooLarge,
            Outcome::Unknown | Outcome::Unspecified => Self::Unknown,
        }
    }
}
