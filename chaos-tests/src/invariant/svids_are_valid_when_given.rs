//! What a workload is given holds at that very moment: it verifies against the bundle that came with
//! it, is of the entry's identity, its key is its own, it does not outlive what was allowed, and it has
//! not expired (reliability reference, invariants 8, 9, 10 and 27).

use std::time::Duration;

use mintmark_identity::validity::SVID_BACKDATE;

use super::{Invariant, Seen};

/// The property, and how many SVIDs were checked.
#[derive(Default)]
pub struct SvidsAreValidWhenGiven {
    checked: usize,
    tokens: usize,
}

impl Invariant for SvidsAreValidWhenGiven {
    fn name(&self) -> &'static str {
        "SVIDs are valid when they are given"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        let tokens = &seen.world.oracle.tokens;
        for token in tokens.get(self.tokens..).unwrap_or_default() {
            let clock = seen.world.machines[&token.machine].clock();
            if let (Some(Err(error)), 0) = (&token.valid, clock.skewed_by()) {
                let whose = format!("user {} on {}", token.uid, token.machine);
                return Err(format!("{whose} was given a bad token: {error}"));
            }
        }
        self.tokens = tokens.len();
        let received = &seen.world.oracle.received;
        let new = received.get(self.checked..).unwrap_or_default();
        self.checked = received.len();
        for one in new {
            let whose = format!("user {} on {}", one.uid, one.machine);
            let skewed = seen.world.machines[&one.machine].clock().skewed_by() != 0;
            let svid = match &one.verified {
                Ok(svid) => svid,
                // A machine whose clock is wrong judges wrongly.
                Err(_) if skewed => continue,
                Err(error) => return Err(format!("{whose} was given a bad SVID: {error}")),
            };
            one.key_matches
                .as_ref()
                .map_err(|error| format!("{whose} was given a key that does not fit: {error}"))?;
            let path = svid.spiffe_id.path();
            let user = one.uid - crate::sim::agent::UID_BASE;
            if path != format!("/{}/user-{user}", one.machine) && !path.starts_with("/extra/") {
                return Err(format!("{whose} was given {}", svid.spiffe_id));
            }
            let ttl_max = Duration::from_secs(seen.shape.svid_ttl_seconds);
            if svid.validity.lifetime() > ttl_max + SVID_BACKDATE + Duration::from_secs(1) {
                return Err(format!(
                    "{whose} was given one that lives {:?}",
                    svid.validity.lifetime()
                ));
            }
        }
        Ok(())
    }
}
