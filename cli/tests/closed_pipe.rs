//! Nobody reads the output, or no more of it: a command ends quietly.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// The write end of a pipe that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn mintmark(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mintmark"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn certificate(directory: &tempfile::TempDir) -> PathBuf {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    let path = directory.path().join("some.pem");
    std::fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
    path
}

fn quiet(arguments: &[&str]) {
    let Output { status, stderr, .. } = mintmark(arguments).stdout(unread()).output().unwrap();
    let said = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{arguments:?}: {status}: {said}");
    assert!(said.is_empty(), "{arguments:?} said: {said}");
}

#[test]
fn every_way_of_printing_ends_quietly_when_nobody_reads() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = certificate(&directory);
    let inspect = ["x509", "inspect", certificate.to_str().unwrap()];
    for arguments in [&["version"][..], &["completions", "bash"], &inspect] {
        assert!(mintmark(arguments).output().unwrap().status.success());
        for format in ["table", "wide", "json", "yaml"] {
            quiet(&[arguments, &["-o", format]].concat());
        }
    }
    quiet(&["--help"]);
    quiet(&["--version"]);
}

#[test]
fn an_error_that_nobody_hears_still_decides_the_exit_code() {
    for (arguments, code) in [
        (&["x509", "inspect", "/no/such/file"][..], 2),
        (&["no-such-command"], 2),
        (&["server", "run", "--config", "/no/such/file"], 64),
        (&["agent", "run", "--config", "/no/such/file"], 64),
    ] {
        let status = mintmark(arguments)
            .stdout(unread())
            .stderr(unread())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}
