//! Our own cluster service, `mintmark.cluster.v1`.
//!
//! Always: a server joins with a token that admits servers, by a key it proved, and gets nothing but its
//! own certificate and the data key wrapped to its own vault; becoming a member of the Raft group is
//! another job's work, not the request's.
//!
//! Not here: admission, joining and that job (`cluster`).

mod view;

use mintmark_proto::mintmark::cluster::v1 as wire;
use mintmark_proto::mintmark::raft::v1::{RevokeAuthority, TaintAuthority, command};
use mintmark_proto::mintmark::state::v1::{Authority, AuthorityKind};
use tonic::{Request, Response, Status};

use self::view::{Own, Question};
use super::status::ApiError;
use super::{Services, idempotency_key};
use crate::cluster::admission;
use crate::policy::{Action, Permit};
use crate::state::State;

/// The service.
#[derive(Debug, Clone)]
pub struct ClusterService(pub Services);

#[tonic::async_trait]
impl wire::cluster_server::Cluster for ClusterService {
    async fn join(
        &self,
        request: Request<wire::JoinRequest>,
    ) -> Result<Response<wire::JoinResponse>, Status> {
        let (caller, permit) = self.0.permit(&request, Action::JoinCluster).await?;
        let taken = self.0.limits.attest.take(caller.source(), 1);
        taken.map_err(|wait| ApiError::RateLimited { wait })?;
        drop(permit);
        let response = admission::join(&self.0, request.into_inner()).await?;
        self.0.rotation.wake();
        Ok(Response::new(response))
    }

    async fn create_server_token(
        &self,
        request: Request<wire::CreateServerTokenRequest>,
    ) -> Result<Response<wire::CreateServerTokenResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::CreateServerToken).await?;
        let key = idempotency_key(&request)?;
        let ttl_seconds = request.get_ref().ttl_seconds;
        let actor = permit.actor().clone();
        let made = admission::create_token(&self.0, actor, ttl_seconds, key).await?;
        Ok(Response::new(made))
    }

    async fn get_status(
        &self,
        request: Request<wire::GetStatusRequest>,
    ) -> Result<Response<wire::Status>, Status> {
        let _permit = self.0.permit(&request, Action::GetClusterStatus).await?;
        let own = Own {
            node_id: self.0.consensus.node_id(),
            sealed: self.0.keyring.vault().is_sealed(),
            clock: self.0.consensus.clock(),
            now: self.0.host.clock.now(),
            differing_members: self.0.consensus.differing_members(),
            started_at: self.0.started_at,
        };
        let raft = self.0.consensus.status().borrow().clone();
        Ok(Response::new(
            self.0
                .consensus
                .read(|state| view::status(state, &raft, &own)),
        ))
    }

    async fn list_authorities(
        &self,
        request: Request<wire::ListAuthoritiesRequest>,
    ) -> Result<Response<wire::ListAuthoritiesResponse>, Status> {
        let _permit = self.0.permit(&request, Action::ListAuthorities).await?;
        self.0.fresh_enough(&request).await?;
        let now = self.0.host.clock.now();
        Ok(Response::new(
            self.0.consensus.read(|state| view::authorities(state, now)),
        ))
    }

    async fn prepare_authority(
        &self,
        request: Request<wire::PrepareAuthorityRequest>,
    ) -> Result<Response<wire::PrepareAuthorityResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::PrepareAuthority).await?;
        let kind = match request.get_ref().kind() {
            AuthorityKind::Unspecified => Err(ApiError::invalid("kind", "is missing"))?,
            AuthorityKind::Wit => Err(ApiError::invalid("kind", "is WIT, which is not offered"))?,
            kind => kind,
        };
        let prepared = self.0.rotation.prepare(kind, permit.actor().clone()).await;
        let authority_id = prepared.map_err(ApiError::Rotation)?;
        Ok(Response::new(wire::PrepareAuthorityResponse {
            authority_id,
        }))
    }

    async fn taint_authority(
        &self,
        request: Request<wire::TaintAuthorityRequest>,
    ) -> Result<Response<wire::TaintAuthorityResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::TaintAuthority).await?;
        let key = idempotency_key(&request)?;
        let authority_id = request.into_inner().authority_id;
        let body = command::Body::TaintAuthority(TaintAuthority {
            authority_id: authority_id.clone(),
        });
        let authority = self.withdraw(permit, authority_id, body, key).await?;
        Ok(Response::new(wire::TaintAuthorityResponse {
            authority: Some(authority),
        }))
    }

    async fn revoke_authority(
        &self,
        request: Request<wire::RevokeAuthorityRequest>,
    ) -> Result<Response<wire::RevokeAuthorityResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::RevokeAuthority).await?;
        let key = idempotency_key(&request)?;
        let authority_id = request.into_inner().authority_id;
        let body = command::Body::RevokeAuthority(RevokeAuthority {
            authority_id: authority_id.clone(),
        });
        let authority = self.withdraw(permit, authority_id, body, key).await?;
        Ok(Response::new(wire::RevokeAuthorityResponse {
            authority: Some(authority),
        }))
    }

    async fn explain_entries(
        &self,
        request: Request<wire::ExplainEntriesRequest>,
    ) -> Result<Response<wire::ExplainEntriesResponse>, Status> {
        let _permit = self.0.permit(&request, Action::ExplainEntries).await?;
        let question = Question::from_wire(request.get_ref())?;
        Ok(Response::new(
            self.0
                .consensus
                .read(|state| view::explain(state, &question)),
        ))
    }
}

impl ClusterService {
    /// Taints or revokes, and says how the authority stands then. The state alone decides whether it
    /// may be.
    async fn withdraw(
        &self,
        permit: Permit,
        authority_id: String,
        body: command::Body,
        key: Option<[u8; 16]>,
    ) -> Result<Authority, ApiError> {
        if authority_id.is_empty() {
            return Err(ApiError::invalid("authority_id", "is missing"));
        }
        self.0.propose(permit.actor().clone(), body, key).await?;
        self.0.rotation.wake();
        let stands = |state: &State| state.authority(&authority_id).cloned();
        // Only when a repeated request comes after the authority expired and was forgotten.
        let gone = || ApiError::NotFound {
            what: format!("authority {authority_id}"),
        };
        self.0.consensus.read(stands).ok_or_else(gone)
    }
}

#[cfg(test)]
mod tests;
