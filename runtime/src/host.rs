//! Everything that makes two runs of the same program differ, in one value.
//!
//! Responsible for handing wall time, randomness, network and disk from `main` (or a simulator)
//! to the parts that need them. Always holds: nothing else in the workspace reaches the machine.
//! Not here: monotonic time, which is `tokio::time` (it can be paused), and tasks
//! ([`crate::task::Tasks`]).

use std::sync::Arc;

use mintmark_identity::clock::{Clock, SystemClock};
use mintmark_identity::entropy::{Entropy, SystemEntropy};

use crate::disk::{Disk, OsDisk};
use crate::network::{Network, OsNetwork};

/// The machine as seen by a daemon. A clone shares everything.
#[derive(Clone, Debug)]
pub struct Host {
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids, serials, tokens and jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Connections.
    pub network: Arc<dyn Network>,
    /// Files.
    pub disk: Arc<dyn Disk>,
}

impl Host {
    /// The machine we run on.
    #[must_use]
    pub fn os() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            network: Arc::new(OsNetwork),
            disk: Arc::new(OsDisk),
        }
    }
}
