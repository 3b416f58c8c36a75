//! Three servers, one of which is killed at each step of bringing the others the log or a snapshot.

use chaos_tests::real::crash::CrashCluster;
use chaos_tests::real::wait;
use mintmark_runtime::failpoint::Step;

use crate::{Group, steps_of};

const SERVERS: [&str; 3] = ["server-1", "server-2", "server-3"];
/// Entries after which a member that was away can only be helped by a snapshot.
const AWAY: u32 = 45;

fn cluster() -> CrashCluster {
    let mut cluster = CrashCluster::make(&["--servers", "3", "--x509-ttl", "60s"]);
    for server in SERVERS {
        let often = "\n[raft]\nsnapshot_entries = 20\n";
        cluster.configure(server, |text| text + often);
        cluster.start(server);
    }
    cluster.start("agent");
    cluster.follow();
    cluster.check(&SERVERS);
    cluster
}

/// Who leads, and who does not.
fn roles(cluster: &CrashCluster) -> (&'static str, &'static str) {
    wait::until(
        "there is a leader",
        chaos_tests::real::cluster::PATIENCE,
        || {
            let status = cluster.json_on(Some("server-1"), &["cluster", "status"])?;
            let members = status["members"].as_array().unwrap();
            let leads = |member: &&serde_json::Value| member["node_id"] == status["leader"];
            let leader = members.iter().find(leads)?["name"].as_str()?.to_owned();
            let named = SERVERS.iter().copied().find(|server| *server == leader)?;
            let other = SERVERS.iter().copied().find(|server| *server != leader)?;
            Some((named, other))
        },
    )
}

/// The others go on without the one that died.
fn the_others_go_on(cluster: &mut CrashCluster, dead: &str) {
    for server in SERVERS.iter().filter(|server| **server != dead) {
        cluster.issues_again(Some(server));
        cluster.make_noise(Some(server));
    }
}

fn die_while_replicating(cluster: &mut CrashCluster, victim: &str, at: &str, step: Step) {
    cluster.arm(victim, step);
    cluster.dies(victim, step, |cluster| cluster.make_noise(Some(at)));
    the_others_go_on(cluster, victim);
    cluster.start(victim);
}

/// The leader is lost, and the victim dies when it has voted for another.
fn die_while_voting(cluster: &mut CrashCluster, step: Step) {
    let (leader, follower) = roles(cluster);
    cluster.arm(follower, step);
    cluster.kill(leader);
    cluster.dies(follower, step, |_| {});
    cluster.start(follower);
    the_others_go_on(cluster, leader);
    cluster.start(leader);
}

/// A member comes back that needs a snapshot, and the victim dies while it gets it.
fn die_while_helping(cluster: &mut CrashCluster, step: Step) {
    let (leader, follower) = roles(cluster);
    cluster.kill(follower);
    for _ in 0..AWAY {
        cluster.make_noise(Some(leader));
    }
    let victim = if step == Step::SnapshotSending {
        leader
    } else {
        follower
    };
    cluster.arm(victim, step);
    cluster.start(follower);
    cluster.dies(victim, step, |_| {});
    the_others_go_on(cluster, victim);
    cluster.start(victim);
}

#[test]
fn a_member_that_is_killed_at_any_step_of_replication_catches_up() {
    let mut cluster = cluster();
    for step in steps_of(Group::Replicating) {
        let (leader, follower) = roles(&cluster);
        match step {
            Step::VoteSynced => die_while_voting(&mut cluster, step),
            Step::ForwardUnanswered => die_while_replicating(&mut cluster, leader, follower, step),
            Step::FollowerUnanswered => die_while_replicating(&mut cluster, follower, leader, step),
            step => die_while_helping(&mut cluster, step),
        }
        cluster.check(&SERVERS);
    }
    let entry = cluster.make_entry(None).unwrap();
    cluster.is_served(&entry);
    cluster.check(&SERVERS);
}
