//! Where consensus stands, for everybody else.
//!
//! Responsible for: one watch of role, leader, term and membership. Always holds: a
//! value is whole; the library's own metrics are copied and let go at once, since
//! holding them blocks it. Not here: the state's position.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mintmark_identity::clock::Clock;
use openraft::ServerState;
use tokio::sync::watch;

use super::clocks::Clocks;
use super::config::RaftConfig;
use super::marks::Marks;
use super::peers::Remote;
use super::quorum::QuorumClock;
use super::type_config::{NodeId, RaftMetrics};
use crate::state::Position;

/// What this member is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Gets the log and does not vote.
    #[default]
    Learner,
    /// Gets the log and votes.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Writes the log. Jobs of the leader also look at the quorum's age.
    Leader,
    /// Stopped, for good until the process restarts.
    Stopped,
}

/// Where consensus stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RaftStatus {
    /// What this member is.
    pub role: Role,
    /// Who leads, as far as this member knows.
    pub leader: Option<NodeId>,
    /// Term.
    pub term: u64,
    /// Last entry of the log here.
    pub last_log_index: Option<u64>,
    /// Last entry that was applied here.
    pub applied_log_index: Option<u64>,
    /// Last entry that a snapshot holds.
    pub snapshot_log_index: Option<u64>,
    /// Who votes; while the membership changes, by the old one or the new.
    pub voters: BTreeSet<NodeId>,
    /// Members and their addresses, learners included.
    pub members: BTreeMap<NodeId, String>,
    /// True while the membership changes.
    pub joint: bool,
    /// On the leader: through which entry each member has the log.
    pub replicated: BTreeMap<NodeId, Option<u64>>,
}

impl RaftStatus {
    /// A member and its address.
    #[must_use]
    pub fn remote(&self, node: NodeId) -> Option<Remote> {
        let address = self.members.get(&node)?.clone();
        Some(Remote { node, address })
    }

    fn of(metrics: &RaftMetrics) -> Self {
        let membership = metrics.membership_config.membership();
        let members = membership.nodes();
        Self {
            role: match (&metrics.running_state, metrics.state) {
                (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
                (_, ServerState::Learner) => Role::Learner,
                (_, ServerState::Follower) => Role::Follower,
                (_, ServerState::Candidate) => Role::Candidate,
                (_, ServerState::Leader) => Role::Leader,
            },
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_log_index: metrics.last_log_index,
            applied_log_index: metrics.last_applied.map(|id| id.index),
            snapshot_log_index: metrics.snapshot.map(|id| id.index),
            voters: membership.voter_ids().collect(),
            members: members.map(|(id, node)| (*id, node.addr.clone())).collect(),
            joint: membership.get_joint_config().len() > 1,
            replicated: metrics
                .replication
                .iter()
                .flatten()
                .map(|(id, through)| (*id, through.map(|id| id.index)))
                .collect(),
        }
    }
}

/// What the members have of each other, and for which it matters who leads and votes. A clone shares it.
#[derive(Clone)]
pub struct Agreement {
    /// The quorum's age.
    pub quorum: QuorumClock,
    /// The voters' clocks.
    pub clocks: Clocks,
    /// The voters' states.
    pub marks: Marks,
}

impl Agreement {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(config: &RaftConfig, wall: &Arc<dyn Clock>) -> Self {
        Self {
            quorum: QuorumClock::new(config.node_id),
            clocks: Clocks::new(config.node_id, Arc::clone(wall)),
            marks: Marks::new(config.node_id, config.snapshot_every),
        }
    }

    fn tell(&self, now: &RaftMetrics) {
        let membership = now.membership_config.membership();
        self.quorum.set(
            now.vote,
            now.state == ServerState::Leader,
            membership.get_joint_config(),
        );
        self.marks.set_voters(membership.voter_ids().collect());
        self.clocks.set_voters(membership.voter_ids().collect());
    }
}

/// The status and its changes. A clone shares them.
#[derive(Debug, Clone)]
pub struct StatusWatch {
    status: watch::Receiver<RaftStatus>,
    position: watch::Receiver<Position>,
}

impl StatusWatch {
    /// The watch, and the task that keeps it (it ends when the library does).
    pub fn follow(
        mut metrics: watch::Receiver<RaftMetrics>,
        position: watch::Receiver<Position>,
        agreement: Agreement,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let sender = watch::Sender::new(RaftStatus::default());
        let status = sender.subscribe();
        let keep = async move {
            loop {
                let now = metrics.borrow_and_update().clone();
                agreement.tell(&now);
                let next = RaftStatus::of(&now);
                sender.send_if_modified(|status| {
                    let changed = *status != next;
                    *status = next;
                    changed
                });
                if metrics.changed().await.is_err() {
                    sender.send_modify(|status| status.role = Role::Stopped);
                    return;
                }
            }
        };
        (Self { status, position }, keep)
    }

    /// The status now.
    #[must_use]
    pub fn get(&self) -> RaftStatus {
        self.status.borrow().clone()
    }

    /// Changes of the status.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<RaftStatus> {
        self.status.clone()
    }

    /// Where the state stands.
    #[must_use]
    pub fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// Waits until there is a leader whose address is known; also returns its term.
    pub async fn leader(&self) -> (Remote, u64) {
        let mut status = self.status.clone();
        loop {
            let known = {
                let now = status.borrow_and_update();
                let leader = now.leader.and_then(|leader| now.remote(leader));
                leader.map(|leader| (leader, now.term))
            };
            if let Some(leader) = known {
                return leader;
            }
            if status.changed().await.is_err() {
                // Consensus has ended; callers bound their wait.
                return std::future::pending().await;
            }
        }
    }

    /// Waits until another member leads, or none.
    pub async fn leadership_changed(&self) {
        let mut status = self.status.clone();
        let before = {
            let now = status.borrow_and_update();
            (now.leader, now.term)
        };
        let changed = status.wait_for(|now| (now.leader, now.term) != before);
        if changed.await.is_err() {
            std::future::pending().await
        }
    }
}
