//! What consensus needs of the state it replicates.
//!
//! Responsible for: the seam between the log and the state machine. Always holds: apply
//! is a function of the state, the index and the command alone. Not here: the state of
//! a trust domain (`crate::state`), which is the one real implementation; the tests of
//! this module bring a small one.

use std::error::Error;

use mintmark_proto::mintmark::raft::v1 as pb;

use crate::state::{Position, State};

/// What a command did.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// For whoever proposed it.
    pub result: pb::CommandResult,
    /// Audit leaves that it appended, in order.
    pub leaves: Vec<Vec<u8>>,
    /// Index of the first of them.
    pub first_leaf_index: u64,
}

/// A replicated state machine.
pub trait ReplicatedState: Sized + Send + Sync + 'static {
    /// The state before the first command.
    fn initial() -> Self;

    /// False for a command that only a newer server knows how to apply.
    fn understands(command: &pb::Command) -> bool;

    /// Applies the command with this number. Numbers rise by one and are never used
    /// twice; they are the same on every member.
    fn apply(&mut self, index: u64, command: &pb::Command) -> Applied;

    /// The whole state, so that equal states have equal bytes.
    fn encode(&self) -> Vec<u8>;

    /// The state that [`ReplicatedState::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are no state.
    fn decode(bytes: &[u8]) -> Result<Self, Box<dyn Error + Send + Sync>>;

    /// Where it stands.
    fn position(&self) -> Position;

    /// Number of audit leaves.
    fn audit_size(&self) -> u64;

    /// Root of the audit tree (RFC 6962).
    fn audit_root(&self) -> [u8; 32];
}

impl ReplicatedState for State {
    fn initial() -> Self {
        Self::new()
    }

    fn understands(command: &pb::Command) -> bool {
        crate::state::understands(command)
    }

    fn apply(&mut self, index: u64, command: &pb::Command) -> Applied {
        let applied = Self::apply(self, index, command);
        Applied {
            result: applied.result,
            leaves: applied.leaves,
            first_leaf_index: applied.first_leaf_index,
        }
    }

    fn encode(&self) -> Vec<u8> {
        Self::encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self::decode(bytes)?)
    }

    fn position(&self) -> Position {
        self.applied_position()
    }

    fn audit_size(&self) -> u64 {
        Self::audit_size(self)
    }

    fn audit_root(&self) -> [u8; 32] {
        Self::audit_root(self)
    }
}
