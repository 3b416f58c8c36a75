//! The audit log as its readers meet it: leaves that are committed, in order, for ever.
//!
//! Always: readers never hold up whoever writes the log.
//!
//! Not here: what a leaf says (`state::audit`), and where leaves are stored (`store::leaves`).

pub mod document;
pub mod sink;
pub mod tail;
