//! The agent as a whole: made from a configuration, started, drained, stopped.
//!
//! Responsible for: putting the parts together, in an order in which a restarted agent serves
//! what it had before it speaks to anybody. Always holds: every task belongs to the agent and
//! ends with it; what a person must know ends the agent with an error that has a code. Not here:
//! the parts.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use mintmark_identity::{
    spiffe_id::SpiffeId,
    tls::{SvidSource, TlsConfigError},
};
use mintmark_runtime::{
    Host, disk::DiskLock, drain::DrainTrigger, readiness::Readiness, task::Tasks,
};
use tokio::sync::{oneshot, watch};

use self::{assemble::Core, open::open};
use crate::{
    agent_svid::{AgentError, store::StoreError},
    cache::state::State,
    code,
    config::Config,
    listeners::Listeners,
    trust::TrustError,
    workload::Workloads,
};

pub mod assemble;
mod open;

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory or file of its own cannot be used.
    #[error("{}: {} cannot be used", code::DISK, path.display())]
    Disk {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another agent uses the data directory.
    #[error("{}: another agent uses {}", code::DATA_DIR_FOREIGN, path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The data directory is not this agent's.
    #[error(
        "{}: the data directory belongs to another trust domain",
        code::DATA_DIR_FOREIGN
    )]
    Foreign(#[source] StoreError),
    /// The identity on disk cannot be used.
    #[error("{}: the agent's identity cannot be read", code::DISK)]
    Identity(#[source] StoreError),
    /// Servers could not be verified.
    #[error("no server can be trusted")]
    Trust(#[from] TrustError),
    /// A socket or address cannot be listened on.
    #[error("{}: cannot listen on {place}", code::CANNOT_LISTEN)]
    Listen {
        /// Which.
        place: String,
        /// What the system said.
        source: io::Error,
    },
    /// The TLS library refused.
    #[error("TLS cannot be set up")]
    Tls(#[from] TlsConfigError),
}

impl StartError {
    /// What the process should exit with, after sysexits.h.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Disk { .. } | Self::Identity(_) => 73,
            Self::InUse { .. } | Self::Foreign(_) => 75,
            Self::Trust(_) => 78,
            Self::Listen { .. } => 69,
            Self::Tls(_) => 70,
        }
    }
}

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error("the agent did not start")]
    Start(#[from] StartError),
    /// It cannot go on without a person.
    #[error("the agent cannot go on")]
    Agent(#[from] AgentError),
    /// A part of it ended that must not.
    #[error("the task {task} of the agent failed: {message}")]
    Task {
        /// Which.
        task: String,
        /// What it said.
        message: String,
    },
}

impl RunError {
    /// What the process should exit with, after sysexits.h.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Start(error) => error.exit_code(),
            Self::Agent(AgentError::NothingToAttestWith) => 78,
            Self::Agent(AgentError::Store(_)) => 73,
            Self::Agent(_) => 77,
            Self::Task { .. } => 70,
        }
    }
}

/// An agent, to be started.
#[derive(Debug)]
pub struct Agent;

/// An agent that runs.
pub struct RunningAgent {
    core: Core,
    tasks: Tasks,
    drain: DrainTrigger,
    readiness: Readiness,
    failure: oneshot::Receiver<AgentError>,
    probes: Option<String>,
    grace: Duration,
    _lock: Box<dyn DiskLock>,
}

impl std::fmt::Debug for RunningAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningAgent").finish_non_exhaustive()
    }
}

impl Agent {
    /// Starts an agent: reads what it had, listens, and runs until it is stopped. Workloads are
    /// served at once from what was on disk; see [`RunningAgent::ready`] for the rest.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start(host: Host, config: Config) -> Result<RunningAgent, StartError> {
        let workloads = assemble::workloads(&host, &config);
        Self::start_attesting(host, config, workloads).await
    }

    /// The same with other workload attestors than those of the configuration: for machines
    /// that are simulated, and for programs that embed an agent and bring their own.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start_attesting(
        host: Host,
        config: Config,
        workloads: Workloads,
    ) -> Result<RunningAgent, StartError> {
        tracing::info!(
            ?config,
            version = env!("CARGO_PKG_VERSION"),
            "starting the node agent"
        );
        let opened = open(&host, &config)?;
        let (drain, watch) = mintmark_runtime::drain::drain();
        let (tasks, readiness) = (Tasks::new(), Readiness::new());
        let core = Core::new(&host, &config, &opened, workloads, watch.clone())?;
        let listeners = Listeners::bind(&host, &config).await?;
        let probes = listeners.probes_address();
        listeners.serve(&core, &config, &tasks, &watch, &readiness);
        let (lock, failure) = core.spawn(opened, &config, &tasks, &readiness);
        Ok(RunningAgent {
            core,
            tasks,
            drain,
            readiness,
            failure,
            probes,
            grace: config.drain_grace,
            _lock: lock,
        })
    }
}

