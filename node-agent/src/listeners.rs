//! The sockets that an agent listens on.
//!
//! Responsible for: binding the public socket, the private socket and the probes, and what is
//! served on each. Always holds: all are bound before any is served, so a start either fails
//! whole or succeeds whole. Not here: the services.

use std::{io, sync::Arc};

use mintmark_proto::descriptors;
use mintmark_proto::{
    envoy::service::secret::v3::secret_discovery_service_server::SERVICE_NAME as SDS,
    mintmark::agentadmin::v1::agent_admin_server::{AgentAdminServer, SERVICE_NAME as AGENT_ADMIN},
    spiffe::workload::spiffe_workload_api_server::{
        SERVICE_NAME as WORKLOAD_API, SpiffeWorkloadApiServer,
    },
};
use mintmark_runtime::{
    Host,
    drain::DrainWatch,
    grpc::{ConnectionLimits, GrpcLimits, GrpcServer, ListenerMetrics},
    http::{HttpServer, probes},
    metrics::Metrics as Registry,
    network::{Listener, UnixMode},
    readiness::Readiness,
    task::Tasks,
};
use tonic::service::Routes;
use tonic_health::pb::health_server::SERVICE_NAME as HEALTH;
use tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME as REFLECTION_V1;
use tonic_reflection::pb::v1alpha::server_reflection_server::SERVICE_NAME as REFLECTION_V1ALPHA;

use crate::{
    admin::Admin,
    app::{StartError, assemble::Core},
    config::Config,
    metrics,
    sds::Sds,
    workload_api::{WorkloadApi, WorkloadApiService},
};

/// Bound and not yet served.
pub struct Listeners {
    public: Box<dyn Listener>,
    admin: Box<dyn Listener>,
    probes: Option<Box<dyn Listener>>,
}

impl std::fmt::Debug for Listeners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listeners").finish_non_exhaustive()
    }
}

impl Listeners {
    /// Binds all of them.
    ///
    /// # Errors
    /// [`StartError::Listen`]; none stays bound then.
    pub async fn bind(host: &Host, config: &Config) -> Result<Self, StartError> {
        let listen = |place: String| move |source: io::Error| StartError::Listen { place, source };
        let network = &host.network;
        let (public, admin) = (&config.socket_path, &config.admin_socket_path);
        let public = network
            .listen_unix(public, UnixMode::PUBLIC)
            .await
            .map_err(listen(public.display().to_string()))?;
        let admin = network
            .listen_unix(admin, UnixMode::PRIVATE)
            .await
            .map_err(listen(admin.display().to_string()))?;
        let probes = match &config.probes_address {
            Some(address) => Some(
                network
                    .listen(address)
                    .await
                    .map_err(listen(address.to_string()))?,
            ),
            None => None,
        };
        Ok(Self {
            public,
            admin,
            probes,
        })
    }

    /// Where the probes are, with the real port.
    #[must_use]
    pub fn probes_address(&self) -> Option<String> {
        self.probes
            .as_ref()
            .map(|listener| listener.local_address())
    }

    /// Serves on all of them until the drain begins.
    pub fn serve(
        self,
        core: &Core,
        config: &Config,
        tasks: &Tasks,
        drain: &DrainWatch,
        readiness: &Readiness,
    ) {
        let entropy = Arc::clone(&core.surface.host.entropy);
        let registry = Registry::new(metrics::PREFIX);
        let connections = ListenerMetrics::default();
        registry.register(|registry| {
            core.metrics.register(registry);
            connections.register(registry.sub_registry_with_prefix("workload_api"));
        });
        let public = GrpcServer::new(public_routes(core, config), Arc::clone(&entropy))
            .with_limits(limits(config))
            .with_metrics(connections);
        let admin = GrpcServer::new(admin_routes(core), entropy);
        spawn_grpc("workload api", public, self.public, tasks, drain);
        spawn_grpc("admin api", admin, self.admin, tasks, drain);
        if let Some(listener) = self.probes {
            let router = probes(readiness.clone(), drain.clone(), registry);
            let (owner, drain) = (tasks.clone(), drain.clone());
            tasks.spawn("probes", async move {
                HttpServer::new(router).serve(listener, &owner, drain).await;
            });
        }
    }
}

fn spawn_grpc(
    name: &'static str,
    server: GrpcServer,
    listener: Box<dyn Listener>,
    tasks: &Tasks,
    drain: &DrainWatch,
) {
    let (owner, drain) = (tasks.clone(), drain.clone());
    tasks.spawn(
        name,
        async move { server.serve(listener, &owner, drain).await },
    );
}

fn limits(config: &Config) -> GrpcLimits {
    GrpcLimits {
        connections: ConnectionLimits {
            max_connections: config.limits.connections,
            max_connections_per_uid: config.limits.connections_per_uid,
            ..ConnectionLimits::default()
        },
        ..GrpcLimits::default()
    }
}

/// The Workload API, secret discovery, and what lets a client find its way: health and
/// reflection, which need no header.
fn public_routes(core: &Core, config: &Config) -> Routes {
    let (reporter, health) = tonic_health::server::health_reporter();
    let workload_api = WorkloadApi::service(
        core.surface.clone(),
        config.allowed_foreign_jwt_claims.clone(),
    );
    let sds = Sds::service(core.surface.clone(), config.sds.clone());
    // The service answers from now on; whether it has an identity for the caller it says itself.
    futures_util::FutureExt::now_or_never(async {
        reporter
            .set_serving::<SpiffeWorkloadApiServer<WorkloadApi>>()
            .await;
        reporter
            .set_service_status(SDS, tonic_health::ServingStatus::Serving)
            .await;
    });
    let _: &WorkloadApiService = &workload_api;
    let routes = Routes::new(workload_api)
        .add_service(sds)
        .add_service(health);
    let sets = [descriptors::WORKLOAD_API, descriptors::ENVOY_SDS];
    reflected(routes, &sets, &[WORKLOAD_API, SDS])
}

fn admin_routes(core: &Core) -> Routes {
    let admin = Admin {
        surface: core.surface.clone(),
        own: core.own.clone(),
        servers: core.servers.clone(),
        connected: core.connected.subscribe(),
        started_at: core.started_at,
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    let ready = reporter.set_serving::<AgentAdminServer<Admin>>();
    futures_util::FutureExt::now_or_never(ready);
    let routes = Routes::new(admin.service()).add_service(health);
    reflected(routes, &[descriptors::MINTMARK], &[AGENT_ADMIN])
}

/// Adds reflection, in the version that new clients ask for and the one that old ones do. The sets
/// describe more services than one socket has, so that those it has are named.
fn reflected(mut routes: Routes, sets: &[&'static [u8]], services: &[&'static str]) -> Routes {
    let builder = |own| {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(HEALTH)
            .with_service_name(own);
        let builder = sets.iter().fold(builder, |builder, set| {
            builder.register_encoded_file_descriptor_set(set)
        });
        let named = services.iter().copied();
        named.fold(builder, |builder, name| builder.with_service_name(name))
    };
    let v1 = builder(REFLECTION_V1).build_v1();
    match (v1, builder(REFLECTION_V1ALPHA).build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes = routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "no reflection"),
    }
    routes
}
