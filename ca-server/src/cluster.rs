//! Servers joining the cluster.
//!
//! Responsible for: tokens that admit servers, admission itself, and keeping the Raft membership what
//! the replicated state says. Always: a server joins with a token that admits one key, and learns whom
//! to believe from a statement of the trust-domain key that its operator pinned; the state decides who
//! is a server, Raft's membership follows it. Not here: replication (`raft`), keys at rest (`vault`).

pub mod admission;
pub mod join;
pub mod reconcile;
