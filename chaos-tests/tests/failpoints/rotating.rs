//! One server whose authorities live 24 s, killed at each step of their lives.

use chaos_tests::real::crash::CrashCluster;

use crate::{Group, steps_of};

const SERVER: &str = "server-1";

#[test]
fn a_server_that_is_killed_at_any_step_of_a_rotation_goes_on_with_it() {
    let mut cluster = CrashCluster::make(&["--x509-ttl", "4s", "--ca-ttl", "24s"]);
    cluster.outlives_restarts = false;
    cluster.start(SERVER);
    cluster.start("agent");
    cluster.follow();
    for step in steps_of(Group::Rotating) {
        cluster.kill_at(SERVER, step, |_| {});
        cluster.check(&[SERVER]);
    }
    let entry = cluster.make_entry(None).unwrap();
    cluster.is_served(&entry);
    cluster.check(&[SERVER]);
    let moved = |action: &str| {
        let leaves = cluster.ledger.leaves().iter();
        leaves.filter(|leaf| leaf["action"] == action).count()
    };
    // The first ones of both kinds, and their successors.
    assert!(moved("authority.activate") >= 4);
    assert!(moved("authority.retire") >= 1);
}
