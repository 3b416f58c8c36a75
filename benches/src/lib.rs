//! Measurements, as ratios taken in one run.
//!
//! Nothing here asserts a speed; `measure` prints what it saw, beside the limit that the same library
//! has on the same machine in the same minute. The figures of a run are in `docs/performance.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::cast_precision_loss,
    reason = "a measuring tool stands outside the product and fails loudly"
)]

pub mod bare;
pub mod issuance;
pub mod latency;
pub mod process;
pub mod table;
