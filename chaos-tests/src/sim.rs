//! The simulated machine: whole clusters in one thread, replayed from a seed.

pub mod disk;
