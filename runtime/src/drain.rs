//! Going away politely: stop taking work, finish what runs, give up at a deadline.
//!
//! Responsible for telling every part of a daemon that it is time to finish and for waiting until
//! they have. Always holds: a drain is started once and never taken back; its deadline only moves
//! closer. Not here: what starts it ([`crate::signals`]) and ending the tasks
//! ([`crate::task::Tasks`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
struct State {
    /// Set when draining began.
    deadline: Option<Instant>,
    /// Pieces of work that asked to be waited for.
    guards: usize,
}

/// Starts the drain; kept by whoever decides that the process ends.
#[derive(Clone, Debug)]
pub struct DrainTrigger(Arc<watch::Sender<State>>);

/// Learns of the drain; kept by every part that takes work.
#[derive(Clone, Debug)]
pub struct DrainWatch(Arc<watch::Sender<State>>);

/// Work in progress: the drain waits for it, until its deadline.
#[derive(Debug)]
pub struct DrainGuard(Arc<watch::Sender<State>>);

/// A drain that has not begun.
#[must_use]
pub fn drain() -> (DrainTrigger, DrainWatch) {
    let state = Arc::new(watch::Sender::new(State {
        deadline: None,
        guards: 0,
    }));
    (DrainTrigger(Arc::clone(&state)), DrainWatch(state))
}

impl DrainTrigger {
    /// Begins the drain, which ends in `grace` at the latest. A second call can only shorten it;
    /// zero means "now".
    pub fn start(&self, grace: Duration) {
        let now = Instant::now();
        let asked = now.checked_add(grace).unwrap_or(now);
        self.0.send_modify(|state| {
            state.deadline = Some(state.deadline.map_or(asked, |deadline| deadline.min(asked)));
        });
    }

    /// Waits until the drain has begun and all guards are dropped or the deadline has passed.
    /// True if nothing was left.
    pub async fn finished(&self) -> bool {
        let mut changes = self.0.subscribe();
        loop {
            let state = *changes.borrow_and_update();
            match state.deadline {
                Some(_) if state.guards == 0 => return true,
                Some(deadline) if deadline <= Instant::now() => return false,
                Some(deadline) => {
                    // Either way the loop looks again; only the state decides.
                    let _ = tokio::time::timeout_at(deadline, changes.changed()).await;
                }
                // The sender is `self`, so waiting for it cannot fail.
                None => {
                    let _ = changes.changed().await;
                }
            }
        }
    }

    /// A watch of this drain.
    #[must_use]
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(Arc::clone(&self.0))
    }
}

impl DrainWatch {
    /// Waits until the drain begins. Cancel safe.
    pub async fn started(&self) {
        let mut changes = self.0.subscribe();
        // The sender is `self`, so waiting for it cannot fail.
        let _ = changes.wait_for(|state| state.deadline.is_some()).await;
    }

    /// True once the drain has begun.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.0.borrow().deadline.is_some()
    }

    /// Waits until the deadline of a drain has passed: what still runs must stop at once.
    /// Cancel safe.
    pub async fn expired(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let deadline = changes.borrow_and_update().deadline;
            match deadline {
                Some(deadline) if deadline <= Instant::now() => return,
                Some(deadline) => {
                    let _ = tokio::time::timeout_at(deadline, changes.changed()).await;
                }
                None => {
                    let _ = changes.changed().await;
                }
            }
        }
    }

    /// Marks work that the drain waits for.
    #[must_use]
    pub fn guard(&self) -> DrainGuard {
        self.0
            .send_modify(|state| state.guards = state.guards.saturating_add(1));
        DrainGuard(Arc::clone(&self.0))
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        self.0
            .send_modify(|state| state.guards = state.guards.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_idle_drain_finishes_at_once() {
        let (trigger, watch) = drain();
        assert!(!watch.is_started());
        trigger.start(GRACE);
        let began = Instant::now();
        watch.started().await;
        assert!(trigger.finished().await);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_guards_but_not_beyond_the_deadline() {
        let (trigger, watch) = drain();
        let quick = watch.guard();
        let slow = watch.guard();
        trigger.start(GRACE);
        let began = Instant::now();
        drop(quick);
        assert!(!trigger.finished().await);
        assert_eq!(began.elapsed(), GRACE);
        watch.expired().await;
        drop(slow);
        assert!(trigger.finished().await);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_the_last_guard_is_dropped() {
        let (trigger, watch) = drain();
        let guard = watch.guard();
        trigger.start(GRACE);
        let began = Instant::now();
        let work = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(guard);
        };
        let (finished, ()) = tokio::join!(trigger.finished(), work);
        assert!(finished);
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_start_can_only_shorten_it() {
        let (trigger, watch) = drain();
        let _guard = watch.guard();
        trigger.start(GRACE);
        trigger.start(GRACE * 10);
        let began = Instant::now();
        let hard = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            trigger.start(Duration::ZERO);
        };
        let (finished, ()) = tokio::join!(trigger.finished(), hard);
        assert!(!finished);
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
}
