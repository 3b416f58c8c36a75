//! A simulated machine: what outlives the processes on it.
//!
//! Always: its disk and clock last, its sockets and the draws of its processes begin anew with each
//! life, from numbers that follow from the seed, the machine's name and the life.
//!
//! Not here: what runs on it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mintmark_identity::entropy::SeededEntropy;
use mintmark_runtime::Host;
use mintmark_runtime::testing::MemoryNetwork;

use super::clock::{SimClock, SimTime};
use super::disk::SimDisk;
use super::network::SimNetwork;

/// A machine. A clone is the same one.
#[derive(Debug, Clone)]
pub struct Machine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    seed: u64,
    lives: AtomicU64,
    clock: SimClock,
    disk: Mutex<SimDisk>,
    sockets: Mutex<MemoryNetwork>,
}

impl Machine {
    /// A machine with an empty disk and a right clock.
    pub fn new(name: &str, seed: u64, time: SimTime) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            seed,
            lives: AtomicU64::new(0),
            clock: SimClock::new(time),
            disk: Mutex::new(SimDisk::new(seed ^ name_hash(name))),
            sockets: Mutex::new(MemoryNetwork::new()),
        }))
    }

    /// Its name, which is also its address.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its clock.
    pub fn clock(&self) -> &SimClock {
        &self.0.clock
    }

    /// Its disk.
    pub fn disk(&self) -> SimDisk {
        self.0.disk.lock().unwrap().clone()
    }

    /// Its Unix sockets, as far as a process of root sees them.
    pub fn sockets(&self) -> MemoryNetwork {
        self.0.sockets.lock().unwrap().clone()
    }

    /// How often something was started on it.
    pub fn lives(&self) -> u64 {
        self.0.lives.load(Ordering::SeqCst)
    }

    /// The machine as a process that starts now sees it.
    pub fn next_life(&self) -> Host {
        let life = self.0.lives.fetch_add(1, Ordering::SeqCst);
        let sockets = MemoryNetwork::new();
        *self.0.sockets.lock().unwrap() = sockets.clone();
        let mut disk = self.0.disk.lock().unwrap();
        *disk = disk.restart();
        let purpose = format!("{}/{life}", self.0.name);
        Host {
            clock: Arc::new(self.0.clock.clone()),
            entropy: Arc::new(SeededEntropy::new(self.0.seed).fork(&purpose)),
            network: Arc::new(SimNetwork::new(&self.0.name, sockets)),
            disk: Arc::new(disk.clone()),
        }
    }
}

/// A number that tells one name from another.
pub fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
