//! Loops that run on a wake-up and on a period.
//!
//! Responsible for *when* a reconciler runs. Always holds: a wake-up carries no data and is never
//! lost (one that comes during a run causes one more run); the loop also runs when no wake-up
//! comes, so a lost event is only a delay. Not here: what a run does; it looks at the current
//! state and brings it where it should be.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Asks a loop to run soon. A clone wakes the same loop; any number of calls before the next run
/// cause one run.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// A wake-up for one loop.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a run.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits for a request. One that was made before is not lost. Cancel safe.
    pub async fn woken(&self) {
        self.0.notified().await;
    }

    /// Asks for a run after each change, once in `pause` at the most: under load something changes all the
    /// time. `changed` waits for the next change, and is false when there will be none. Ends then, or when the
    /// token is cancelled.
    pub async fn after_changes(
        self,
        mut changed: impl AsyncFnMut() -> bool,
        pause: Duration,
        token: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = token.cancelled() => return,
                more = changed() => if !more { return },
            }
            self.wake();
            tokio::time::sleep(pause).await;
        }
    }
}

/// The schedule of one loop:
///
/// ```
/// # use std::time::Duration;
/// # use mintmark_runtime::task::{Tasks, periodic::{Periodic, Wake}};
/// # async fn reconcile() {}
/// # async fn example(tasks: Tasks, wake: Wake) {
/// let mut schedule = Periodic::new(Duration::from_secs(60), wake, tasks.token());
/// while schedule.next().await {
///     reconcile().await;
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Periodic {
    period: Duration,
    wake: Wake,
    token: CancellationToken,
    next: Option<Instant>,
}

impl Periodic {
    /// Runs at once, then whenever woken, and `period` after the last run at the latest, until
    /// the token is cancelled.
    #[must_use]
    pub fn new(period: Duration, wake: Wake, token: CancellationToken) -> Self {
        Self {
            period,
            wake,
            token,
            next: Some(Instant::now()),
        }
    }

    /// Waits for the next run; false when the loop is to end. Call it when the last run is done.
    pub async fn next(&mut self) -> bool {
        // Without a set time, the period counts from here, which is the end of the last run.
        let due = self
            .next
            .take()
            .or_else(|| Instant::now().checked_add(self.period));
        let elapsed = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.token.cancelled() => false,
            () = self.wake.woken() => true,
            () = elapsed => true,
        }
    }

    /// Makes the next run due in `delay` instead of one period from now: to retry after a
    /// failure ([`crate::backoff`]) or to meet a known time. A wake-up still comes first.
    pub fn next_in(&mut self, delay: Duration) {
        self.next = Instant::now().checked_add(delay);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(60);

    fn schedule() -> (Periodic, Wake, CancellationToken) {
        let (wake, token) = (Wake::new(), CancellationToken::new());
        let periodic = Periodic::new(PERIOD, wake.clone(), token.clone());
        (periodic, wake, token)
    }

    #[tokio::test(start_paused = true)]
    async fn it_runs_at_once_and_then_each_period() {
        let (mut periodic, _wake, _token) = schedule();
        let began = Instant::now();
        assert!(periodic.next().await);
        assert_eq!(began.elapsed(), Duration::ZERO);
        // A run that takes time moves the next one.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(periodic.next().await);
        assert_eq!(began.elapsed(), PERIOD + Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn wake_ups_during_a_run_cause_exactly_one_more() {
        let (mut periodic, wake, _token) = schedule();
        assert!(periodic.next().await);
        let began = Instant::now();
        wake.wake();
        wake.wake();
        assert!(periodic.next().await);
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(periodic.next().await);
        assert_eq!(began.elapsed(), PERIOD);
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_time_replaces_the_period_once() {
        let (mut periodic, _wake, _token) = schedule();
        assert!(periodic.next().await);
        let began = Instant::now();
        periodic.next_in(Duration::from_secs(1));
        assert!(periodic.next().await);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert!(periodic.next().await);
        assert_eq!(began.elapsed(), PERIOD + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn many_changes_cause_a_run_for_each_pause() {
        let (mut periodic, wake, token) = schedule();
        assert!(periodic.next().await);
        let (changes, mut seen) = tokio::sync::watch::channel(0);
        let pause = Duration::from_millis(50);
        let waking = wake.after_changes(async move || seen.changed().await.is_ok(), pause, token);
        let began = Instant::now();
        let changing = async move {
            for n in 0..100 {
                changes.send_replace(n);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let counting = async {
            let mut runs = 0;
            while periodic.next().await && began.elapsed() < PERIOD {
                runs += 1;
            }
            runs
        };
        let ((), (), runs) = tokio::join!(waking, changing, counting);
        assert_eq!(runs, 3, "at 0, 50 and 100 ms");
    }

    #[tokio::test(start_paused = true)]
    async fn cancellation_ends_it_before_a_wake_up() {
        let (mut periodic, wake, token) = schedule();
        wake.wake();
        token.cancel();
        assert!(!periodic.next().await);
    }
}
