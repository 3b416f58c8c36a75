//! No serial is accepted twice, by whichever leader (reliability reference, invariant 7); and no intent
//! is accepted under an authority after the leaf that tainted or ended it (invariant 16).

use std::collections::BTreeSet;

use super::{Invariant, Seen};

/// The property.
pub struct SerialsAreUnique;

impl Invariant for SerialsAreUnique {
    fn name(&self) -> &'static str {
        "serials are unique, and ended authorities sign nothing"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        let mut serials = BTreeSet::new();
        let mut ended = BTreeSet::new();
        for leaf in seen.world.oracle.log() {
            let ends = ["authority.taint", "authority.revoke", "authority.retire"];
            if ends.contains(&leaf.action.as_str()) && leaf.decision == "accepted" {
                ended.insert(leaf.subject.clone());
            }
            let Some(issuance) = leaf.issuance.filter(|_| leaf.decision == "accepted") else {
                continue;
            };
            // Tokens have none.
            if !issuance.serial.is_empty() && !serials.insert(issuance.serial.clone()) {
                return Err(format!(
                    "serial {} is in two leaves",
                    hex::encode(issuance.serial)
                ));
            }
            if ended.contains(&issuance.authority_id) {
                return Err(format!(
                    "leaf {} is under {}, which had ended",
                    leaf.index, issuance.authority_id
                ));
            }
        }
        Ok(())
    }
}
