//! How long a server is waited for before another is asked too.
//!
//! Always holds: never shorter than servers usually take, so that a cluster under load is not asked
//! twice for everything; bounded, so that no slow day makes the agent wait for dead servers. Within
//! a call it doubles. Not here: asking (`asking`).

use std::{sync::Arc, time::Duration};

use mintmark_identity::entropy::{Entropy, draw_u64};
use mintmark_runtime::backoff::fraction;

/// The shortest; longer than an election should take.
const PATIENCE_MIN: Duration = Duration::from_secs(1);
/// The longest that a call begins with.
const PATIENCE_MAX: Duration = Duration::from_secs(3);

/// How long servers usually take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    usual: Duration,
}

impl Patience {
    /// Takes note of how long an answer took. One answer does not make a habit.
    pub(super) fn note(&mut self, took: Duration) {
        self.usual = self.usual.saturating_mul(3).saturating_add(took) / 4;
    }

    /// How long the first server of a call is waited for: twice the usual, within bounds.
    pub(super) fn first(self) -> Duration {
        let twice = self.usual.saturating_mul(2);
        twice.clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    /// The waits of one call.
    pub(super) fn waits(self, entropy: Arc<dyn Entropy>) -> Waits {
        Waits {
            step: self.first(),
            entropy,
        }
    }
}

/// The waits of one call: each twice the one before, and up to a quarter more, so that agents whose
/// server fell silent do not all come to the next one at once.
pub(super) struct Waits {
    step: Duration,
    entropy: Arc<dyn Entropy>,
}

impl Waits {
    /// The present wait.
    pub(super) fn draw(&self) -> Duration {
        let jitter = fraction(self.step / 4, draw_u64(self.entropy.as_ref()));
        self.step.saturating_add(jitter)
    }

    /// From now on they are twice as long.
    pub(super) const fn double(&mut self) {
        self.step = self.step.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use mintmark_identity::entropy::SeededEntropy;

    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_follows_what_is_usual_within_bounds() {
        let mut patience = Patience::default();
        assert_eq!(patience.first(), PATIENCE_MIN);
        patience.note(ms(4_000));
        assert_eq!(patience.first(), ms(2_000));
        for _ in 0..20 {
            patience.note(ms(60_000));
        }
        assert_eq!(patience.first(), PATIENCE_MAX);
        for _ in 0..30 {
            patience.note(ms(5));
        }
        assert_eq!(patience.first(), PATIENCE_MIN);
    }

    #[test]
    fn waits_double_and_differ_by_up_to_a_quarter() {
        let mut waits = Patience::default().waits(Arc::new(SeededEntropy::new(1)));
        for step in [1_000, 2_000, 4_000] {
            let drawn: Vec<Duration> = (0..100).map(|_| waits.draw()).collect();
            assert!(drawn.iter().all(|wait| *wait >= ms(step)));
            assert!(drawn.iter().all(|wait| *wait <= ms(step * 5 / 4)));
            assert!(drawn.iter().any(|wait| *wait != drawn[0]));
            waits.double();
        }
    }
}
