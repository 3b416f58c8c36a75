//! A daemon that cannot start says why, with a code and an exit code, and leaves what it found as it was.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use chaos_tests::real::daemon::Daemon;
use chaos_tests::real::dev::Dev;
use chaos_tests::real::{binary, wait};

use crate::{PATIENCE, code, complaint, contents, without_root};

/// A stopped one-server cluster to do harm to.
fn stopped(trust_domain: &str) -> tempfile::TempDir {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let dev = Dev::start_in(temporary.path(), &["--trust-domain", trust_domain]);
    assert!(dev.stop().success());
    temporary
}

fn config(directory: &Path, daemon: &str) -> PathBuf {
    directory.join(format!("config/{daemon}.toml"))
}

/// Sets a key of a daemon's configuration. `section.key` is one below a section.
fn set(directory: &Path, daemon: &str, key: &str, value: &str) {
    let path = config(directory, daemon);
    let mut file: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let mut table = &mut file;
    let mut key = key;
    while let Some((section, rest)) = key.split_once('.') {
        let below = table.entry(section).or_insert(toml::Table::new().into());
        table = below.as_table_mut().unwrap();
        key = rest;
    }
    table.insert(key.to_owned(), value.into());
    std::fs::write(&path, file.to_string()).unwrap();
}

/// Runs a daemon that must end by itself.
fn run(directory: &Path, daemon: &str) -> Output {
    run_as(Command::new(binary::mintmark()), directory, daemon)
}

fn run_as(mut program: Command, directory: &Path, daemon: &str) -> Output {
    let role = if daemon == "agent" { "agent" } else { "server" };
    let mut child = program
        .args([role, "run", "--config"])
        .arg(config(directory, daemon))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait::until("the daemon ends by itself", PATIENCE, || {
        child.try_wait().unwrap()
    });
    child.wait_with_output().unwrap()
}

/// Asserts that a daemon ends with this exit code and says all of this, and that everything in `kept` stays
/// as it is.
fn refused(directory: &Path, daemon: &str, exit: i32, says: &[&str], kept: &[&Path]) {
    let before: Vec<_> = kept.iter().map(|path| contents(path)).collect();
    let output = run(directory, daemon);
    expect(&output, exit, says);
    for (path, before) in kept.iter().zip(before) {
        assert!(contents(path) == before, "{} changed", path.display());
    }
}

