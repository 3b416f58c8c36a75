//! The client library against a Workload API that does what each test tells it to.
//!
//! Rows of the SPIFFE conformance list that concern clients stand in the names of tests (`wle_…`,
//! `wla_…`); docs/conformance.md has the whole list. Time is paused in all of these tests but one, and
//! the agent sits at the other end of a pipe in memory, so a day passes in milliseconds and every delay
//! can be told exactly.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    missing_docs,
    reason = "tests"
)]

mod client;
mod fake_agent;
mod pki;
mod source_jwt;
mod source_x509;
