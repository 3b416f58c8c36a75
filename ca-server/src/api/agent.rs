//! SPIRE's `Agent` service.
//!
//! Always: a ban or an eviction holds from the commit of its command on; renewing replaces the agent's
//! SVID only once the agent was seen with the new one.
//!
//! Not here: first attestation (`attest`), coming back (`resume`), administration (`agent_admin`).

use mintmark_proto::spire::agent as wire;
use mintmark_proto::spire::types;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::entry::no_agent;
use super::status::ApiError;
use super::svid::{only, verify_csr, x509_to_wire};
use super::{Services, attest};
use crate::issuance::X509Ask;
use crate::issuance::subject::Subject;
use crate::policy::Action;

/// The service.
#[derive(Debug, Clone)]
pub struct AgentService(pub Services);

#[tonic::async_trait]
impl wire::agent_server::Agent for AgentService {
    async fn count_agents(
        &self,
        request: Request<wire::CountAgentsRequest>,
    ) -> Result<Response<wire::CountAgentsResponse>, Status> {
        self.0.count_agents(request).await
    }

    async fn list_agents(
        &self,
        request: Request<wire::ListAgentsRequest>,
    ) -> Result<Response<wire::ListAgentsResponse>, Status> {
        self.0.list_agents(request).await
    }

    async fn get_agent(
        &self,
        request: Request<wire::GetAgentRequest>,
    ) -> Result<Response<types::Agent>, Status> {
        self.0.get_agent(request).await
    }

    async fn delete_agent(
        &self,
        request: Request<wire::DeleteAgentRequest>,
    ) -> Result<Response<()>, Status> {
        self.0.delete_agent(request).await
    }

    async fn ban_agent(
        &self,
        request: Request<wire::BanAgentRequest>,
    ) -> Result<Response<()>, Status> {
        self.0.ban_agent(request).await
    }

    async fn attest_agent(
        &self,
        request: Request<Streaming<wire::AttestAgentRequest>>,
    ) -> Result<Response<BoxStream<wire::AttestAgentResponse>>, Status> {
        Ok(Response::new(
            attest::respond(self.0.clone(), request).await?,
        ))
    }

    async fn renew_agent(
        &self,
        request: Request<wire::RenewAgentRequest>,
    ) -> Result<Response<wire::RenewAgentResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::RenewAgent).await?;
        let params = request.into_inner().params;
        let params = params.ok_or_else(|| ApiError::invalid("params", "is missing"))?;
        let signed = self.0.renew(permit, &params.csr).await?;
        Ok(Response::new(wire::RenewAgentResponse {
            svid: Some(x509_to_wire(signed)),
        }))
    }

    async fn create_join_token(
        &self,
        request: Request<wire::CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        self.0.create_join_token(request).await
    }

    async fn post_status(
        &self,
        request: Request<wire::PostStatusRequest>,
    ) -> Result<Response<wire::PostStatusResponse>, Status> {
        self.0.post_status(request).await
    }
}

impl super::Shared {
    /// Issues an agent its next SVID.
    ///
    /// # Errors
    /// When the CSR or the agent is refused.
    pub async fn renew(
        &self,
        permit: crate::policy::Permit,
        csr: &[u8],
    ) -> Result<crate::issuance::release::SignedX509, ApiError> {
        let agent = permit.agent().cloned().ok_or_else(no_agent)?;
        let taken = self.limits.sign.take(agent.id.as_str(), 1);
        taken.map_err(|wait| ApiError::RateLimited { wait })?;
        let csr = verify_csr(csr)?;
        let subject = Subject::Agent {
            id: agent.id,
            presented: Some(agent.serial),
        };
        let signed = only(
            self.issuer
                .issue_x509(permit, &[X509Ask { subject, csr }])
                .await,
        );
        self.metrics.issued("x509", signed.is_ok());
        signed
    }
}
