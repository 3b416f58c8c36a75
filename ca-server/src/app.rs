//! A server, put together.
//!
//! Always: what can fail is tried before anything is changed: directories, addresses, keys, then the log.
//! Nothing runs that is not owned by the returned [`RunningServer`]; dropping it does not end it, its
//! [`RunningServer::shutdown`] does, in order: callers, jobs, consensus.
//!
//! Not here: signals, arguments, logging (`main`, the `mintmark` command).

pub mod error;
pub mod found;
pub mod jobs;
pub mod listeners;
pub mod own_svid;
pub mod peers;
pub mod place;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::entropy::draw_bytes;
use mintmark_proto::mintmark::cluster::v1::{JoinRequest, JoinResponse};
use mintmark_runtime::drain::{DrainTrigger, DrainWatch, drain};
use mintmark_runtime::host::Host;
use mintmark_runtime::readiness::Readiness;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::task::periodic::Wake;
use tokio::sync::mpsc;

use self::error::{RunError, StartError, chain};
use self::found::{FOUNDER, Foundation, Founder};
use self::jobs::OwnRecord;
use self::listeners::{Front, Listeners, Serving, api_tls};
use self::own_svid::OwnSvid;
use self::peers::Peers;
use self::place::{Membership, PeerKey, Place};
use crate::Consensus;
use crate::api::resume::Nonces;
use crate::api::routes::routes;
use crate::api::{Limits, Services, Shared};
use crate::audit::AuditLog;
use crate::audit::checkpoint;
use crate::audit::committed::CommittedLog;
use crate::audit::denials::Denials;
use crate::audit::sink::SinkMetrics;
use crate::authority::keyring::Keyring;
use crate::authority::rotation::Rotation;
use crate::cluster::join::{Door, join};
use crate::cluster::reconcile;
use crate::config::checked::JoinSecret;
use crate::config::{Config, Join};
use crate::fanout::Hub;
use crate::fanout::acknowledgements::Acknowledgements;
use crate::issuance::Issuer;
use crate::issuance::batch::Batcher;
use crate::metrics::Metrics;
use crate::raft::{ClusterId, RaftConfig, RaftFault};
use crate::state::State;
use crate::vault::Vault;
use crate::vault::kek::KekError;

/// How long requests may still run when a server ends.
pub const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// How long tasks may take to end after that.
const TASKS_GRACE: Duration = Duration::from_secs(5);

/// How long a server goes on asking a cluster that cannot be reached to admit it.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
/// Between two such questions.
const JOIN_PAUSE: Duration = Duration::from_millis(200);

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

/// What is there before consensus is opened.
struct Ground {
    host: Host,
    config: Arc<Config>,
    place: Place,
    peer_key: PeerKey,
    vault: Arc<Vault>,
    peers: Peers,
    listeners: Listeners,
    tasks: Tasks,
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

impl Ground {
    /// Everything that can be found out or bound without changing what a cluster knows.
    async fn prepare(host: Host, config: Config, tasks: Tasks) -> Result<Self, StartError> {
        let disk = Arc::clone(&host.disk);
        let place = Place::open(Arc::clone(&disk), &config, host.entropy.as_ref())?;
        let listeners = Listeners::bind(&host, &config).await?;
        let vault = Vault::open_or_create(
            disk.as_ref(),
            &place.vault_file(),
            config.kek.clone(),
            host.entropy.as_ref(),
        )?;
        let peer_key = place.peer_key()?;
        let peers = Peers::new(Arc::clone(&host.clock))?;
        let config = Arc::new(config);
        let vault = Arc::new(vault);
        Ok(Self {
            host,
            config,
            place,
            peer_key,
            vault,
            peers,
            listeners,
            tasks,
        })
    }

