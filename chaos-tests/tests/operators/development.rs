//! `mintmark dev`: what a directory remembers, what lies in it while the cluster runs, and that it needs no
//! root.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use chaos_tests::real::dev::{Dev, signal};
use chaos_tests::real::{binary, wait};

use crate::{PATIENCE, code, complaint, contents, without_root};

fn dev_in(directory: &Path, flags: &[&str]) -> Output {
    Command::new(binary::mintmark())
        .args(["dev", "--dir", directory.to_str().unwrap()])
        .args(flags)
        .args([
            "--exec", "--", "mintmark", "cluster", "status", "-o", "json",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn a_directory_refuses_flags_that_differ_from_what_made_it_and_stays_as_it_is() {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let directory = temporary.path().join("cluster");
    let made = ["--trust-domain", "shape.test", "--x509-ttl", "1m"];
    let output = dev_in(&directory, &made);
    assert!(output.status.success(), "{}", complaint(&output));

    let before = contents(&directory);
    for (flag, value, there) in [
        ("--servers", "3", "1"),
        ("--pq", "hybrid", "off"),
        ("--x509-ttl", "2m", "60s"),
        ("--ca-ttl", "1h", "86400s"),
    ] {
        let output = dev_in(&directory, &[flag, value]);
        let said = complaint(&output);
        assert_eq!(code(&output), 6, "{flag}: {said}");
        for part in ["MM-3107", flag, there, "next:"] {
            assert!(said.contains(part), "{flag}: no {part} in {said}");
        }
        assert!(output.stdout.is_empty());
    }
    let output = dev_in(&directory, &["--trust-domain", "other.test"]);
    assert_eq!(code(&output), 6);
    assert!(
        complaint(&output).contains("MM-3105"),
        "{}",
        complaint(&output)
    );
    assert_eq!(contents(&directory), before, "a refusal changed something");

    for flags in [
        &[][..],
        &[
            "--servers",
            "1",
            "--pq",
            "off",
            "--x509-ttl",
            "60s",
            "--ca-ttl",
            "24h",
        ],
    ] {
        let output = dev_in(&directory, flags);
        assert!(output.status.success(), "{flags:?}: {}", complaint(&output));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["trust_domain"], "shape.test");
    }
}

#[test]
fn the_bundle_file_follows_the_authorities_also_without_the_first_server() {
    let flags = ["--servers", "3", "--x509-ttl", "5s", "--ca-ttl", "30s"];
    let dev = Dev::start(&flags);
    let endpoints = dev.endpoints();
    let at_first = std::fs::read(&endpoints.bundle).unwrap();
    let authority = dev.json(&["x509", "fetch"])[0]["authority_id"].clone();
    signal(u32::try_from(endpoints.servers[0].pid).unwrap(), "KILL");
    let scratch = tempfile::tempdir().unwrap();
    let files = scratch.path().to_str().unwrap();
    let svid = scratch.path().join("svid.0.pem");
    let verify = ["x509", "verify", svid.to_str().unwrap(), "--bundle"];
    let verify = [&verify[..], &[endpoints.bundle.to_str().unwrap()]].concat();
    let what = "an SVID of another authority verifies by the file";
    wait::until(what, PATIENCE, || {
        let fetched = dev.run(&["x509", "fetch", "--write", files, "-o", "json"]);
        let svids: serde_json::Value = serde_json::from_slice(&fetched.stdout).ok()?;
        let verified = dev.run(&verify).status.success();
        (svids[0]["authority_id"] != authority && verified).then_some(())
    });
    assert_ne!(std::fs::read(&endpoints.bundle).unwrap(), at_first);
}

#[test]
fn a_cluster_describes_itself_for_programs() {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let dev = Dev::start_in(temporary.path(), &["-o", "json"]);
    let printed = wait::until("the cluster describes itself", PATIENCE, || {
        serde_json::from_str::<serde_json::Value>(&dev.output()).ok()
    });
    let file = std::fs::read_to_string(dev.directory().join("endpoints.json")).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    assert_eq!(printed, file);
}

#[test]
fn p9_a_newcomer_has_a_verified_svid_with_one_command_and_without_root() {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let exec = ["dev", "--exec", "--", "sh", "-c"];
    let script = "id -u && mintmark x509 fetch -o json";
    let mut command = without_root::mintmark(temporary.path());
    let output = command.args(exec).arg(script).output().unwrap();
    assert!(output.status.success(), "{}", complaint(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let (uid, svids) = printed.split_once('\n').unwrap();
    assert_ne!(uid, "0", "the command ran as root");
    let svids: serde_json::Value = serde_json::from_str(svids).unwrap();
    assert_eq!(svids[0]["verified"], true, "{svids}");
    let left: Vec<_> = std::fs::read_dir(temporary.path().join("tmp"))
        .unwrap()
        .flatten()
        .collect();
    assert!(left.is_empty(), "the cluster left something: {left:?}");
}
