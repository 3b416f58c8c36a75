//! A server's jobs, services and listeners, put together over its ground.
//!
//! Always: every task is owned: connections and streams by `serving`, which ends first, everything else by
//! the server's own tasks.
//!
//! Not here: what each of them does.

use std::sync::Arc;

use mintmark_runtime::drain::{DrainWatch, drain};
use mintmark_runtime::host::Host;
use mintmark_runtime::readiness::Readiness;
use mintmark_runtime::task::Tasks;
use tokio::sync::mpsc;
use tonic_health::server::HealthReporter;

use super::error::StartError;
use super::ground::Ground;
use super::jobs::OwnRecord;
use super::listeners::{Front, Serving, api_tls};
use super::own_svid::{self, OwnSvid};
use super::place::Place;
use super::{RunningServer, jobs};
use crate::Consensus;
use crate::api::resume::Nonces;
use crate::api::routes::{SERVICE_NAMES, routes};
use crate::api::{Limits, Services, Shared};
use crate::audit::AuditLog;
use crate::audit::checkpoint;
use crate::audit::committed::CommittedLog;
use crate::audit::denials::Denials;
use crate::audit::sink::SinkMetrics;
use crate::authority::keyring::Keyring;
use crate::authority::rotation::Rotation;
use crate::cluster::reconcile;
use crate::config::Config;
use crate::fanout::Hub;
use crate::fanout::acknowledgements::Acknowledgements;
use crate::issuance::Issuer;
use crate::issuance::batch::Batcher;
use crate::metrics::Metrics;
use crate::vault::Vault;
use crate::vault::kek::KekError;

impl Ground {
    /// Starts the jobs and the listeners.
    pub(super) async fn serve(
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
    reconcile::start(consensus.clone(), tasks);
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
    let quorum = jobs::watch_quorum(Arc::clone(services), readiness.clone(), quorum);
    tasks.spawn("quorum readiness", quorum);
    let authority = jobs::watch_authorities(Arc::clone(services), authority);
    tasks.spawn("authority readiness", authority);
    let gate = readiness.gate("clock");
    let clock = jobs::watch_clock(Arc::clone(services), readiness.clone(), gate);
    tasks.spawn("clock readiness", clock);
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
        use tonic_health::ServingStatus::{NotServing, Serving};
        tell_health(&health, NotServing).await;
        let follow = async {
            loop {
                becomes_ready.ready().await;
                tell_health(&health, Serving).await;
                becomes_ready.not_ready().await;
                tell_health(&health, NotServing).await;
            }
        };
        token.run_until_cancelled(follow).await;
        tell_health(&health, NotServing).await;
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

async fn tell_health(health: &HealthReporter, status: tonic_health::ServingStatus) {
    for name in SERVICE_NAMES {
        health.set_service_status(name, status).await;
    }
}
