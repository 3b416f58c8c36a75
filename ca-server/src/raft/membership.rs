//! Changes of the Raft membership.
//!
//! Responsible for: adding, promoting and removing members, one change at a time.
//! Always holds: a learner is promoted only when its log has nearly caught up, and it holds
//! the audit leaves (docs/decisions/0043); the last voter stays; a change that lost its leader
//! half way is finished by the next one before anything else. Not here: who is admitted
//! (`crate::state`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mintmark_proto::mintmark::raft::v1 as pb;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use thiserror::Error;

use super::clocks::Clocks;
use super::peers::{Peers, Remote};
use super::status::{RaftStatus, Role, StatusWatch};
use super::type_config::{NodeId, Raft};
use crate::store::leaves::LeafStore;

/// Entries that a learner may lack when it is promoted: it holds up commits until it
/// has them.
const PROMOTION_LAG_MAX: u64 = 256;
/// Time for a learner to say whether it holds the audit leaves.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Time for a change; replication to a quorum, twice.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A change of the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Lets a member get the log. Adding it again does nothing.
    AddLearner {
        /// The member.
        node: NodeId,
        /// Where it is reached.
        address: String,
    },
    /// Lets a learner vote. Promoting a voter does nothing.
    Promote {
        /// The member.
        node: NodeId,
    },
    /// Takes a member out. Removing a stranger does nothing.
    Remove {
        /// The member.
        node: NodeId,
    },
}

/// Why the membership did not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MembershipError {
    /// There is no leader, or it changed meanwhile.
    #[error("the cluster has no leader")]
    NoLeader,
    /// One change at a time, and the one before takes long.
    #[error("another change of the membership is under way")]
    InProgress,
    /// Only learners can be promoted.
    #[error("the member is not known")]
    UnknownNode,
    /// Its log has to catch up first.
    #[error("the log of the member is too far behind")]
    Behind,
    /// It has to fetch audit leaves first, or did not say that it has them.
    #[error("the member does not hold all audit leaves yet")]
    Leaves,
    /// Its clock, or the leader's, is too far from the voters'.
    #[error("the member's clock is too far from the voters' clocks, or not known yet")]
    Clock,
    /// A cluster without voters cannot go on.
    #[error("the last voter cannot be removed")]
    LastVoter,
    /// It may have happened.
    #[error("the outcome of the change is unknown")]
    Unknown,
}

/// Changes the membership. A clone shares the turn.
#[derive(Clone)]
pub struct MembershipChanges {
    own: NodeId,
    raft: Raft,
    peers: Peers,
    status: StatusWatch,
    clocks: Clocks,
    leaves: LeafStore,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl MembershipChanges {
    /// Nothing is under way.
    #[must_use]
    pub fn new(
        own: NodeId,
        raft: Raft,
        peers: Peers,
        status: StatusWatch,
        clocks: Clocks,
        leaves: LeafStore,
    ) -> Self {
        Self {
            own,
            raft,
            peers,
            status,
            clocks,
            leaves,
            turn: Arc::default(),
        }
    }

    /// Makes the change, here or on the leader.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn change(&self, change: Change) -> Result<(), MembershipError> {
        let leader = tokio::time::timeout(CHANGE_TIMEOUT, self.status.leader()).await;
        let (leader, _term) = leader.map_err(|_| MembershipError::NoLeader)?;
        if leader.node == self.own {
            self.change_as_leader(change).await
        } else {
            self.forward(&leader, &change).await
        }
    }

