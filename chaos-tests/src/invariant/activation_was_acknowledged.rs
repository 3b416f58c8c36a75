//! P6: an authority that becomes active is in the bundle of every agent that counts, or its leaf names
//! the ground (deadline, cold start, override) and who was missing.
//!
//! Checked against what agents really serve, not against what servers were told.

use std::collections::{BTreeMap, BTreeSet};

use mintmark_proto::mintmark::state::v1::{AuthorityKind, AuthorityState};

use super::{Invariant, Seen};

/// The property, and authorities that were seen active.
#[derive(Default)]
pub struct ActivationWasAcknowledged {
    active: BTreeSet<String>,
    /// Agents that served a bundle without it when an X.509 authority became active.
    without: BTreeMap<String, BTreeSet<String>>,
}

impl Invariant for ActivationWasAcknowledged {
    fn name(&self) -> &'static str {
        "activation was acknowledged"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for (_, view) in seen.servers.changed() {
            for authority in &view.authorities {
                let is_active = authority.state() == AuthorityState::Active
                    && authority.kind() == AuthorityKind::X509;
                if !is_active || !self.active.insert(authority.id.clone()) {
                    continue;
                }
                // Who counts is told by the state that activated it.
                let counts = view.agents.iter().filter(|agent| {
                    !agent.banned && agent.svid_not_after_ms > view.command_time_ms
                });
                for agent in counts {
                    let machine = seen
                        .world
                        .agent_ids
                        .iter()
                        .find(|(_, id)| **id == agent.agent_id)
                        .map(|(machine, _)| machine);
                    let served = machine.and_then(|machine| seen.world.agents.get(machine));
                    let Some(served) = served else { continue };
                    let has_it = served.borrow().bundles.iter().any(|bundle| {
                        bundle
                            .x509
                            .iter()
                            .any(|anchor| anchor.certificate == authority.certificate)
                    });
                    if !has_it {
                        let without = self.without.entry(authority.id.clone()).or_default();
                        without.insert(agent.agent_id.clone());
                    }
                }
            }
        }
        Ok(())
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        for leaf in seen.world.oracle.log() {
            if leaf.action != "authority.activate" || leaf.decision != "accepted" {
                continue;
            }
            let Some(without) = self.without.get(&leaf.subject) else {
                continue;
            };
            // A cold start waits for nobody, and says so.
            if leaf.reason.starts_with("cold-start") {
                continue;
            }
            let unnamed: Vec<&String> = without
                .iter()
                .filter(|agent| {
                    !leaf
                        .missing
                        .iter()
                        .any(|named| named.contains(agent.as_str()))
                })
                .collect();
            if !unnamed.is_empty() {
                return Err(format!(
                    "{} became active ({}, missing {:?}) while {unnamed:?} served bundles without it",
                    leaf.subject, leaf.reason, leaf.missing
                ));
            }
        }
        Ok(())
    }
}
