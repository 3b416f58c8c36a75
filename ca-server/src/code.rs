//! The server's stable error codes, MM-1001 to MM-1999.
//!
//! Always: a code is never reused, and each stands in `docs/errors.md` (a test compares both).
//!
//! Not here: the texts of errors, which the errors themselves carry.

use std::fmt;

/// A stable error code; prints as `MM-1203`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MM-{:04}", self.0)
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        $($(#[$doc])* pub const $name: Code = Code($number);)*
        /// Every code, in order.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    /// The configuration is not usable.
    CONFIG_INVALID = 1001;
    /// A directory cannot be made or written.
    DIRECTORY = 1002;
    /// Another server uses the data directory.
    DATA_DIR_LOCKED = 1003;
    /// The data directory belongs to another cluster or trust domain.
    DATA_DIR_FOREIGN = 1004;
    /// An address or a socket cannot be listened on.
    CANNOT_LISTEN = 1005;
    /// The key-encryption key is not the one that sealed this server's vault.
    WRONG_KEK = 1006;
    /// The vault or a key file is damaged, exposed or missing its KEK.
    VAULT_UNUSABLE = 1007;
    /// The replicated store cannot be opened.
    STORE = 1008;
    /// The cluster could not be made.
    INIT_FAILED = 1009;
    /// The cluster could not be joined.
    JOIN_FAILED = 1010;
    /// A part of the server ended that must not.
    TASK_FAILED = 1011;
    /// The replicated state differs from another member's.
    DIVERGED = 1012;
    /// The replicated store can no longer be read or written.
    STORE_FAILED = 1013;
    /// The caller has no identity, and the method needs one.
    UNAUTHENTICATED = 1101;
    /// The caller may not do this.
    DENIED = 1102;
    /// The agent is banned.
    AGENT_BANNED = 1103;
    /// The agent's SVID expired.
    AGENT_EXPIRED = 1104;
    /// The agent is not attested.
    AGENT_NOT_ATTESTED = 1105;
    /// A newer SVID of this agent is in use.
    AGENT_NOT_ACTIVE = 1106;
    /// The caller asks too often.
    RATE_LIMITED = 1107;
    /// The agent renews by attesting again.
    AGENT_MUST_REATTEST = 1108;
    /// A field of the request is missing or malformed.
    INVALID_ARGUMENT = 1201;
    /// The request is larger than it may be.
    TOO_LARGE = 1202;
    /// What was asked for does not exist.
    NOT_FOUND = 1203;
    /// It exists already.
    ALREADY_EXISTS = 1204;
    /// The method is not offered.
    NOT_OFFERED = 1205;
    /// It changed meanwhile.
    CONFLICT = 1206;
    /// The certificate signing request is not acceptable.
    CSR_REFUSED = 1207;
    /// Another key consumed the join token.
    TOKEN_USED = 1208;
    /// The join token does not exist or expired.
    TOKEN_UNKNOWN = 1209;
    /// The nonce is unknown, used or expired.
    NONCE_REFUSED = 1210;
    /// The agent cannot resume: its proof, its key, or its long silence.
    RESUME_REFUSED = 1211;
    /// The entry is not under this agent.
    NOT_AUTHORIZED = 1212;
    /// A limit of the cluster is reached.
    LIMIT = 1213;
    /// The authority is retired, revoked or tainted already.
    AUTHORITY_STATE = 1214;
    /// The authority is to be revoked, and was not tainted before.
    AUTHORITY_NOT_TAINTED = 1215;
    /// The authority is to be revoked, and no other has replaced it yet.
    AUTHORITY_IN_USE = 1216;
    /// There is no leader.
    NO_LEADER = 1301;
    /// No answer in time; the outcome is unknown.
    OUTCOME_UNKNOWN = 1302;
    /// The server is sealed.
    SEALED = 1303;
    /// The server has lost touch with the quorum, so it does not sign.
    STALE = 1304;
    /// No authority is active.
    NO_AUTHORITY = 1305;
    /// The subject was denied, or the authority tainted, while the request was under way.
    DENIED_MEANWHILE = 1306;
    /// The request took too long between acceptance and signature.
    TOO_LATE = 1307;
    /// The signed SVID did not pass the server's own verification.
    SELF_CHECK = 1308;
    /// The server is behind the position that the caller has seen.
    BEHIND = 1309;
    /// The server is shutting down.
    SHUTTING_DOWN = 1310;
    /// The server is overloaded.
    OVERLOADED = 1311;
    /// The server is not ready yet.
    NOT_READY = 1312;
    /// The request breaks a rule of the replicated state.
    REFUSED = 1313;
    /// This server's clock is too far from the voters'.
    CLOCK_SKEW = 1314;
    /// The cluster's time is ahead of the clocks.
    CLUSTER_TIME_AHEAD = 1315;
    /// A defect of the server.
    INTERNAL = 1399;
    /// The position is outside the audit log.
    AUDIT_RANGE = 1401;
    /// No checkpoint is signed yet.
    NO_CHECKPOINT = 1402;
    /// Leaves are not on this server yet.
    LEAVES_MISSING = 1403;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]

    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/errors.md");

    #[test]
    fn every_code_is_documented_and_nothing_else_is() {
        let documented: Vec<&str> = DOCUMENT
            .lines()
            .filter_map(|line| line.strip_prefix("| MM-1").map(|_| &line[2..9]))
            .collect();
        let defined: Vec<String> = ALL.iter().map(Code::to_string).collect();
        assert_eq!(documented, defined);
    }

    #[test]
    fn codes_ascend_so_none_is_reused() {
        assert!(ALL.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
