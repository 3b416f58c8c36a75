//! The real binary, started as a person would start it.

pub mod binary;
pub mod broken_daemon;
pub mod cluster;
pub mod collector;
pub mod crash;
pub mod daemon;
pub mod dev;
pub mod fault;
pub mod fresh;
pub mod ledger;
pub mod site;
pub mod venv;
pub mod wait;