impl RunningAgent {
    /// Waits until the agent has an identity and has heard everything from a server once. Ends
    /// early, with the reason, when that can never be.
    ///
    /// # Errors
    /// What a person must know.
    pub async fn ready(&mut self) -> Result<(), RunError> {
        tokio::select! {
            () = self.readiness.ready() => Ok(()),
            error = failed(&mut self.failure, &self.tasks) => Err(error),
        }
    }

    /// Waits until the agent cannot go on.
    pub async fn failed(&mut self) -> RunError {
        failed(&mut self.failure, &self.tasks).await
    }

    /// The agent's SPIFFE ID, once it is attested.
    #[must_use]
    pub fn agent_id(&self) -> Option<SpiffeId> {
        self.core.own.svid().map(|svid| svid.spiffe_id().clone())
    }

    /// What the agent serves from now.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.core.cache.current()
    }

    /// Follows what the agent serves from.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.core.cache.watch()
    }

    /// Where the probes are served: the configured port 0 is a real one here.
    #[must_use]
    pub fn probes_address(&self) -> Option<&str> {
        self.probes.as_deref()
    }

    /// Takes over what can change while the agent runs: the servers' addresses. Returns the
    /// keys that need a restart to change.
    pub fn reload(&self, config: &Config, running: &Config) -> Vec<&'static str> {
        self.core.servers.configure(config.server_addresses.clone());
        needs_restart(config, running)
    }

    /// Stops: no new requests, time for those that run, then the end.
    pub async fn stop(self) {
        self.drain.start(self.grace);
        if !self.drain.finished().await {
            tracing::warn!("some requests did not end in time");
        }
        let aborted = self.tasks.shutdown(Duration::from_secs(5)).await;
        if !aborted.is_empty() {
            tracing::warn!(?aborted, "tasks had to be aborted");
        }
    }
}

async fn failed(failure: &mut oneshot::Receiver<AgentError>, tasks: &Tasks) -> RunError {
    tokio::select! {
        Ok(error) = failure => RunError::Agent(error),
        panic = tasks.failed() => {
            RunError::Task { task: panic.name.to_owned(), message: panic.message }
        }
    }
}

/// The keys that differ and are read at the start only.
fn needs_restart(new: &Config, running: &Config) -> Vec<&'static str> {
    // Every field is named, so that a further one cannot be forgotten here.
    let Config {
        trust_domain,
        server_addresses: _,
        data_dir,
        keys_dir,
        cache_key,
        socket_path,
        admin_socket_path,
        evidence,
        trust_bundle_path,
        trust_domain_key,
        probes_address,
        push_splay,
        drain_grace,
        allowed_foreign_jwt_claims: foreign_claims,
        limits,
        workload,
        sds,
        log_format,
        log_filter: _,
    } = running;
    let differs = [
        ("trust_domain", new.trust_domain != *trust_domain),
        ("data_dir", new.data_dir != *data_dir),
        ("keys_dir", new.keys_dir != *keys_dir),
        ("cache_key_dir", new.cache_key != *cache_key),
        ("socket_path", new.socket_path != *socket_path),
        (
            "admin_socket_path",
            new.admin_socket_path != *admin_socket_path,
        ),
        ("join_token", new.evidence != *evidence),
        (
            "trust_bundle_path",
            new.trust_bundle_path != *trust_bundle_path,
        ),
        (
            "trust_domain_key",
            new.trust_domain_key != *trust_domain_key,
        ),
        ("probes_address", new.probes_address != *probes_address),
        ("push_splay", new.push_splay != *push_splay),
        ("drain_grace", new.drain_grace != *drain_grace),
        (
            "allowed_foreign_jwt_claims",
            new.allowed_foreign_jwt_claims != *foreign_claims,
        ),
        ("limits", new.limits != *limits),
        ("workload", new.workload != *workload),
        ("sds", new.sds != *sds),
        ("log.format", new.log_format != *log_format),
    ];
    differs
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(key, _)| key)
        .collect()
}

/// Runs an agent until `shutdown`, or until it cannot go on.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    host: Host,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    run_reloading(host, config, shutdown, std::future::pending).await
}

/// Like [`run`], and takes over each configuration that `reload` yields.
///
/// # Errors
/// See [`RunError`].
pub async fn run_reloading<F>(
    host: Host,
    config: Config,
    shutdown: impl Future<Output = ()>,
    reload: impl Fn() -> F,
) -> Result<(), RunError>
where
    F: Future<Output = Config>,
{
    let mut agent = Agent::start(host, config.clone()).await?;
    let mut shutdown = std::pin::pin!(shutdown);
    let ended = loop {
        tokio::select! {
            () = &mut shutdown => break Ok(()),
            error = failed(&mut agent.failure, &agent.tasks) => break Err(error),
            new = reload() => {
                let restart = agent.reload(&new, &config);
                tracing::info!(needs_restart = ?restart, "configuration reloaded");
            }
        }
    };
    if let Err(error) = &ended {
        let error: &dyn std::error::Error = error;
        tracing::error!(error, "the agent ends");
    }
    agent.stop().await;
    ended
}
