//! How long to wait before trying again.
//!
//! Responsible for exponential delays with jitter. Always holds: pure arithmetic; the random
//! draw is passed in once per delay, so a schedule can be replayed. Not here: sleeping.

use std::time::Duration;

/// An exponential schedule: `initial`, doubled each time up to `max`, each delay shortened by
/// up to half so that many clients do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// A schedule that has not been used yet.
    #[must_use]
    pub const fn new(initial: Duration, max: Duration) -> Self {
        Self {
            initial,
            max,
            failures: 0,
        }
    }

    /// The next delay: between half of the current step and the whole step, chosen by `draw`.
    #[must_use]
    pub fn next_delay(&mut self, draw: u64) -> Duration {
        let step = self
            .initial
            .checked_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .map_or(self.max, |step| step.min(self.max));
        self.failures = self.failures.saturating_add(1);
        let half = step / 2;
        half.saturating_add(fraction(step.saturating_sub(half), draw))
    }

    /// How often in a row it failed.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Start over after a success.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// `whole · draw / 2⁶⁴`: a part of a duration, chosen evenly by a random draw.
#[must_use]
pub fn fraction(whole: Duration, draw: u64) -> Duration {
    let nanos = whole.as_nanos().min(u128::from(u64::MAX));
    // Both factors are below 2⁶⁴, so the product fits and the quotient is below `nanos`.
    let part = nanos.saturating_mul(u128::from(draw)) >> 64;
    Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let longest: Vec<u128> = (0..6)
            .map(|_| backoff.next_delay(u64::MAX).as_millis())
            .collect();
        assert_eq!(longest, [99, 199, 399, 799, 999, 999]);
        assert_eq!(backoff.failures(), 6);
    }

    #[test]
    fn the_smallest_draw_halves_the_delay() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(backoff.next_delay(0), Duration::from_millis(50));
        assert_eq!(backoff.next_delay(0), Duration::from_millis(100));
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let first = backoff.next_delay(7);
        let _ = backoff.next_delay(7);
        backoff.reset();
        assert_eq!(backoff.next_delay(7), first);
    }

    proptest::proptest! {
        #[test]
        fn no_delay_exceeds_the_maximum_or_panics(
            initial in 0_u64..=u64::MAX, max in 0_u64..=u64::MAX, draws in proptest::collection::vec(0_u64..=u64::MAX, 0..80),
        ) {
            let max = Duration::from_nanos(max);
            let mut backoff = Backoff::new(Duration::from_nanos(initial), max);
            for draw in draws {
                proptest::prop_assert!(backoff.next_delay(draw) <= max);
            }
        }
    }
}
