//! A development cluster (`mintmark dev --dir`), for the time of one test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde::Deserialize;

use super::{binary, wait};

/// How long a cluster may take to come up on a busy machine. Not a promise about speed.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long it may take to end there.
const END_LIMIT: Duration = Duration::from_secs(60);

/// `DIR/endpoints.json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Endpoints {
    /// Name of the trust domain.
    pub trust_domain: String,
    /// Workload API address, `unix:///…`.
    pub workload_socket: String,
    /// Private socket of the agent.
    pub agent_admin_socket: PathBuf,
    /// Trust bundle in PEM.
    pub bundle: PathBuf,
    /// SPIFFE ID registered for the current user.
    pub workload_spiffe_id: String,
    /// The servers.
    pub servers: Vec<ServerEndpoint>,
    /// Process id of the agent.
    pub agent_pid: i32,
}

impl Endpoints {
    /// SPIFFE ID that stands for the node: parent of entries.
    pub fn node_alias(&self) -> String {
        format!("spiffe://{}/node/dev", self.trust_domain)
    }
}

/// One server of the cluster.
#[derive(Debug, Clone, Deserialize)]
pub struct ServerEndpoint {
    /// Its name.
    pub name: String,
    /// gRPC address, `host:port`.
    pub api: String,
    /// Private admin socket.
    pub admin_socket: PathBuf,
    /// Process id.
    pub pid: i32,
}

/// A running development cluster; it ends with the value.
#[derive(Debug)]
pub struct Dev {
    child: Child,
    directory: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Dev {
    /// Starts a cluster in a directory of its own and waits until an SVID can be fetched.
    pub fn start(arguments: &[&str]) -> Self {
        let temporary = tempfile::Builder::new().prefix("mm").tempdir().unwrap();
        let directory = temporary.path().to_owned();
        Self::spawn(directory, arguments, Some(temporary))
    }

    /// Starts a cluster on a directory that outlives it.
    pub fn start_in(directory: &Path, arguments: &[&str]) -> Self {
        Self::spawn(directory.to_owned(), arguments, None)
    }

    fn spawn(directory: PathBuf, arguments: &[&str], temporary: Option<tempfile::TempDir>) -> Self {
        let _ = std::fs::remove_file(directory.join("endpoints.json"));
        std::fs::create_dir_all(&directory).unwrap();
        let log = std::fs::File::create(directory.join("test-output.log")).unwrap();
        let child = Command::new(binary::mintmark())
            .arg("dev")
            .arg("--dir")
            .arg(&directory)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut dev = Self {
            child,
            directory,
            _temporary: temporary,
        };
        dev.wait_until_serving();
        dev
    }

    fn wait_until_serving(&mut self) {
        let ready = wait::until("the cluster serves an SVID", START_LIMIT, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(Err(status));
            }
            let endpoints = self.directory.join("endpoints.json").exists();
            (endpoints && self.run(&["x509", "fetch", "-o", "json"]).status.success())
                .then_some(Ok(()))
        });
        if let Err(status) = ready {
            panic!("the cluster ended with {status}:\n{}", self.output());
        }
    }

    /// What the cluster printed.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.directory.join("test-output.log")).unwrap_or_default()
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where everything is.
    pub fn endpoints(&self) -> Endpoints {
        let text = std::fs::read_to_string(self.directory.join("endpoints.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Runs `mintmark` with these arguments against this cluster.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A `mintmark` command against this cluster, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary::mintmark());
        command
            .args(arguments)
            .env("MINTMARK_DIR", &self.directory)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command that has to succeed, and parses what it printed as JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{}\n--- cluster:\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.output()
        );
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!(
                "{arguments:?} printed no JSON ({e}): {}",
                String::from_utf8_lossy(&output.stdout)
            )
        })
    }

    /// Waits until the cluster has ended by itself.
    pub fn wait(mut self) -> std::process::ExitStatus {
        let child = &mut self.child;
        wait::until("the cluster ends", END_LIMIT, || child.try_wait().unwrap())
    }

    /// Ends the cluster as Ctrl-C does and waits for it.
    pub fn stop(mut self) -> std::process::ExitStatus {
        signal(self.child.id(), "INT");
        let child = &mut self.child;
        wait::until("the cluster ends", END_LIMIT, || child.try_wait().unwrap())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        signal(self.child.id(), "TERM");
        for _ in 0..500 {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal (`KILL`, `TERM`, `INT`, `HUP`) to a process.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill")
        .arg(format!("-{name}"))
        .arg(pid.to_string())
        .status();
}
