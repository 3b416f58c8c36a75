//! P1: every SVID that was seen anywhere has exactly one accepted leaf with its hash, its serial and
//! its authority (reliability reference, invariant 1).

use std::collections::BTreeMap;

use super::{Invariant, Seen};

/// The property.
pub struct ReleasedSvidsAreInTheLog;

impl Invariant for ReleasedSvidsAreInTheLog {
    fn name(&self) -> &'static str {
        "released SVIDs are in the log"
    }

    fn at_end(&mut self, seen: Seen<'_>) -> Result<(), String> {
        let mut accepted: BTreeMap<Vec<u8>, Vec<_>> = BTreeMap::new();
        for leaf in seen.world.oracle.log() {
            if let Some(issuance) = leaf.issuance.filter(|_| leaf.decision == "accepted") {
                let leaves = accepted.entry(issuance.svid_hash.clone()).or_default();
                leaves.push((leaf.subject, issuance));
            }
        }
        let oracle = &seen.world.oracle;
        let received = oracle.received.iter();
        for one in received.filter(|one| one.at <= oracle.audited_at) {
            let Ok(svid) = &one.verified else { continue };
            let leaves = accepted.get(one.svid_hash.as_slice());
            let [(subject, issuance)] = leaves.map_or(&[][..], Vec::as_slice) else {
                let count = leaves.map_or(0, Vec::len);
                return Err(format!(
                    "{} {} has {count} leaves",
                    svid.spiffe_id, svid.serial
                ));
            };
            if *subject != svid.spiffe_id.to_string()
                || hex::encode(&issuance.serial).trim_start_matches('0')
                    != svid.serial.trim_start_matches('0')
                || issuance.authority_id != svid.authority_id
            {
                return Err(format!(
                    "the leaf of {} {} is another's",
                    svid.spiffe_id, svid.serial
                ));
            }
        }
        for token in oracle
            .tokens
            .iter()
            .filter(|one| one.at <= oracle.audited_at)
        {
            let leaves = accepted.get(token.svid_hash.as_slice());
            // Two tokens of one second, audience and subject are the same bytes before the signature.
            let right = leaves.is_some_and(|leaves| {
                let mut leaves = leaves.iter();
                leaves.all(|(subject, one)| *subject == token.spiffe_id && one.kind == "jwt")
            });
            if !right {
                return Err(format!(
                    "a token of {} has no leaf of its own",
                    token.spiffe_id
                ));
            }
        }
        Ok(())
    }
}
