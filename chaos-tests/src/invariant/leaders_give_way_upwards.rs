//! Raft's election safety (Raft paper, figure 3), as this log has it: a leader is known by its term and
//! its id, compared in this order (openraft's default leader id, which is on disk). So in one term a
//! leader may only give way to a greater id, and no two servers are the same leader.

use std::collections::{BTreeMap, BTreeSet};

use super::{Invariant, Seen};
use crate::view::is_leader;

/// The property, and who led in each term.
#[derive(Default)]
pub struct OneLeaderAtATime {
    led: BTreeMap<u64, BTreeSet<u64>>,
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
            let term = view.status.term;
            let led = self.led.entry(term).or_default();
            // Whoever led before takes itself for the leader after a restart, until it hears better.
            if led.insert(view.node_id) && led.last() != Some(&view.node_id) {
                let node = view.node_id;
                return Err(format!(
                    "server {node} began to lead in term {term} after {led:?}"
                ));
            }
        }
        Ok(())
    }
}
