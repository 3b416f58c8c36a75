//! The agent's stable error codes, MM-2001 to MM-2999.
//!
//! Responsible for: one constant per situation that a person or a script may
//! have to act on. Always holds: a code is never reused and each stands in
//! `docs/errors.md` (a test compares both). Not here: the texts of errors.

use std::fmt;

/// A stable error code; prints as `MM-2003`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
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
    /// The request lacks the metadata `workload.spiffe.io: true`.
    HEADER_MISSING = 2001;
    /// A mandatory field of the request is empty or malformed.
    REQUEST_MALFORMED = 2002;
    /// No registration entry matches the caller, or not for what it asked.
    NO_IDENTITY_ISSUED = 2003;
    /// The caller could not be attested.
    CALLER_NOT_ATTESTED = 2004;
    /// The agent has not heard from a server yet.
    NOT_SYNCED = 2005;
    /// The caller's user has too many open streams.
    TOO_MANY_STREAMS = 2006;
    /// The profile or method is not supported.
    NOT_SUPPORTED = 2007;
    /// The token is not a valid JWT-SVID for this caller.
    TOKEN_INVALID = 2008;
    /// The caller is entitled, but its SVID is not issued yet.
    SVID_NOT_ISSUED = 2009;
    /// A secret was asked for by a name that means nothing to this caller.
    SECRET_UNKNOWN = 2010;
    /// The trust domain has banned this agent.
    AGENT_BANNED = 2011;
    /// The trust domain has evicted this agent.
    AGENT_EVICTED = 2012;
    /// The agent's own SVID expired and no server accepts its key any more.
    AGENT_NOT_RESUMED = 2013;
    /// The agent is shutting down.
    SHUTTING_DOWN = 2014;
    /// The configuration is not usable.
    CONFIG_INVALID = 2020;
    /// The server refused the join token.
    JOIN_TOKEN_REFUSED = 2021;
    /// There is nothing to verify a server by.
    NO_TRUST_ANCHOR = 2022;
    /// A statement of the trust-domain key did not verify.
    STATEMENT_REFUSED = 2023;
    /// No server answers.
    NO_SERVER = 2024;
    /// A socket or address cannot be listened on.
    CANNOT_LISTEN = 2025;
    /// The data directory belongs to another agent or trust domain, or is in use.
    DATA_DIR_FOREIGN = 2026;
    /// A file of the agent's own cannot be read or written.
    DISK = 2027;
    /// The sealed cache is damaged and was discarded.
    CACHE_DISCARDED = 2028;
    /// The agent has no identity and nothing to attest with.
    NOTHING_TO_ATTEST_WITH = 2029;
    /// A server's answer contradicts what it may say.
    SERVER_MISBEHAVED = 2030;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_code_is_documented_once_and_no_other() {
        let text = include_str!("../../docs/errors.md");
        let documented: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| MM-2"))
            .map(|rest| rest.split(' ').next().unwrap())
            .collect();
        let ours: Vec<String> = ALL
            .iter()
            .map(|code| code.to_string().trim_start_matches("MM-2").to_owned())
            .collect();
        assert_eq!(documented, ours);
    }
}
