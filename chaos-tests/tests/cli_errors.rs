//! What the command line says when something is wrong: each code of `docs/errors.md`, with its exit code,
//! from the real binary. Where a daemon would have to be broken, one that answers as a broken one does
//! stands in its place.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use chaos_tests::real::dev::{Dev, signal};
use chaos_tests::real::{binary, wait};
use mintmark_proto::mintmark::audit::v1::{LogInfo, TailResponse};
use mintmark_proto::spiffe::workload::{X509svid, X509svidResponse};
use mintmark_tlog::note::NoteSigner;
use prost::Message as _;
use tonic::Code;

use chaos_tests::real::broken_daemon::{Answer, BrokenDaemon};

const PATIENCE: Duration = Duration::from_secs(90);

/// A command without any cluster.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary::mintmark());
    command
        .args(arguments)
        .env_remove("MINTMARK_DIR")
        .env_remove("SPIFFE_ENDPOINT_SOCKET")
        .stdin(Stdio::null());
    command
}

/// Asserts that a command fails with a code of the page and an exit code, and prints no data.
#[track_caller]
fn fails(output: &Output, code: &str, exit: i32) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{said}");
    let begins = said
        .lines()
        .any(|line| line.starts_with(&format!("error[{code}]: ")));
    assert!(begins, "not {code}: {said}");
    let next = ["\n  next: ", "try '--help'"];
    assert!(
        next.iter().any(|next| said.contains(next)),
        "no next step: {said}"
    );
    assert!(output.stdout.is_empty(), "data although it failed");
}

#[track_caller]
fn alone_fails(arguments: &[&str], code: &str, exit: i32) {
    fails(&command(arguments).output().unwrap(), code, exit);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn wrong_words_and_absent_daemons_are_named() {
    alone_fails(&["entry", "list", "--nope"], "MM-3004", 2);
    alone_fails(&["dev", "--exec"], "MM-3004", 2);
    let absent = ["entry", "list", "--mintmark-dir", "/nonexistent"];
    alone_fails(&absent, "MM-3020", 5);
    let socket = ["entry", "list", "--server-socket", "/nonexistent.sock"];
    alone_fails(&socket, "MM-3021", 5);
    let fetch = ["x509", "fetch", "--socket"];
    alone_fails(&[&fetch[..], &["tcp:no"]].concat(), "MM-3401", 2);
    let nobody = "unix:///nonexistent/api.sock";
    alone_fails(&[&fetch[..], &[nobody]].concat(), "MM-3410", 5);
    alone_fails(&["x509", "inspect", "/nonexistent"], "MM-3003", 2);
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let output = command(&["version"])
        .stdout(full.unwrap())
        .output()
        .unwrap();
    fails(&output, "MM-3001", 1);
}

#[test]
fn certificates_that_are_none_or_no_svids_are_told_apart() {
    let scratch = tempfile::tempdir().unwrap();
    let junk = scratch.path().join("junk.der");
    std::fs::write(&junk, [0x30, 0x03, 1, 2, 3]).unwrap();
    alone_fails(&["x509", "inspect", text(&junk)], "MM-3428", 8);

    let plain = rcgen::generate_simple_self_signed(vec!["example.org".to_owned()]).unwrap();
    let file = scratch.path().join("plain.pem");
    std::fs::write(&file, plain.cert.pem()).unwrap();
    let verify = ["x509", "verify", text(&file), "--bundle", text(&file)];
    alone_fails(&verify, "MM-3427", 8);
}

#[test]
fn a_development_cluster_refuses_what_it_cannot_start_from() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = |name: &str| scratch.path().join(name);
    alone_fails(&["dev", "--dir", "/proc/self/nowhere"], "MM-3100", 1);
    let long = dir(&"long".repeat(40));
    alone_fails(&["dev", "--dir", text(&long)], "MM-3101", 2);
    let unreadable = dir("unreadable");
    std::fs::create_dir(&unreadable).unwrap();
    std::fs::write(unreadable.join("dev.json"), "{").unwrap();
    alone_fails(&["dev", "--dir", text(&unreadable)], "MM-3102", 2);
    let ttl = ["dev", "--x509-ttl", "10m", "--ca-ttl", "11m"];
    alone_fails(&ttl, "MM-3106", 2);
    let run = ["dev", "--exec", "--", "no-such-command-at-all"];
    let output = command(&run).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("error[MM-3131]: "), "{said}");
}

/// What a cluster that ended by itself said.
fn ended(dev: Dev, code: &str) {
    let said = || dev.output();
    wait::until("the cluster ends", PATIENCE, || {
        said().contains(&format!("error[{code}]: ")).then_some(())
    });
    assert_eq!(dev.wait().code(), Some(1));
}

