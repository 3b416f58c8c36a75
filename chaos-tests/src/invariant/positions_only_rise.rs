//! Within one life a server's term, applied position, log of the audit and bundle only grow; across a
//! restart its term does not fall below what it was, because a vote is durable before it counts.

use std::collections::BTreeMap;

use ca_server::state::Position;

use super::{Invariant, Seen};

#[derive(Clone, Copy)]
struct Last {
    life: u64,
    term: u64,
    position: Position,
    audit_size: u64,
    bundle_sequence: u64,
}

/// The property, and where each server was.
#[derive(Default)]
pub struct PositionsOnlyRise {
    last: BTreeMap<String, Last>,
}

impl Invariant for PositionsOnlyRise {
    fn name(&self) -> &'static str {
        "positions only rise"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for (name, view) in seen.servers.changed() {
            let now = Last {
                life: view.life,
                term: view.status.term,
                position: view.position,
                audit_size: view.audit_size,
                bundle_sequence: view.bundle_sequence,
            };
            let Some(before) = self.last.insert(name.clone(), now) else {
                continue;
            };
            let state_fell = now.position < before.position
                || now.audit_size < before.audit_size
                || now.bundle_sequence < before.bundle_sequence;
            if now.term < before.term || (before.life == now.life && state_fell) {
                return Err(format!(
                    "{name} went from term {} {:?} to term {} {:?}",
                    before.term, before.position, now.term, now.position
                ));
            }
        }
        Ok(())
    }
}
