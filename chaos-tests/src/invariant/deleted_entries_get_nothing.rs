//! P3: after the leaf of a deletion nothing is accepted for that entry, and every accepted intent names
//! the revision that the entry had then (reliability reference, invariants 9 and 21).

use std::collections::BTreeMap;

use super::{Invariant, Seen};

/// The property.
pub struct DeletedEntriesGetNothing;

impl Invariant for DeletedEntriesGetNothing {
    fn name(&self) -> &'static str {
        "deleted entries get nothing"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        let mut entries: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for leaf in seen.world.oracle.log() {
            if leaf.decision != "accepted" {
                continue;
            }
            if let Some(change) = &leaf.entry {
                if leaf.action == "entry.delete" {
                    entries.remove(&change.entry_id);
                } else {
                    let now = (change.revision, change.spiffe_id.clone());
                    entries.insert(change.entry_id.clone(), now);
                }
            }
            let Some(issuance) = leaf.issuance.filter(|one| one.basis == "entry") else {
                continue;
            };
            let now = entries.get(&issuance.entry_id);
            let right = now.is_some_and(|(revision, spiffe_id)| {
                *revision == issuance.entry_revision && *spiffe_id == leaf.subject
            });
            if !right {
                return Err(format!(
                    "leaf {} is for {} by revision {} of an entry that is {now:?}",
                    leaf.index, leaf.subject, issuance.entry_revision
                ));
            }
        }
        Ok(())
    }
}