#[test]
fn a_development_cluster_says_which_of_its_daemons_ended() {
    let dev = Dev::start(&[]);
    let agent = u32::try_from(dev.endpoints().agent_pid).unwrap();
    signal(agent, "KILL");
    ended(dev, "MM-3122");

    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    let dev = Dev::start_in(temporary.path(), &["--trust-domain", "example.org"]);
    let server = u32::try_from(dev.endpoints().servers[0].pid).unwrap();
    signal(server, "KILL");
    ended(dev, "MM-3123");

    // The directory that is left is one of another trust domain, and of a server that cannot start.
    let dir = text(temporary.path());
    let other = ["dev", "--dir", dir, "--trust-domain", "other.org"];
    alone_fails(&other, "MM-3105", 6);
    let config = temporary.path().join("config/server-1.toml");
    let lonely = [
        "server",
        "run",
        "--exit-with-parent",
        "--config",
        text(&config),
    ];
    let output = command(&lonely).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("MM-3112"), "{said}");
    std::fs::write(&config, "trust_domian = \"example.org\"\n").unwrap();
    let output = command(&["dev", "--dir", dir]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[MM-3121]: "), "{said}");
}

#[test]
fn a_description_of_the_cluster_that_cannot_be_written_ends_it() {
    let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
    // A folder where the file should be.
    std::fs::create_dir_all(temporary.path().join("endpoints.json/in")).unwrap();
    let output = command(&["dev", "--dir", text(temporary.path())]).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error[MM-3103]: "), "{said}");
}

/// Runs a command of a working cluster that has to fail.
#[track_caller]
fn refused(dev: &Dev, arguments: &[&str], code: &str, exit: i32) {
    fails(&dev.run(arguments), code, exit);
}

#[test]
fn what_a_working_cluster_refuses_has_its_code() {
    let dev = Dev::start(&[]);
    let scratch = tempfile::tempdir().unwrap();
    let written = scratch.path().join("svid");
    dev.json(&["x509", "fetch", "--write", text(&written)]);
    let (svid, bundle) = (written.join("svid.0.pem"), written.join("bundle.0.pem"));
    let (svid, bundle) = (text(&svid), text(&bundle));
    let verify = ["x509", "verify", svid, "--bundle"];
    dev.json(&[&verify[..], &[bundle]].concat());
    let hybrid = [&verify[..], &[bundle, "--require-hybrid"]].concat();
    refused(&dev, &hybrid, "MM-3422", 8);
    refused(&dev, &[&verify[..], &[svid]].concat(), "MM-3423", 8);
    let nowhere = ["x509", "fetch", "--write", "/proc/self/nowhere"];
    refused(&dev, &nowhere, "MM-3416", 1);

    let id = format!("spiffe://{}/minted", dev.endpoints().trust_domain);
    let mint = ["x509", "mint", "--spiffe-id", &id];
    let names = [&mint[..], &["--dns-name", "höst"]].concat();
    refused(&dev, &names, "MM-3425", 2);
    let foreign = ["x509", "mint", "--spiffe-id", "spiffe://other.org/a"];
    refused(&dev, &foreign, "MM-3015", 2);

    let log = dev.json(&["audit", "verify"]);
    let origin = log["origin"].as_str().unwrap();
    let other = NoteSigner::from_seed(origin, &[7; 32]).unwrap();
    let other = other.verifier().to_string();
    refused(&dev, &["audit", "verify", "--vkey", &other], "MM-3501", 8);
    refused(&dev, &["audit", "verify", "--vkey", "key"], "MM-3503", 2);

    let own = [
        "entry",
        "list",
        "--spiffe-id",
        &dev.endpoints().workload_spiffe_id,
    ];
    let own = dev.json(&own);
    dev.json(&["entry", "delete", own[0]["id"].as_str().unwrap()]);
    wait::until("the agent has dropped the entry", PATIENCE, || {
        let output = dev.run(&["x509", "fetch", "-o", "json"]);
        (!output.status.success()).then(|| fails(&output, "MM-3411", 4))
    });
}

