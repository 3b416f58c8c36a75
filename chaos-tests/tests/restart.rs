//! Everything stops and starts again, in every order, and after a pause longer than every certificate.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use chaos_tests::real::daemon::Daemon;
use chaos_tests::real::dev::Dev;
use chaos_tests::real::{binary, wait};

const PATIENCE: Duration = Duration::from_secs(60);
const SERVERS: [&str; 3] = ["server-1", "server-2", "server-3"];

fn mintmark(directory: &Path, arguments: &[&str]) -> Option<serde_json::Value> {
    let output = Command::new(binary::mintmark())
        .args(arguments)
        .args(["-o", "json"])
        .env("MINTMARK_DIR", directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// Looks through each server that runs. One that has just started may not have applied everything again:
/// only an answer that it had confirmed by a quorum shows whether anything is lost.
fn everything_is_there(directory: &Path, servers: &[&str], entry: &str, leaves: u64) -> u64 {
    wait::until("an SVID is served", PATIENCE, || {
        mintmark(directory, &["x509", "fetch"])
    });
    let mut most = leaves;
    for server in servers {
        let socket = directory.join(format!("admin/{server}.sock"));
        let socket = socket.to_str().unwrap();
        let fresh = ["--consistency", "linearizable", "--server-socket", socket];
        let ask = |what: &[&str]| mintmark(directory, &[what, &fresh].concat());
        wait::until("the entry is there", PATIENCE, || {
            ask(&["entry", "show", entry])
        });
        let verified = wait::until("the log verifies", PATIENCE, || ask(&["audit", "verify"]));
        let now = verified["leaves"].as_u64().unwrap();
        assert!(
            now >= most,
            "{server}: the log had {most} leaves and has {now}"
        );
        most = now;
    }
    most
}

/// Makes a cluster with one more entry, keeps a copy of `endpoints.json`, and stops it.
fn prepared(directory: &Path, arguments: &[&str]) -> (String, u64) {
    let dev = Dev::start_in(directory, arguments);
    let endpoints = dev.endpoints();
    let entry = dev.json(&[
        "entry",
        "create",
        "--parent-id",
        &format!("spiffe://{}/node/dev", endpoints.trust_domain),
        "--spiffe-id",
        &format!("spiffe://{}/kept", endpoints.trust_domain),
        "--selector",
        "unix:uid:4242",
    ]);
    let verified = dev.json(&["audit", "verify", "--consistency", "linearizable"]);
    let leaves = verified["leaves"].as_u64().unwrap();
    let text = std::fs::read(directory.join("endpoints.json")).unwrap();
    assert!(dev.stop().success());
    std::fs::write(directory.join("endpoints.json"), text).unwrap();
    (entry["id"].as_str().unwrap().to_owned(), leaves)
}

fn permutations(names: &[&'static str]) -> Vec<Vec<&'static str>> {
    if names.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, first) in names.iter().enumerate() {
        let mut rest = names.to_vec();
        rest.remove(index);
        for mut tail in permutations(&rest) {
            tail.insert(0, first);
            all.push(tail);
        }
    }
    all
}

#[test]
fn servers_and_agent_restart_in_every_order_and_lose_nothing() {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let directory = temporary.path();
    let (entry, mut leaves) = prepared(directory, &["--servers", "3"]);
    let orders = permutations(&[SERVERS.as_slice(), &["agent"]].concat());
    assert_eq!(orders.len(), 24);
    for (round, order) in orders.iter().enumerate() {
        let daemons: Vec<Daemon> = order
            .iter()
            .map(|name| Daemon::start(directory, name))
            .collect();
        leaves = everything_is_there(directory, &SERVERS, &entry, leaves);
        // Half of the rounds end politely, half as a power cut would, and in the order they started.
        for daemon in daemons {
            if round % 2 == 0 {
                daemon.kill()
            } else {
                daemon.stop()
            }
        }
    }
}

#[test]
fn after_a_pause_longer_than_every_certificate_it_comes_back_by_itself() {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let directory = temporary.path();
    let arguments = ["--servers", "3", "--x509-ttl", "5s", "--ca-ttl", "30s"];
    let (entry, leaves) = prepared(directory, &arguments);
    // Longer than the 30 s of every authority that was made.
    std::thread::sleep(Duration::from_secs(35));
    let _daemons: Vec<Daemon> = ["agent", "server-2", "server-3", "server-1"]
        .iter()
        .map(|name| Daemon::start(directory, name))
        .collect();
    everything_is_there(directory, &SERVERS, &entry, leaves);
    let log = Command::new(binary::mintmark())
        .args(["audit", "tail", "--from", "0", "-o", "json"])
        .env("MINTMARK_DIR", directory)
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&log.stdout).contains("cold"),
        "the log says that the cluster started cold"
    );
}

#[test]
fn an_agent_serves_the_same_svid_after_a_restart_with_no_server_in_reach() {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let directory = temporary.path();
    prepared(directory, &["--x509-ttl", "10m"]);
    let agent = Daemon::start(directory, "agent");
    let fetched = || mintmark(directory, &["x509", "fetch"]);
    let before = wait::until("an SVID is served", PATIENCE, fetched);
    agent.kill();
    let _agent = Daemon::start(directory, "agent");
    let after = wait::until("an SVID is served", PATIENCE, fetched);
    assert_eq!(before[0]["serial"], after[0]["serial"]);
}
