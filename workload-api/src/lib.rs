//! Client library of the SPIFFE Workload API: what an application links to hold identities that
//! rotate by themselves. It works with any conforming agent, SPIRE's too.

pub mod client;
pub mod endpoint;
pub mod error;
