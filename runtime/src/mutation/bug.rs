//! The registry of mutations.
//!
//! Responsible for: the name of each bug, and what it breaks. Always holds: a bug that is not
//! registered does not compile, and one that stands nowhere in the sources, or that no test shows to be
//! caught, fails a test of `chaos-tests`. Not here: the bugs, which stand where they would be made.

/// Declares the bugs, so that no list of them can be incomplete.
macro_rules! bugs {
    ($($(#[doc = $doc:literal])+ $bug:ident = $name:literal,)+) => {
        /// A bug that a daemon can be given.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Bug {
            $($(#[doc = $doc])+ $bug,)+
        }

        impl Bug {
            /// All of them, in the order of the registry.
            pub const ALL: &'static [Self] = &[$(Self::$bug),+];

            /// Its name on command lines.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)+
                }
            }

            /// What is broken by it.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$bug => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

bugs! {
    // The log, and what is made of it.
    /// Log entries are acknowledged without a sync.
    LogNotSynced = "log-not-synced",
    /// A vote is given and not written down.
    VoteNotKept = "vote-not-kept",
    /// A snapshot says that it is of the last entry, and holds the state of an earlier one.
    SnapshotIsStale = "snapshot-is-stale",
    /// A snapshot lacks the join tokens.
    SnapshotLacksTokens = "snapshot-lacks-tokens",
    /// A leaf bears the time of the machine that applies it.
    ApplyReadsClock = "apply-reads-clock",
    /// A linearizable read is answered from what this server has applied.
    StaleRead = "stale-read",
    /// The result of a request is forgotten, and its repetition is another request.
    ResultForgotten = "result-forgotten",
    // Issuance.
    /// A workload's SVID is signed while its intent is still on the way to the log.
    SignedBeforeCommit = "signed-before-commit",
    /// A server draws one serial and uses it for all it issues, and the state does not compare serials.
    SerialReused = "serial-reused",
    /// The state accepts what a banned agent asks for.
    BanIgnored = "ban-ignored",
    /// The state accepts what is asked for by an entry that was deleted.
    DeletionIgnored = "deletion-ignored",
    /// The state accepts what is asked for by a revision of an entry that is not the present one.
    RevisionIgnored = "revision-ignored",
    /// The key that consumes a join token is remembered neither with the token nor with the agent.
    TokenNotConsumed = "token-not-consumed",
    // Authorities.
    /// An authority is activated as soon as it is published, as if everybody had acknowledged it.
    ActivatedUnacknowledged = "activated-unacknowledged",
    /// An authority that no longer signs leaves the bundle while SVIDs of it are valid.
    RetiredAtOnce = "retired-at-once",
    /// A revoked authority stays in the bundle.
    RevokedKept = "revoked-kept",
    /// The authority that signs is revoked before another took its place.
    ActiveRevoked = "active-revoked",
    // Copies of the audit log.
    /// A copy of the audit log goes on after a restart one leaf too far.
    LeafNotCopied = "leaf-not-copied",
    // The agent.
    /// A workload is given what is registered for another user.
    SelectorsIgnored = "selectors-ignored",
    /// A workload is given an SVID that has expired.
    ExpiredServed = "expired-served",
    /// The agent goes on serving when it is banned.
    DenialIgnored = "denial-ignored",
    /// The agent goes on serving an entry that was deleted.
    RemovalIgnored = "removal-ignored",
    /// An agent whose bundle verifies no server does not ask what to trust.
    DoubtIgnored = "doubt-ignored",
    /// The agent does not say what it has seen, and takes what is older.
    OlderUpdateTaken = "older-update-taken",
    /// The agent's cache is written to disk unencrypted.
    KeyInClear = "key-in-clear",
}

impl Bug {
    /// The bug of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|bug| bug.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_the_bug_in_lower_case_and_leads_back_to_it() {
        for bug in Bug::ALL {
            let mut expected = String::new();
            for letter in format!("{bug:?}").chars() {
                if letter.is_ascii_uppercase() && !expected.is_empty() {
                    expected.push('-');
                }
                expected.push(letter.to_ascii_lowercase());
            }
            assert_eq!(bug.name(), expected);
            assert_eq!(Bug::named(bug.name()), Some(*bug));
            assert!(bug.meaning().ends_with('.'), "{bug:?}");
        }
        assert_eq!(Bug::named("no-such-bug"), None);
    }
}
