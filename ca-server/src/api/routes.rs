//! Everything that is served, on one set of routes.
//!
//! Always: the TCP listener and the private socket offer the same services with the same bounds on
//! messages; reflection and health are on both.
//!
//! Not here: listeners and TLS (`app::listeners`).

use mintmark_proto::descriptors;
use mintmark_proto::mintmark::agent::v1::agent_server::{
    AgentServer as MintmarkAgentServer, SERVICE_NAME as MINTMARK_AGENT,
};
use mintmark_proto::mintmark::audit::v1::audit_server::{AuditServer, SERVICE_NAME as AUDIT};
use mintmark_proto::mintmark::cluster::v1::cluster_server::{
    ClusterServer, SERVICE_NAME as CLUSTER,
};
use mintmark_proto::spire::agent::agent_server::{AgentServer, SERVICE_NAME as AGENT};
use mintmark_proto::spire::bundle::bundle_server::{BundleServer, SERVICE_NAME as BUNDLE};
use mintmark_proto::spire::entry::entry_server::{EntryServer, SERVICE_NAME as ENTRY};
use mintmark_proto::spire::svid::svid_server::{SERVICE_NAME as SVID, SvidServer};
use thiserror::Error;
use tonic::service::Routes;
use tonic_health::pb::health_server::SERVICE_NAME as HEALTH;
use tonic_health::server::HealthReporter;
use tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME as REFLECTION_V1;
use tonic_reflection::pb::v1alpha::server_reflection_server::SERVICE_NAME as REFLECTION_V1ALPHA;

use super::Services;
use super::agent::AgentService;
use super::audit::AuditService;
use super::bundle::BundleService;
use super::cluster::ClusterService;
use super::entry::EntryService;
use super::mintmark_agent::MintmarkAgentService;
use super::svid::SvidService;

/// The largest request: 500 signing requests with room to spare.
pub const REQUEST_MAX: usize = 4 * 1024 * 1024;
/// The largest answer. SPIRE's agents take 4 MiB by default, ours more; a large list comes in pages.
pub const RESPONSE_MAX: usize = 16 * 1024 * 1024;

/// Names that health is told for; the empty one stands for the whole server.
pub const SERVICE_NAMES: [&str; 8] = [
    "",
    AGENT,
    ENTRY,
    BUNDLE,
    SVID,
    MINTMARK_AGENT,
    CLUSTER,
    AUDIT,
];

/// Reflection could not be set up: a descriptor set is damaged.
#[derive(Debug, Error)]
#[error("the descriptions of the services cannot be read")]
pub struct ReflectionError(#[from] tonic_reflection::server::Error);

/// The routes, and the reporter that says whether they can be used.
///
/// # Errors
/// [`ReflectionError`].
pub fn routes(services: &Services) -> Result<(Routes, HealthReporter), ReflectionError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    macro_rules! bounded {
        ($server:ident, $service:ident) => {
            $server::new($service(services.clone()))
                .max_decoding_message_size(REQUEST_MAX)
                .max_encoding_message_size(RESPONSE_MAX)
        };
    }
    // The sets describe more services than there are on these routes, such as those between servers.
    let builder = |own: &str| {
        let mut builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(HEALTH)
            .with_service_name(own);
        for set in [descriptors::SPIRE_SERVER_API, descriptors::MINTMARK] {
            builder = builder.register_encoded_file_descriptor_set(set);
        }
        let named = SERVICE_NAMES.into_iter().filter(|name| !name.is_empty());
        named.fold(builder, |builder, name| builder.with_service_name(name))
    };
    let routes = Routes::new(bounded!(AgentServer, AgentService))
        .add_service(bounded!(EntryServer, EntryService))
        .add_service(bounded!(BundleServer, BundleService))
        .add_service(bounded!(SvidServer, SvidService))
        .add_service(bounded!(MintmarkAgentServer, MintmarkAgentService))
        .add_service(bounded!(ClusterServer, ClusterService))
        .add_service(bounded!(AuditServer, AuditService))
        .add_service(builder(REFLECTION_V1).build_v1()?)
        .add_service(builder(REFLECTION_V1ALPHA).build_v1alpha()?)
        .add_service(health);
    Ok((routes, reporter))
}
