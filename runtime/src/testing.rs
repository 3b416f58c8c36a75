//! Fakes of the seams, and the suites that every implementation of a seam must pass.
//!
//! Responsible for [`MemoryHost`] with its [`MemoryNetwork`] and [`MemoryDisk`], which live in one process and need no
//! permissions, and for the conformance suites that hold them (and any simulator) to the
//! behaviour of the machine. Always holds: a fake behaves like the machine wherever the suite
//! looks. Not here: faults; a simulator brings its own network and disk.

mod disk_suite;
mod memory_disk;
mod memory_host;
mod memory_network;
mod network_suite;

pub use self::disk_suite::disk_conformance;
pub use self::memory_disk::MemoryDisk;
pub use self::memory_host::{ElapsedClock, MemoryHost};
pub use self::memory_network::{MemoryNetwork, MemoryProcess};
pub use self::network_suite::network_conformance;
