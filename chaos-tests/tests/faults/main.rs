//! Faults of the real machine under the real daemons; see `chaos_tests::real::fault` for when they are
//! skipped.

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
mod clock;
mod disk;
mod network;
mod stopping;
mod sync;

/// The servers of a cluster of three.
const SERVERS: [&str; 3] = ["server-1", "server-2", "server-3"];
/// The agent.
const AGENT: &str = "agent";
/// How far a clock jumps, seconds.
const HOUR: i64 = 3600;
