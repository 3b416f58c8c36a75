//! What operators do, with the real binary against a development cluster: results, exit codes, and
//! that what is wrong is refused without a trace.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests"
)]

mod consistency;
mod development;
mod documents;
mod formats;
mod reload;
mod starting;
mod unlocking;
mod withdrawal;
mod without_root;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use chaos_tests::real::daemon::Daemon;
use chaos_tests::real::dev::{Dev, signal};
use chaos_tests::real::{binary, wait};

/// Far more than anything here takes, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(dev: &Dev, arguments: &[&str], exit: i32, says: &str) {
    let output = dev.run(arguments);
    let complaint = complaint(&output);
    let status = output.status;
    assert_eq!(
        status.code(),
        Some(exit),
        "{arguments:?}: {status}: {complaint}"
    );
    assert!(
        output.stdout.is_empty(),
        "{arguments:?} printed data although it failed"
    );
    assert!(complaint.contains(says), "{arguments:?}: {complaint}");
}

#[test]
fn exec_runs_a_command_with_an_identity_and_ends_with_its_code() {
    let run = |arguments: &[&str]| {
        Command::new(binary::mintmark())
            .arg("dev")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    };
    for arguments in [&[][..], &["--pq", "hybrid"], &["--servers", "3"]] {
        let fetch = ["--exec", "--", "mintmark", "x509", "fetch", "-o", "json"];
        let output = run(&[arguments, &fetch].concat());
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            complaint(&output)
        );
        let svids: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(svids[0]["verified"], true, "{arguments:?}");
        let hybrid = svids[0]["signatures"].as_array().unwrap().len() == 2;
        assert_eq!(hybrid, arguments.contains(&"hybrid"));
    }
    assert_eq!(code(&run(&["--exec", "--", "sh", "-c", "exit 7"])), 7);
    // Every command finds the cluster, also from a script.
    let output = run(&[
        "--exec",
        "--",
        "sh",
        "-c",
        "mintmark entry count -o json && mintmark audit verify",
    ]);
    assert!(output.status.success(), "{}", complaint(&output));
    assert_eq!(code(&run(&["--exec", "--", "no-such-command-at-all"])), 2);
    assert_eq!(
        code(&run(&[
            "--x509-ttl",
            "10m",
            "--ca-ttl",
            "11m",
            "--exec",
            "--",
            "true"
        ])),
        2
    );
}

