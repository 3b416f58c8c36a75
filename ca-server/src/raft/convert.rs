//! Between openraft's types and `mintmark.raft.v1`.
//!
//! Responsible for: the only conversions of consensus data to and from disk and wire.
//! Always holds: what comes in is checked (a membership has a voter and every voter an
//! address), so nothing from outside can make the library panic; what goes out can be
//! read back. Not here: who may say it (`session`).

use std::collections::{BTreeMap, BTreeSet};

use mintmark_proto::mintmark::raft::v1 as pb;
use openraft::{BasicNode, EntryPayload};
use thiserror::Error;

use super::batch::Batch;
use super::type_config::{Entry, LogId, Membership, NodeId, StoredMembership, TypeConfig, Vote};

/// A message or record that says nothing valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConvertError {
    /// A field that must be present is not.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A membership without voters, with more than two configurations, or with a voter
    /// that has no address.
    #[error("the membership is not valid")]
    Membership,
    /// Entries of one request have to follow each other.
    #[error("log entries are not consecutive")]
    Gap,
    /// An answer whose outcome this server does not know.
    #[error("the outcome is unknown")]
    Outcome,
}

pub fn leader_to_pb(leader: &openraft::LeaderId<NodeId>) -> pb::LeaderId {
    pb::LeaderId {
        term: leader.term,
        node_id: leader.node_id,
    }
}

fn leader_from_pb(leader: pb::LeaderId) -> openraft::LeaderId<NodeId> {
    openraft::LeaderId::new(leader.term, leader.node_id)
}

pub fn log_id_to_pb(log_id: &LogId) -> pb::LogId {
    pb::LogId {
        leader: Some(leader_to_pb(&log_id.leader_id)),
        index: log_id.index,
    }
}

pub fn log_id_from_pb(log_id: pb::LogId) -> Result<LogId, ConvertError> {
    let leader = log_id.leader.ok_or(ConvertError::Missing("leader"))?;
    Ok(LogId {
        leader_id: leader_from_pb(leader),
        index: log_id.index,
    })
}

pub fn optional_log_id(log_id: Option<pb::LogId>) -> Result<Option<LogId>, ConvertError> {
    log_id.map(log_id_from_pb).transpose()
}

pub fn vote_to_pb(vote: &Vote) -> pb::Vote {
    pb::Vote {
        leader: Some(leader_to_pb(&vote.leader_id)),
        committed: vote.committed,
    }
}

pub fn vote_from_pb(vote: Option<pb::Vote>) -> Result<Vote, ConvertError> {
    let vote = vote.ok_or(ConvertError::Missing("vote"))?;
    let leader = vote.leader.ok_or(ConvertError::Missing("leader"))?;
    Ok(Vote {
        leader_id: leader_from_pb(leader),
        committed: vote.committed,
    })
}

pub fn membership_to_pb(membership: &Membership) -> pb::Membership {
    pb::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|voters| pb::membership::Config {
                voters: voters.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(node_id, node)| pb::membership::Node {
                node_id: *node_id,
                address: node.addr.clone(),
            })
            .collect(),
    }
}

pub fn membership_from_pb(membership: pb::Membership) -> Result<Membership, ConvertError> {
    let nodes: BTreeMap<NodeId, BasicNode> = membership
        .nodes
        .into_iter()
        .map(|node| (node.node_id, BasicNode { addr: node.address }))
        .collect();
    let configs: Vec<BTreeSet<NodeId>> = membership
        .configs
        .into_iter()
        .map(|config| config.voters.into_iter().collect())
        .collect();
    let voters_are_known = configs.iter().flatten().all(|id| nodes.contains_key(id));
    if configs.len() > 2 || configs.iter().any(BTreeSet::is_empty) || !voters_are_known {
        return Err(ConvertError::Membership);
    }
    Ok(Membership::new(configs, nodes))
}

pub fn stored_membership_to_pb(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(stored.membership())),
    }
}

