//! The `ca-server` binary: how it starts, is asked, reloads and ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests of a process, from outside"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_ca-server");
const PATIENCE: Duration = Duration::from_secs(60);

fn configuration(directory: &Path, more: &str) -> std::path::PathBuf {
    let path = directory.join("server.toml");
    let text = format!(
        "trust_domain = \"example.org\"\ndata_dir = \"{0}/data\"\n{more}\n[listen]\n\
         api = \"127.0.0.1:0\"\npeer = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\
         admin_socket = \"{0}/admin.sock\"\n[log]\nformat = \"json\"\n",
        directory.display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A server that runs, and the lines that it logs.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStderr>,
    /// How many lines for whoever debugs were read so far.
    debug_lines: usize,
}

impl Running {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(BINARY)
            .arg("--config")
            .arg(config)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Self {
            child,
            lines,
            debug_lines: 0,
        }
    }

    /// Reads the log up to a line with this text.
    fn until(&mut self, text: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(
                self.lines.read_line(&mut line).unwrap(),
                0,
                "the log ended before {text}"
            );
            self.debug_lines += usize::from(line.contains("\"DEBUG\""));
            if line.contains(text) {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn end(mut self) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().expect("an exit code");
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, where the test went well.
        let _ = self.child.kill();
    }
}

#[test]
fn a_wrong_command_line_and_a_wrong_file_exit_64() {
    for arguments in [
        &[][..],
        &["--config"],
        &["--what", "x"],
        &["--config", "a", "b"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(said(&output).contains("usage: ca-server --config FILE"));
    }
    let directory = TempDir::new().unwrap();
    let path = configuration(directory.path(), "trust_domian = \"x\"");
    let output = run(&["--config", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(64));
    assert!(said(&output).contains("MM-1001"), "{}", said(&output));
    assert!(
        said(&output).contains("trust_domain"),
        "a suggestion: {}",
        said(&output)
    );
    assert!(!directory.path().join("data").exists(), "nothing was made");
}

#[test]
fn a_server_runs_is_probed_reloads_and_drains_on_sigterm() {
    let directory = TempDir::new().unwrap();
    let path = configuration(directory.path(), "");
    let mut server = Running::start(&path);
    let started = server.until("server started");
    let http = field(&started, "http");
    wait_until(&http, "/ready", |code, _| code == 200);
    // Gauges follow within seconds.
    for name in [
        "mintmark_build_info",
        "mintmark_ca_expiry_timestamp_seconds{",
    ] {
        wait_until(&http, "/metrics", |code, body| {
            code == 200 && body.contains(name)
        });
    }
    assert_eq!(get(&http, "/live").0, 200);

    server.signal("HUP");
    server.until("the log filter was read anew");
    std::fs::write(&path, "trust_domain = 7").unwrap();
    server.signal("HUP");
    server.until("the configuration stays as it was");
    server.signal("TERM");
    server.until("shutting down");
    assert_eq!(server.end(), 0);
    assert!(
        !directory.path().join("admin.sock").exists(),
        "the socket is gone"
    );
}

#[test]
fn a_server_logs_by_the_filter_that_the_file_has_at_the_last_hang_up() {
    let directory = TempDir::new().unwrap();
    let path = configuration(directory.path(), "");
    let mut server = Running::start(&path);
    let api = field(&server.until("server started"), "api");
    let quiet = std::fs::read_to_string(&path).unwrap();
    // A client that speaks no TLS is worth a message to whoever debugs.
    let stranger = || {
        TcpStream::connect(&api)
            .unwrap()
            .write_all(b"no TLS at all")
            .unwrap()
    };
    stranger();
    server.signal("HUP");
    server.until("the log filter was read anew");
    assert_eq!(server.debug_lines, 0);

    let level = "format = \"json\"\nlevel = \"info,mintmark_runtime=debug\"";
    std::fs::write(&path, quiet.replace("format = \"json\"", level)).unwrap();
    server.signal("HUP");
    server.until("the log filter was read anew");
    stranger();
    let told = server.until("connection failed before the first request");
    assert!(told.contains("\"DEBUG\""), "{told}");

    std::fs::write(&path, &quiet).unwrap();
    server.signal("HUP");
    server.until("the log filter was read anew");
    let before = server.debug_lines;
    stranger();
    server.signal("TERM");
    server.until("shutting down");
    assert_eq!(server.debug_lines, before);
    assert_eq!(server.end(), 0);
}

#[test]
fn a_request_under_way_is_answered_after_sigterm_and_no_other_is_taken() {
    let directory = TempDir::new().unwrap();
    let path = configuration(directory.path(), "");
    let mut server = Running::start(&path);
    let http = field(&server.until("server started"), "http");
    wait_until(&http, "/ready", |code, _| code == 200);
    let mut open = TcpStream::connect(&http).unwrap();
    open.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\n")
        .unwrap();
    // What came later was served, so the half of a request has been read.
    for _ in 0..10 {
        assert_eq!(get(&http, "/live").0, 200);
    }
    server.signal("TERM");
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(&http).is_ok() {
        assert!(Instant::now() < deadline, "connections are still taken");
        std::thread::yield_now();
    }
    open.write_all(b"Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer:?}");
    assert!(answer.contains("\"draining\""), "{answer:?}");
    assert_eq!(server.end(), 0);
}

fn field(line: &str, name: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(line).unwrap();
    let found = json
        .get(name)
        .or_else(|| json.get("fields").and_then(|fields| fields.get(name)));
    found
        .and_then(serde_json::Value::as_str)
        .unwrap_or_else(|| panic!("{line}"))
        .to_owned()
}

fn wait_until(http: &str, path: &str, holds: impl Fn(u16, &str) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (code, body) = get(http, path);
        if holds(code, &body) {
            return;
        }
        assert!(Instant::now() < deadline, "{code}: {body}");
        std::thread::yield_now();
    }
}

fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let code = response.split(' ').nth(1).unwrap().parse().unwrap();
    (code, response)
}
