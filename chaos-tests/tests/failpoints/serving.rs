//! One server, killed at each step of issuing, logging, snapshotting and purging, and of coming back.

use chaos_tests::real::crash::CrashCluster;
use mintmark_runtime::failpoint::Step;

use crate::{Group, steps_of};

const SERVER: &str = "server-1";

/// One server that makes a snapshot every few entries, an agent, and an agent that was banned.
fn cluster() -> CrashCluster {
    let mut cluster = CrashCluster::make(&["--x509-ttl", "60s"]);
    let often = "\n[raft]\nsnapshot_entries = 20\n";
    cluster.configure(SERVER, |text| text + often);
    cluster.start(SERVER);
    cluster.start("agent");
    cluster.follow();
    let banned = cluster.attach_agent("agent-banned");
    cluster.json_at_last(None, &["agent", "ban", &banned]);
    cluster.ledger.banned.insert(banned);
    cluster.check(&[SERVER]);
    cluster
}

/// Makes the server come to a step of its work.
fn provoke(step: Step, cluster: &mut CrashCluster) {
    let issues = matches!(
        step,
        Step::IssuancePermitted
            | Step::IssuanceProven
            | Step::IssuancePrepared
            | Step::IssuanceBatched
            | Step::IssuanceCommitted
            | Step::IssuanceSigned
    );
    if issues {
        cluster.make_entry(None);
    } else {
        cluster.make_noise(None);
    }
}

/// A ban whose caller was never answered holds nevertheless.
fn an_unanswered_ban_holds(cluster: &mut CrashCluster, agent: &str) {
    cluster.kill_at(SERVER, Step::CommandUnanswered, |cluster| {
        cluster.json(&["agent", "ban", agent]);
    });
    cluster.ledger.banned.insert(agent.to_owned());
    cluster.check(&[SERVER]);
}

/// An agent whose token was consumed without an SVID gets one by the same token and key.
fn an_unanswered_attestation_is_finished(cluster: &mut CrashCluster) -> String {
    let before = cluster.agents();
    cluster.invite_agent("agent-new");
    cluster.arm(SERVER, Step::AttestationCommitted);
    cluster.start("agent-new");
    cluster.dies(SERVER, Step::AttestationCommitted, |_| {});
    cluster.start(SERVER);
    let agent = cluster.new_agent(&before);
    cluster.check(&[SERVER]);
    agent
}

#[test]
fn a_server_that_is_killed_at_any_step_of_its_work_breaks_no_promise() {
    let mut cluster = cluster();
    for step in steps_of(Group::Serving) {
        match step {
            // Below, with more to it.
            Step::AttestationCommitted | Step::CommandUnanswered => continue,
            step => cluster.kill_at(SERVER, step, |cluster| provoke(step, cluster)),
        }
        cluster.check(&[SERVER]);
    }
    let agent = an_unanswered_attestation_is_finished(&mut cluster);
    an_unanswered_ban_holds(&mut cluster, &agent);

    let entry = cluster.make_entry(None).unwrap();
    cluster.is_served(&entry);
    cluster.delete_entry(&entry);
    for step in steps_of(Group::Reopening) {
        cluster.kill(SERVER);
        cluster.arm(SERVER, step);
        cluster.start(SERVER);
        cluster.dies(SERVER, step, |_| {});
        cluster.start(SERVER);
        cluster.check(&[SERVER]);
    }
    let entry = cluster.make_entry(None).unwrap();
    cluster.is_served(&entry);
    cluster.check(&[SERVER]);
}
