//! A join token admits one key, however often it is tried (reliability reference, invariant 22).

use std::collections::BTreeMap;

use super::{Invariant, Seen};
use crate::sim::agent::RACER;

/// The property.
pub struct TokensAdmitOneKey;

impl Invariant for TokensAdmitOneKey {
    fn name(&self) -> &'static str {
        "a token admits one key"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        // Looked at from outside too: who raced for one token and is served now.
        let agents = seen.world.agents.iter();
        let served = agents
            .filter(|(name, state)| name.starts_with(RACER) && state.borrow().position.is_some());
        let served: Vec<&String> = served.map(|(name, _)| name).collect();
        if served.len() > 1 {
            return Err(format!("{served:?} all joined with one token"));
        }
        let mut keys: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for leaf in seen.world.oracle.log() {
            let joined = leaf.attestation.filter(|one| one.method == "join_token");
            let Some(joined) = joined.filter(|_| leaf.decision == "accepted") else {
                continue;
            };
            let key = joined.spki_sha256;
            let first = keys
                .entry(joined.evidence_sha256)
                .or_insert_with(|| key.clone());
            if *first != key {
                return Err(format!("leaf {} admits a second key", leaf.index));
            }
        }
        Ok(())
    }
}
