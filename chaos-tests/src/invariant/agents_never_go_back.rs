//! What an agent serves from only goes forward, across its restarts as well: position and bundle
//! sequence never fall (reliability reference, invariant 15).

use std::collections::BTreeMap;

use node_agent::cache::state::Position;

use super::{Invariant, Seen};

/// The property, and where each agent was.
#[derive(Default)]
pub struct AgentsNeverGoBack {
    last: BTreeMap<String, (Option<Position>, u64)>,
}

impl Invariant for AgentsNeverGoBack {
    fn name(&self) -> &'static str {
        "agents never go back"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for (name, state) in &seen.world.agents {
            let state = state.borrow();
            let now = (state.position, state.bundle_sequence);
            drop(state);
            // An agent that lost its cache has not heard anything yet.
            if now.0.is_none() {
                continue;
            }
            let before = self.last.insert(name.clone(), now);
            if before.is_some_and(|before| now.0 < before.0 || now.1 < before.1) {
                return Err(format!("{name} went from {before:?} to {now:?}"));
            }
        }
        Ok(())
    }
}
