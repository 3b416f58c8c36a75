//! The registry of failpoints.
//!
//! Responsible for: the name of each step at which a daemon may be killed. Always holds: a point that
//! is not registered does not compile, and one that stands nowhere in the sources, or that no test
//! kills a process at, fails a test of `chaos-tests`. Not here: what happens there.

/// Declares the steps, so that no list of them can be incomplete.
macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $step:ident = $name:literal,)+) => {
        /// A step at which a daemon may be killed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Step {
            $($(#[doc = $doc])+ $step,)+
        }

        impl Step {
            /// All of them, in the order of the registry.
            pub const ALL: &'static [Self] = &[$(Self::$step),+];

            /// Its name in `FAILPOINTS`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$step => $name,)+
                }
            }

            /// What is true when it is reached.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$step => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

steps! {
    // Issuance, on the server that was asked.
    /// An agent's request was permitted, and nothing of it was looked at.
    IssuancePermitted = "issuance-permitted",
    /// The proofs of possession of an agent's request were verified.
    IssuanceProven = "issuance-proven",
    /// SVIDs are built to the last byte, and no log has heard of them.
    IssuancePrepared = "issuance-prepared",
    /// Intents were made one command, which is not proposed.
    IssuanceBatched = "issuance-batched",
    /// An intent is committed and applied here, and nothing is signed.
    IssuanceCommitted = "issuance-committed",
    /// An SVID is signed and verified, and has not left the server.
    IssuanceSigned = "issuance-signed",
    // The log.
    /// The leader has stamped a batch of commands, and no log has it.
    ProposalGathered = "proposal-gathered",
    /// Entries are written to the log file, and not synced.
    LogAppending = "log-appending",
    /// Entries are durable in the log, and nobody was told.
    LogSynced = "log-synced",
    /// A vote is durable, and nobody was told.
    VoteSynced = "vote-synced",
    /// An entry changed the state; its audit leaves are nowhere yet.
    EntryApplied = "entry-applied",
    /// An entry and its leaves are applied; who waits for them was not told.
    EntryUnanswered = "entry-unanswered",
    /// The leader committed a command for another server, and has not told it.
    ForwardUnanswered = "forward-unanswered",
    /// A follower has the leader's entries on disk, and has not said so.
    FollowerUnanswered = "follower-unanswered",
    /// An operator's or agent's command is applied, and the caller was not told.
    CommandUnanswered = "command-unanswered",
    /// A node is attested, its token consumed, and it has no SVID.
    AttestationCommitted = "attestation-committed",
    // Snapshots and purges.
    /// The state is encoded for a snapshot, and nothing is written.
    SnapshotEncoded = "snapshot-encoded",
    /// The audit leaves below a snapshot are on disk, the snapshot is not.
    SnapshotLeavesFlushed = "snapshot-leaves-flushed",
    /// A checkpoint of the state is written in a transaction that is not committed.
    StateCheckpointWriting = "state-checkpoint-writing",
    /// The new checkpoint took the place of the old one; no log was purged for it.
    SnapshotSaved = "snapshot-saved",
    /// Consensus no longer needs the beginning of the log.
    PurgeRequested = "purge-requested",
    /// The beginning of the log is removed in a transaction that is not committed.
    PurgeWriting = "purge-writing",
    /// The beginning of the log is gone.
    PurgeSynced = "purge-synced",
    /// The first piece of a snapshot is on its way to a member.
    SnapshotSending = "snapshot-sending",
    /// The first piece of a snapshot has come from the leader.
    SnapshotReceiving = "snapshot-receiving",
    /// A whole snapshot has come and was checked.
    SnapshotReceived = "snapshot-received",
    /// A snapshot from the leader is decoded, and not saved.
    InstallDecoded = "install-decoded",
    /// A snapshot from the leader is the checkpoint on disk, the state in memory is the old one.
    InstallSaved = "install-saved",
    /// The state in memory is that of the snapshot; its audit leaves are not known to be missing.
    InstallSwitched = "install-switched",
    /// Audit leaves from another member are on disk, unverified.
    LeavesFetched = "leaves-fetched",
    /// Fetched audit leaves hashed up to the replicated root, and that is on disk.
    LeavesVerified = "leaves-verified",
    // Authorities.
    /// An authority's key was made, and is not sealed.
    AuthorityKeyMade = "authority-key-made",
    /// An authority's key is sealed, and the authority is not proposed.
    AuthorityKeySealed = "authority-key-sealed",
    /// An authority is in the log.
    AuthorityPrepared = "authority-prepared",
    /// This server has proven that it can use an authority, and told nobody.
    AuthorityProofMade = "authority-proof-made",
    /// The proof is in the log.
    AuthorityProven = "authority-proven",
    /// An authority is about to be put into the bundle.
    AuthorityPublishing = "authority-publishing",
    /// An authority is in the bundle.
    AuthorityPublished = "authority-published",
    /// An authority is about to become the one that signs.
    AuthorityActivating = "authority-activating",
    /// An authority signs from now on.
    AuthorityActivated = "authority-activated",
    /// An authority is about to leave the bundle.
    AuthorityRetiring = "authority-retiring",
    /// An authority has left the bundle.
    AuthorityRetired = "authority-retired",
    // The audit log.
    /// The tree grew, and its new root is about to be signed.
    LogCheckpointDue = "log-checkpoint-due",
    /// A root is signed, and not proposed.
    LogCheckpointSigned = "log-checkpoint-signed",
    /// A signed root is in the log.
    LogCheckpointCommitted = "log-checkpoint-committed",
    /// Leaves are in the audit file, and its cursor does not say so.
    SinkAppended = "sink-appended",
    /// The cursor of the audit file was moved.
    SinkMoved = "sink-moved",
    /// Hashes of leaves are recorded in a transaction that is not committed.
    HashesWriting = "hashes-writing",
    /// Hashes of leaves are recorded.
    HashesRecorded = "hashes-recorded",
    // Making a cluster.
    /// The server's directory says whose it is; there are no keys.
    PlaceMade = "place-made",
    /// The vault's key pair is on disk; there is no peer key.
    VaultKeyMade = "vault-key-made",
    /// All of the server's own keys are on disk.
    PeerKeyMade = "peer-key-made",
    /// The server knows that it is making a cluster; there is no log.
    FounderRemembered = "founder-remembered",
    /// There is a log; the note whose it is, is missing.
    LogMade = "log-made",
    /// The log's owner is noted.
    OwnerNoted = "owner-noted",
    /// The founder is the only member of a cluster without keys.
    ClusterBootstrapped = "cluster-bootstrapped",
    /// The cluster's keys are sealed, and not proposed.
    FoundationLaid = "foundation-laid",
    /// The cluster is made; its founder does not remember that.
    FoundationCommitted = "foundation-committed",
    /// The founder remembers the cluster.
    FoundationRemembered = "foundation-remembered",
    // Joining a cluster.
    /// The data key is wrapped to a newcomer, who is not admitted.
    AdmissionWrapped = "admission-wrapped",
    /// A newcomer has a node id and no certificate.
    AdmissionCommitted = "admission-committed",
    /// A newcomer's certificate is recorded, and it was not answered.
    AdmissionRecorded = "admission-recorded",
    /// A newcomer was admitted, and has not written that down.
    JoinAnswered = "join-answered",
    /// A newcomer has written down who it is; it has no log.
    JoinRemembered = "join-remembered",
    /// A newcomer is in the membership, without a vote.
    LearnerAdded = "learner-added",
    /// A newcomer has a vote.
    LearnerPromoted = "learner-promoted",
    // Coming back after a stop: what there is of restoring today.
    /// The stores are open; nothing is restored from them.
    StoresOpened = "stores-opened",
    /// The state is that of the last checkpoint; the log is not replayed.
    StateRestored = "state-restored",
    /// The log is replayed.
    LogReplayed = "log-replayed",
    // The agent's own identity.
    /// The key of the agent's next SVID is on disk; no server has heard of it.
    AgentKeyMade = "agent-key-made",
    /// The agent's SVID has come and was verified; nothing is written.
    AgentSvidReceived = "agent-svid-received",
    /// The agent's certificates are on disk, the present key is the old one.
    AgentRecordWritten = "agent-record-written",
    /// The present key is the new one, which also lies in the place of the next.
    AgentKeyPromoted = "agent-key-promoted",
    /// The agent's new SVID is on disk; TLS shows the old one.
    AgentSvidKept = "agent-svid-kept",
    /// A new bundle counts, and the one on disk is the old one.
    TrustReplaced = "trust-replaced",
    /// The new bundle is on disk.
    TrustKept = "trust-kept",
    // The agent's cache.
    /// A workload's SVID has come, and nobody was given it.
    SvidReceived = "svid-received",
    /// A workload's SVID is served, and is not on disk.
    SvidPublished = "svid-published",
    /// What changed in the cache is sealed, and not on disk.
    CacheSealed = "cache-sealed",
    /// What changed in the cache is on disk, and is not called kept.
    CacheAppended = "cache-appended",
    /// The cache is about to be written anew.
    CacheRewriting = "cache-rewriting",
    /// The cache was written anew, and is not called kept.
    CacheRewritten = "cache-rewritten",
    /// What the cache holds is durable or removed; no server was told.
    CacheKept = "cache-kept",
    // Denials at the agent.
    /// A server said that this agent is denied; everything is still there.
    DenialHeard = "denial-heard",
    /// The denied agent's cache is off the disk; its identity is not.
    DenialUncached = "denial-uncached",
    /// The denial is noted on disk; the identity is still there.
    DenialNoted = "denial-noted",
    /// Nothing of the denied identity is left on disk.
    DenialKept = "denial-kept",
}

impl Step {
    /// The step of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|step| step.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_the_step_in_lower_case_and_leads_back_to_it() {
        for step in Step::ALL {
            let mut expected = String::new();
            for letter in format!("{step:?}").chars() {
                if letter.is_ascii_uppercase() && !expected.is_empty() {
                    expected.push('-');
                }
                expected.push(letter.to_ascii_lowercase());
            }
            assert_eq!(step.name(), expected);
            assert_eq!(Step::named(step.name()), Some(*step));
            assert!(step.meaning().ends_with('.'), "{step:?}");
        }
        assert_eq!(Step::named("no-such-step"), None);
    }
}
