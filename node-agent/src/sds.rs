//! Envoy's secret discovery (SDS v3) on the agent's public socket.
//!
//! Responsible for: the service `SecretDiscoveryService`, so that Envoy takes certificates and
//! validation contexts from us and sees each rotation. Always holds: Envoy is a workload like
//! any other (attested, entitled by its entries); it needs no security header, since it cannot
//! send one. Not here: the secrets themselves (`secrets`), the protocol of one stream
//! (`exchange`).

use std::sync::Arc;

use mintmark_proto::envoy::service::{
    discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    secret::v3::secret_discovery_service_server::{
        SecretDiscoveryService, SecretDiscoveryServiceServer,
    },
};
use tonic::{Request, Response, Status, Streaming};

use self::{
    exchange::Exchange,
    secrets::{Envoy, Names, Wanted},
};
use crate::{
    status,
    surface::{Messages, Surface},
};

mod exchange;
pub mod secrets;

/// The largest request: Envoy describes itself at length in `node`.
const REQUEST_MAX: usize = 1 << 20;

/// The service.
#[derive(Clone, Debug)]
pub struct Sds {
    surface: Surface,
    names: Arc<Names>,
}

impl Sds {
    /// The service, ready to be routed.
    #[must_use]
    pub fn service(surface: Surface, names: Names) -> SecretDiscoveryServiceServer<Self> {
        let sds = Self {
            surface,
            names: Arc::new(names),
        };
        SecretDiscoveryServiceServer::new(sds).max_decoding_message_size(REQUEST_MAX)
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = Messages<DiscoveryResponse>;
    type DeltaSecretsStream = Messages<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (_, extensions, requests) = request.into_parts();
        let caller = self.surface.caller(&extensions).await?;
        let slot = self.surface.streams.open(caller.uid())?;
        let exchange = Exchange::new(self.surface.clone(), caller, slot, Arc::clone(&self.names));
        Ok(Response::new(exchange.run(requests)))
    }

    async fn fetch_secrets(
        &self,
        request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        secrets::check_type(&request.type_url)?;
        let caller = self.surface.caller(&extensions).await?;
        let slot = self.surface.streams.open(caller.uid())?;
        let wanted = Wanted::new(request.resource_names);
        let envoy = Envoy::of(request.node.as_ref());
        let mut exchange =
            Exchange::new(self.surface.clone(), caller, slot, Arc::clone(&self.names));
        exchange.fetch(wanted, envoy).await.map(Response::new)
    }

    async fn delta_secrets(
        &self,
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(status::not_supported("incremental secret discovery"))
    }
}
