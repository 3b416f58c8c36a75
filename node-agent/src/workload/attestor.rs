//! The seam of workload attestation.
//!
//! Responsible for: what an attestor is asked and what it may answer. Always holds: what could
//! not be found out is named with its reason and never guessed. Not here: tying the answer to
//! the process that connected (`workload`).

use async_trait::async_trait;
use mintmark_identity::selector::Selectors;

/// A selector that could not be discovered.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Unreadable {
    /// Which kind of selector, such as `unix:path`.
    pub selector: String,
    /// Why not.
    pub reason: String,
}

/// What was found out about a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attested {
    /// Its selectors.
    pub selectors: Selectors,
    /// What could not be found out.
    pub unreadable: Vec<Unreadable>,
}

/// Why a process could not be attested at all.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AttestError {
    /// It exited.
    #[error("the calling process is gone")]
    Gone,
    /// It is in a pid namespace that this agent cannot see.
    #[error("the calling process is not visible to the agent")]
    Invisible,
    /// What every process has could not be read.
    #[error("nothing can be read about process {pid}: {reason}")]
    Unreadable {
        /// Its pid.
        pid: u32,
        /// What the system said.
        reason: String,
    },
}

/// Finds selectors of one kind.
#[async_trait]
pub trait WorkloadAttestor: Send + Sync + std::fmt::Debug {
    /// The selectors of the process that has this pid. The caller makes sure that it is the
    /// same process before and after.
    async fn attest(&self, pid: u32) -> Result<Attested, AttestError>;

    /// The selectors that any process of this user has.
    async fn describe_user(&self, uid: u32) -> Attested;
}
