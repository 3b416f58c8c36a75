//! What a server listens on.
//!
//! Always: everything is bound before anything is made or changed, so that a port in use leaves the data
//! as they were; the private socket is for its own user only.
//!
//! Not here: what is served (`api::routes`, `raft`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mintmark_identity::svid::x509::VerificationPolicy;
use mintmark_identity::tls::{Authorizer, ClientAuth, SvidTrust, server_config};
use mintmark_runtime::drain::DrainWatch;
use mintmark_runtime::grpc::{ConnectionLimits, GrpcLimits, GrpcServer};
use mintmark_runtime::host::Host;
use mintmark_runtime::http::{HttpServer, probes};
use mintmark_runtime::network::{Address, Listener, UnixMode};
use mintmark_runtime::readiness::Readiness;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::tls::ServerConfigSource;
use tonic::service::Routes;

use super::error::StartError;
use super::own_svid::{OwnBundles, OwnSvid};
use crate::Consensus;
use crate::config::Config;
use crate::metrics::Metrics;

/// A connection this old is drained: agents then spread over the servers anew.
const CONNECTION_AGE: Duration = Duration::from_secs(30 * 60);
/// Calls at one time on one connection of an agent.
const STREAMS_MAX: u32 = 256;

/// Everything that is bound.
pub struct Listeners {
    api: Box<dyn Listener>,
    peer: Box<dyn Listener>,
    admin: Box<dyn Listener>,
    http: Option<Box<dyn Listener>>,
}

impl Listeners {
    /// Binds everything that the configuration names.
    ///
    /// # Errors
    /// The first that cannot be bound.
    pub async fn bind(host: &Host, config: &Config) -> Result<Self, StartError> {
        let listen = &config.listen;
        let http = match &listen.http {
            Some(address) => Some(tcp(host, address).await?),
            None => None,
        };
        Ok(Self {
            api: tcp(host, &listen.api).await?,
            peer: tcp(host, &listen.peer).await?,
            admin: unix(host, &listen.admin_socket).await?,
            http,
        })
    }

    /// Where the API is reached.
    #[must_use]
    pub fn api_address(&self, config: &Config) -> String {
        advertised(config.listen.advertise_api.as_ref(), self.api.as_ref())
    }

    /// Where the peers' port is reached.
    #[must_use]
    pub fn peer_address(&self, config: &Config) -> String {
        advertised(config.listen.advertise_peer.as_ref(), self.peer.as_ref())
    }

    /// Where probes and metrics are reached.
    #[must_use]
    pub fn http_address(&self) -> Option<String> {
        self.http.as_ref().map(|listener| listener.local_address())
    }

    /// Takes the peers' port, which is served before the rest.
    #[must_use]
    pub fn split(self) -> (Box<dyn Listener>, Front) {
        (
            self.peer,
            Front {
                api: self.api,
                admin: self.admin,
                http: self.http,
            },
        )
    }
}

fn advertised(configured: Option<&Address>, listener: &dyn Listener) -> String {
    configured.map_or_else(|| listener.local_address(), ToString::to_string)
}

async fn tcp(host: &Host, address: &Address) -> Result<Box<dyn Listener>, StartError> {
    host.network
        .listen(address)
        .await
        .map_err(|source| StartError::Listen {
            address: address.to_string(),
            source,
        })
}

async fn unix(host: &Host, path: &Path) -> Result<Box<dyn Listener>, StartError> {
    let bound = host.network.listen_unix(path, UnixMode::PRIVATE).await;
    bound.map_err(|source| StartError::Listen {
        address: path.display().to_string(),
        source,
    })
}

/// The listeners that callers use.
pub struct Front {
    api: Box<dyn Listener>,
    admin: Box<dyn Listener>,
    http: Option<Box<dyn Listener>>,
}

/// What the front serves.
pub struct Serving {
    /// The machine.
    pub host: Host,
    /// The services.
    pub routes: Routes,
    /// TLS of the TCP listener.
    pub tls: ServerConfigSource,
    /// Counters.
    pub metrics: Metrics,
    /// What is not ready yet.
    pub readiness: Readiness,
    /// Ends the serving.
    pub drain: DrainWatch,
}

impl Front {
    /// Serves until the drain.
    pub fn serve(self, serving: Serving, tasks: &Tasks) {
        let Serving {
            host,
            routes,
            tls,
            metrics,
            readiness,
            drain,
        } = serving;
        let limits = GrpcLimits {
            max_concurrent_streams: STREAMS_MAX,
            connections: ConnectionLimits {
                max_connection_age: Some(CONNECTION_AGE),
                ..ConnectionLimits::default()
            },
            ..GrpcLimits::default()
        };
        let api = GrpcServer::new(routes.clone(), Arc::clone(&host.entropy))
            .with_limits(limits)
            .with_tls(tls)
            .with_metrics(metrics.api_listener.clone());
        let admin = GrpcServer::new(routes, Arc::clone(&host.entropy))
            .with_metrics(metrics.admin_listener.clone());
        for (name, server, listener) in [
            ("api listener", api, self.api),
            ("admin listener", admin, self.admin),
        ] {
            let (own_tasks, drain) = (tasks.clone(), drain.clone());
            tasks.spawn(name, async move {
                server.serve(listener, &own_tasks, drain).await
            });
        }
        if let Some(listener) = self.http {
            let router = probes(readiness, drain.clone(), metrics.registry());
            let own_tasks = tasks.clone();
            tasks.spawn("http listener", async move {
                HttpServer::new(router)
                    .serve(listener, &own_tasks, drain)
                    .await;
            });
        }
    }
}

/// TLS of the API: the server's own SVID; a client may show one, which then must verify.
///
/// # Errors
/// Never in practice.
pub fn api_tls(
    host: &Host,
    consensus: Consensus,
    own: OwnSvid,
) -> Result<ServerConfigSource, StartError> {
    let trust = SvidTrust {
        bundles: Arc::new(OwnBundles::new(consensus)),
        policy: VerificationPolicy::default(),
        authorizer: Authorizer::any(),
    };
    let clock = Arc::clone(&host.clock);
    let config = Arc::new(server_config(
        clock,
        Arc::new(own),
        trust,
        ClientAuth::Optional,
    )?);
    Ok(Arc::new(move || Arc::clone(&config)))
}
