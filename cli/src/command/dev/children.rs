//! The daemons of a development cluster: each a process of its own, so that one can be killed for
//! real, and all of them end with the one that started them.
//!
//! A child's standard input is a pipe that stays open as long as the parent lives; daemons started
//! with `--exit-with-parent` drain and end when it closes, also when the parent was killed.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};

use crate::failure::{Exit, Failure};

/// How long a daemon may take to drain before it is killed.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// One running daemon.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    /// Open for as long as we want it to run. Kept apart from `child`, whose `wait` would close it.
    lifeline: Option<ChildStdin>,
}

impl Daemon {
    /// Starts `mintmark <role> run --config <config>` with its log going to `log`.
    pub fn start(
        name: &str,
        role: &str,
        config: &Path,
        log: std::fs::File,
    ) -> Result<Self, Failure> {
        let failed = |e: &std::io::Error| {
            Failure::new("MM-3110", Exit::Failure, format!("cannot start {name}")).because(e)
        };
        let binary = std::env::current_exe().map_err(|e| failed(&e))?;
        let mut child = Command::new(binary)
            .args([role, "run", "--exit-with-parent", "--config"])
            .arg(config)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(|e| failed(&e))?)
            .stderr(log)
            // Ctrl-C is ours to hear: children are told in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| failed(&e))?;
        let lifeline = child.stdin.take();
        Ok(Self {
            name: name.to_owned(),
            child,
            lifeline,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it ended already, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to drain, and kills it when it takes too long.
    pub async fn stop(mut self) {
        if self.ended().is_some() {
            return;
        }
        drop(self.lifeline.take());
        if tokio::time::timeout(DRAIN_LIMIT, self.child.wait())
            .await
            .is_err()
        {
            let _ = self.child.kill().await;
        }
    }
}
