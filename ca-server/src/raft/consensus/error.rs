//! How taking part can fail.
//!
//! Responsible for: the errors of [`super::Consensus`] that no other part owns. Always
//! holds: one variant per decision of a caller. Not here: errors of opening
//! (`super::super::open`), proposing and membership.

use std::sync::Arc;

use thiserror::Error;

use crate::raft::machine::MachineError;
use crate::raft::marks::Divergence;
use crate::store::StoreError;

/// Why this member takes part no longer. The process should end.
#[derive(Debug, Clone, Error)]
pub enum RaftFault {
    /// A store failed.
    #[error("the log can no longer be written")]
    Store(#[from] StoreError),
    /// Another member knows that this one's disk was replaced.
    #[error(
        "other members know this member with another disk; remove it and admit it under a new id"
    )]
    Wiped,
    /// Another member knows that this one had acknowledged more than it has.
    #[error(
        "this member has lost log entries that it had acknowledged; remove it and admit it \
         under a new id"
    )]
    RolledBack,
    /// Another member applied the same log and has another state. The data are as they were.
    #[error("the replicated state differs between members")]
    Diverged(#[source] Divergence),
    /// The log could not be applied.
    #[error("the state can no longer be changed")]
    Machine(#[source] Arc<MachineError>),
    /// The library stopped for another reason, or was told to.
    #[error("consensus stopped: {0}")]
    Stopped(String),
}

/// Why a cluster was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BootstrapError {
    /// This member belongs to a cluster already.
    #[error("this member belongs to a cluster already")]
    AlreadyMember,
    /// Consensus has ended on this server.
    #[error("consensus has stopped on this server")]
    Stopped,
}

/// Why a linearizable read cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StaleError {
    /// No leader confirmed in time that this state is current.
    #[error("no leader confirmed in time that the state is current")]
    NoQuorum,
}
