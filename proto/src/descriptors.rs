//! File descriptor sets, for reflection.
//!
//! Responsible for: what a server may tell about the services it offers.
//! Always holds: each set is complete (it holds its imports) and was made from
//! the same sources as the code.
//! Not here: which socket offers reflection at all.

/// The SPIFFE Workload API.
pub const WORKLOAD_API: &[u8] = include_bytes!("gen/descriptors/workload_api.bin");
/// SPIRE's server API.
pub const SPIRE_SERVER_API: &[u8] = include_bytes!("gen/descriptors/spire_server_api.bin");
/// Envoy's secret discovery, with the error details of `google.rpc`.
pub const ENVOY_SDS: &[u8] = include_bytes!("gen/descriptors/envoy_sds.bin");
/// Our own protocols.
pub const MINTMARK: &[u8] = include_bytes!("gen/descriptors/mintmark.bin");

/// Every set.
pub const ALL: [&[u8]; 4] = [WORKLOAD_API, SPIRE_SERVER_API, ENVOY_SDS, MINTMARK];
