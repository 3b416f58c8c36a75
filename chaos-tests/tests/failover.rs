//! Three servers, fifty workloads on SVIDs that live 30 s, and the leader killed among them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chaos_tests::real::dev::{Dev, signal};
use chaos_tests::real::{binary, wait};

const WORKLOADS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(90);

/// One update as a workload saw it.
#[derive(Debug, Clone)]
struct Seen {
    at: i64,
    serial: String,
    not_after: i64,
}

/// A workload: a process of its own, told from the others by the path of its executable.
struct Workload {
    child: Child,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Workload {
    fn start(dev: &Dev, executable: &std::path::Path) -> Self {
        let mut child = Command::new(executable)
            .args(["x509", "fetch", "--watch", "-o", "json"])
            .env("MINTMARK_DIR", dev.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let output = BufReader::new(child.stdout.take().unwrap());
        let sink = Arc::clone(&seen);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let update: serde_json::Value = serde_json::from_str(&line).unwrap();
                sink.lock().unwrap().push(Seen {
                    at: now(),
                    serial: update["serial"].as_str().unwrap().to_owned(),
                    not_after: update["not_after_unix"].as_i64().unwrap(),
                });
            }
        });
        Self { child, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn now() -> i64 {
    i64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap()
}

fn register(dev: &Dev, directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let endpoints = dev.endpoints();
    let alias = format!("spiffe://{}/node/dev", endpoints.trust_domain);
    let mut entries = Vec::new();
    let mut executables = Vec::new();
    for n in 0..WORKLOADS {
        let executable = directory.join(format!("workload-{n}"));
        if std::fs::hard_link(binary::mintmark(), &executable).is_err() {
            std::fs::copy(binary::mintmark(), &executable).unwrap();
        }
        entries.push(serde_json::json!({
            "spiffe_id": format!("spiffe://{}/workload/{n}", endpoints.trust_domain),
            "parent_id": alias,
            "selectors": [format!("unix:path:{}", executable.display())],
        }));
        executables.push(executable);
    }
    let file = directory.join("entries.json");
    std::fs::write(&file, serde_json::to_vec(&entries).unwrap()).unwrap();
    let created = dev.json(&["entry", "create", "--file", file.to_str().unwrap()]);
    assert_eq!(created.as_array().unwrap().len(), WORKLOADS);
    // Only the workloads' own entries are to match.
    let mine = dev.json(&[
        "entry",
        "list",
        "--spiffe-id",
        &endpoints.workload_spiffe_id,
    ]);
    dev.json(&["entry", "delete", mine[0]["id"].as_str().unwrap()]);
    executables
}

fn kill_the_leader(dev: &Dev) -> String {
    let status = dev.json(&["cluster", "status"]);
    let leader = status["members"]
        .as_array()
        .unwrap()
        .iter()
        .find(|member| member["node_id"] == status["leader"])
        .expect("there is a leader");
    let name = leader["name"].as_str().unwrap().to_owned();
    let server = dev
        .endpoints()
        .servers
        .into_iter()
        .find(|server| server.name == name)
        .unwrap();
    signal(u32::try_from(server.pid).unwrap(), "KILL");
    name
}

#[test]
fn the_leader_is_killed_and_every_workload_always_holds_a_valid_svid() {
    let scratch = tempfile::tempdir().unwrap();
    let dev = Dev::start(&["--servers", "3", "--x509-ttl", "30s"]);
    let executables = register(&dev, scratch.path());
    let workloads: Vec<Workload> = executables
        .iter()
        .map(|executable| Workload::start(&dev, executable))
        .collect();
    let have = |least: usize, since: i64| {
        workloads
            .iter()
            .all(|w| w.seen().iter().filter(|s| s.at >= since).count() >= least)
    };
    wait::until("every workload has an SVID and a renewal", PATIENCE, || {
        have(2, 0).then_some(())
    });

    let killed_at = now();
    kill_the_leader(&dev);
    wait::until(
        "every workload renews twice without the leader",
        PATIENCE,
        || have(2, killed_at + 1).then_some(()),
    );

    let checked_at = now();
    for (n, workload) in workloads.iter().enumerate() {
        let seen = workload.seen();
        let last = seen.last().unwrap();
        assert!(
            last.not_after > checked_at,
            "workload {n} holds nothing valid at {checked_at}: {last:?}\n{}",
            dev.output()
        );
        for pair in seen.windows(2) {
            assert!(
                pair[1].at < pair[0].not_after,
                "workload {n} was without a valid SVID: {:?} then {:?}\n{}",
                pair[0],
                pair[1],
                dev.output()
            );
        }
    }
    let verified = dev.json(&["audit", "verify"]);
    assert_eq!(verified["valid"], true);

    let log = dev.run(&["audit", "tail", "--from", "0", "-o", "json"]);
    let logged: BTreeSet<String> = String::from_utf8(log.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|leaf| leaf["decision"] == "accepted")
        .filter_map(|leaf| leaf["issuance"]["serial"].as_str().map(str::to_owned))
        .collect();
    let released: BTreeSet<String> = workloads
        .iter()
        .flat_map(Workload::seen)
        .map(|seen| seen.serial)
        .collect();
    assert!(released.len() >= WORKLOADS * 4);
    let unlogged: Vec<_> = released.difference(&logged).collect();
    assert!(
        unlogged.is_empty(),
        "issued but not in the log: {unlogged:?}"
    );
}
