//! The two daemons of the `mintmark` binary as processes: what they tell to probes and scrapers, what a
//! hang-up changes, and how they end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chaos_tests::real::daemon::Daemon;
use chaos_tests::real::dev::{Dev, signal};
use chaos_tests::real::wait;

const PATIENCE: Duration = Duration::from_secs(90);

/// The files of a cluster of one server and one agent that does not run.
struct Directory(tempfile::TempDir);

impl Directory {
    /// Makes the cluster; the agent's probes get an address.
    fn new() -> Self {
        let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
        assert!(Dev::start_in(temporary.path(), &[]).stop().success());
        let directory = Self(temporary);
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let probes = format!("probes_address = \"{}\"\n", free.local_addr().unwrap());
        directory.configure("agent", |text| probes + text);
        directory
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn config(&self, name: &str) -> PathBuf {
        self.path().join("config").join(format!("{name}.toml"))
    }

    fn configure(&self, name: &str, change: impl FnOnce(&str) -> String) {
        let file = self.config(name);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, change(&text)).unwrap();
    }

    /// The value of a key of a daemon's configuration.
    fn value(&self, name: &str, key: &str) -> String {
        let text = std::fs::read_to_string(self.config(name)).unwrap();
        let value = text.lines().find_map(|line| {
            let value = line.strip_prefix(key)?.strip_prefix(" = ")?;
            Some(value.trim_matches('"').to_owned())
        });
        value.unwrap_or_else(|| panic!("{name} has no {key}:\n{text}"))
    }

    fn log(&self, name: &str) -> String {
        let file = self.path().join("log").join(format!("{name}.log"));
        std::fs::read_to_string(file).unwrap()
    }

    /// Waits until a daemon has logged a text so often.
    fn logged(&self, name: &str, text: &str, times: usize) {
        wait::until(&format!("{name} logs {text:?}"), PATIENCE, || {
            (self.log(name).matches(text).count() >= times).then_some(())
        });
    }
}

/// Code and body of the answer to one HTTP request; `None` while nobody listens.
fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Waits until an answer is 200 and has these texts.
fn shows(address: &str, path: &str, texts: &[&str]) {
    wait::until(&format!("{path} shows {texts:?}"), PATIENCE, || {
        let (code, body) = get(address, path)?;
        (code == 200 && texts.iter().all(|text| body.contains(text))).then_some(())
    });
}

/// What makes a daemon write a line for whoever debugs: a client that goes away before it said anything.
fn stray_client(directory: &Directory, name: &str) {
    if name == "agent" {
        let socket = directory.path().join("public/api.sock");
        UnixStream::connect(socket)
            .unwrap()
            .write_all(b"no gRPC at all, and far too much of it\r\n\r\n")
            .unwrap();
    } else {
        TcpStream::connect(directory.value(name, "api"))
            .unwrap()
            .write_all(b"no TLS at all")
            .unwrap();
    }
}

#[test]
fn both_daemons_are_probed_reload_their_log_filter_and_end_on_sigterm() {
    const FILTER: &str = "info,mintmark_runtime=debug";
    let directory = Directory::new();
    let server = Daemon::start(directory.path(), "server-1");
    let agent = Daemon::start(directory.path(), "agent");
    let server_http = directory.value("server-1", "http");
    let agent_http = directory.value("agent", "probes_address");
    shows(&server_http, "/ready", &["ready"]);
    shows(&agent_http, "/ready", &["ready"]);
    shows(&server_http, "/live", &["live"]);
    shows(&agent_http, "/live", &["live"]);
    let of_server = ["mintmark_build_info{", "mintmark_raft_is_leader 1", "# EOF"];
    shows(&server_http, "/metrics", &of_server);
    let of_agent = ["mintmark_agent_connected 1", "# EOF"];
    shows(&agent_http, "/metrics", &of_agent);

    let reloads = [
        (&server, "the log filter was read anew"),
        (&agent, "configuration reloaded"),
    ];
    for (daemon, told) in reloads {
        let name = daemon.name.as_str();
        let calm = std::fs::read_to_string(directory.config(name)).unwrap();
        stray_client(&directory, name);
        signal(daemon.pid(), "HUP");
        directory.logged(name, told, 1);
        assert!(!directory.log(name).contains("DEBUG"), "{name}");

        directory.configure(name, |text| match name {
            "agent" => format!("{text}\n[log]\nfilter = \"{FILTER}\"\n"),
            _ => text.replace("level = \"info\"", &format!("level = \"{FILTER}\"")),
        });
        signal(daemon.pid(), "HUP");
        directory.logged(name, told, 2);
        stray_client(&directory, name);
        directory.logged(name, "DEBUG", 1);

        std::fs::write(directory.config(name), "trust_domain = 7").unwrap();
        signal(daemon.pid(), "HUP");
        directory.logged(name, "the configuration stays as it was", 1);
        std::fs::write(directory.config(name), calm).unwrap();
    }

    for (mut daemon, http) in [(agent, agent_http), (server, server_http)] {
        signal(daemon.pid(), "TERM");
        let name = daemon.name.clone();
        let status = wait::until("a daemon ends", PATIENCE, || daemon.ended());
        assert!(status.success(), "{name}: {status}");
        assert!(directory.log(&name).contains("shutting down"), "{name}");
        assert!(get(&http, "/live").is_none(), "{name} still listens");
    }
    for socket in ["public/api.sock", "admin/agent.sock", "admin/server-1.sock"] {
        assert!(!directory.path().join(socket).exists(), "{socket} is left");
    }
}
