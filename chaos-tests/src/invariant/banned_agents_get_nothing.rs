//! P3: after the leaf of a ban nothing is accepted for that agent (reliability reference, invariant 20).

use std::collections::BTreeMap;

use super::{Invariant, Seen};

/// The property.
pub struct BannedAgentsGetNothing;

impl Invariant for BannedAgentsGetNothing {
    fn name(&self) -> &'static str {
        "banned agents get nothing"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        let mut banned: BTreeMap<String, u64> = BTreeMap::new();
        for leaf in seen.world.oracle.log() {
            let accepted = leaf.decision == "accepted";
            if leaf.action == "agent.ban" && accepted {
                banned.insert(leaf.subject.clone(), leaf.index);
            }
            let agent = match &leaf.issuance {
                Some(issuance) if issuance.basis == "agent" => Some(&leaf.subject),
                Some(issuance) => Some(&issuance.agent),
                None => None,
            };
            let ban = agent.and_then(|agent| banned.get(agent));
            if let Some(ban) = ban.filter(|_| accepted) {
                return Err(format!(
                    "leaf {} is for an agent that leaf {ban} banned",
                    leaf.index
                ));
            }
        }
        Ok(())
    }
}
