//! Whole clusters under faults.
//!
//! `real` runs the real binaries on this machine, with real clients beside them. Everything here is
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

pub mod real;
pub mod sim;
