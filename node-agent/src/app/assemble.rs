//! The parts of a running agent, put together.
//!
//! Responsible for: which part gets which other, and the tasks that they run as. Always holds:
//! parts are made first and spawned in one place. Not here: the parts.

use std::{sync::Arc, time::Duration};

use mintmark_identity::{clock::Timestamp, entropy::draw_u64, tls::BundleSource};
use mintmark_runtime::{
    Host,
    backoff::Backoff,
    disk::DiskLock,
    drain::DrainWatch,
    readiness::{Gate, Readiness},
    task::{Tasks, periodic::Wake},
};
use tokio::sync::{oneshot, watch};

use super::{StartError, open::Opened};
use crate::{
    agent_svid::{AgentError, AgentSvid, Tls, superseded::Superseded},
    cache::{Cache, tokens::Tokens},
    config::Config,
    issuer::Issuer,
    metrics::Metrics,
    peer_tls::{self, OwnSvid},
    pinning::Pinning,
    rotation::Rotation,
    server_client::{RemoteIssuer, Servers},
    surface::{Streams, Surface},
    sync::UpdateStream,
    workload::{Workloads, procfs::OsProc, unix::UnixAttestor},
};

/// When the trust-domain key is asked for again, at first and at most, if it was not learned.
const LEARN_RETRY: Duration = Duration::from_secs(1);
const LEARN_RETRY_MAX: Duration = Duration::from_secs(300);

/// What the parts share. A clone is another handle of the same agent.
#[derive(Clone, Debug)]
pub struct Core {
    /// What local APIs stand on.
    pub surface: Surface,
    /// What is served.
    pub cache: Cache,
    /// The agent's own SVID as TLS shows it.
    pub own: OwnSvid,
    /// The servers.
    pub servers: Servers,
    /// Whether a stream of updates is open.
    pub connected: Arc<watch::Sender<bool>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// When the agent started.
    pub started_at: Timestamp,
    tls: Tls,
}

