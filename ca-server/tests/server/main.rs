//! Whole servers over loopback: real sockets, real TLS, a real log on a real disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod bad_input;
mod cluster;
mod denials;
mod harness;
mod life;
mod push;
mod rotation;
mod surface;
mod withdrawal;
