//! One daemon of a development cluster's directory, started by itself, to stop and start in any order.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::dev::signal;
use super::{binary, wait};

/// A running `mintmark server run` or `mintmark agent run`.
#[derive(Debug)]
pub struct Daemon {
    /// Its name, which is also the name of its files.
    pub name: String,
    child: Child,
}

impl Daemon {
    /// Starts the daemon `name` (`server-N` or `agent`) of a directory that `mintmark dev` made.
    pub fn start(directory: &Path, name: &str) -> Self {
        Self::start_with(Command::new(binary::mintmark()), directory, name)
    }

    /// The same with another binary or environment; a name that begins with `agent` is an agent's.
    pub fn start_with(mut program: Command, directory: &Path, name: &str) -> Self {
        let role = if name.starts_with("agent") {
            "agent"
        } else {
            "server"
        };
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(directory.join("log").join(format!("{name}.log")))
            .unwrap();
        let child = program
            .args([role, "run", "--config"])
            .arg(directory.join("config").join(format!("{name}.toml")))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self {
            name: name.to_owned(),
            child,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Asks it to drain and waits.
    pub fn stop(mut self) {
        signal(self.child.id(), "TERM");
        let child = &mut self.child;
        wait::until("a daemon drains", Duration::from_secs(60), || {
            child.try_wait().unwrap()
        });
    }

    /// Kills it, as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
