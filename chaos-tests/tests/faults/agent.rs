//! Faults of an agent's machine: its disk is full, its disk's syncs fail, its clock jumps.

use std::time::{Duration, Instant};

use chaos_tests::real::binary;
use chaos_tests::real::cluster::{Cluster, PATIENCE};
use chaos_tests::real::fault::clock::FakeClock;
use chaos_tests::real::fault::given;
use chaos_tests::real::fault::image::Image;
use chaos_tests::real::fault::sync::FailingSyncs;
use chaos_tests::real::wait;
use mintmark_identity::clock::{Clock as _, SystemClock};

use crate::disk::{MEGABYTES, move_folder};
use crate::{AGENT, HOUR};

const SERVER: &str = "server-1";
/// Lives of SVIDs, the agent's own as well: after so long with a fault nothing is left from before it.
const X509_TTL: Duration = Duration::from_secs(12);
/// How long the agent's clock is wrong; the workload's SVIDs live ten times as long.
const WRONG: Duration = Duration::from_secs(6);

/// A server, no agent yet.
fn cluster(x509_ttl: Duration) -> Cluster {
    let ttl = format!("{}s", x509_ttl.as_secs());
    let mut cluster = Cluster::make(binary::mintmark(), &["--x509-ttl", &ttl]);
    cluster.start(SERVER);
    cluster
}

fn begins(cluster: &mut Cluster) {
    cluster.start(AGENT);
    cluster.follow();
    cluster.check(&[SERVER]);
}

/// The workload gets an SVID that the agent could not have asked for with the identity that it has now.
fn outlives_its_identity(cluster: &Cluster) {
    let ends = SystemClock.now().saturating_add(X509_TTL);
    wait::until("the workload is renewed", PATIENCE, || {
        let held = cluster.held();
        held.iter().any(|one| one.seen_at > ends).then_some(())
    });
}

/// Whoever is entitled from now on is served, and nothing was broken.
fn is_well(cluster: &mut Cluster) {
    let entry = wait::until("an entry is made", PATIENCE, || cluster.make_entry(None));
    cluster.is_served(&entry);
    cluster.check(&[SERVER]);
}

#[test]
fn an_agent_whose_disk_is_full_keeps_its_identity_and_serves() {
    let Some(disk) = given("full disk of an agent", Image::make(MEGABYTES)) else {
        return;
    };
    let mut cluster = cluster(X509_TTL);
    for kind in ["data", "keys"] {
        move_folder(&cluster, AGENT, kind, &disk);
    }
    begins(&mut cluster);
    disk.fill();
    outlives_its_identity(&cluster);
    is_well(&mut cluster);
    let begin = Instant::now();
    cluster.kill(AGENT);
    cluster.start(AGENT);
    wait::until("it serves again", PATIENCE, || cluster.ask().ok());
    eprintln!(
        "the agent serves {:.1?} after a start on a full disk",
        begin.elapsed()
    );
    is_well(&mut cluster);
    disk.make_room();
    let cache = disk.root().join("data").join("cache.sealed");
    wait::until("the cache is written", PATIENCE, || {
        cache.exists().then_some(())
    });
    cluster.kill(SERVER);
    cluster.kill(AGENT);
    cluster.start(AGENT);
    wait::until("it serves from its cache", PATIENCE, || cluster.ask().ok());
    cluster.start(SERVER);
    is_well(&mut cluster);
}

#[test]
fn an_agent_whose_syncs_fail_keeps_its_identity_and_serves() {
    let folder = tempfile::tempdir().unwrap();
    let made = FailingSyncs::make(folder.path());
    let Some(syncs) = given("failing syncs of an agent", made) else {
        return;
    };
    let mut cluster = cluster(X509_TTL);
    cluster.surround(AGENT, syncs.surroundings());
    begins(&mut cluster);
    syncs.fail(cluster.pid(AGENT));
    outlives_its_identity(&cluster);
    is_well(&mut cluster);
    cluster.kill(AGENT);
    cluster.start(AGENT);
    is_well(&mut cluster);
}

#[test]
fn an_agent_whose_clock_jumps_is_well_when_it_is_right_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clock) = given("clock of an agent", FakeClock::make(folder.path())) else {
        return;
    };
    let mut cluster = cluster(WRONG * 10);
    cluster.surround(AGENT, clock.surroundings());
    begins(&mut cluster);
    for by in [HOUR, -HOUR] {
        clock.set(by);
        // It hears of an entry meanwhile, and would ask for an SVID.
        let entry = cluster.make_entry(None).unwrap();
        std::thread::sleep(WRONG);
        let begin = Instant::now();
        clock.set(0);
        cluster.is_served(&entry);
        eprintln!(
            "the agent serves {:.1?} after its clock was {by} s off",
            begin.elapsed()
        );
        is_well(&mut cluster);
        assert!(cluster.runs(AGENT), "{}", cluster.log_of(AGENT));
    }
}
