//! The agent as its callers see it: the whole of it, over real sockets, against a server that
//! speaks the real protocol.
//!
//! Rows of the SPIFFE conformance list that concern the endpoint stand in the names of tests
//! (`wle_…`, `wla_…`). WLA-44 to WLA-54 concern the WIT profile, which is not offered (WLA-42);
//! rows for clients are tested in `workload-api`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::large_futures,
    missing_docs,
    reason = "tests"
)]

mod attestation;
mod child;
mod fake_server;
mod harness;
mod lifecycle;
mod rotation;
mod sds;
mod told;
mod workload_api;
mod workload_endpoint;
