//! How far a reader's state has to be.
//!
//! Responsible for: the index that the leader gives to whoever wants a linearizable answer. Always
//! holds: every entry that was acknowledged before the question is at or below it. Not here: waiting
//! for it, and asking the leader from afar.
//!
//! The library takes the last entry that it *knows* to be committed, and the first one of its own term,
//! whichever is later (Raft dissertation, §6.4). But a leader that restarts before anybody has led
//! after it goes on leading the same term, and knows less than it did: what is committed is written
//! lazily. An entry that it acknowledged just before it ended stands in its log behind that mark. So
//! such a leader gives at least the end of the log with which it came back.

use openraft::BasicNode;
use openraft::error::CheckIsLeaderError;

use super::log_store::LogStore;
use super::type_config::{NodeId, Raft, RaftError, Vote};

/// Gives read indices while this member leads. A clone shares everything.
#[derive(Clone)]
pub struct ReadIndex {
    raft: Raft,
    resumed: Option<Resumed>,
}

/// A leadership that an earlier run of this member won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    term: u64,
    /// Last entry of the log when it was opened.
    last_index: u64,
}

impl Resumed {
    /// What an opened log, to which nothing was added yet, says of it.
    #[must_use]
    pub fn of(log: &LogStore, own: NodeId) -> Option<Self> {
        let led = |vote: &Vote| vote.is_committed() && vote.leader_id().voted_for() == Some(own);
        let vote = log.vote().filter(led)?;
        Some(Self {
            term: vote.leader_id().get_term(),
            last_index: log.last_log_id()?.index,
        })
    }
}

impl ReadIndex {
    /// For a member that came back with this leadership.
    #[must_use]
    pub fn new(raft: Raft, resumed: Option<Resumed>) -> Self {
        Self { raft, resumed }
    }

    /// The index, once a quorum has confirmed that this member leads.
    ///
    /// # Errors
    /// When it does not lead, or no quorum answers.
    pub async fn confirm(&self) -> Result<u64, RaftError<CheckIsLeaderError<NodeId, BasicNode>>> {
        // What the library tells of its term may lag behind, never run ahead.
        let term = self.raft.metrics().borrow().current_term;
        let (read, _applied) = self.raft.get_read_log_id().await?;
        let known = read.map_or(0, |id| id.index);
        let resumed = self.resumed.filter(|resumed| term <= resumed.term);
        Ok(resumed.map_or(known, |resumed| known.max(resumed.last_index)))
    }
}
