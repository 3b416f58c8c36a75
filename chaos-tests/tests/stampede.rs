//! Many agents whose SVIDs all expired while no server ran, and what the servers meet when they are back
//! (reliability reference: total outage and return).

#![allow(clippy::panic, clippy::print_stdout, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use chaos_tests::sim::plan::{Fault, Plan, Planned, Who};
use chaos_tests::sim::run::{Issued, run};

/// Twice as long as an SVID lives.
const OUTAGE: Duration = Duration::from_secs(24);
const AGENTS: u32 = 24;

/// A cluster of three with many agents, which loses all power once.
fn outage(seed: u64) -> Plan {
    let mut plan = Plan::of(seed);
    plan.shape.servers = 3;
    plan.shape.spares = 0;
    plan.shape.agents = AGENTS;
    plan.shape.workloads = 1;
    plan.shape.racers = 0;
    plan.shape.hybrid = false;
    plan.shape.svid_ttl_seconds = 12;
    plan.shape.ca_ttl_seconds = 12 * 8;
    plan.shape.chaos = Duration::from_secs(40);
    plan.deeds.clear();
    plan.faults = vec![Planned {
        at: Duration::from_secs(2),
        lasts: OUTAGE,
        fault: Fault::Crash(Who::AllServers),
    }];
    plan
}

/// How long after the first issuance everybody is back.
const BACK_WITHIN_MS: i64 = 5_000;
/// SVIDs of one identity meanwhile: one that was lost, and one that counts.
const SVIDS_MAX: usize = 2;

#[test]
fn agents_that_come_back_together_ask_for_what_they_lack_and_no_more() {
    let outcome = run(&outage(1));
    if let Some(violation) = &outcome.violation {
        panic!("{violation}");
    }
    let x509: Vec<&Issued> = outcome
        .issued
        .iter()
        .filter(|issued| issued.kind == "x509")
        .collect();
    let gap = x509
        .windows(2)
        .max_by_key(|pair| pair[1].at_ms - pair[0].at_ms);
    let Some([before, first]) = gap else {
        panic!("nothing was issued");
    };
    let silence = Duration::from_millis((first.at_ms - before.at_ms).unsigned_abs());
    assert!(silence >= OUTAGE, "the outage lasted only {silence:?}");
    let mut back: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for issued in &x509 {
        let after = issued.at_ms - first.at_ms;
        if (0..BACK_WITHIN_MS).contains(&after) {
            back.entry(&issued.spiffe_id).or_default().push(after);
        }
    }
    let of_agents = back.keys().filter(|id| id.contains("/agent/")).count();
    let of_workloads = back.keys().filter(|id| id.contains("/user-")).count();
    assert_eq!(
        (of_agents, of_workloads),
        (AGENTS as usize, AGENTS as usize)
    );
    let greedy = back.iter().find(|(id, times)| {
        let servers = usize::from(id.ends_with("/spire/server"));
        times.len() > SVIDS_MAX + servers
    });
    assert!(greedy.is_none(), "{greedy:?}");
    let mut times: Vec<i64> = back.values().flatten().copied().collect();
    times.sort_unstable();
    let busiest = times.iter().map(|from| {
        let within = |at: &&i64| (*from..*from + 100).contains(*at);
        times.iter().filter(within).count()
    });
    println!(
        "{} SVIDs of {} identities within {BACK_WITHIN_MS} ms, {} in the busiest 100 ms",
        times.len(),
        back.len(),
        busiest.max().unwrap_or(0),
    );
}
