//! X.509-SVIDs, by the rows of the conformance list and beyond them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

mod csr;
mod handshake;
mod hybrid;
mod issuer;
mod load;
mod peer;
mod pki;
mod tls;
mod verifier;
