//! The commands, one file each.

pub mod agent;
pub mod audit;
pub mod authority;
pub mod bundle;
pub mod cluster;
pub mod completions;
pub mod daemon;
pub mod dev;
pub mod entry;
pub mod explain;
pub mod jwt;
pub mod token;
pub mod version;
pub mod x509;
