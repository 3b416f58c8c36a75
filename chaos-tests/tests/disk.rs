//! The simulated disk keeps its own promises: it conforms, it never loses what was synced, never
//! shows what was not written, and repeats itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

#[path = "disk/faults.rs"]
mod faults;
#[path = "disk/honesty.rs"]
mod honesty;
#[path = "disk/store.rs"]
mod store;
