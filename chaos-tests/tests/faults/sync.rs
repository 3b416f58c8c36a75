//! Syncs of one server's files fail with an error of the device, from one moment on.

use std::time::Instant;

use chaos_tests::real::binary;
use chaos_tests::real::cluster::Cluster;
use chaos_tests::real::fault::given;
use chaos_tests::real::fault::sync::FailingSyncs;

use crate::stopping::{it_stops_and_the_others_go_on, pick};
use crate::{AGENT, SERVERS};

#[test]
fn a_server_whose_sync_fails_stops_and_comes_back_with_everything() {
    let folder = tempfile::tempdir().unwrap();
    let made = FailingSyncs::make(folder.path());
    let Some(syncs) = given("failing syncs of a server", made) else {
        return;
    };
    let arguments = ["--servers", "3", "--x509-ttl", "60s"];
    let mut cluster = Cluster::make(binary::mintmark(), &arguments);
    for name in SERVERS {
        cluster.surround(name, syncs.surroundings());
        cluster.start(name);
    }
    cluster.start(AGENT);
    cluster.follow();
    cluster.check(&SERVERS);
    for leads in [false, true] {
        let begin = Instant::now();
        let victim = pick(&cluster, leads);
        syncs.fail(cluster.pid(victim));
        it_stops_and_the_others_go_on(&mut cluster, victim, "Input/output error");
        cluster.start(victim);
        cluster.check(&SERVERS);
        eprintln!(
            "{victim} could not sync, leader: {leads}: {:.1?}",
            begin.elapsed()
        );
    }
}
