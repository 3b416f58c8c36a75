//! The clock of one server jumps by an hour, ahead or back, as when somebody sets a machine's clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chaos_tests::real::cluster::{Cluster, PATIENCE};
use chaos_tests::real::fault::clock::FakeClock;
use chaos_tests::real::fault::given;
use chaos_tests::real::{binary, wait};
use mintmark_identity::clock::{Clock as _, SystemClock, Timestamp};

use crate::{AGENT, HOUR, SERVERS};

/// How far apart clocks of one machine may seem that were read one after the other.
const MOMENT: Duration = Duration::from_secs(5);

/// A cluster each of whose servers has a clock of its own.
struct Clocks {
    cluster: Cluster,
    clocks: BTreeMap<&'static str, FakeClock>,
    _folder: tempfile::TempDir,
}

impl Clocks {
    fn make() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let clocks = SERVERS.map(|name| {
            let own = folder.path().join(name);
            std::fs::create_dir(&own).unwrap();
            FakeClock::make(&own).map(|clock| (name, clock))
        });
        let clocks = clocks.into_iter().collect();
        let clocks: BTreeMap<_, _> = given("clock of a server", clocks)?;
        let arguments = ["--servers", "3", "--x509-ttl", "60s"];
        let mut cluster = Cluster::make(binary::mintmark(), &arguments);
        for (name, clock) in &clocks {
            cluster.surround(name, clock.surroundings());
            cluster.start(name);
        }
        cluster.start(AGENT);
        cluster.follow();
        cluster.check(&SERVERS);
        Some(Self {
            cluster,
            clocks,
            _folder: folder,
        })
    }

    /// Waits until a server sees its clock like this.
    fn sees_its_clock(&self, server: &str, as_what: &str) {
        wait::until("a server judges its clock", PATIENCE, || {
            let status = self.cluster.json_on(Some(server), &["cluster", "status"])?;
            (status["clock"] == as_what).then_some(())
        });
    }
}

/// One server's clock jumps: it signs nothing and proposes nothing; the others go on.
fn a_server_jumps(site: &mut Clocks, victim: &'static str, by: i64) {
    let begin = Instant::now();
    let others: Vec<&str> = SERVERS.into_iter().filter(|name| *name != victim).collect();
    site.clocks[victim].set(by);
    site.sees_its_clock(victim, "skewed");
    let successor = site.cluster.leader(&others);
    for server in &others {
        site.cluster.issues_again(Some(server));
        site.cluster.make_noise(Some(server));
    }
    for refused in site.cluster.refuses_to_act(victim) {
        assert!(refused.contains("MM-1314"), "{victim}: {refused}");
    }
    site.clocks[victim].set(0);
    site.sees_its_clock(victim, "good");
    site.cluster.check(&SERVERS);
    eprintln!(
        "{victim} by {by} s, {successor} led: {:.1?}",
        begin.elapsed()
    );
}

/// No leaf bears a time that nobody's clock had but the wrong one.
fn no_leaf_bears_a_wrong_time(site: &Clocks, since: Timestamp) {
    let until = SystemClock.now().saturating_add(MOMENT).to_string();
    let since = since.saturating_sub(MOMENT).to_string();
    for leaf in site.cluster.ledger.leaves() {
        // All times are written alike and in UTC, so their texts have their order.
        let time = leaf["time"].as_str().unwrap();
        let right = (since.as_str()..until.as_str()).contains(&time);
        assert!(right, "stamped by a wrong clock: {leaf}");
    }
}

#[test]
fn a_server_whose_clock_jumps_takes_no_part_until_it_is_right() {
    let since = SystemClock.now();
    let Some(mut site) = Clocks::make() else {
        return;
    };
    for by in [HOUR, -HOUR] {
        let leader = site.cluster.leader(&SERVERS);
        let (leaders, followers): (Vec<_>, Vec<_>) =
            SERVERS.into_iter().partition(|name| *name == leader);
        a_server_jumps(&mut site, leaders[0], by);
        a_server_jumps(&mut site, followers[0], by);
    }
    no_leaf_bears_a_wrong_time(&site, since);
}