    /// Makes the change if this member leads.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn change_as_leader(&self, change: Change) -> Result<(), MembershipError> {
        let turn = tokio::time::timeout(CHANGE_TIMEOUT, self.turn.lock()).await;
        let _turn = turn.map_err(|_| MembershipError::InProgress)?;
        let changing = async {
            self.finish_joint().await?;
            let status = self.status.get();
            if status.role != Role::Leader || self.clocks.judge().skew().is_some() {
                return Err(MembershipError::NoLeader);
            }
            let Some(step) = steps(&change, &status)? else {
                return Ok(());
            };
            if let Change::Promote { node } = change {
                // Its clock would move the median, and could part the voters for good.
                if !self.clocks.may_vote(node) {
                    return Err(MembershipError::Clock);
                }
                // It may be all that is left soon, and a snapshot brought it no leaves. What
                // the leader lacks too may be lost for good: that must not end all growth.
                if self.leaves.is_complete() && !self.holds_leaves(node).await {
                    return Err(MembershipError::Leaves);
                }
            }
            self.write(step).await
        };
        tokio::time::timeout(CHANGE_TIMEOUT, changing)
            .await
            .unwrap_or(Err(MembershipError::Unknown))
    }

    /// Whether a member says that it holds every audit leaf.
    async fn holds_leaves(&self, node: NodeId) -> bool {
        let Some(member) = self.status.get().remote(node) else {
            return false;
        };
        let asked = self.peers.call(
            &member,
            ANSWER_TIMEOUT,
            pb::CompareRequest::default,
            |mut client, request| async move { client.compare(request).await },
        );
        asked.await.is_ok_and(|answer| !answer.lacks_leaves)
    }

    /// Finishes a change that an earlier leader began, whenever this member leads.
    pub async fn watch_over(self) {
        let mut status = self.status.subscribe();
        loop {
            let stuck = status.wait_for(|now| now.joint && now.role == Role::Leader);
            if stuck.await.is_err() {
                return;
            }
            // Our own changes hold the turn until they are through.
            let _turn = self.turn.lock().await;
            if let Err(error) = self.finish_joint().await {
                tracing::debug!(%error, "a membership change waits to be finished");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    async fn finish_joint(&self) -> Result<(), MembershipError> {
        let status = self.status.get();
        if status.role == Role::Leader && status.joint {
            self.write(ChangeMembers::AddVoterIds(BTreeSet::new()))
                .await?;
        }
        Ok(())
    }

    async fn write(&self, change: ChangeMembers<NodeId, BasicNode>) -> Result<(), MembershipError> {
        // A voter that is removed leaves altogether, it does not stay as a learner.
        let written = self.raft.change_membership(change, false).await;
        match written {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                Err(match error {
                    ChangeMembershipError::InProgress(_) => MembershipError::InProgress,
                    ChangeMembershipError::EmptyMembership(_) => MembershipError::LastVoter,
                    ChangeMembershipError::LearnerNotFound(_) => MembershipError::UnknownNode,
                })
            }
            // Also after the entry was written, so nothing is certain.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(MembershipError::Unknown)
            }
            Err(RaftError::Fatal(_)) => Err(MembershipError::Unknown),
        }
    }

    async fn forward(&self, to: &Remote, change: &Change) -> Result<(), MembershipError> {
        let answer = self
            .peers
            .call(
                to,
                CHANGE_TIMEOUT,
                || change.to_pb(),
                |mut client, request| async move { client.change_membership(request).await },
            )
            .await;
        match answer {
            Ok(answer) => outcome_from_pb(&answer),
            Err(error) => {
                tracing::debug!(%error, "a membership change could not be forwarded");
                Err(MembershipError::Unknown)
            }
        }
    }
}