    /// Asks a member to admit this server.
    async fn join(&mut self, how: &Join, record: &OwnRecord) -> Result<(), StartError> {
        let token = match &how.token {
            JoinSecret::Value(token) => token.expose().to_vec(),
            JoinSecret::File(path) => {
                self.host
                    .disk
                    .read(path)
                    .map_err(|error| StartError::File {
                        path: path.clone(),
                        problem: error.to_string(),
                    })?
            }
        };
        let token = String::from_utf8_lossy(token.trim_ascii()).into_owned();
        let door = Door {
            address: how.address.clone(),
            pin: how.pin,
            trust_domain: self.config.trust_domain.clone(),
        };
        let request = JoinRequest {
            token,
            name: record.name.clone(),
            peer_csr: self.peer_key.csr().to_vec(),
            incarnation: self.place.incarnation().to_vec(),
            peer_address: record.peer_address.clone(),
            api_address: record.api_address.clone(),
            vault_public_key: self.vault.public_key().as_bytes().to_vec(),
        };
        let answer = self.admitted(&door, request).await?;
        let cluster_id = <[u8; 16]>::try_from(answer.cluster_id.as_slice())
            .map_err(|_| StartError::JoinAnswer("cluster_id is not 16 bytes".to_owned()))?;
        tracing::info!(node_id = answer.node_id, "admitted to the cluster");
        self.place.remember(Membership::new(
            answer.node_id,
            cluster_id,
            &answer.trust_domain_key_certificate,
            &answer.peer_certificate,
            false,
        ))
    }

    /// Joins, and asks again while the member cannot be reached: a cluster that has just been made has
    /// no SVID to answer with yet. The token admits one key, so asking twice is asking once.
    async fn admitted(
        &self,
        door: &Door,
        request: JoinRequest,
    ) -> Result<JoinResponse, StartError> {
        let patience = tokio::time::Instant::now() + JOIN_PATIENCE;
        loop {
            let refused = match join(&self.host, door, request.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(refused) => refused,
            };
            if !refused.may_pass() || tokio::time::Instant::now() >= patience {
                return Err(refused.into());
            }
            tracing::info!(reason = chain(&refused), "the cluster is asked again");
            tokio::time::sleep(JOIN_PAUSE).await;
        }
    }

    /// Opens the log; makes the cluster when there is none.
    async fn open_consensus(&mut self, record: &OwnRecord) -> Result<Consensus, StartError> {
        let known = self.place.membership().cloned();
        let cluster_id = match &known {
            Some(known) => known
                .cluster_id()
                .ok_or_else(|| self.bad_identity("cluster_id"))?,
            None => draw_bytes::<16>(self.host.entropy.as_ref()),
        };
        let node_id = known.as_ref().map_or(FOUNDER, |known| known.node_id);
        if let Some(known) = &known {
            let certificates = known.certificates();
            let (key, own) = certificates.ok_or_else(|| self.bad_identity("a certificate"))?;
            self.show(own, key)?;
        } else {
            // Remembered before the log is made, so that a start that is interrupted finds it again.
            self.place
                .remember(Membership::new(FOUNDER, cluster_id, &[], &[], true))?;
        }
        let raft = RaftConfig::new(
            node_id,
            ClusterId(cluster_id),
            record.peer_address.clone(),
            self.place.raft_folder(),
        );
        let auth = Arc::new(self.peers.clone());
        let consensus = Consensus::open(&self.host, &raft, auth, &self.tasks).await?;
        self.peers.follow(consensus.clone());
        Ok(consensus)
    }

