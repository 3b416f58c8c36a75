//! The replicated trust-domain state and the authority that signs from it, with every server API.
//!
//! Always: nothing is signed that is not in the replicated log; identity comes from the state, never
//! from a request; the machine is reached through `mintmark_runtime::host::Host` only.
//!
//! Not here: arguments and environment of a process (`main`, the `mintmark` command).

pub mod api;
pub mod app;
pub mod attestation;
pub mod audit;
pub mod authority;
pub mod cluster;
pub mod code;
pub mod config;
pub mod fanout;
pub mod issuance;
pub mod metrics;
pub mod policy;
pub mod raft;
pub mod state;
pub mod store;
pub mod vault;

pub use app::error::{RunError, StartError};
pub use app::{RunningServer, Server, run};

/// Consensus on the state of the trust domain.
pub type Consensus = raft::Consensus<state::State>;

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