pub fn stored_membership_from_pb(
    stored: Option<pb::StoredMembership>,
) -> Result<StoredMembership, ConvertError> {
    let stored = stored.ok_or(ConvertError::Missing("last_membership"))?;
    let membership = stored
        .membership
        .ok_or(ConvertError::Missing("membership"))?;
    Ok(StoredMembership::new(
        optional_log_id(stored.log_id)?,
        membership_from_pb(membership)?,
    ))
}

pub fn entry_to_pb(entry: &Entry) -> pb::LogEntry {
    use pb::log_entry::Payload;
    pb::LogEntry {
        log_id: Some(log_id_to_pb(&entry.log_id)),
        payload: match &entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(batch) => Some(Payload::Batch(batch.encoded().to_vec())),
            EntryPayload::Membership(membership) => {
                Some(Payload::Membership(membership_to_pb(membership)))
            }
        },
    }
}

pub fn entry_from_pb(entry: pb::LogEntry) -> Result<Entry, ConvertError> {
    use pb::log_entry::Payload;
    let log_id = log_id_from_pb(entry.log_id.ok_or(ConvertError::Missing("log_id"))?)?;
    let payload: EntryPayload<TypeConfig> = match entry.payload {
        None => EntryPayload::Blank,
        Some(Payload::Batch(encoded)) => EntryPayload::Normal(Batch::from_encoded(encoded)),
        Some(Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_from_pb(membership)?)
        }
    };
    Ok(Entry { log_id, payload })
}

pub fn append_request_to_pb(
    request: &openraft::raft::AppendEntriesRequest<TypeConfig>,
    quorum_age_ms: u64,
    echo_ms: u64,
) -> pb::AppendEntriesRequest {
    pb::AppendEntriesRequest {
        vote: Some(vote_to_pb(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_pb),
        entries: request.entries.iter().map(entry_to_pb).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_pb),
        quorum_age_ms,
        echo_ms,
    }
}

pub fn append_request_from_pb(
    request: pb::AppendEntriesRequest,
) -> Result<openraft::raft::AppendEntriesRequest<TypeConfig>, ConvertError> {
    let prev_log_id = optional_log_id(request.prev_log_id)?;
    let entries: Vec<Entry> = request
        .entries
        .into_iter()
        .map(entry_from_pb)
        .collect::<Result<_, _>>()?;
    let mut next = prev_log_id.map_or(0, |prev| prev.index.saturating_add(1));
    for entry in &entries {
        if entry.log_id.index != next {
            return Err(ConvertError::Gap);
        }
        next = next.saturating_add(1);
    }
    Ok(openraft::raft::AppendEntriesRequest {
        vote: vote_from_pb(request.vote)?,
        prev_log_id,
        entries,
        leader_commit: optional_log_id(request.leader_commit)?,
    })
}

pub fn append_response_to_pb(
    response: &openraft::raft::AppendEntriesResponse<NodeId>,
) -> pb::AppendEntriesResponse {
    use openraft::raft::AppendEntriesResponse as Answer;
    use pb::append_entries_response::Outcome;
    let mut out = pb::AppendEntriesResponse::default();
    let outcome = match response {
        Answer::Success => Outcome::Success,
        Answer::PartialSuccess(matching) => {
            out.matching = matching.as_ref().map(log_id_to_pb);
            Outcome::PartialSuccess
        }
        Answer::Conflict => Outcome::Conflict,
        Answer::HigherVote(vote) => {
            out.vote = Some(vote_to_pb(vote));
            Outcome::HigherVote
        }
    };
    out.set_outcome(outcome);
    out
}