#[test]
fn an_interrupted_exec_tells_its_command_and_does_not_look_like_a_success() {
    for (name, expected) in [("INT", 130), ("TERM", 143)] {
        let script = "trap 'echo told; exit 0' INT TERM; echo ready; while :; do sleep 0.1; done";
        let mut dev = Command::new(binary::mintmark())
            .args(["dev", "--exec", "--", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        signal(dev.id(), name);
        assert_eq!(lines.next().unwrap().unwrap(), "told", "{name}");
        assert_eq!(dev.wait().unwrap().code(), Some(expected), "{name}");
    }
}

#[test]
fn entries_are_created_shown_changed_counted_and_deleted() {
    let dev = Dev::start(&[]);
    let domain = dev.endpoints().trust_domain;
    let alias = format!("spiffe://{domain}/node/dev");
    let id = format!("spiffe://{domain}/web");
    let create = [
        "entry",
        "create",
        "--parent-id",
        &alias,
        "--spiffe-id",
        &id,
        "--selector",
        "unix:uid:4242",
    ];
    let made = dev.json(&create);
    let entry = made["id"].as_str().unwrap();
    assert_eq!(
        dev.json(&["entry", "show", entry])["spiffe_id"],
        id.as_str()
    );
    refused(&dev, &create, 6, "MM-3013");

    let before = dev.json(&["entry", "count"])["count"].as_i64().unwrap();
    let changed = dev.json(&[
        "entry",
        "update",
        entry,
        "--x509-svid-ttl",
        "45s",
        "--hint",
        "edge",
    ]);
    assert_eq!(changed["x509_svid_ttl"], 45);
    assert_eq!(changed["hint"], "edge");
    assert_eq!(
        changed["selectors"][0], "unix:uid:4242",
        "what was not given stays"
    );
    assert!(changed["revision"].as_i64() > made["revision"].as_i64());

    let listed = dev.json(&["entry", "list", "--selector", "unix:uid:4242"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert!(
        dev.json(&["entry", "list", "--spiffe-id", "spiffe://nobody.test/x"])
            .as_array()
            .unwrap()
            .is_empty()
    );

    let file = dev.directory().join("entries.yaml");
    std::fs::write(&file, format!("- spiffe_id: spiffe://{domain}/a\n  parent_id: {alias}\n  selectors: [unix:uid:1]\n- spiffe_id: spiffe://{domain}/b\n  parent_id: {alias}\n  selectors: [unix:uid:2]\n")).unwrap();
    assert_eq!(
        dev.json(&["entry", "create", "--file", file.to_str().unwrap()])
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(
        dev.json(&["entry", "count"])["count"].as_i64().unwrap(),
        before + 2
    );

    dev.json(&["entry", "delete", entry]);
    refused(&dev, &["entry", "show", entry], 3, "MM-3010");
    refused(&dev, &["entry", "delete", entry], 3, "MM-3010");
}

#[test]
fn entries_that_make_no_sense_are_refused() {
    let dev = Dev::start(&[]);
    let endpoints = dev.endpoints();
    let (domain, alias) = (&endpoints.trust_domain, endpoints.node_alias());
    let id = format!("spiffe://{domain}/web");
    refused(
        &dev,
        &[
            "entry",
            "create",
            "--parent-id",
            &alias,
            "--spiffe-id",
            "spiffe://other.test/x",
            "--selector",
            "unix:uid:1",
        ],
        2,
        "MM-1",
    );
    refused(
        &dev,
        &[
            "entry",
            "create",
            "--parent-id",
            &alias,
            "--spiffe-id",
            "http://x",
            "--selector",
            "unix:uid:1",
        ],
        2,
        "MM-3203",
    );
    refused(
        &dev,
        &["entry", "create", "--parent-id", &alias, "--spiffe-id", &id],
        2,
        "--selector",
    );
}

#[test]
fn svids_are_minted_inspected_and_verified() {
    let dev = Dev::start(&["--pq", "hybrid"]);
    let domain = dev.endpoints().trust_domain;
    let files = tempfile::tempdir().unwrap();
    let at = |name: &str| files.path().join(name).to_str().unwrap().to_owned();

    let minted = format!("spiffe://{domain}/ops");
    dev.json(&[
        "x509",
        "mint",
        "--spiffe-id",
        &minted,
        "--ttl",
        "5m",
        "--dns-name",
        "ops.test",
        "--write",
        files.path().to_str().unwrap(),
    ]);
    let verified = dev.json(&[
        "x509",
        "verify",
        &at("svid.pem"),
        "--bundle",
        &at("bundle.pem"),
        "--require-hybrid",
    ]);
    assert_eq!(verified["spiffe_id"], minted.as_str());
    let inspected = dev.json(&["x509", "inspect", &at("svid.pem")]);
    assert_eq!(inspected[0]["dns_names"][0], "ops.test");
    assert_eq!(inspected[0]["hybrid"]["alternative_signature"], true);
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(at("svid.key")).unwrap().permissions()
        ) & 0o777,
        0o600
    );

    // The bundle of another cluster does not verify it.
    let other = Dev::start(&[]);
    let foreign = other.run(&["bundle", "show"]);
    std::fs::write(at("foreign.pem"), foreign.stdout).unwrap();
    refused(
        &dev,
        &[
            "x509",
            "verify",
            &at("svid.pem"),
            "--bundle",
            &at("foreign.pem"),
        ],
        8,
        "MM-3421",
    );
    refused(
        &dev,
        &[
            "x509",
            "verify",
            &at("bundle.pem"),
            "--bundle",
            &at("bundle.pem"),
        ],
        8,
        "MM-34",
    );
    std::fs::write(at("junk.pem"), "junk").unwrap();
    refused(&dev, &["x509", "inspect", &at("junk.pem")], 2, "MM-3420");

    refused(
        &dev,
        &["x509", "mint", "--spiffe-id", "spiffe://other.test/x"],
        2,
        "MM-1",
    );
}

#[test]
fn tokens_are_fetched_minted_and_validated() {
    let dev = Dev::start(&[]);
    let token = dev.json(&["jwt", "fetch", "--audience", "reports"])[0]["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let valid = dev.json(&["jwt", "validate", "--audience", "reports", &token]);
    assert_eq!(
        valid["spiffe_id"],
        dev.endpoints().workload_spiffe_id.as_str()
    );
    refused(
        &dev,
        &["jwt", "validate", "--audience", "other", &token],
        8,
        "MM-3402",
    );
    let mut altered = token.into_bytes();
    let middle = altered.len() / 2;
    altered[middle] = if altered[middle] == b'A' { b'B' } else { b'A' };
    refused(
        &dev,
        &[
            "jwt",
            "validate",
            "--audience",
            "reports",
            std::str::from_utf8(&altered).unwrap(),
        ],
        8,
        "MM-3402",
    );
    let minted = dev.json(&[
        "jwt",
        "mint",
        "--spiffe-id",
        &format!("spiffe://{}/ops", dev.endpoints().trust_domain),
        "--audience",
        "reports",
        "--ttl",
        "1m",
    ]);
    dev.json(&[
        "jwt",
        "validate",
        "--audience",
        "reports",
        minted["token"].as_str().unwrap(),
    ]);
}

#[test]
fn a_deleted_entry_is_dropped_at_once_and_everything_is_in_the_log() {
    let dev = Dev::start(&[]);
    let endpoints = dev.endpoints();
    let entries = dev.json(&[
        "entry",
        "list",
        "--spiffe-id",
        &endpoints.workload_spiffe_id,
    ]);
    let entry = entries[0]["id"].as_str().unwrap();
    dev.json(&["entry", "delete", entry]);
    wait::until("the identity is gone", PATIENCE, || {
        (code(&dev.run(&["x509", "fetch"])) == 4).then_some(())
    });
    let explained = dev.json(&["explain", "--pid", &std::process::id().to_string()]);
    assert!(explained["matches"].as_array().unwrap().is_empty());

    let alias = endpoints.node_alias();
    dev.json(&[
        "entry",
        "create",
        "--parent-id",
        &alias,
        "--spiffe-id",
        &endpoints.workload_spiffe_id,
        "--selector",
        entries[0]["selectors"][0].as_str().unwrap(),
    ]);
    wait::until("the identity is back", PATIENCE, || {
        dev.run(&["x509", "fetch"]).status.success().then_some(())
    });

    let log = dev.run(&["audit", "tail", "--from", "0"]);
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    for action in ["entry.create", "entry.delete"] {
        assert!(log.contains(action), "{action} is not in the log:\n{log}");
    }
    assert_eq!(dev.json(&["audit", "verify"])["valid"], true);
}

fn banned(dev: &Dev) -> String {
    let agents = dev.json(&["agent", "list"]);
    let agent = agents[0]["id"].as_str().unwrap().to_owned();
    assert!(dev.run(&["agent", "ban", &agent]).status.success());
    wait::until("a banned agent serves nothing", PATIENCE, || {
        (!dev.run(&["x509", "fetch"]).status.success()).then_some(())
    });
    agent
}

#[test]
fn a_ban_of_its_agent_leaves_the_cluster_and_its_log() {
    let dev = Dev::start(&[]);
    let agent = banned(&dev);
    wait::until("the cluster says what happened", PATIENCE, || {
        dev.output().contains("MM-2011").then_some(())
    });
    let said = dev.output();
    for word in [
        agent.as_str(),
        "mintmark audit tail",
        "mintmark token generate",
    ] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
    let log = dev.run(&["audit", "tail", "-o", "json"]);
    assert!(log.status.success(), "{}", complaint(&log));
    let log = String::from_utf8(log.stdout).unwrap();
    let ban = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|leaf| leaf["action"] == "agent.ban")
        .expect("the ban is in the log");
    assert_eq!(ban["subject"], agent.as_str());
    assert_eq!(dev.json(&["agent", "show", &agent])["banned"], true);

    // What the cluster said to do gives the node another identity.
    let token = dev.directory().join("config/agent.token");
    let generate = [
        "token",
        "generate",
        "--spiffe-id",
        &dev.endpoints().node_alias(),
        "--write",
        token.to_str().unwrap(),
    ];
    assert!(dev.run(&generate).status.success());
    let _agent = Daemon::start(dev.directory(), "agent");
    wait::until("the new agent serves", PATIENCE, || {
        dev.run(&["x509", "fetch"]).status.success().then_some(())
    });
    assert!(dev.stop().success());
}

#[test]
fn a_cluster_whose_agent_was_banned_starts_again_with_another_one() {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let dev = Dev::start_in(temporary.path(), &[]);
    let agent = banned(&dev);
    assert!(dev.stop().success());
    let dev = Dev::start_in(temporary.path(), &[]);
    let agents = dev.json(&["agent", "list"]);
    let agents = agents.as_array().unwrap();
    assert_eq!(agents.len(), 2, "{agents:?}");
    for one in agents {
        assert_eq!(one["banned"] == true, one["id"] == agent.as_str());
    }
}

/// Runs a command whose output is read up to its first line, and no further; it has to end by itself.
fn headed(dev: &Dev, arguments: &[&str]) {
    let mut child = dev
        .command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::with_capacity(1, child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(!line.is_empty(), "{arguments:?}");
    let status = wait::until("the command ends", PATIENCE, || child.try_wait().unwrap());
    let output = child.wait_with_output().unwrap();
    assert!(status.success(), "{arguments:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{}", complaint(&output));
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    // Nothing is issued or changed meanwhile that could make a command write again.
    let dev = Dev::start(&["--x509-ttl", "1h"]);
    for format in ["table", "json", "yaml"] {
        headed(&dev, &["audit", "tail", "-o", format]);
        headed(&dev, &["audit", "tail", "--follow", "-o", format]);
        headed(&dev, &["x509", "fetch", "--watch", "-o", format]);
    }
}

#[test]
fn explain_names_what_nearly_matches_and_what_is_missing() {
    let dev = Dev::start(&[]);
    let endpoints = dev.endpoints();
    let uid = endpoints_uid(&dev);
    let near = format!("spiffe://{}/near", endpoints.trust_domain);
    dev.json(&[
        "entry",
        "create",
        "--parent-id",
        &endpoints.node_alias(),
        "--spiffe-id",
        &near,
        "--selector",
        &uid,
        "--selector",
        "unix:path:/no/such/program",
    ]);
    let explained = wait::until("the agent has the entry", PATIENCE, || {
        let explained = dev.json(&["explain", "--pid", &std::process::id().to_string()]);
        (!explained["near"].as_array().unwrap().is_empty()).then_some(explained)
    });
    assert_eq!(explained["near"][0]["spiffe_id"], near.as_str());
    assert_eq!(
        explained["near"][0]["missing"][0],
        "unix:path:/no/such/program"
    );
    assert_eq!(
        explained["matches"][0]["spiffe_id"],
        endpoints.workload_spiffe_id.as_str()
    );
    assert!(!explained["agent"].as_str().unwrap().is_empty());
    assert!(
        explained["matches"][0]["since"]
            .as_str()
            .unwrap()
            .starts_with("20")
    );
    let by_id = dev.json(&["explain", "--spiffe-id", &near]);
    assert_eq!(by_id["registered"][0]["spiffe_id"], near.as_str());
    refused(&dev, &["explain", "--pid", "0"], 2, "not in 1..");
    let beyond_pid_max = (1 << 22).to_string();
    refused(&dev, &["explain", "--pid", &beyond_pid_max], 3, "MM-3017");
}

fn endpoints_uid(dev: &Dev) -> String {
    let entries = dev.json(&[
        "entry",
        "list",
        "--spiffe-id",
        &dev.endpoints().workload_spiffe_id,
    ]);
    entries[0]["selectors"][0].as_str().unwrap().to_owned()
}

#[test]
fn the_audit_stream_resumes_and_shows_every_rotation() {
    let dev = Dev::start(&["--x509-ttl", "30s"]);
    let first = dev.json(&["x509", "fetch"])[0]["serial"].clone();
    let second = wait::until("the SVID rotates", PATIENCE, || {
        let output = dev.run(&["x509", "fetch", "-o", "json"]);
        let svids: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let serial = svids[0]["serial"].clone();
        (serial != first).then_some(serial)
    });
    let lines = |from: &str| -> Vec<serde_json::Value> {
        let output = dev.run(&["audit", "tail", "--from", from, "-o", "json"]);
        assert!(output.status.success(), "{}", complaint(&output));
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect()
    };
    let all = lines("0");
    for (index, leaf) in all.iter().enumerate() {
        assert_eq!(leaf["index"].as_u64(), Some(index as u64));
    }
    for serial in [&first, &second] {
        assert!(
            all.iter().any(|leaf| &leaf["issuance"]["serial"] == serial),
            "{serial} is not in the log"
        );
    }
    let half = all.len() / 2;
    assert_eq!(
        lines(&half.to_string())[0]["index"].as_u64(),
        Some(half as u64)
    );

    // The same leaves reach the file, each once and in order.
    let file = dev.directory().join("audit.jsonl");
    wait::until("the file sink has caught up", PATIENCE, || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let indices: Vec<u64> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["index"]
                    .as_u64()
                    .unwrap()
            })
            .collect();
        assert!(
            indices.windows(2).all(|pair| pair[1] == pair[0] + 1),
            "{indices:?}"
        );
        (indices.len() >= all.len()).then_some(())
    });
}

/// Every regular file of a folder with its content.
fn contents(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else if path.is_file() {
            all.push((path.clone(), std::fs::read(path).unwrap()));
        }
    }
    all.sort();
    all
}
