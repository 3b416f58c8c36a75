//! What was acknowledged through one server is seen through every other; a server that is alone says that
//! it cannot know, and can still be looked into and audited.

use chaos_tests::real::dev::{Dev, signal};

use crate::{code, complaint, refused};

/// Rounds of making an entry through one server and looking for it through the others.
const ROUNDS: usize = 12;

fn sockets(dev: &Dev) -> Vec<String> {
    let servers = dev.endpoints().servers.into_iter();
    servers
        .map(|server| server.admin_socket.to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_one_server_acknowledged_is_seen_through_every_other() {
    let dev = Dev::start(&["--servers", "3"]);
    let endpoints = dev.endpoints();
    let sockets = sockets(&dev);
    let through = |socket: &str, arguments: &[&str]| {
        dev.json(&[arguments, &["--server-socket", socket]].concat())
    };
    let count = |socket| {
        through(socket, &["entry", "count"])["count"]
            .as_u64()
            .unwrap()
    };
    let leaves = |socket| {
        let verified = through(socket, &["audit", "verify"]);
        assert_eq!(verified["consistency"], "linearizable");
        verified["leaves"].as_u64().unwrap()
    };
    for round in 0..ROUNDS {
        let maker = &sockets[round % sockets.len()];
        let logged = leaves(maker);
        let id = format!("spiffe://{}/round/{round}", endpoints.trust_domain);
        let before = count(maker);
        let create = [
            "entry",
            "create",
            "--parent-id",
            &endpoints.node_alias(),
            "--spiffe-id",
            &id,
            "--selector",
            "unix:uid:4242",
        ];
        let made = through(maker, &create);
        let entry = made["id"].as_str().unwrap();
        for other in sockets.iter().filter(|other| *other != maker) {
            let shown = through(other, &["entry", "show", entry]);
            assert_eq!(shown["spiffe_id"], id.as_str(), "round {round}");
            assert_eq!(count(other), before + 1, "round {round}");
            let listed = through(other, &["entry", "list", "--spiffe-id", &id]);
            assert_eq!(listed.as_array().unwrap().len(), 1, "round {round}");
            assert!(leaves(other) > logged, "round {round}: its leaf is missing");
        }
    }
    for socket in &sockets {
        assert_eq!(
            through(socket, &["agent", "list"])
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
}

#[test]
fn a_server_that_is_alone_says_so_and_can_still_be_audited() {
    // Nothing is due for renewal meanwhile, so that the log stands still.
    let dev = Dev::start(&["--servers", "3", "--x509-ttl", "1h"]);
    let endpoints = dev.endpoints();
    let agent = dev.json(&["agent", "list"])[0]["id"].clone();
    let agent = agent.as_str().unwrap();
    let id = endpoints.workload_spiffe_id.as_str();
    let entry = dev.json(&["entry", "list", "--spiffe-id", id])[0]["id"].clone();
    let entry = entry.as_str().unwrap();
    let whole = dev.json(&["audit", "verify"])["leaves"].as_u64().unwrap();
    for server in endpoints.servers.iter().skip(1) {
        signal(u32::try_from(server.pid).unwrap(), "KILL");
    }
    let looks: [&[&str]; 9] = [
        &["entry", "show", entry],
        &["entry", "list"],
        &["entry", "count"],
        &["agent", "list"],
        &["agent", "show", agent],
        &["authority", "list"],
        &["cluster", "authorities"],
        &["audit", "tail"],
        &["audit", "verify"],
    ];
    for look in looks {
        refused(&dev, look, 5, "MM-1304");
        refused(&dev, look, 5, "--consistency local");
        let local = dev.run(&[look, &["--consistency", "local"]].concat());
        assert_eq!(code(&local), 0, "{look:?}: {}", complaint(&local));
        assert!(!local.stdout.is_empty(), "{look:?}");
    }
    let alone = dev.json(&["audit", "verify", "--consistency", "local"]);
    assert!(alone["leaves"].as_u64().unwrap() >= whole, "{alone}");
    assert_eq!(alone["consistency"], "local");
}
