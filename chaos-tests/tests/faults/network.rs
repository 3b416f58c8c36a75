//! Three servers and an agent, each in a network namespace of its own, and what happens when packets between
//! them are lost.

use std::time::{Duration, Instant};

use chaos_tests::real::binary;
use chaos_tests::real::cluster::{Cluster, PATIENCE};
use chaos_tests::real::fault::given;
use chaos_tests::real::fault::network::{Cut, Network};
use chaos_tests::real::site::{self, Place};
use chaos_tests::real::wait;
use tonic::Code;

use crate::{AGENT, SERVERS};

/// Lives of the workload's SVIDs: an agent that was at a server that is cut off needs ten seconds to know.
const X509_TTL: &str = "40s";
/// Of a hundred packets so many get lost at each machine, in each direction.
const LOST: u8 = 5;
/// How long a fault lasts that a cluster can live with: some elections.
const LONG: Duration = Duration::from_secs(6);

struct Site {
    cluster: Cluster,
    network: Network,
}

impl Site {
    fn found(network: Network) -> Self {
        let places = SERVERS.map(|name| Place {
            name: name.to_owned(),
            address: network.address(name),
        });
        let mut cluster = site::lay_out(binary::mintmark(), &places);
        for name in SERVERS.into_iter().chain([AGENT]) {
            cluster.surround(name, network.surroundings(name));
        }
        site::found(&mut cluster, &places, X509_TTL);
        Self { cluster, network }
    }

    /// The server that leads, and the others.
    fn roles(&self) -> (&'static str, [&'static str; 2]) {
        let leader = self.cluster.leader(&SERVERS);
        let (leaders, others): (Vec<_>, Vec<_>) =
            SERVERS.into_iter().partition(|name| *name == leader);
        (leaders[0], others.try_into().unwrap())
    }

    /// Those who still have each other take changes and sign. Returns the last change.
    fn goes_on(&mut self, majority: &[&str], mut told: impl FnMut(&str)) -> String {
        let mut newest = String::new();
        for server in majority {
            self.cluster.issues_again(Some(server));
            newest = self.changes(server);
            told(&newest);
        }
        newest
    }

    /// A server takes a change, and has it for whoever asks afterwards.
    fn changes(&mut self, server: &str) -> String {
        let entry = wait::until("a change is taken", PATIENCE, || {
            self.cluster.make_change(Some(server))
        });
        let reader = self.cluster.fresh(server);
        let read = wait::until("it is read", PATIENCE, || reader.read(&entry).ok());
        assert_eq!(read, format!("/{entry}"));
        entry
    }

    /// Ends a fault by which packets were dropped, and holds everything against the promises.
    fn heals(&mut self, fault: &str, begin: Instant) {
        let dropped = self.network.heal();
        assert!(dropped > 0, "{fault}: no packet was lost");
        self.is_well(fault, begin);
    }

    fn is_well(&mut self, fault: &str, begin: Instant) {
        let healed = Instant::now();
        self.cluster.check(&SERVERS);
        let (lasted, took) = (healed - begin, healed.elapsed());
        eprintln!("{fault}: {lasted:.1?}, and {took:.1?} until everything agreed");
    }
}

/// A leader that its followers do not hear, or that does not hear them, is deposed and says nothing more.
fn the_leader_is_cut_off(
    site: &mut Site,
    fault: &str,
    cut: impl FnOnce(&Network, &str, [&str; 2]),
) {
    let begin = Instant::now();
    let (leader, others) = site.roles();
    let doubter = site.cluster.fresh(leader).doubts();
    cut(&site.network, leader, others);
    let newest = site.goes_on(&others, |newest| doubter.acknowledged(newest));
    let successor = site.cluster.leader(&others);
    assert_ne!(successor, leader);
    let read = site.cluster.fresh(leader).read(&newest);
    let read = read.expect_err("it cannot know what is true");
    assert_eq!(read.code(), Code::Unavailable, "{leader}: {read}");
    for refused in site.cluster.refuses_to_act(leader) {
        assert!(refused.contains("MM-130"), "{leader}: {refused}");
    }
    let stale = doubter.stale_answers();
    assert_eq!(stale, Vec::<String>::new(), "{leader} says what is over");
    site.heals(fault, begin);
}

/// One server hears both others, which do not hear each other.
fn two_servers_lose_each_other(site: &mut Site) {
    let begin = Instant::now();
    let (leader, [other, between]) = site.roles();
    site.network.part(&[(leader, other)]);
    while begin.elapsed() < LONG {
        site.goes_on(&[between], |_| {});
    }
    site.heals("leader and one follower parted", begin);
}

/// TCP has to send much of what everybody says again.
fn packets_get_lost(site: &mut Site) {
    let begin = Instant::now();
    for host in SERVERS.into_iter().chain([AGENT]) {
        site.network.cut(host, Cut::Percent(LOST));
    }
    while begin.elapsed() < LONG {
        site.goes_on(&SERVERS, |_| {});
    }
    site.heals("packets lost everywhere", begin);
}

/// An agent without its cable serves what it has, also after a restart, and is renewed when it is back.
fn the_agent_is_unplugged(site: &mut Site) {
    let begin = Instant::now();
    site.network.unplug(AGENT);
    site.cluster.kill(AGENT);
    site.cluster.start(AGENT);
    wait::until("the workload is served", PATIENCE, || {
        site.cluster.ask().ok()
    });
    let entry = site.cluster.make_entry(None).unwrap();
    site.network.heal();
    site.cluster.is_served(&entry);
    site.is_well("the agent unplugged", begin);
}

#[test]
fn machines_whose_packets_are_lost_keep_every_promise() {
    let hosts: Vec<&str> = SERVERS.into_iter().chain([AGENT]).collect();
    let Some(network) = given("network", Network::make(&hosts)) else {
        return;
    };
    let mut site = Site::found(network);
    site.cluster.check(&SERVERS);
    for cut in [Cut::Everything, Cut::Incoming, Cut::Outgoing] {
        let fault = format!("{cut:?} of the leader lost");
        the_leader_is_cut_off(&mut site, &fault, |network, leader, _| {
            network.cut(leader, cut);
        });
    }
    let fault = "leader and agent parted from the others";
    the_leader_is_cut_off(&mut site, fault, |network, leader, others| {
        let pairs = others.map(|other| [(leader, other), (AGENT, other)]);
        network.part(pairs.as_flattened());
    });
    two_servers_lose_each_other(&mut site);
    packets_get_lost(&mut site);
    the_agent_is_unplugged(&mut site);
}
