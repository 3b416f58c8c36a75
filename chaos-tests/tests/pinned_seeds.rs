//! Seeds that found bugs, with their stories. Each ran into what is told before it was mended; a later
//! change of the planner may lead it elsewhere, so each story has a test at the bug's own place as well.

#![allow(clippy::panic, reason = "tests")]

use chaos_tests::sim::plan::Plan;
use chaos_tests::sim::run::run;

/// Seed 101: server 2 had not applied an entry yet that server 1 had acknowledged, and told an operator
/// who wanted to change it that there is none. Now it confirms with the quorum before it says so
/// (`ca_server::api::entry`).
const ACKNOWLEDGED_ENTRY_WAS_DENIED: u64 = 101;

/// Seed 1: the clock of an agent ran five seconds ahead, more than the 40 % of life after which SVIDs are
/// renewed. Every new SVID was due at once, and the agent renewed in a loop. Now an SVID lives at least a
/// twentieth of its life with the agent (`mintmark_identity::rotation`).
const FAST_CLOCK_RENEWED_IN_A_LOOP: u64 = 1;

#[test]
fn pinned_seeds_hold_every_property() {
    for seed in [ACKNOWLEDGED_ENTRY_WAS_DENIED, FAST_CLOCK_RENEWED_IN_A_LOOP] {
        let outcome = run(&Plan::of(seed));
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {violation}");
        }
    }
}
