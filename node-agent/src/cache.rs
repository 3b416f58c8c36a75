//! The cache: one value that everything is served from, changed in few places, watched by many.
//!
//! Responsible for: holding [`state::State`], letting writers change it and readers see the
//! latest whole value, and counting which entries streams want. Always holds: a reader sees one
//! consistent value; every change wakes every watcher. Not here: deciding (`plan`), issuing
//! (`rotation`), disk (`keeper`), tokens (`tokens`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use mintmark_identity::{clock::Timestamp, entry::EntryId};
use tokio::sync::watch;

use self::{
    plan::{Attempt, Progress},
    state::State,
};

pub mod entries;
pub mod frames;
pub mod keeper;
pub mod plan;
pub mod record;
pub mod state;
pub mod tokens;

/// The agent's cache. A clone is another handle of the same cache.
#[derive(Clone, Debug)]
pub struct Cache {
    state: Arc<watch::Sender<Arc<State>>>,
    wanted: Arc<watch::Sender<BTreeMap<EntryId, usize>>>,
    progress: Arc<Mutex<Progress>>,
}

impl Cache {
    /// A cache that starts from this state.
    #[must_use]
    pub fn new(state: State) -> Self {
        Self {
            state: Arc::new(watch::Sender::new(Arc::new(state))),
            wanted: Arc::new(watch::Sender::new(BTreeMap::new())),
            progress: Arc::default(),
        }
    }

    /// The present state.
    #[must_use]
    pub fn current(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }

    /// Follows the state.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.state.subscribe()
    }

    /// Follows which entries are wanted.
    #[must_use]
    pub fn watch_wanted(&self) -> watch::Receiver<BTreeMap<EntryId, usize>> {
        self.wanted.subscribe()
    }

    /// Changes the state and wakes the watchers. The closure must be short: readers wait.
    pub fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut result = None;
        self.state
            .send_modify(|state| result = Some(change(Arc::make_mut(state))));
        #[expect(
            clippy::expect_used,
            reason = "send_modify calls its closure exactly once"
        )]
        result.expect("the closure ran")
    }

    /// Like [`Self::change`], but nobody sees anything when the change fails.
    ///
    /// # Errors
    /// The closure's own.
    pub fn try_change<E>(&self, change: impl FnOnce(&mut State) -> Result<(), E>) -> Result<(), E> {
        let mut result = Ok(());
        self.state.send_if_modified(|state| {
            let mut next = State::clone(state);
            result = change(&mut next);
            if result.is_ok() {
                *state = Arc::new(next);
            }
            result.is_ok()
        });
        result
    }

    /// The entries that streams want now.
    #[must_use]
    pub fn wanted(&self) -> BTreeSet<EntryId> {
        self.wanted.borrow().keys().cloned().collect()
    }

    /// Declares that a stream wants these entries until the returned value is dropped.
    #[must_use]
    pub fn want(&self, ids: impl IntoIterator<Item = EntryId>) -> Want {
        let ids: BTreeSet<EntryId> = ids.into_iter().collect();
        self.wanted.send_if_modified(|wanted| {
            let before = wanted.len();
            for id in &ids {
                let count = wanted.entry(id.clone()).or_insert(0);
                *count = count.saturating_add(1);
            }
            wanted.len() != before
        });
        Want {
            wanted: Arc::clone(&self.wanted),
            ids,
        }
    }

    /// Reads or changes what is known of attempts to issue.
    pub fn progress<R>(&self, look: impl FnOnce(&mut Progress) -> R) -> R {
        look(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The last problem with issuing for an entry, if it is still unsolved.
    #[must_use]
    pub fn problem(&self, id: &EntryId) -> Option<Attempt> {
        self.progress(|progress| progress.attempts.get(id).cloned())
    }

    /// Notes that streams were told of everything that time ended up to `now`.
    pub fn told_until(&self, now: Timestamp) {
        self.change(|state| state.told_until = now);
    }
}

/// A stream's wish for entries; dropping it ends the wish.
#[derive(Debug)]
pub struct Want {
    wanted: Arc<watch::Sender<BTreeMap<EntryId, usize>>>,
    ids: BTreeSet<EntryId>,
}

impl Want {
    /// Whether this is a wish for exactly these entries.
    #[must_use]
    pub fn is_for(&self, ids: &BTreeSet<EntryId>) -> bool {
        self.ids == *ids
    }
}

impl Drop for Want {
    fn drop(&mut self) {
        self.wanted.send_if_modified(|wanted| {
            let before = wanted.len();
            for id in &self.ids {
                if let Some(count) = wanted.get_mut(id) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        wanted.remove(id);
                    }
                }
            }
            wanted.len() != before
        });
    }
}
