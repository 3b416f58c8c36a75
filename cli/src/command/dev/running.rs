//! The daemons of a development cluster while they run.
//!
//! Always: an end is told once. The cluster stays for as long as there is something to ask: a server that
//! ends takes nothing along but the last one, and an agent that the trust domain denied (a ban is what
//! somebody wanted to see) leaves the servers and their log behind. An agent that ends for another reason
//! is a defect, and ends the cluster.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use mintmark_runtime::disk::Disk;

use super::Ready;
use super::children::Daemon;
use super::layout::Layout;
use crate::failure::{Exit, Failure};
use crate::output::note;

/// Name of the agent; everything else is a server.
pub const AGENT: &str = "agent";
/// How often a daemon is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What an agent exits with that was banned or evicted (`docs/errors.md`).
const EXIT_DENIED: i32 = 77;
/// Lines at the end of a log among which a daemon's error is looked for.
const LAST_LINES: usize = 12;

/// The daemons that run, agent last.
#[derive(Debug, Default)]
pub struct Running {
    daemons: Vec<Daemon>,
}

impl Running {
    /// Takes a daemon in; it replaces one of the same name that ended.
    pub fn add(&mut self, daemon: Daemon) {
        self.daemons.retain(|other| other.name() != daemon.name());
        self.daemons.push(daemon);
    }

    /// How many servers were started.
    pub fn servers(&self) -> usize {
        self.daemons
            .iter()
            .filter(|daemon| daemon.name() != AGENT)
            .count()
    }

    /// The process id of a daemon that runs.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.daemons
            .iter()
            .find(|daemon| daemon.name() == name)?
            .pid()
    }

    /// Fails when one of them ended already.
    pub fn check(&mut self, layout: &Layout, disk: &dyn Disk) -> Result<(), Failure> {
        for daemon in &mut self.daemons {
            if let Some(status) = daemon.ended() {
                let name = daemon.name();
                let what = format!("{name} ended: {status}");
                return Err(Failure::new("MM-3121", Exit::Failure, what)
                    .why(last_words(&layout.log(name), disk))
                    .next(format!("the whole log is {}", layout.log(name).display())));
            }
        }
        Ok(())
    }

    /// Whether the agent ended because the trust domain denies it.
    pub fn agent_is_denied(&mut self) -> bool {
        let agent = self.daemons.iter_mut().find(|one| one.name() == AGENT);
        agent.and_then(Daemon::ended).is_some_and(is_denial)
    }

    /// Stays until too little is left, and says who ends.
    pub async fn watch(
        &mut self,
        layout: &Layout,
        ready: &Ready,
        disk: &dyn Disk,
    ) -> Result<u8, Failure> {
        let mut told = BTreeSet::new();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let mut servers = 0_usize;
            for daemon in &mut self.daemons {
                let name = daemon.name().to_owned();
                let Some(status) = daemon.ended() else {
                    servers = servers.saturating_add(usize::from(name != AGENT));
                    continue;
                };
                if name == AGENT && !is_denial(status) {
                    let what = format!("the agent ended: {status}");
                    return Err(Failure::new("MM-3122", Exit::Failure, what));
                }
                if !told.insert(name.clone()) {
                    continue;
                }
                if name == AGENT {
                    note(&denied(layout, ready, disk));
                } else {
                    note(&format!("{name} ended: {status}"));
                }
            }
            if servers == 0 {
                return Err(Failure::new("MM-3123", Exit::Failure, "no server is left"));
            }
        }
    }

    /// Says where the logs are.
    pub fn tell_logs(&self, layout: &Layout) {
        let names: Vec<String> = self
            .daemons
            .iter()
            .map(|daemon| layout.log(daemon.name()).display().to_string())
            .collect();
        if !names.is_empty() {
            note(&format!("logs: {}", names.join(" ")));
        }
    }

    /// Ends all of them, the agent first.
    pub async fn stop(self) {
        for daemon in self.daemons.into_iter().rev() {
            daemon.stop().await;
        }
    }
}

fn is_denial(status: ExitStatus) -> bool {
    status.code() == Some(EXIT_DENIED)
}

/// What is said when the agent was denied: its own words, and what still works.
fn denied(layout: &Layout, ready: &Ready, disk: &dyn Disk) -> String {
    format!(
        "the agent ended: {}\n\
         \x20 It serves nothing any more. The servers go on, and their log says who asked for it:\n\
         \x20   mintmark audit tail\n\
         \x20 This node gets a new identity with a new token:\n\
         \x20   mintmark token generate --spiffe-id {} --write {}\n\
         \x20   mintmark agent run --config {}",
        last_words(&layout.log(AGENT), disk),
        ready.node_alias,
        layout.token(AGENT).display(),
        layout.config(AGENT).display(),
    )
}

/// What a daemon said when it ended: its error, or else the last lines of its log.
fn last_words(log: &Path, disk: &dyn Disk) -> String {
    let log = disk.read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    let last = lines.get(lines.len().saturating_sub(LAST_LINES)..);
    let last = last.unwrap_or_default();
    let error = last.iter().rposition(|line| line.starts_with("error["));
    last.get(error.unwrap_or(0)..)
        .unwrap_or_default()
        .join("\n")
}
