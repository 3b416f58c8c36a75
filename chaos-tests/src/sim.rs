//! A whole trust domain in one thread: real servers, real agents, real workloads, on machines
//! whose time, randomness, network and disks follow from one number.
//!
//! Always: everything that a run does follows from its [`plan::Plan`], and the plan from its seed;
//! nothing here reads the machine. Cryptographic keys are the exception: they are real, so the bytes
//! of a run differ and its events do not (`trace`).
//!
//! Not here: what must hold (`crate::invariant`).

pub mod agent;
pub mod clock;
pub mod disk;
pub mod faults;
pub mod instant;
pub mod machine;
pub mod network;
pub mod operator;
pub mod plan;
pub mod run;
pub mod server;
pub mod situations;
pub mod trace;
pub mod workload;
pub mod world;
