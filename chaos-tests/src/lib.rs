//! Whole clusters under faults.
//!
//! `sim` runs servers, agents and workloads in one thread, from one number; `invariant` says what must
//! hold of them, and `linearizability` judges what clients saw. `model` explores small abstract clusters to
//! the end. `real` runs the real binaries on this machine, with real clients beside them. Everything here is
//! a test tool: it may panic, read files and start processes, and no product crate depends on it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test tool stands outside the product: it meets the machine directly and fails loudly"
)]

pub mod invariant;
pub mod linearizability;
pub mod model;
pub mod oracle;
pub mod panics;
pub mod real;
pub mod sim;
pub mod view;

#[cfg(not(tokio_unstable))]
compile_error!("the simulation replays only with --cfg tokio_unstable; see .cargo/config.toml");