    /// Makes the cluster, unless it is made or somebody else's.
    async fn found_if_needed(
        &mut self,
        consensus: &Consensus,
        record: &OwnRecord,
    ) -> Result<(), StartError> {
        let known = self.place.membership().filter(|known| known.founder);
        let Some(cluster_id) = known.and_then(Membership::cluster_id) else {
            return Ok(());
        };
        if consensus.is_member() {
            let complete = self.place.membership().and_then(Membership::certificates);
            if complete.is_some_and(|(key, own)| !key.is_empty() && !own.is_empty()) {
                return Ok(());
            }
            // A start was interrupted: the log says how far it came.
            let interrupted = |_| StartError::Init("the log of a first start is stuck".to_owned());
            consensus.read_index().await.map_err(interrupted)?;
            if let Some((key, own)) = consensus.read(founded) {
                return self.founded(cluster_id, &key, &own);
            }
        } else {
            consensus
                .bootstrap()
                .await
                .map_err(|error| StartError::Init(error.to_string()))?;
        }
        let founder = Founder {
            incarnation: self.place.incarnation(),
            peer_address: record.peer_address.clone(),
            api_address: record.api_address.clone(),
        };
        let foundation = Foundation::lay(
            &self.host,
            &self.config,
            cluster_id,
            &founder,
            &self.peer_key,
            self.vault.public_key(),
        )?;
        let (key, own) = (
            foundation.key_certificate.clone(),
            foundation.peer_certificate.clone(),
        );
        foundation.propose(consensus).await?;
        self.founded(cluster_id, &key, &own)?;
        tracing::info!(trust_domain = %self.config.trust_domain, "cluster made");
        Ok(())
    }

    fn founded(&mut self, cluster_id: [u8; 16], key: &[u8], own: &[u8]) -> Result<(), StartError> {
        self.show(own.to_vec(), key.to_vec())?;
        self.place
            .remember(Membership::new(FOUNDER, cluster_id, key, own, true))
    }

    fn show(&self, own: Vec<u8>, key: Vec<u8>) -> Result<(), StartError> {
        if own.is_empty() || key.is_empty() {
            return Ok(());
        }
        let private = self.peer_key.pkcs8().clone();
        self.peers
            .show(own, private, key)
            .map_err(|problem| self.bad_identity(&format!("the peer certificate ({problem})")))
    }

    fn bad_identity(&self, what: &str) -> StartError {
        let problem = format!("{what} cannot be used");
        StartError::File {
            path: self.place.data().join("server.json"),
            problem,
        }
    }

