//! The node agent: attests its node, keeps the SVIDs of local workloads fresh, serves them.
//!
//! Responsible for: one node's identity, its cache of SVIDs and bundles, and the Workload API
//! and secret discovery on a local socket. Always holds: a workload gets only what the entries
//! that match it allow, and keeps getting it while servers are away. Not here: who is entitled
//! to what, which the trust domain's servers decide.

mod admin;
mod agent_svid;
mod app;
mod attestation;
pub mod cache;
pub mod code;
pub mod config;
mod csr;
pub mod issuer;
mod listeners;
pub mod metrics;
mod peer_tls;
mod pinning;
mod rotation;
pub mod sds;
mod server_client;
mod statement;
pub mod status;
pub mod surface;
mod sync;
#[cfg(test)]
mod testing;
mod trust;
mod verify;
pub mod workload;
pub mod workload_api;

/// What takes bytes from a server, for the fuzzer and its seeds alone.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::statement::{StatementError, VerifiedStatement, verify as verify_statement};
    pub use crate::sync::convert::{ConvertError, update};
}

pub use agent_svid::AgentError;
pub use app::{Agent, RunError, RunningAgent, StartError, run, run_reloading};
pub use config::Config;

/// The simulator's disk, by its source: what uses it here is not reachable from outside, and a
/// dependency on the simulator would go round in a circle.
#[cfg(test)]
#[path = "../../chaos-tests/src/sim"]
#[allow(
    dead_code,
    unused_imports,
    clippy::expect_used,
    reason = "a test tool that these tests use a part of"
)]
mod sim {
    pub mod disk;
}
