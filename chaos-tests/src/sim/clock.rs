//! Wall time of a simulated machine.
//!
//! Always: it is the simulation's time since a fixed date, plus what a fault adds to this machine's
//! clock; timers (`tokio::time`) are not touched by such a fault, as on a real machine.
//!
//! Not here: timers, which the simulator pauses and advances itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use mintmark_identity::clock::{Clock, Timestamp};

/// When every simulation begins: 2026-01-01T00:00:00Z.
pub const BEGINNING: Timestamp = Timestamp::from_unix_secs(1_767_225_600);

/// The time that all machines share, for code that runs between two steps as well.
#[derive(Debug, Clone, Default)]
pub struct SimTime(Arc<AtomicI64>);

impl SimTime {
    /// Notes how far the simulation has come. Called after each step.
    pub fn reached(&self, elapsed: Duration) {
        let millis = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
        self.0.store(millis, Ordering::SeqCst);
    }

    /// How far the simulation has come.
    pub fn elapsed(&self) -> Duration {
        // Outside of a step the simulator's own clock would follow the real one.
        match turmoil::in_simulation()
            .then(turmoil::sim_elapsed)
            .flatten()
        {
            Some(elapsed) => elapsed,
            None => {
                Duration::from_millis(u64::try_from(self.0.load(Ordering::SeqCst)).unwrap_or(0))
            }
        }
    }

    /// The true date.
    pub fn now(&self) -> Timestamp {
        BEGINNING.saturating_add(self.elapsed())
    }
}

/// One machine's clock.
#[derive(Debug, Clone)]
pub struct SimClock {
    time: SimTime,
    skew_millis: Arc<AtomicI64>,
}

impl SimClock {
    /// A clock that is right.
    pub fn new(time: SimTime) -> Self {
        Self {
            time,
            skew_millis: Arc::default(),
        }
    }

    /// Puts the clock wrong by so much from now on; zero puts it right.
    pub fn skew(&self, millis: i64) {
        self.skew_millis.store(millis, Ordering::SeqCst);
    }

    /// By how much it is wrong.
    pub fn skewed_by(&self) -> i64 {
        self.skew_millis.load(Ordering::SeqCst)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let truth = self.time.now().unix_millis();
        Timestamp::from_unix_millis(truth.saturating_add(self.skewed_by()))
    }
}
