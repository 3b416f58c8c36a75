//! The real binary, started as a person would start it.

pub mod binary;
pub mod daemon;
pub mod dev;
pub mod venv;
pub mod wait;
