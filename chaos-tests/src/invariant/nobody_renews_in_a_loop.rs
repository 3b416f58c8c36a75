//! No stampede: whatever failed and came back, one identity in one process's hands is not replaced over
//! and over. Renewals are spread and paused, so a workload sees a few new SVIDs at the most in a moment
//! (an entry may be changed, an agent restarted, an answer lost and asked for again). When clocks are so
//! far apart that every new SVID looks spent, one comes for each twentieth of its life
//! (`mintmark_identity::rotation::renewal_due_once_received`).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mintmark_identity::validity::Validity;

use super::{Invariant, Seen};

/// How long the moment is: a quarter of the shortest SVID's life.
const MOMENT: Duration = Duration::from_secs(2);
/// New SVIDs of one identity in it: a renewal, a change of the entry, a restart, and one to spare.
const SVIDS_MAX: u128 = 4;
/// The least part of its life that an SVID stays.
const RENEWALS_PER_LIFE: u32 = 20;

/// The same for SVIDs of this life, whatever the clocks say.
fn allowed(validity: Validity) -> u128 {
    let life = validity.not_after.since(validity.issue_time());
    let stays = (life / RENEWALS_PER_LIFE).as_millis().max(1);
    SVIDS_MAX + MOMENT.as_millis() / stays
}

/// An SVID and when it was first seen.
type FirstSeen = (Duration, [u8; 32]);

/// The property, and what was given lately to whom.
#[derive(Default)]
pub struct NobodyRenewsInALoop {
    checked: usize,
    lately: BTreeMap<(String, u32, String), VecDeque<FirstSeen>>,
}

impl Invariant for NobodyRenewsInALoop {
    fn name(&self) -> &'static str {
        "nobody renews in a loop"
    }

    fn after_step(&mut self, seen: Seen<'_>) -> Result<(), String> {
        let received = &seen.world.oracle.received;
        let new = received.get(self.checked..).unwrap_or_default();
        self.checked = received.len();
        for one in new {
            let Ok(svid) = &one.verified else { continue };
            let whose = (one.machine.clone(), one.uid, svid.spiffe_id.to_string());
            let lately = self.lately.entry(whose).or_default();
            while lately.front().is_some_and(|(at, _)| *at + MOMENT < one.at) {
                lately.pop_front();
            }
            if lately.iter().all(|(_, hash)| *hash != one.svid_hash) {
                lately.push_back((one.at, one.svid_hash));
            }
            if lately.len() as u128 > allowed(svid.validity) {
                return Err(format!(
                    "user {} on {} was given {} SVIDs of {} within {MOMENT:?}",
                    one.uid,
                    one.machine,
                    lately.len(),
                    svid.spiffe_id
                ));
            }
        }
        Ok(())
    }
}