impl Core {
    pub(super) fn new(
        host: &Host,
        config: &Config,
        opened: &Opened,
        workloads: Workloads,
        drain: DrainWatch,
    ) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::default());
        let (cache, own) = (Cache::new(opened.state.clone()), OwnSvid::default());
        let bundles: Arc<dyn BundleSource> = Arc::new(opened.trust.clone());
        let clock = Arc::clone(&host.clock);
        let tls = peer_tls::towards_servers(clock, own.clone(), bundles, &config.trust_domain)?;
        let servers = Servers::new(
            host,
            Arc::clone(&tls),
            config.server_addresses.clone(),
            Arc::clone(&metrics),
        );
        servers.learn(&opened.state.defaults.servers);
        let issuer: Arc<dyn Issuer> = Arc::new(RemoteIssuer {
            servers: servers.clone(),
            cache: cache.clone(),
            clock: Arc::clone(&host.clock),
        });
        let surface = Surface {
            host: host.clone(),
            cache: cache.clone(),
            tokens: Tokens::new(config.limits.jwt_svids),
            issuer,
            workloads,
            streams: Streams::new(config.limits.streams_per_uid, metrics.streams.clone()),
            push_splay: config.push_splay,
            drain,
            metrics: Arc::clone(&metrics),
        };
        Ok(Self {
            surface,
            cache,
            own,
            servers,
            connected: Arc::new(watch::Sender::new(false)),
            metrics,
            started_at: host.clock.now(),
            tls: Tls(tls),
        })
    }

    /// Starts everything that runs beside the listeners.
    pub(super) fn spawn(
        &self,
        opened: Opened,
        config: &Config,
        tasks: &Tasks,
        readiness: &Readiness,
    ) -> (Box<dyn DiskLock>, oneshot::Receiver<AgentError>) {
        let Opened {
            lock,
            store,
            own,
            trust,
            pinning,
            attestor,
            keeper,
            state: _,
        } = opened;
        let host = &self.surface.host;
        let now = host.clock.now();
        let holds = own
            .as_ref()
            .filter(|own| own.svid.validity().not_after >= now);
        self.own.set(holds.map(|own| Arc::clone(&own.svid)));
        let identity = watch::Sender::new(u64::from(holds.is_some()));
        let reached = Wake::new();
        let (superseded, heard_superseded) = watch::channel(0);
        let updates = UpdateStream {
            host: host.clone(),
            trust_domain: config.trust_domain.clone(),
            cache: self.cache.clone(),
            servers: self.servers.clone(),
            identity: identity.subscribe(),
            kept: keeper.kept(),
            trusted: trust.kept(),
            superseded,
            trust: trust.clone(),
            pinning: pinning.clone(),
            reached: reached.clone(),
            connected: Arc::clone(&self.connected),
            metrics: Arc::clone(&self.metrics),
        };
        let rotation = self.rotation(config, reached);
        let keeper = keeper.run(self.cache.clone(), self.own.clone(), tasks.token());
        let agent_svid = AgentSvid {
            host: host.clone(),
            trust_domain: config.trust_domain.clone(),
            store,
            attestor,
            own: self.own.clone(),
            servers: self.servers.clone(),
            trust: trust.clone(),
            pinning: pinning.clone(),
            tls: self.tls.clone(),
            cache: self.cache.clone(),
            identity,
            superseded: Superseded::new(heard_superseded),
            metrics: Arc::clone(&self.metrics),
        };
        let (failed, failure) = oneshot::channel();
        let stop = tasks.token();
        tasks.spawn("agent svid", async move {
            if let Err(error) = agent_svid.run(own, stop).await {
                // Nobody listens any more only when the agent is being stopped.
                let _ = failed.send(error);
            }
        });
        tasks.spawn("updates", updates.run(tasks.token()));
        tasks.spawn("rotation", rotation.run(tasks.token()));
        tasks.spawn("cache", keeper);
        let entropy = Arc::clone(&host.entropy);
        let trust = trust.follow(entropy, self.cache.clone(), tasks.token());
        tasks.spawn("trust", trust);
        let gate = readiness.gate("first update");
        tasks.spawn(
            "first update",
            self.clone().first_update(gate, pinning, tasks.clone()),
        );
        (lock, failure)
    }

    fn rotation(&self, config: &Config, reached: Wake) -> Rotation {
        Rotation {
            host: self.surface.host.clone(),
            cache: self.cache.clone(),
            tokens: self.surface.tokens.clone(),
            issuer: Arc::clone(&self.surface.issuer),
            metrics: Arc::clone(&self.metrics),
            cache_limit: config.limits.x509_svids,
            wake: reached,
        }
    }

    /// Opens the gate when everything was heard once, and learns the trust-domain key then.
    async fn first_update(self, gate: Gate, pinning: Pinning, tasks: Tasks) {
        let mut states = self.cache.watch();
        let mut connected = self.connected.subscribe();
        let stop = tasks.token();
        tokio::select! {
            known = states.wait_for(|state| state.position.is_some()) => if known.is_err() { return },
            () = stop.cancelled() => return,
        }
        gate.open();
        let learning = async {
            let mut backoff = Backoff::new(LEARN_RETRY, LEARN_RETRY_MAX);
            while pinning.pin().is_none() {
                if connected.wait_for(|connected| *connected).await.is_err() {
                    return;
                }
                if let Some(server) = self.servers.current() {
                    let seen = self.cache.current().bundle_position();
                    pinning.learn(self.servers.channel(&server), seen).await;
                }
                if pinning.pin().is_none() {
                    let draw = draw_u64(self.surface.host.entropy.as_ref());
                    tokio::time::sleep(backoff.next_delay(draw)).await;
                }
            }
        };
        tokio::select! {
            () = learning => {}
            () = stop.cancelled() => {}
        }
    }
}

/// What the configuration says that workloads are attested with.
pub(super) fn workloads(host: &Host, config: &Config) -> Workloads {
    let proc = Arc::new(OsProc::new(Arc::clone(&host.disk)));
    let unix = UnixAttestor::new(Arc::clone(&host.disk), proc, config.workload);
    Workloads::new(vec![Box::new(unix)])
}