pub fn append_response_from_pb(
    response: pb::AppendEntriesResponse,
) -> Result<openraft::raft::AppendEntriesResponse<NodeId>, ConvertError> {
    use openraft::raft::AppendEntriesResponse as Answer;
    use pb::append_entries_response::Outcome;
    Ok(match response.outcome() {
        Outcome::Success => Answer::Success,
        Outcome::PartialSuccess => Answer::PartialSuccess(optional_log_id(response.matching)?),
        Outcome::Conflict => Answer::Conflict,
        Outcome::HigherVote => Answer::HigherVote(vote_from_pb(response.vote)?),
        Outcome::Unspecified => return Err(ConvertError::Outcome),
    })
}

pub fn vote_request_to_pb(request: &openraft::raft::VoteRequest<NodeId>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(vote_to_pb(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_pb),
    }
}

pub fn vote_request_from_pb(
    request: pb::VoteRequest,
) -> Result<openraft::raft::VoteRequest<NodeId>, ConvertError> {
    Ok(openraft::raft::VoteRequest {
        vote: vote_from_pb(request.vote)?,
        last_log_id: optional_log_id(request.last_log_id)?,
    })
}

pub fn vote_response_to_pb(response: &openraft::raft::VoteResponse<NodeId>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote_to_pb(&response.vote)),
        vote_granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_pb),
    }
}

pub fn vote_response_from_pb(
    response: pb::VoteResponse,
) -> Result<openraft::raft::VoteResponse<NodeId>, ConvertError> {
    Ok(openraft::raft::VoteResponse {
        vote: vote_from_pb(response.vote)?,
        vote_granted: response.vote_granted,
        last_log_id: optional_log_id(response.last_log_id)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(term: u64, node: u64, index: u64) -> LogId {
        LogId {
            leader_id: openraft::LeaderId::new(term, node),
            index,
        }
    }

    #[test]
    fn entries_of_every_kind_survive_the_round_trip() {
        let membership = Membership::new(
            vec![BTreeSet::from([1]), BTreeSet::from([1, 2])],
            BTreeMap::from([
                (1, BasicNode::new("a:1")),
                (2, BasicNode::new("b:2")),
                (3, BasicNode::new("c:3")),
            ]),
        );
        let payloads: [EntryPayload<TypeConfig>; 3] = [
            EntryPayload::Blank,
            EntryPayload::Normal(Batch::from_encoded(vec![1, 2, 3])),
            EntryPayload::Membership(membership),
        ];
        for payload in payloads {
            let entry = Entry {
                log_id: log_id(3, 2, 9),
                payload,
            };
            assert_eq!(entry_from_pb(entry_to_pb(&entry)), Ok(entry));
        }
    }

    #[test]
    fn a_membership_that_could_not_elect_is_refused() {
        let voter = |voters: Vec<u64>| pb::membership::Config { voters };
        let node = |node_id| pb::membership::Node {
            node_id,
            address: "x".into(),
        };
        let refused = [
            (vec![voter(vec![])], vec![node(1)]),
            (vec![voter(vec![1, 2])], vec![node(1)]),
            (
                vec![voter(vec![1]), voter(vec![1]), voter(vec![1])],
                vec![node(1)],
            ),
        ];
        for (configs, nodes) in refused {
            assert_eq!(
                membership_from_pb(pb::Membership { configs, nodes }),
                Err(ConvertError::Membership)
            );
        }
    }

    #[test]
    fn a_request_with_a_hole_is_refused() {
        let entry = |index| Entry {
            log_id: log_id(1, 1, index),
            payload: EntryPayload::Blank,
        };
        let request = |entries| openraft::raft::AppendEntriesRequest::<TypeConfig> {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id(1, 1, 4)),
            entries,
            leader_commit: None,
        };
        let send = |entries| append_request_from_pb(append_request_to_pb(&request(entries), 7, 1));
        assert!(send(vec![entry(5), entry(6)]).is_ok());
        assert_eq!(send(vec![entry(6)]).unwrap_err(), ConvertError::Gap);
        assert_eq!(
            send(vec![entry(5), entry(7)]).unwrap_err(),
            ConvertError::Gap
        );
    }
}
