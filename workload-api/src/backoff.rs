//! How long to wait before asking the agent again.
//!
//! Responsible for: deciding from a failure, and from how often it failed before, whether and when to
//! call again (Workload Endpoint, section 6, and decisions ). Always holds: pure; the
//! jitter is drawn by the caller, once per delay; the first reconnection is immediate, and after that no
//! schedule waits for less than half of its step; after PermissionDenied the pause is at least a second,
//! and longer than after any other failure. Not here: waiting.

use std::time::Duration;

use crate::error::ClientError;

/// A stream that lived this long was a success: what fails after it fails for the first time.
const STEADY: Duration = Duration::from_secs(10);
/// Whatever is configured, an agent that said no is left alone for this long.
const DENIED_MIN: Duration = Duration::from_secs(1);

/// When to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The second pause after a failure (the first is none); doubled from there on.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// The first pause after PermissionDenied; doubled from there on.
    pub denied_first: Duration,
    /// The longest pause after PermissionDenied.
    pub denied_longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            longest: Duration::from_secs(5),
            denied_first: Duration::from_secs(2),
            denied_longest: Duration::from_secs(30),
        }
    }
}

/// Where in the schedule a source is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    policy: RetryPolicy,
    failures: u32,
}

impl Schedule {
    pub(crate) const fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            failures: 0,
        }
    }

    /// A stream ended that had delivered something for this long.
    pub(crate) fn lived(&mut self, life: Duration) {
        if life >= STEADY {
            self.failures = 0;
        }
    }

    /// How long to wait after this failure; `None` means for good.
    pub(crate) fn after(&mut self, error: &ClientError, draw: u64) -> Option<Duration> {
        if !error.is_retryable() {
            return None;
        }
        let before = self.failures;
        self.failures = before.saturating_add(1);
        if error.is_no_identity() {
            let step = doubled(self.policy.denied_first, self.policy.denied_longest, before);
            return Some(shortened(step, draw).max(DENIED_MIN));
        }
        let Some(earlier) = before.checked_sub(1) else {
            return Some(Duration::ZERO);
        };
        let step = doubled(self.policy.first, self.policy.longest, earlier);
        Some(shortened(step, draw))
    }
}

fn doubled(first: Duration, longest: Duration, times: u32) -> Duration {
    let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
    first
        .checked_mul(factor)
        .map_or(longest, |step| step.min(longest))
}

/// Somewhere between half of the step and the whole, so that the workloads of a node do not come back
/// together.
fn shortened(step: Duration, draw: u64) -> Duration {
    let half = step / 2;
    let nanos = half.as_nanos().min(u128::from(u64::MAX));
    let part = nanos.saturating_mul(u128::from(draw)) >> 64;
    half.saturating_add(Duration::from_nanos(
        u64::try_from(part).unwrap_or(u64::MAX),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unavailable() -> ClientError {
        ClientError::Unavailable(String::new())
    }

    fn denied() -> ClientError {
        ClientError::NoIdentity(String::new())
    }

    fn delays(error: &ClientError, draw: u64, count: usize) -> Vec<Duration> {
        let mut schedule = Schedule::new(RetryPolicy::default());
        (0..count)
            .map(|_| schedule.after(error, draw).unwrap())
            .collect()
    }

    #[test]
    fn the_first_reconnection_is_immediate_and_the_next_ones_double() {
        let millis: Vec<u128> = delays(&unavailable(), 0, 9)
            .iter()
            .map(Duration::as_millis)
            .collect();
        assert_eq!(millis, [0, 50, 100, 200, 400, 800, 1_600, 2_500, 2_500]);
        let millis: Vec<u128> = delays(&unavailable(), u64::MAX, 4)
            .iter()
            .map(Duration::as_millis)
            .collect();
        assert_eq!(millis, [0, 99, 199, 399]);
    }

    #[test]
    fn wle_n3_denied_callers_wait_at_least_a_second_and_longer_than_after_unavailable() {
        let (quickest, slowest) = (
            delays(&denied(), 0, 40),
            delays(&unavailable(), u64::MAX, 40),
        );
        for (denied, unavailable) in quickest.iter().zip(&slowest) {
            assert!(*denied >= Duration::from_secs(1));
            assert!(denied > unavailable, "{denied:?} {unavailable:?}");
        }
        assert_eq!(quickest[39], Duration::from_secs(15));
        // Not even a configuration of nothing makes it spin.
        let policy = RetryPolicy {
            denied_first: Duration::ZERO,
            denied_longest: Duration::ZERO,
            ..RetryPolicy::default()
        };
        let mut schedule = Schedule::new(policy);
        assert_eq!(schedule.after(&denied(), 0), Some(Duration::from_secs(1)));
    }

    #[test]
    fn wle_20_n2_invalid_argument_and_unimplemented_are_not_retried() {
        let mut schedule = Schedule::new(RetryPolicy::default());
        for error in [
            ClientError::Invalid(String::new()),
            ClientError::Unsupported(String::new()),
        ] {
            assert_eq!(schedule.after(&error, 0), None);
        }
        assert_eq!(
            schedule.after(&ClientError::Closed, 0),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn a_stream_that_lived_starts_the_schedule_over_and_a_short_one_does_not() {
        let mut schedule = Schedule::new(RetryPolicy::default());
        for _ in 0..5 {
            let _ = schedule.after(&unavailable(), 0);
        }
        schedule.lived(Duration::from_millis(9_999));
        assert!(schedule.after(&unavailable(), 0) > Some(Duration::ZERO));
        schedule.lived(Duration::from_secs(10));
        assert_eq!(schedule.after(&unavailable(), 0), Some(Duration::ZERO));
    }

    proptest::proptest! {
        #[test]
        fn no_policy_overflows(first in 0_u64..=u64::MAX, longest in 0_u64..=u64::MAX, draws in proptest::collection::vec(0_u64..=u64::MAX, 0..80)) {
            let longest = Duration::from_nanos(longest);
            let policy = RetryPolicy { first: Duration::from_nanos(first), longest, ..RetryPolicy::default() };
            let mut schedule = Schedule::new(policy);
            for draw in draws {
                proptest::prop_assert!(schedule.after(&unavailable(), draw) <= Some(longest));
            }
        }
    }
}
