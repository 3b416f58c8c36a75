//! A server that has to stop because of its disk, and comes back.

use chaos_tests::real::cluster::Cluster;

use crate::SERVERS;

/// What a server ends with when its store fails, `EX_IOERR`.
const STORE_FAILED: i32 = 74;

/// The leader, or one that follows it.
pub fn pick(cluster: &Cluster, leads: bool) -> &'static str {
    let leader = cluster.leader(&SERVERS);
    let mut candidates = SERVERS.into_iter();
    let picked = candidates.find(|name| (*name == leader) == leads);
    picked.expect("three servers, one of which leads")
}

/// The disk of a server fails: the server says why and ends, and the others go on.
pub fn it_stops_and_the_others_go_on(cluster: &mut Cluster, victim: &str, because: &str) {
    let others: Vec<&str> = SERVERS.into_iter().filter(|name| *name != victim).collect();
    let said = cluster.log_of(victim).len();
    let status = cluster.ends(victim, |cluster| cluster.make_noise(Some(others[0])));
    let log = cluster.log_of(victim).split_off(said);
    assert_eq!(
        status.code(),
        Some(STORE_FAILED),
        "{victim}: {status}\n{log}"
    );
    for words in ["MM-1013", because] {
        assert!(log.contains(words), "{victim} does not say {words}:\n{log}");
    }
    for server in others {
        cluster.issues_again(Some(server));
        cluster.make_noise(Some(server));
    }
    let served = cluster.ask().expect("the workload is served");
    cluster.ledger.note(served);
}
