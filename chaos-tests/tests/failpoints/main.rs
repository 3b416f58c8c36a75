//! The real daemons, killed at every registered failpoint, and what must be true afterwards.
//!
//! `group` says of every step in which test a process dies at it; it does not compile when a step is
//! missing. A step that a process does not come to, or does not die at, fails its test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests"
)]

mod agent;
mod joining;
mod making;
mod registry;
mod replicating;
mod rotating;
mod serving;

use mintmark_runtime::failpoint::Step;

/// Which test kills a process at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// One server, at work.
    Serving,
    /// One server, coming back.
    Reopening,
    /// One server whose authorities turn.
    Rotating,
    /// Three servers.
    Replicating,
    /// A server that makes a cluster.
    Making,
    /// A server that joins, and the one that lets it in.
    Joining,
    /// An agent that attests.
    Attesting,
    /// An agent at work.
    Agent,
    /// An agent that is banned.
    Denied,
}

/// Which test kills a process at this step.
#[expect(clippy::too_many_lines, reason = "a table with a line for each step")]
const fn group(step: Step) -> Group {
    match step {
        Step::IssuancePermitted
        | Step::IssuanceProven
        | Step::IssuancePrepared
        | Step::IssuanceBatched
        | Step::IssuanceCommitted
        | Step::IssuanceSigned
        | Step::ProposalGathered
        | Step::LogAppending
        | Step::LogSynced
        | Step::EntryApplied
        | Step::EntryUnanswered
        | Step::CommandUnanswered
        | Step::AttestationCommitted
        | Step::SnapshotEncoded
        | Step::SnapshotLeavesFlushed
        | Step::StateCheckpointWriting
        | Step::SnapshotSaved
        | Step::PurgeRequested
        | Step::PurgeWriting
        | Step::PurgeSynced
        | Step::LogCheckpointDue
        | Step::LogCheckpointSigned
        | Step::LogCheckpointCommitted
        | Step::SinkAppended
        | Step::SinkMoved
        | Step::HashesWriting
        | Step::HashesRecorded => Group::Serving,
        Step::StoresOpened | Step::StateRestored | Step::LogReplayed => Group::Reopening,
        Step::AuthorityKeyMade
        | Step::AuthorityKeySealed
        | Step::AuthorityPrepared
        | Step::AuthorityProofMade
        | Step::AuthorityProven
        | Step::AuthorityPublishing
        | Step::AuthorityPublished
        | Step::AuthorityActivating
        | Step::AuthorityActivated
        | Step::AuthorityRetiring
        | Step::AuthorityRetired => Group::Rotating,
        Step::VoteSynced
        | Step::ForwardUnanswered
        | Step::FollowerUnanswered
        | Step::SnapshotSending
        | Step::SnapshotReceiving
        | Step::SnapshotReceived
        | Step::InstallDecoded
        | Step::InstallSaved
        | Step::InstallSwitched
        | Step::LeavesFetched
        | Step::LeavesVerified => Group::Replicating,
        Step::PlaceMade
        | Step::VaultKeyMade
        | Step::PeerKeyMade
        | Step::FounderRemembered
        | Step::LogMade
        | Step::OwnerNoted
        | Step::ClusterBootstrapped
        | Step::FoundationLaid
        | Step::FoundationCommitted
        | Step::FoundationRemembered => Group::Making,
        Step::AdmissionWrapped
        | Step::AdmissionCommitted
        | Step::AdmissionRecorded
        | Step::JoinAnswered
        | Step::JoinRemembered
        | Step::LearnerAdded
        | Step::LearnerPromoted => Group::Joining,
        Step::TrustReplaced | Step::TrustKept => Group::Attesting,
        Step::AgentKeyMade
        | Step::AgentSvidReceived
        | Step::AgentRecordWritten
        | Step::AgentKeyPromoted
        | Step::AgentSvidKept
        | Step::SvidReceived
        | Step::SvidPublished
        | Step::CacheSealed
        | Step::CacheAppended
        | Step::CacheRewriting
        | Step::CacheRewritten
        | Step::CacheKept => Group::Agent,
        Step::DenialHeard | Step::DenialUncached | Step::DenialNoted | Step::DenialKept => {
            Group::Denied
        }
    }
}

/// The steps of a group, in the order of the registry.
fn steps_of(wanted: Group) -> Vec<Step> {
    let steps = Step::ALL.iter().copied();
    steps.filter(|step| group(*step) == wanted).collect()
}
