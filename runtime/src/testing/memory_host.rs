//! A whole machine in memory.
//!
//! Responsible for a [`Host`] whose parts a test can reach: time that follows tokio's (paused)
//! clock, randomness from a seed, fakes of network and disk. Always holds: two hosts of the same
//! seed and time behave the same. Not here: faults.

use std::sync::Arc;

use mintmark_identity::clock::{Clock, Timestamp};
use mintmark_identity::entropy::SeededEntropy;
use tokio::time::Instant;

use super::{MemoryDisk, MemoryNetwork};
use crate::host::Host;

/// Wall time that passes with `tokio::time`: under paused time, both advance together.
#[derive(Clone, Copy, Debug)]
pub struct ElapsedClock {
    start: Timestamp,
    since: Instant,
}

impl ElapsedClock {
    /// A clock that shows `start` now.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        Self {
            start,
            since: Instant::now(),
        }
    }
}

impl Clock for ElapsedClock {
    fn now(&self) -> Timestamp {
        self.start.saturating_add(self.since.elapsed())
    }
}

/// The parts of a machine in memory. A clone shares everything.
#[derive(Clone, Debug)]
pub struct MemoryHost {
    /// Follows `tokio::time`.
    pub clock: ElapsedClock,
    /// From a seed.
    pub entropy: Arc<SeededEntropy>,
    /// As used by process 1 of user 0; see [`MemoryNetwork::for_process`].
    pub network: MemoryNetwork,
    /// Survives the daemons that use it.
    pub disk: MemoryDisk,
}

impl MemoryHost {
    /// A machine on which it is `start` now.
    #[must_use]
    pub fn new(start: Timestamp, seed: u64) -> Self {
        Self {
            clock: ElapsedClock::new(start),
            entropy: Arc::new(SeededEntropy::new(seed)),
            network: MemoryNetwork::new(),
            disk: MemoryDisk::new(),
        }
    }

    /// The machine as a daemon takes it.
    #[must_use]
    pub fn host(&self) -> Host {
        Host {
            clock: Arc::new(self.clock),
            entropy: self.entropy.clone(),
            network: Arc::new(self.network.clone()),
            disk: Arc::new(self.disk.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mintmark_identity::entropy::draw_u64;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn wall_time_follows_paused_time() {
        let start = Timestamp::from_unix_secs(1_700_000_000);
        let host = MemoryHost::new(start, 1).host();
        assert_eq!(host.clock.now(), start);
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(host.clock.now().since(start), Duration::from_secs(90));
    }

    #[tokio::test(start_paused = true)]
    async fn one_seed_is_one_sequence() {
        let draw = |seed| {
            let host = MemoryHost::new(Timestamp::UNIX_EPOCH, seed).host();
            draw_u64(&*host.entropy)
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
