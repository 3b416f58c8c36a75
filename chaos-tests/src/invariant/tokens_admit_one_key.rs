//! A join token admits one key, however often it is tried (reliability reference, invariant 22).

use std::collections::BTreeMap;

use super::{Invariant, Seen};

/// The property.
pub struct TokensAdmitOneKey;

impl Invariant for TokensAdmitOneKey {
    fn name(&self) -> &'static str {
        "a token admits one key"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
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