#[test]
fn entries_that_are_not_written_as_they_must_be_are_refused() {
    let dev = Dev::start(&[]);
    let create = ["entry", "create"];
    let entry = [
        "--parent-id",
        "spiffe://example.org/node",
        "--spiffe-id",
        "spiffe://example.org/web",
        "--selector",
    ];
    refused(&dev, &[&create[..], &entry[..4]].concat(), "MM-3205", 2);
    let selector = [&create[..], &entry, &["uid"]].concat();
    refused(&dev, &selector, "MM-3202", 2);
    let long = ["unix:uid:1", "--x509-svid-ttl", "2147483648s"];
    refused(&dev, &[&create[..], &entry, &long].concat(), "MM-3204", 2);
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("entries.yaml");
    std::fs::write(&file, "entries: 7\n").unwrap();
    let from_file = [&create[..], &["--file", text(&file)]].concat();
    refused(&dev, &from_file, "MM-3201", 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broken_server_answers_is_passed_on_with_its_code() {
    let cases = [
        (Code::PermissionDenied, "MM-3011", 4),
        (Code::Unavailable, "MM-3012", 5),
        (Code::DeadlineExceeded, "MM-3014", 7),
        (Code::Internal, "MM-3016", 1),
    ];
    for (grpc, code, exit) in cases {
        let server = BrokenDaemon::start(move |_| Answer::Status(grpc)).await;
        let list = ["entry", "list", "--server-socket", server.path()];
        alone_fails(&list, code, exit);
    }
    let server = BrokenDaemon::start(|_| Answer::Message(Vec::new())).await;
    let ask = |arguments: &[&str], code, exit| {
        let arguments = [arguments, &["--server-socket", server.path()]].concat();
        alone_fails(&arguments, code, exit);
    };
    ask(&["bundle", "show"], "MM-3301", 1);
    let id = ["--spiffe-id", "spiffe://example.org/a"];
    ask(&[&["x509", "mint"], &id[..]].concat(), "MM-3426", 1);
    let mint = [&["jwt", "mint", "--audience", "a"], &id[..]].concat();
    ask(&mint, "MM-3403", 1);

    let server = BrokenDaemon::start(|method| {
        let info = LogInfo {
            size: 1,
            ..LogInfo::default()
        };
        let leaves = TailResponse {
            leaves: vec![vec![0xff]],
            tree_size: 1,
            ..TailResponse::default()
        };
        Answer::Message(match method {
            "GetLogInfo" => info.encode_to_vec(),
            _ => leaves.encode_to_vec(),
        })
    })
    .await;
    let tail = ["audit", "tail", "--server-socket", server.path()];
    alone_fails(&tail, "MM-3502", 8);
}

/// An SVID as a working agent gives it, of the cluster's own user.
fn svid_of(dev: &Dev, directory: &Path) -> X509svid {
    dev.json(&["x509", "fetch", "--write", text(directory)]);
    let file = |name: &str| -> PathBuf { directory.join(name) };
    let certificates = |name: &str| {
        use rustls_pki_types::CertificateDer;
        use rustls_pki_types::pem::PemObject as _;
        CertificateDer::pem_file_iter(file(name))
            .unwrap()
            .flat_map(|certificate| certificate.unwrap().to_vec())
            .collect::<Vec<u8>>()
    };
    let key = {
        use rustls_pki_types::PrivateKeyDer;
        use rustls_pki_types::pem::PemObject as _;
        PrivateKeyDer::from_pem_file(file("svid.0.key")).unwrap()
    };
    X509svid {
        spiffe_id: dev.endpoints().workload_spiffe_id,
        x509_svid: certificates("svid.0.pem"),
        x509_svid_key: key.secret_der().to_vec(),
        bundle: certificates("bundle.0.pem"),
        ..X509svid::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broken_agent_answers_is_not_taken_for_an_svid() {
    let fetch = |agent: &BrokenDaemon, code, exit| {
        let address = format!("unix://{}", agent.path());
        alone_fails(&["x509", "fetch", "--socket", &address], code, exit);
    };
    let cases = [
        (Code::PermissionDenied, "MM-3411", 4),
        (Code::Unavailable, "MM-3412", 5),
        (Code::DeadlineExceeded, "MM-3413", 7),
        (Code::InvalidArgument, "MM-3414", 2),
        (Code::Internal, "MM-3415", 1),
    ];
    for (grpc, code, exit) in cases {
        let agent = BrokenDaemon::start(move |_| Answer::Status(grpc)).await;
        fetch(&agent, code, exit);
    }
    let silent = BrokenDaemon::start(|_| Answer::Silence).await;
    let address = format!("unix://{}", silent.path());
    let waiting = command(&["jwt", "fetch", "--audience", "a", "--socket", &address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let dev = Dev::start(&[]);
    let first = svid_of(&dev, &scratch.path().join("first"));
    let swapped = X509svid {
        x509_svid_key: rcgen::KeyPair::generate().unwrap().serialize_der(),
        ..first.clone()
    };
    for (svid, good) in [(first, true), (swapped, false)] {
        let answer = X509svidResponse {
            svids: vec![svid],
            ..X509svidResponse::default()
        };
        let answer = answer.encode_to_vec();
        let agent = BrokenDaemon::start(move |_| Answer::Message(answer.clone())).await;
        if good {
            let address = format!("unix://{}", agent.path());
            let output = command(&["x509", "fetch", "--socket", &address]).output();
            assert!(output.unwrap().status.success(), "the stand-in speaks well");
        } else {
            fetch(&agent, "MM-3424", 8);
        }
    }
    fails(&waiting.wait_with_output().unwrap(), "MM-3413", 7);
}
