//! No stampede: whatever failed and came back, one identity in one process's hands is not replaced over
//! and over. Renewals are spread and paused, so a workload sees a few new SVIDs at the most in a moment
//! (an entry may be changed, an agent restarted, an answer lost and asked for again).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Invariant, Seen};

/// How long the moment is: a quarter of the shortest SVID's life.
const MOMENT: Duration = Duration::from_secs(2);
/// New SVIDs of one identity in it. A renewal, a change of the entry, a restart, and one to spare.
const SVIDS_MAX: usize = 4;

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
            if lately.len() > SVIDS_MAX {
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
