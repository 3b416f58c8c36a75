//! A server, put together.
//!
//! Always: what can fail is tried before anything is changed: directories, addresses, keys, then the log.
//! Nothing runs that is not owned by the returned [`RunningServer`]; dropping it does not end it, its
//! [`RunningServer::shutdown`] does, in order: callers, jobs, consensus.
//!
//! Not here: signals, arguments, logging (`main`, the `mintmark` command).

mod assemble;
pub mod error;
mod found;
mod ground;
mod jobs;
mod listeners;
mod own_svid;
mod peers;
mod place;

use std::path::PathBuf;
use std::time::Duration;

use mintmark_runtime::cause::chain;
use mintmark_runtime::drain::{DrainTrigger, DrainWatch};
use mintmark_runtime::host::Host;
use mintmark_runtime::readiness::Readiness;
use mintmark_runtime::task::Tasks;
use tokio::sync::mpsc;

use self::error::{RunError, StartError};
use self::ground::Ground;
use self::jobs::OwnRecord;
use self::peers::Peers;
use self::place::Place;
use crate::api::Services;
use crate::config::Config;
use crate::vault::kek::KekError;

/// How long requests may still run when a server ends.
pub const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// How long tasks may take to end after that.
const TASKS_GRACE: Duration = Duration::from_secs(5);

/// A server that has not started.
#[derive(Debug, Clone, Copy)]
pub struct Server;

/// A server that runs.
#[derive(Debug)]
pub struct RunningServer {
    api_address: String,
    peer_address: String,
    http_address: Option<String>,
    admin_socket: PathBuf,
    readiness: Readiness,
    services: Services,
    drain: DrainTrigger,
    /// Connections and streams; ended when the drain begins.
    serving: Tasks,
    /// Jobs and consensus; ended last.
    tasks: Tasks,
    kek_fault: mpsc::Receiver<KekError>,
    peers: Peers,
    _place: Place,
}

impl Server {
    /// Starts a server: makes a cluster, joins one, or goes on as a member. Returns when it listens; it
    /// is ready when [`RunningServer::ready`] says so.
    ///
    /// # Errors
    /// Why it does not start; then nothing runs.
    pub async fn start(host: Host, config: Config) -> Result<RunningServer, StartError> {
        let tasks = Tasks::new();
        match start(host, config, tasks.clone()).await {
            Ok(server) => Ok(server),
            Err(error) => {
                tasks.shutdown(TASKS_GRACE).await;
                Err(error)
            }
        }
    }
}

async fn start(host: Host, config: Config, tasks: Tasks) -> Result<RunningServer, StartError> {
    let mut ground = Ground::prepare(host, config, tasks).await?;
    let record = OwnRecord {
        name: ground.config.name.clone(),
        peer_address: ground.listeners.peer_address(&ground.config),
        api_address: ground.listeners.api_address(&ground.config),
    };
    if ground.place.membership().is_none()
        && let Some(join) = ground.config.join.clone()
    {
        ground.join(&join, &record).await?;
    }
    let peers = ground.peers.clone();
    let consensus = ground.open_consensus(&record).await?;
    let own = consensus.clone();
    let started = async {
        ground.found_if_needed(&own, &record).await?;
        ground.serve(own, record).await
    };
    match started.await {
        Ok(server) => Ok(server),
        Err(error) => {
            consensus.shutdown().await;
            peers.forget();
            Err(error)
        }
    }
}

impl RunningServer {
    /// Where agents reach it, `host:port`.
    #[must_use]
    pub fn api_address(&self) -> &str {
        &self.api_address
    }

    /// Where other servers reach it, `host:port`.
    #[must_use]
    pub fn peer_address(&self) -> &str {
        &self.peer_address
    }

    /// Where probes and metrics are, `host:port`.
    #[must_use]
    pub fn http_address(&self) -> Option<&str> {
        self.http_address.as_deref()
    }

    /// The private socket.
    #[must_use]
    pub fn admin_socket(&self) -> &PathBuf {
        &self.admin_socket
    }

    /// Its services, for what runs in the same process.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Waits until it can issue: a quorum answers, authorities are active, its own SVID is there. A
    /// sealed server is never ready.
    pub async fn ready(&self) {
        self.readiness.ready().await;
    }

    /// What it is not ready for yet.
    #[must_use]
    pub fn pending(&self) -> Vec<&'static str> {
        self.readiness.pending()
    }

    /// Waits until it cannot go on, and says why.
    pub async fn failed(&mut self) -> RunError {
        let fault = self.services.consensus.clone();
        tokio::select! {
            fault = fault.failed() => RunError::Consensus(fault),
            Some(error) = self.kek_fault.recv() => RunError::Kek(error),
            panic = self.tasks.failed() => RunError::Task {
                name: panic.name,
                message: panic.message,
            },
            panic = self.serving.failed() => RunError::Task {
                name: panic.name,
                message: panic.message,
            },
        }
    }

    /// Ends it in order: takes no more calls, lets those that run finish within `grace`, ends the jobs,
    /// leaves consensus with everything durable.
    pub async fn shutdown(self, grace: Duration) {
        self.drain.start(grace);
        // Streams would outlive any grace; their agents go to another server.
        self.serving.token().cancel();
        if !self.drain.finished().await {
            tracing::warn!("some requests were cut off");
        }
        let left = self.serving.shutdown(TASKS_GRACE).await;
        self.services.consensus.shutdown().await;
        self.peers.forget();
        let also = self.tasks.shutdown(TASKS_GRACE).await;
        if !left.is_empty() || !also.is_empty() {
            tracing::warn!(?left, ?also, "tasks had to be aborted");
        }
    }
}

/// Runs a server until `drain` begins or it cannot go on.
///
/// # Errors
/// Why it did not start, or ended.
pub async fn run(host: Host, config: Config, drain: DrainWatch) -> Result<(), RunError> {
    let mut server = Server::start(host, config).await?;
    tracing::info!(
        api = server.api_address(),
        peer = server.peer_address(),
        admin_socket = %server.admin_socket().display(),
        http = server.http_address(),
        "server started"
    );
    let ended = tokio::select! {
        () = drain.started() => Ok(()),
        error = server.failed() => Err(error),
    };
    if let Err(error) = &ended {
        tracing::error!(error = %chain(error), "the server cannot go on");
    }
    server.shutdown(DRAIN_GRACE).await;
    ended
}
