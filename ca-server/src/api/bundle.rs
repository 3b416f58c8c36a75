//! SPIRE's `Bundle` service, as far as one trust domain goes.
//!
//! Always: the bundle that anybody may read is the one that verifies our SVIDs now. Authorities come and
//! go by rotation only, so nothing here changes the bundle.
//!
//! Not here: federated bundles.

use mintmark_proto::convert::bundle::bundle_to_spire;
use mintmark_proto::spire::bundle as wire;
use mintmark_proto::spire::types;
use tonic::{Request, Response, Status};

use super::Services;
use super::status::ApiError;
use crate::policy::{Action, Identity};

/// The service.
#[derive(Debug, Clone)]
pub struct BundleService(pub Services);

fn not_offered(what: &'static str, instead: &'static str) -> Status {
    ApiError::NotOffered { what, instead }.into()
}

const FEDERATION: &str = "this server does not federate";

#[tonic::async_trait]
impl wire::bundle_server::Bundle for BundleService {
    async fn get_bundle(
        &self,
        request: Request<wire::GetBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let (caller, permit) = self.0.permit(&request, Action::GetBundle).await?;
        // Who sits at this very server may look at what it has; everybody else is to ask another.
        if !matches!(caller.identity(), Identity::Local) {
            self.0.fresh()?;
        }
        let bundle = self.0.consensus.read(|state| state.own_bundle());
        let bundle = bundle.ok_or(ApiError::NotReady("no cluster yet"))?;
        // A bundle without authorities would say that nothing of this trust domain is valid.
        if bundle.is_empty() {
            return Err(ApiError::NotReady("no authority yet").into());
        }
        if let Some(agent) = permit.agent() {
            // SPIRE's agents acknowledge by coming back for more.
            self.0
                .acknowledgements
                .polled(&agent.id, bundle.sequence.unwrap_or(0));
        }
        Ok(Response::new(bundle_to_spire(
            &bundle,
            request.get_ref().output_mask.as_ref(),
        )))
    }

    async fn count_bundles(
        &self,
        request: Request<wire::CountBundlesRequest>,
    ) -> Result<Response<wire::CountBundlesResponse>, Status> {
        let _permit = self.0.permit(&request, Action::CountBundles).await?;
        Ok(Response::new(wire::CountBundlesResponse { count: 1 }))
    }

    async fn append_bundle(
        &self,
        _request: Request<wire::AppendBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let instead =
            "authorities enter the bundle by rotation, which the servers do by themselves";
        Err(not_offered("AppendBundle", instead))
    }

    async fn publish_jwt_authority(
        &self,
        _request: Request<wire::PublishJwtAuthorityRequest>,
    ) -> Result<Response<wire::PublishJwtAuthorityResponse>, Status> {
        Err(not_offered(
            "PublishJWTAuthority",
            "this server has no downstream clusters",
        ))
    }

    async fn publish_wit_authority(
        &self,
        _request: Request<wire::PublishWitAuthorityRequest>,
    ) -> Result<Response<wire::PublishWitAuthorityResponse>, Status> {
        Err(not_offered(
            "PublishWITAuthority",
            "this server has no downstream clusters",
        ))
    }

    async fn list_federated_bundles(
        &self,
        request: Request<wire::ListFederatedBundlesRequest>,
    ) -> Result<Response<wire::ListFederatedBundlesResponse>, Status> {
        let _permit = self.0.permit(&request, Action::CountBundles).await?;
        Ok(Response::new(wire::ListFederatedBundlesResponse::default()))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<wire::GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let _permit = self.0.permit(&request, Action::GetFederatedBundle).await?;
        let what = format!("the bundle of {:?}", request.get_ref().trust_domain);
        Err(ApiError::NotFound { what }.into())
    }

    async fn batch_create_federated_bundle(
        &self,
        _request: Request<wire::BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchCreateFederatedBundleResponse>, Status> {
        Err(not_offered("BatchCreateFederatedBundle", FEDERATION))
    }

    async fn batch_update_federated_bundle(
        &self,
        _request: Request<wire::BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchUpdateFederatedBundleResponse>, Status> {
        Err(not_offered("BatchUpdateFederatedBundle", FEDERATION))
    }

    async fn batch_set_federated_bundle(
        &self,
        _request: Request<wire::BatchSetFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchSetFederatedBundleResponse>, Status> {
        Err(not_offered("BatchSetFederatedBundle", FEDERATION))
    }

    async fn batch_delete_federated_bundle(
        &self,
        _request: Request<wire::BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<wire::BatchDeleteFederatedBundleResponse>, Status> {
        Err(not_offered("BatchDeleteFederatedBundle", FEDERATION))
    }
}

#[cfg(test)]
mod tests;
