//! Tests of consensus on a small state: the library's own suite, crashes at every write
//! and sync, and clusters in one process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod clocks;
mod cluster;
mod crashes;
mod disk;
mod divergence;
mod harness;
mod log;
mod machine;
mod peers;
mod session;
mod state;
mod stores;
