//! A server's id belongs to one machine for ever (reliability reference, invariant 24).

use std::collections::BTreeMap;

use super::{Invariant, Seen};

/// The property, and whose each id is.
#[derive(Default)]
pub struct NodeIdsAreFresh {
    owners: BTreeMap<u64, String>,
}

impl Invariant for NodeIdsAreFresh {
    fn name(&self) -> &'static str {
        "node ids are fresh"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for (name, view) in seen.servers.changed() {
            let owner = self
                .owners
                .entry(view.node_id)
                .or_insert_with(|| name.clone());
            if owner != name {
                return Err(format!(
                    "{owner} and {name} are both server {}",
                    view.node_id
                ));
            }
        }
        Ok(())
    }
}
