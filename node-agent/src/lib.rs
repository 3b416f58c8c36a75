//! The node agent: attests its node, keeps the SVIDs of local workloads fresh, serves them.
//!
//! Responsible for: one node's identity, its cache of SVIDs and bundles, and the Workload API
//! and secret discovery on a local socket. Always holds: a workload gets only what the entries
//! that match it allow, and keeps getting it while servers are away. Not here: who is entitled
//! to what, which the trust domain's servers decide.

pub mod cache;
pub mod code;
pub mod csr;
pub mod issuer;
pub mod metrics;
pub mod pem;
pub mod sds;
pub mod status;
pub mod surface;
#[cfg(test)]
mod testing;
pub mod workload;
pub mod workload_api;
