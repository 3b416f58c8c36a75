//! X.509-SVIDs, by the rows of the conformance list and beyond them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod handshake;
mod hybrid;
mod issuer;
mod pki;
mod verifier;
