//! An agent, killed at each step of attesting, renewing, keeping its cache, and being denied.

use chaos_tests::real::cluster::PATIENCE;
use chaos_tests::real::collector::Collector;
use chaos_tests::real::crash::CrashCluster;
use chaos_tests::real::wait;
use mintmark_runtime::failpoint::Step;

use crate::{Group, steps_of};

const SERVER: &str = "server-1";
const AGENT: &str = "agent";

fn cluster() -> CrashCluster {
    let mut cluster = CrashCluster::make(&["--x509-ttl", "12s"]);
    cluster.start(SERVER);
    cluster.start(AGENT);
    cluster.follow();
    cluster.check(&[SERVER]);
    cluster
}

/// What the agent has from before it was killed, or gets anew, is served at once.
fn it_serves_again(cluster: &CrashCluster) {
    wait::until("the agent serves", PATIENCE, || cluster.ask().ok());
}

#[test]
fn an_agent_that_is_killed_at_any_step_goes_on_with_what_it_had() {
    let mut cluster = cluster();
    let agents = cluster.agents();
    for step in steps_of(Group::Agent) {
        if matches!(step, Step::CacheRewriting | Step::CacheRewritten) {
            cluster.kill(AGENT);
            let cache = cluster.directory().join("data/agent/cache.sealed");
            std::fs::remove_file(cache).unwrap();
            cluster.arm(AGENT, step);
            cluster.start(AGENT);
            cluster.dies(AGENT, step, |_| {});
            cluster.start(AGENT);
        } else {
            let own = format!("{step:?}").starts_with("Agent");
            cluster.kill_at(AGENT, step, |cluster| {
                // Its own SVID is renewed by itself.
                if !own {
                    cluster.make_entry(None);
                }
            });
        }
        it_serves_again(&cluster);
        cluster.check(&[SERVER]);
        assert_eq!(cluster.agents(), agents, "attested once, after {step:?}");
    }
    let entry = cluster.make_entry(None).unwrap();
    cluster.is_served(&entry);
}

#[test]
fn an_agent_that_is_killed_at_any_step_of_attesting_attests_with_the_same_token() {
    let mut cluster = cluster();
    for (number, step) in steps_of(Group::Attesting)
        .into_iter()
        .chain([
            Step::AgentKeyMade,
            Step::AgentSvidReceived,
            Step::AgentRecordWritten,
            Step::AgentKeyPromoted,
            Step::AgentSvidKept,
        ])
        .enumerate()
    {
        let name = format!("agent-{number}");
        let before = cluster.agents();
        cluster.invite_agent(&name);
        cluster.arm(&name, step);
        cluster.start(&name);
        cluster.dies(&name, step, |_| {});
        cluster.start(&name);
        let workload = Collector::follow(&cluster.socket(&name));
        wait::until("the new agent serves", PATIENCE, || workload.ask().ok());
        assert_eq!(workload.refused(), Vec::<String>::new());
        cluster.ledger.note(workload.held());
        assert_eq!(cluster.agents().len(), before.len() + 1, "after {step:?}");
        cluster.check(&[SERVER]);
        cluster.kill(&name);
    }
}

#[test]
fn an_agent_that_is_killed_at_any_step_of_a_denial_serves_nothing_afterwards() {
    let mut cluster = cluster();
    for (number, step) in steps_of(Group::Denied).into_iter().enumerate() {
        let name = format!("agent-{number}");
        let id = cluster.attach_agent(&name);
        let workload = Collector::follow(&cluster.socket(&name));
        wait::until("the workload has an SVID", PATIENCE, || {
            (!workload.held().is_empty()).then_some(())
        });
        cluster.arm(&name, step);
        cluster.dies(&name, step, |cluster| {
            cluster.json(&["agent", "ban", &id]);
        });
        cluster.ledger.banned.insert(id);
        // It may not come back, however often somebody starts it.
        for _ in 0..2 {
            cluster.start(&name);
            let ended = wait::until("the banned agent ends", PATIENCE, || cluster.ended(&name));
            assert!(!ended.success());
            assert!(workload.ask().is_err(), "served by a banned agent");
        }
        cluster.ledger.note(workload.held());
        cluster.check(&[SERVER]);
    }
}
