//! Raft's election safety (Raft paper, figure 3), as this log has it: a leader is known by its term and
//! its id, compared in this order (openraft's default leader id, which is on disk). So in one term a
//! leader may only give way to a greater id. One whose voters have voted for a greater id since may learn
//! late that it was elected; then it gets nothing to a majority any more.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Seen};
use crate::view::{ServerView, is_leader};

/// The property, who led in each term, and who began after a greater id.
#[derive(Default)]
pub struct OneLeaderAtATime {
    led: BTreeMap<u64, BTreeSet<u64>>,
    late: BTreeSet<(u64, u64)>,
}

impl Invariant for OneLeaderAtATime {
    fn name(&self) -> &'static str {
        "in a term, leaders give way only to greater ids"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for view in seen
            .servers
            .servers()
            .values()
            .filter(|view| is_leader(view))
        {
            let (term, node) = (view.status.term, view.node_id);
            let led = self.led.entry(term).or_default();
            // Whoever led before takes itself for the leader after a restart, until it hears better.
            if led.insert(node) && led.last() != Some(&node) {
                self.late.insert((term, node));
            }
            if self.late.contains(&(term, node)) && has_majority(view) {
                return Err(format!(
                    "server {node} has a majority in term {term} after {led:?}"
                ));
            }
        }
        Ok(())
    }
}

/// Whether a majority has taken anything from this leader.
fn has_majority(view: &ServerView) -> bool {
    let status = &view.status;
    let took = |node: &&u64| {
        let known = status.replicated.get(*node);
        **node == view.node_id || known.is_some_and(Option::is_some)
    };
    status.voters.iter().filter(took).count() * 2 > status.voters.len()
}
