//! Raft's election safety (Raft paper, figure 3), as this log has it: a leader is known by its term and
//! its id, compared in this order (openraft's default leader id, which is on disk). So in one term a
//! leader may only give way to a greater id, and no two servers are the same leader.

use std::collections::BTreeMap;

use super::{Invariant, Seen};
use crate::view::is_leader;

/// The property, and who led last in each term.
#[derive(Default)]
pub struct OneLeaderAtATime {
    last: BTreeMap<u64, u64>,
    were: BTreeMap<String, (u64, u64)>,
}

impl Invariant for OneLeaderAtATime {
    fn name(&self) -> &'static str {
        "in a term, leaders give way only to greater ids"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for (name, view) in seen.servers.servers() {
            if !is_leader(view) {
                self.were.remove(name);
                continue;
            }
            let term = view.status.term;
            // Whoever led before may not have heard yet that another does.
            if self.were.insert(name.clone(), (view.life, term)) == Some((view.life, term)) {
                continue;
            }
            let before = self.last.insert(term, view.node_id);
            if before.is_some_and(|before| before > view.node_id) {
                return Err(format!(
                    "server {} began to lead in term {term} after {before:?}",
                    view.node_id
                ));
            }
        }
        Ok(())
    }
}
