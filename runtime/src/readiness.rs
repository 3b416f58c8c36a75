//! Readiness: the named conditions that must hold before a daemon takes work.
//!
//! Responsible for collecting what is still missing. Always holds: ready means that no gate is
//! closed; a gate whose owner is gone is not left behind. Not here: the HTTP probe
//! ([`crate::http::probes`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The set of gates of one process. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Gates>);

#[derive(Debug, Default)]
struct Gates {
    /// How many closed gates have this name.
    closed: Mutex<BTreeMap<&'static str, usize>>,
    changed: watch::Sender<()>,
}

/// One closed gate; dropping it opens it.
#[derive(Debug)]
#[must_use = "the gate is open as soon as it is dropped"]
pub struct Gate {
    name: &'static str,
    gates: Arc<Gates>,
}

impl Readiness {
    /// No gates: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Closes a gate: not ready until it is dropped (or [`Gate::open`]ed).
    pub fn gate(&self, name: &'static str) -> Gate {
        {
            let mut closed = self.0.closed.lock().unwrap_or_else(PoisonError::into_inner);
            let count = closed.entry(name).or_insert(0);
            *count = count.saturating_add(1);
        }
        self.0.changed.send_replace(());
        Gate {
            name,
            gates: Arc::clone(&self.0),
        }
    }

    /// True when no gate is closed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.pending().is_empty()
    }

    /// The names of the closed gates, sorted.
    #[must_use]
    pub fn pending(&self) -> Vec<&'static str> {
        let closed = self.0.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.keys().copied().collect()
    }

    /// Waits until it is ready. Cancel safe.
    pub async fn ready(&self) {
        let mut changes = self.0.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if self.is_ready() {
                return;
            }
            // The sender is `self`, so waiting for it cannot fail.
            let _ = changes.changed().await;
        }
    }
}

impl Readiness {
    /// Waits until it is not ready, or not any more. Cancel safe.
    pub async fn not_ready(&self) {
        let mut changes = self.0.changed.subscribe();
        loop {
            changes.mark_unchanged();
            if !self.is_ready() {
                return;
            }
            // The sender is `self`, so waiting for it cannot fail.
            let _ = changes.changed().await;
        }
    }
}

impl Gate {
    /// The condition holds now.
    pub fn open(self) {}
}

impl Drop for Gate {
    fn drop(&mut self) {
        {
            let mut closed = self
                .gates
                .closed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = closed.get_mut(self.name) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    closed.remove(self.name);
                }
            }
        }
        self.gates.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_names_what_is_missing() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let store = readiness.gate("store");
        let leader = readiness.gate("leader");
        assert_eq!(readiness.pending(), ["leader", "store"]);
        store.open();
        assert_eq!(readiness.pending(), ["leader"]);
        assert!(!readiness.is_ready());
        drop(leader);
        assert!(readiness.is_ready());
    }

    #[test]
    fn two_gates_of_one_name_must_both_open() {
        let readiness = Readiness::new();
        let first = readiness.gate("listener");
        let second = readiness.gate("listener");
        drop(first);
        assert_eq!(readiness.pending(), ["listener"]);
        drop(second);
        assert!(readiness.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_see_the_last_gate_open() {
        let readiness = Readiness::new();
        let gate = readiness.gate("store");
        let open = async {
            tokio::task::yield_now().await;
            gate.open();
        };
        tokio::join!(readiness.ready(), open);
        assert!(readiness.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_see_a_gate_close_again() {
        let readiness = Readiness::new();
        let close = async {
            tokio::task::yield_now().await;
            readiness.gate("clock")
        };
        let ((), gate) = tokio::join!(readiness.not_ready(), close);
        assert!(!readiness.is_ready());
        gate.open();
        readiness.ready().await;
    }
}
