//! The SPIFFE Workload API on the agent's public socket.
//!
//! Responsible for: the service `SpiffeWorkloadAPI`, its header rule and its request checks.
//! Always holds: a request without exactly one `workload.spiffe.io: true` is refused before
//! anything is read, decoded or attested (WLE-08); no answer has an empty list of identities.
//! Not here: what the messages hold (`x509`, `jwt`, `bundles`), who is entitled (`surface`).

use mintmark_proto::spiffe::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, WitBundlesRequest, WitBundlesResponse, WitsvidRequest,
    WitsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use tonic::{
    Code, Extensions, Request, Response, Status, service::interceptor::InterceptedService,
};

use crate::{
    code, status,
    surface::{Caller, Messages, Render, Slot, Surface},
};

mod bundles;
mod jwt;
mod x509;

/// Header that every request carries (Workload Endpoint section 3).
const HEADER: &str = "workload.spiffe.io";
/// The largest request: a token of 64 KiB with room for an audience.
const REQUEST_MAX: usize = 128 << 10;

/// The service.
#[derive(Clone, Debug)]
pub struct WorkloadApi {
    surface: Surface,
    allowed_foreign_claims: std::sync::Arc<[String]>,
}

/// The service behind its header check.
pub type WorkloadApiService = InterceptedService<
    SpiffeWorkloadApiServer<WorkloadApi>,
    fn(Request<()>) -> Result<Request<()>, Status>,
>;

impl WorkloadApi {
    /// The service, ready to be routed. `allowed_foreign_claims` names the claims of other trust
    /// domains' tokens that `ValidateJWTSVID` passes on.
    #[must_use]
    pub fn service(surface: Surface, allowed_foreign_claims: Vec<String>) -> WorkloadApiService {
        let api = Self {
            surface,
            allowed_foreign_claims: allowed_foreign_claims.into(),
        };
        let server = SpiffeWorkloadApiServer::new(api).max_decoding_message_size(REQUEST_MAX);
        InterceptedService::new(server, check_header)
    }

    async fn stream<R: Render>(
        &self,
        extensions: &Extensions,
        render: R,
    ) -> Result<Response<Messages<R::Message>>, Status> {
        let (caller, slot) = self.begin(extensions).await?;
        // An answer that is an error needs no stream: it is the response itself.
        let _identities = self
            .surface
            .entitled(&self.surface.cache.current(), &caller)?;
        Ok(Response::new(self.surface.follow(caller, slot, render)))
    }

    async fn begin(&self, extensions: &Extensions) -> Result<(Caller, Slot), Status> {
        let caller = self.surface.caller(extensions).await?;
        let slot = self.surface.streams.open(caller.uid())?;
        Ok((caller, slot))
    }
}

/// Refuses a request without exactly one header of exactly this value: it may come from a
/// program that was tricked into sending it (SSRF).
fn check_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all(HEADER).iter();
    match (values.next(), values.next()) {
        (Some(value), None) if value.as_bytes() == b"true" => Ok(request),
        _ => Err(status::status(
            Code::InvalidArgument,
            code::HEADER_MISSING,
            "security header missing from request: exactly one `workload.spiffe.io: true`",
        )),
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;
    type FetchWITSVIDStream = Messages<WitsvidResponse>;
    type FetchWITBundlesStream = Messages<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.stream(request.extensions(), x509::Svids).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.stream(request.extensions(), bundles::X509).await
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        drop(metadata);
        let asked = jwt::Asked::check(message)?;
        let (caller, _slot) = self.begin(&extensions).await?;
        jwt::fetch(&self.surface, caller, &asked)
            .await
            .map(Response::new)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.stream(request.extensions(), bundles::Jwt).await
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        drop(metadata);
        let (token, audience) = jwt::check_validation(message)?;
        let (caller, _slot) = self.begin(&extensions).await?;
        jwt::validate(
            &self.surface,
            &caller,
            &token,
            &audience,
            &self.allowed_foreign_claims,
        )
        .map(Response::new)
    }

    async fn fetch_witsvid(
        &self,
        _request: Request<WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(status::not_supported("the WIT-SVID profile"))
    }

    async fn fetch_wit_bundles(
        &self,
        _request: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(status::not_supported("the WIT-SVID profile"))
    }
}