fn expect(output: &Output, exit: i32, says: &[&str]) {
    let said = complaint(output);
    assert_eq!(code(output), exit, "{said}");
    for part in says {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
    assert!(said.contains("  next: "), "no next step: {said}");
}

#[test]
fn another_cluster_s_data_or_keys_are_refused_and_left_alone() {
    // Two clusters of one name, as after somebody made the cluster again.
    let (ours, theirs, foreign) = (
        stopped("same.test"),
        stopped("same.test"),
        stopped("other.test"),
    );
    let (ours, theirs, foreign) = (ours.path(), theirs.path(), foreign.path());
    let (data, keys) = ("data/server-1", "keys/server-1");
    let point = |key: &str, at: &Path| set(ours, "server-1", key, at.to_str().unwrap());

    point("keys_dir", &theirs.join(keys));
    let kept = [&*ours.join(data), &*theirs.join(keys)];
    refused(
        ours,
        "server-1",
        78,
        &["MM-1004", "another server's"],
        &kept,
    );

    let nothing = ours.join("nothing");
    std::fs::create_dir(&nothing).unwrap();
    point("keys_dir", &nothing);
    let kept = [&*ours.join(data), &*nothing];
    refused(ours, "server-1", 78, &["MM-1007", "missing"], &kept);

    point("keys_dir", &ours.join(keys));
    point("data_dir", &theirs.join(data));
    let kept = [&*theirs.join(data), &*ours.join(keys)];
    refused(
        ours,
        "server-1",
        78,
        &["MM-1004", "another server's"],
        &kept,
    );

    point("data_dir", &foreign.join(data));
    let kept = [&*foreign.join(data), &*ours.join(keys)];
    let says = ["MM-1004", "same.test", "other.test", "nothing was changed"];
    refused(ours, "server-1", 78, &says, &kept);

    // Only the log is another's.
    let log = ours.join(data).join("raft");
    std::fs::rename(&log, ours.join("own-raft")).unwrap();
    std::fs::rename(theirs.join(data).join("raft"), &log).unwrap();
    point("data_dir", &ours.join(data));
    let kept = [&*ours.join(data), &*ours.join(keys)];
    refused(ours, "server-1", 78, &["MM-1004"], &kept);
    std::fs::remove_dir_all(&log).unwrap();
    std::fs::rename(ours.join("own-raft"), &log).unwrap();

    // An agent of another trust domain.
    let agent = foreign.join("data/agent");
    set(ours, "agent", "data_dir", agent.to_str().unwrap());
    refused(ours, "agent", 75, &["MM-2026"], &[&agent]);
    let agent = ours.join("data/agent");
    set(ours, "agent", "data_dir", agent.to_str().unwrap());

    // With its own things the cluster starts again.
    let _daemons = ["server-1", "agent"].map(|name| Daemon::start(ours, name));
    wait::until("it serves again", PATIENCE, || {
        let fetch = Command::new(binary::mintmark())
            .args(["x509", "fetch", "--socket"])
            .arg(format!("unix://{}", ours.join("public/api.sock").display()))
            .output()
            .unwrap();
        fetch.status.success().then_some(())
    });
}

#[test]
fn a_port_in_use_and_a_second_server_on_the_same_data_are_refused() {
    let temporary = stopped("ports.test");
    let directory = temporary.path();
    let running = Daemon::start(directory, "server-1");
    wait::until("the server runs", PATIENCE, || {
        directory.join("admin/server-1.sock").exists().then_some(())
    });
    expect(&run(directory, "server-1"), 75, &["MM-1003"]);
    running.stop();

    let data = directory.join("data/server-1");
    let keys = directory.join("keys/server-1");
    let file: toml::Table = std::fs::read_to_string(config(directory, "server-1"))
        .unwrap()
        .parse()
        .unwrap();
    for listener in ["api", "peer", "http"] {
        let address = file["listen"][listener].as_str().unwrap();
        let _taken = TcpListener::bind(address).unwrap();
        let says = ["MM-1005", address];
        refused(directory, "server-1", 69, &says, &[&data, &keys]);
    }
    // The whole cluster says it in its server's words.
    let address = file["listen"]["api"].as_str().unwrap();
    let taken = TcpListener::bind(address).unwrap();
    let output = Command::new(binary::mintmark())
        .args(["dev", "--dir", directory.to_str().unwrap()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    expect(&output, 1, &["MM-3121", "MM-1005", address]);

    let probes = taken.local_addr().unwrap().to_string();
    set(directory, "agent", "probes_address", &probes);
    let agent = directory.join("data/agent");
    refused(directory, "agent", 69, &["MM-2025", &probes], &[&agent]);
}

#[test]
fn a_folder_of_sockets_that_cannot_be_written_is_named() {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let directory = temporary.path();
    let own = without_root::open_folder(directory.join("own"));
    let closed = directory.join("closed");
    for folder in [&closed, &directory.join("config")] {
        std::fs::create_dir(folder).unwrap();
        without_root::mode(folder, 0o555);
    }
    without_root::mode(&directory.join("config"), 0o755);
    let at = |name: &str| own.join(name).to_str().unwrap().to_owned();
    let blocked = |name: &str| closed.join(name).to_str().unwrap().to_owned();

    std::fs::write(
        config(directory, "server-1"),
        "trust_domain = 'closed.test'",
    )
    .unwrap();
    for (key, value) in [
        ("data_dir", at("data")),
        ("keys_dir", at("keys")),
        ("listen.api", "127.0.0.1:0".to_owned()),
        ("listen.peer", "127.0.0.1:0".to_owned()),
        ("listen.admin_socket", blocked("admin.sock")),
    ] {
        set(directory, "server-1", key, &value);
    }
    let output = run_as(without_root::mintmark(directory), directory, "server-1");
    let socket = blocked("admin.sock");
    expect(&output, 69, &["MM-1005", &socket, "Permission denied"]);

    let text = "trust_domain = 'closed.test'\nserver_addresses = ['127.0.0.1:1']";
    std::fs::write(config(directory, "agent"), text).unwrap();
    for (key, value) in [
        ("data_dir", at("agent")),
        ("keys_dir", at("agent-keys")),
        ("socket_path", blocked("api.sock")),
        ("admin_socket_path", at("agent.sock")),
        ("join_token", "token".to_owned()),
        ("trust_domain_key", "ab".repeat(32)),
    ] {
        set(directory, "agent", key, &value);
    }
    let output = run_as(without_root::mintmark(directory), directory, "agent");
    let socket = blocked("api.sock");
    expect(&output, 69, &["MM-2025", &socket, "Permission denied"]);

    let mut dev = without_root::mintmark(directory);
    let dev = dev.args(["dev", "--dir", &blocked("cluster")]);
    let output = dev.output().unwrap();
    expect(
        &output,
        1,
        &["MM-3100", &blocked("cluster"), "Permission denied"],
    );
    assert!(contents(&closed).is_empty());
}

#[test]
fn a_wrong_configuration_is_refused_with_every_fault() {
    let temporary = stopped("faults.test");
    let directory = temporary.path();
    let path = directory.join("config/server-1.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("trust_domain", "trust_domian")).unwrap();
    let output = run(directory, "server-1");
    assert_eq!(code(&output), 64, "{}", complaint(&output));
    assert!(
        complaint(&output).contains("trust_domain"),
        "no suggestion: {}",
        complaint(&output)
    );
}
