//! Limits that are checked before any cryptography.
//!
//! Always: a caller that asks too often is refused for the price of one look-up, and the memory that
//! remembers callers is bounded.
//!
//! Not here: limits of connections and messages (the listeners').

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Most SVIDs in one request; SPIRE's agents send no more.
pub const BATCH_MAX: usize = 500;
/// Callers that are remembered at once; the one that was idle longest is forgotten first, and a
/// forgotten one starts with a full bucket.
const CALLERS_MAX: usize = 16_384;

/// How often one caller may do something.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// What it may do at once after a pause.
    pub burst: u32,
    /// What it may do in each second for ever.
    pub per_second: u32,
}

/// Attestations, joins and resumes from one address. SPIRE allows one a second; a rack that boots
/// behind one address needs more at once.
pub const ATTEST_RATE: Rate = Rate {
    burst: 100,
    per_second: 10,
};
/// Signatures for one agent: far above what a node's workloads need, far below what a server can do.
pub const SIGN_RATE: Rate = Rate {
    burst: 10_000,
    per_second: 2_000,
};
/// Reports of one agent.
pub const REPORT_RATE: Rate = Rate {
    burst: 50,
    per_second: 10,
};
/// Denials that one server writes into the log.
pub const DENIAL_RATE: Rate = Rate {
    burst: 100,
    per_second: 10,
};

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

/// Token buckets, one for each caller.
#[derive(Debug)]
pub struct RateLimiter {
    rate: Rate,
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

impl RateLimiter {
    /// A limiter that has seen nobody.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: Mutex::new(BTreeMap::new()),
        }
    }

    /// Takes `count` from the caller's bucket. `Err`: how long to wait until it holds that many.
    ///
    /// # Errors
    /// The wait, when the bucket holds less.
    pub fn take(&self, caller: &str, count: usize) -> Result<(), Duration> {
        let now = Instant::now();
        let burst = f64::from(self.rate.burst);
        let per_second = f64::from(self.rate.per_second.max(1));
        let wanted = f64::from(u32::try_from(count).unwrap_or(u32::MAX)).min(burst);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = Bucket {
            tokens: burst,
            at: now,
        };
        let bucket = buckets.get(caller).copied().unwrap_or(full);
        let grown = now.saturating_duration_since(bucket.at).as_secs_f64() * per_second;
        let tokens = (bucket.tokens + grown).min(burst);
        let enough = tokens >= wanted;
        let left = if enough { tokens - wanted } else { tokens };
        buckets.insert(
            caller.to_owned(),
            Bucket {
                tokens: left,
                at: now,
            },
        );
        if buckets.len() > CALLERS_MAX {
            forget_idle(&mut buckets, caller);
        }
        if enough {
            Ok(())
        } else {
            Err(Duration::from_secs_f64((wanted - tokens) / per_second))
        }
    }
}

fn forget_idle(buckets: &mut BTreeMap<String, Bucket>, keep: &str) {
    let idle = buckets.iter().filter(|(caller, _)| caller.as_str() != keep);
    let oldest = idle
        .min_by_key(|(_, bucket)| bucket.at)
        .map(|(caller, _)| caller.clone());
    if let Some(oldest) = oldest {
        buckets.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_the_rest_waits() {
        let limiter = RateLimiter::new(Rate {
            burst: 3,
            per_second: 1,
        });
        assert_eq!(
            [limiter.take("a", 2), limiter.take("a", 1)],
            [Ok(()), Ok(())]
        );
        assert_eq!(limiter.take("a", 1), Err(Duration::from_secs(1)));
        assert_eq!(
            limiter.take("b", 3),
            Ok(()),
            "callers do not share a bucket"
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(limiter.take("a", 1), Ok(()));
        assert!(limiter.take("a", 1).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_a_burst_empties_the_bucket_instead_of_waiting_for_ever() {
        let limiter = RateLimiter::new(Rate {
            burst: 2,
            per_second: 1,
        });
        assert_eq!(limiter.take("a", 500), Ok(()));
        assert_eq!(limiter.take("a", 500), Err(Duration::from_secs(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let limiter = RateLimiter::new(Rate {
            burst: 1,
            per_second: 1,
        });
        for caller in 0..CALLERS_MAX + 10 {
            let _ = limiter.take(&format!("caller {caller}"), 1);
        }
        let held = limiter.buckets.lock().map(|buckets| buckets.len()).ok();
        assert_eq!(held, Some(CALLERS_MAX));
    }
}
