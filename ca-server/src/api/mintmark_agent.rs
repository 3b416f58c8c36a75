//! Our own agent protocol, `mintmark.agent.v1`.
//!
//! Always: one stream brings an agent everything that it may serve, as it commits, each update with its
//! position; what makes an agent discard its identity is confirmed by a read index first. A server that
//! has lost its leader says `stale` and keeps the stream.
//!
//! Not here: what an update holds (`fanout::update`), how SVIDs are made (`issuance`).

mod stream;

use mintmark_proto::mintmark::agent::v1 as wire;
use mintmark_runtime::grpc::ConnectInfo;
use tonic::{Request, Response, Status, Streaming};

use super::entry::no_agent;
use super::status::ApiError;
use super::{Services, resume};
use crate::authority::statement::Draft;
use crate::fanout::update;
use crate::issuance::batch::LeafPosition;
use crate::issuance::release::SignedX509;
use crate::policy::Action;

/// A nonce of a statement; a longer one is refused.
const NONCE_MAX: usize = 64;

/// The service.
#[derive(Debug, Clone)]
pub struct MintmarkAgentService(pub Services);

#[tonic::async_trait]
impl wire::agent_server::Agent for MintmarkAgentService {
    type SyncStream = stream::ServerStream;

    async fn get_statement(
        &self,
        request: Request<wire::GetStatementRequest>,
    ) -> Result<Response<wire::GetStatementResponse>, Status> {
        let (caller, _) = self.0.permit(&request, Action::GetStatement).await?;
        // Two signatures by the most valuable key are worth the limit of an attestation.
        let taken = self.0.limits.attest.take(&caller.rate_key(), 1);
        taken.map_err(|wait| ApiError::RateLimited { wait })?;
        let nonce = request.into_inner().nonce;
        if nonce.len() > NONCE_MAX {
            Err(ApiError::TooLarge {
                what: "the nonce",
                limit: NONCE_MAX,
            })?;
        }
        let (now, node_id) = (self.0.host.clock.now(), self.0.keyring.node_id());
        let draft = self
            .0
            .consensus
            .read(|state| Draft::read(state, node_id, nonce, now));
        let draft = draft.map_err(ApiError::Keyring)?;
        let response = draft.sign(&self.0.keyring).map_err(ApiError::from)?;
        Ok(Response::new(response))
    }

    async fn get_resume_nonce(
        &self,
        request: Request<wire::GetResumeNonceRequest>,
    ) -> Result<Response<wire::GetResumeNonceResponse>, Status> {
        let (caller, _) = self.0.permit(&request, Action::GetResumeNonce).await?;
        let taken = self.0.limits.attest.take(caller.source(), 1);
        taken.map_err(|wait| ApiError::RateLimited { wait })?;
        let exporter = exporter(&request);
        let exporter =
            exporter.ok_or(ApiError::Resume("the connection has no TLS session".into()))?;
        let agent = self.0.parse_agent_id(&request.get_ref().agent_id)?;
        let nonce = self
            .0
            .nonces
            .make(agent, exporter, self.0.host.entropy.as_ref());
        Ok(Response::new(wire::GetResumeNonceResponse { nonce }))
    }

    async fn resume(
        &self,
        request: Request<wire::ResumeRequest>,
    ) -> Result<Response<wire::ResumeResponse>, Status> {
        let (caller, permit) = self.0.permit(&request, Action::Resume).await?;
        let taken = self.0.limits.attest.take(caller.source(), 1);
        taken.map_err(|wait| ApiError::RateLimited { wait })?;
        let exporter = exporter(&request);
        let outcome = resume::resume(&self.0, permit, exporter, request.get_ref()).await;
        self.0.metrics.attested("resume", outcome.is_ok());
        Ok(Response::new(wire::ResumeResponse {
            svid: Some(issued(outcome?)),
        }))
    }

    async fn sync(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (_, permit) = self.0.permit(&request, Action::Sync).await?;
        let agent = permit.agent().cloned().ok_or_else(no_agent)?;
        Ok(Response::new(stream::respond(
            self.0.clone(),
            agent,
            request.into_inner(),
        )))
    }

    async fn issue_x509(
        &self,
        request: Request<wire::IssueX509Request>,
    ) -> Result<Response<wire::IssueX509Response>, Status> {
        let (_, permit) = self.0.permit(&request, Action::IssueX509).await?;
        let request = request.get_ref();
        if !request.agent_csr.is_empty() {
            if !request.items.is_empty() {
                Err(ApiError::invalid("items", "cannot come with agent_csr"))?;
            }
            let agent = Some(item(self.0.renew(permit, &request.agent_csr).await));
            return Ok(Response::new(wire::IssueX509Response {
                items: Vec::new(),
                agent,
            }));
        }
        let items = request.items.iter().map(|one| {
            let revision = Some(one.entry_revision).filter(|revision| *revision > 0);
            (one.entry_id.as_str(), revision, one.csr.as_slice())
        });
        let outcomes = self.0.issue_by_entry(permit, items).await?;
        let items = outcomes.into_iter().map(item).collect();
        Ok(Response::new(wire::IssueX509Response {
            items,
            agent: None,
        }))
    }

    async fn issue_jwt(
        &self,
        request: Request<wire::IssueJwtRequest>,
    ) -> Result<Response<wire::IssueJwtResponse>, Status> {
        let (_, permit) = self.0.permit(&request, Action::IssueJwt).await?;
        let request = request.get_ref();
        let revision = Some(request.entry_revision).filter(|revision| *revision > 0);
        let signed = self
            .0
            .issue_jwt_by_entry(permit, &request.entry_id, revision, &request.audience)
            .await?;
        Ok(Response::new(wire::IssueJwtResponse {
            token: signed.token,
            leaf: Some(leaf(signed.leaf)),
            expires_at_ms: signed.expires_at.unix_millis(),
            issued_at_ms: signed.issued_at.unix_millis(),
        }))
    }
}

fn exporter<T>(request: &Request<T>) -> Option<[u8; 32]> {
    request
        .extensions()
        .get::<ConnectInfo>()
        .and_then(|info| info.tls_exporter)
}

fn leaf(position: LeafPosition) -> wire::LeafPosition {
    wire::LeafPosition {
        epoch: position.epoch,
        leaf_index: position.index,
    }
}

fn issued(signed: SignedX509) -> wire::IssuedX509 {
    wire::IssuedX509 {
        chain: signed.chain,
        leaf: Some(leaf(signed.leaf)),
        not_after_ms: signed.validity.not_after.unix_millis(),
    }
}

fn item(outcome: Result<SignedX509, ApiError>) -> wire::issue_x509_response::Item {
    match outcome {
        Ok(signed) => wire::issue_x509_response::Item {
            svid: Some(issued(signed)),
            ..Default::default()
        },
        Err(error) => {
            let status = error.item();
            wire::issue_x509_response::Item {
                svid: None,
                code: status.code,
                message: status.message,
            }
        }
    }
}

/// Where an agent wants to go on.
fn resume_position(begin: &wire::agent_message::Begin) -> Option<crate::state::Position> {
    begin.resume_from.as_ref().map(update::from_wire)
}