/// What the library has to do, if anything.
fn steps(
    change: &Change,
    status: &RaftStatus,
) -> Result<Option<ChangeMembers<NodeId, BasicNode>>, MembershipError> {
    match change {
        Change::AddLearner { node, address } => {
            let nodes = BTreeMap::from([(*node, BasicNode::new(address))]);
            Ok(match status.members.get(node) {
                None => Some(ChangeMembers::AddNodes(nodes)),
                Some(known) if known == address => None,
                Some(_) => Some(ChangeMembers::SetNodes(nodes)),
            })
        }
        Change::Promote { node } if status.voters.contains(node) => Ok(None),
        Change::Promote { node } => {
            if !status.members.contains_key(node) {
                return Err(MembershipError::UnknownNode);
            }
            let has = status.replicated.get(node).copied().flatten();
            let wanted = status.last_log_index.unwrap_or(0);
            if wanted.saturating_sub(has.unwrap_or(0)) > PROMOTION_LAG_MAX || has.is_none() {
                return Err(MembershipError::Behind);
            }
            Ok(Some(ChangeMembers::AddVoterIds(BTreeSet::from([*node]))))
        }
        Change::Remove { node } if status.voters.contains(node) => {
            if status.voters.len() == 1 {
                return Err(MembershipError::LastVoter);
            }
            Ok(Some(ChangeMembers::RemoveVoters(BTreeSet::from([*node]))))
        }
        Change::Remove { node } => {
            let is_member = status.members.contains_key(node);
            Ok(is_member.then(|| ChangeMembers::RemoveNodes(BTreeSet::from([*node]))))
        }
    }
}

impl Change {
    fn to_pb(&self) -> pb::ChangeMembershipRequest {
        use pb::change_membership_request as request;
        let change = match self.clone() {
            Self::AddLearner { node, address } => {
                request::Change::AddLearner(request::AddLearner {
                    node_id: node,
                    address,
                })
            }
            Self::Promote { node } => request::Change::Promote(request::Promote { node_id: node }),
            Self::Remove { node } => request::Change::Remove(request::Remove { node_id: node }),
        };
        pb::ChangeMembershipRequest {
            change: Some(change),
        }
    }

    /// From a message; `None` if it says nothing.
    #[must_use]
    pub fn from_pb(request: pb::ChangeMembershipRequest) -> Option<Self> {
        use pb::change_membership_request::Change as Asked;
        Some(match request.change? {
            Asked::AddLearner(add) => Self::AddLearner {
                node: add.node_id,
                address: add.address,
            },
            Asked::Promote(promote) => Self::Promote {
                node: promote.node_id,
            },
            Asked::Remove(remove) => Self::Remove {
                node: remove.node_id,
            },
        })
    }
}

/// For the wire.
#[must_use]
pub fn outcome_to_pb(outcome: Result<(), MembershipError>) -> pb::ChangeMembershipResponse {
    use pb::change_membership_response::Outcome;
    let mut answer = pb::ChangeMembershipResponse::default();
    answer.set_outcome(match outcome {
        Ok(()) => Outcome::Changed,
        Err(MembershipError::NoLeader) => Outcome::NotLeader,
        Err(MembershipError::InProgress) => Outcome::InProgress,
        Err(MembershipError::UnknownNode) => Outcome::UnknownNode,
        Err(MembershipError::Behind) => Outcome::Behind,
        Err(MembershipError::Clock) => Outcome::Clock,
        Err(MembershipError::Leaves) => Outcome::Leaves,
        Err(MembershipError::LastVoter) => Outcome::LastVoter,
        Err(MembershipError::Unknown) => Outcome::Unknown,
    });
    answer
}

fn outcome_from_pb(answer: &pb::ChangeMembershipResponse) -> Result<(), MembershipError> {
    use pb::change_membership_response::Outcome;
    match answer.outcome() {
        Outcome::Changed => Ok(()),
        Outcome::NotLeader => Err(MembershipError::NoLeader),
        Outcome::InProgress => Err(MembershipError::InProgress),
        Outcome::UnknownNode => Err(MembershipError::UnknownNode),
        Outcome::Behind => Err(MembershipError::Behind),
        Outcome::Clock => Err(MembershipError::Clock),
        Outcome::Leaves => Err(MembershipError::Leaves),
        Outcome::LastVoter => Err(MembershipError::LastVoter),
        Outcome::Unknown | Outcome::Unspecified => Err(MembershipError::Unknown),
    }
}