    /// Starts the jobs and the listeners.
    async fn serve(
        self,
        consensus: Consensus,
        record: OwnRecord,
    ) -> Result<RunningServer, StartError> {
        let Self {
            host,
            config,
            place,
            vault,
            peers,
            listeners,
            tasks,
            ..
        } = self;
        let (trigger, watch) = drain();
        let serving = Tasks::new();
        let readiness = Readiness::new();
        let http_address = listeners.http_address();
        let (peer_listener, front) = listeners.split();
        let peer_tls = peers.server_tls()?;
        let (own_consensus, own_drain) = (consensus.clone(), watch.clone());
        tasks.spawn("peer listener", async move {
            own_consensus
                .serve_peers(peer_listener, Some(peer_tls), own_drain)
                .await;
        });
        let audit = open_audit(&host, &config, &consensus, &place, &tasks).await?;
        let services = assemble(&host, &consensus, &vault, audit.0, (&tasks, &serving));
        services
            .metrics
            .registry()
            .register(|registry| audit.1.register(registry));
        let kek_fault = spawn_jobs(&services, &config, &record, &readiness, &tasks);
        serve_front(front, &services, &readiness, &watch, &serving)?;
        Ok(RunningServer {
            api_address: record.api_address,
            peer_address: record.peer_address,
            http_address,
            admin_socket: config.listen.admin_socket.clone(),
            readiness,
            services,
            drain: trigger,
            serving,
            tasks,
            kek_fault,
            peers,
            _place: place,
        })
    }
}

/// Certificates of the trust-domain key and of the founder, when the cluster is made.
fn founded(state: &State) -> Option<(Vec<u8>, Vec<u8>)> {
    let key = state.trust_domain_key()?.certificate.clone();
    Some((key, state.server(FOUNDER)?.peer_certificate.clone()))
}

async fn open_audit(
    host: &Host,
    config: &Config,
    consensus: &Consensus,
    place: &Place,
    tasks: &Tasks,
) -> Result<(AuditLog, SinkMetrics), StartError> {
    let leaves = Arc::new(CommittedLog::new(consensus.clone()));
    let audit = AuditLog::start(host, leaves, place.data(), tasks).await?;
    let metrics = SinkMetrics::default();
    for sink in &config.sinks {
        audit.copy_to_file(host, &sink.path, &metrics, tasks);
    }
    Ok((audit, metrics))
}

/// Everything that the API works with; `tasks` are jobs' and streams'.
fn assemble(
    host: &Host,
    consensus: &Consensus,
    vault: &Arc<Vault>,
    audit: AuditLog,
    (tasks, serving): (&Tasks, &Tasks),
) -> Services {
    let node_id = consensus.node_id();
    let keyring = Arc::new(Keyring::new(Arc::clone(vault), node_id));
    let batcher = Batcher::start(consensus.clone(), node_id, tasks);
    let issuer = Issuer::new(
        host.clone(),
        consensus.clone(),
        Arc::clone(&keyring),
        batcher,
    );
    let rotation = Rotation::start(host.clone(), consensus.clone(), Arc::clone(&keyring), tasks);
    checkpoint::start(host, consensus.clone(), Arc::clone(&keyring), tasks);
    let reconcile = reconcile::run(consensus.clone(), Wake::new(), tasks.token());
    tasks.spawn("membership", reconcile);
    Arc::new(Shared {
        issuer,
        hub: Hub::start(consensus.clone(), tasks),
        acknowledgements: Acknowledgements::start(consensus.clone(), node_id, tasks),
        denials: Denials::start(consensus.clone(), node_id, tasks),
        nonces: Nonces::default(),
        limits: Limits::default(),
        metrics: Metrics::default(),
        started_at: host.clock.now(),
        host: host.clone(),
        consensus: consensus.clone(),
        keyring,
        audit,
        rotation,
        tasks: serving.clone(),
    })
}

fn spawn_jobs(
    services: &Services,
    config: &Arc<Config>,
    record: &OwnRecord,
    readiness: &Readiness,
    tasks: &Tasks,
) -> mpsc::Receiver<KekError> {
    let (fatal, kek_fault) = mpsc::channel(1);
    let (quorum, authority) = (readiness.gate("quorum"), readiness.gate("authority"));
    tasks.spawn("unseal", jobs::unseal(Arc::clone(services), fatal));
    tasks.spawn(
        "own record",
        jobs::keep_record(Arc::clone(services), record.clone()),
    );
    let settings = jobs::apply_settings(Arc::clone(services), Arc::clone(config));
    tasks.spawn("settings", settings);
    let ready = jobs::watch_readiness(Arc::clone(services), quorum, authority);
    tasks.spawn("readiness", ready);
    tasks.spawn("gauges", jobs::show_gauges(Arc::clone(services)));
    kek_fault
}

fn serve_front(
    front: Front,
    services: &Services,
    readiness: &Readiness,
    watch: &DrainWatch,
    serving: &Tasks,
) -> Result<(), StartError> {
    let own = OwnSvid::default();
    let tls = api_tls(&services.host, services.consensus.clone(), own.clone())?;
    let gate = readiness.gate("own svid");
    serving.spawn("own svid", own_svid::keep(Arc::clone(services), own, gate));
    let (routes, health) = routes(services)?;
    let (becomes_ready, token) = (readiness.clone(), serving.token());
    serving.spawn("health", async move {
        let not_yet = tonic_health::ServingStatus::NotServing;
        health.set_service_status("", not_yet).await;
        if token
            .run_until_cancelled(becomes_ready.ready())
            .await
            .is_some()
        {
            health
                .set_service_status("", tonic_health::ServingStatus::Serving)
                .await;
            token.cancelled().await;
        }
        health.set_service_status("", not_yet).await;
    });
    let serving_parts = Serving {
        host: services.host.clone(),
        routes,
        tls,
        metrics: services.metrics.clone(),
        readiness: readiness.clone(),
        drain: watch.clone(),
    };
    front.serve(serving_parts, serving);
    Ok(())
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

/// Why consensus ended, for those that embed a server.
pub type Fault = RaftFault;
