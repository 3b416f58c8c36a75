//! `AttestAgent`: how an agent gets its first SVID.
//!
//! Always: limits by address come first, then the CSR's proof of possession, then the evidence; the token
//! is consumed for that very key by one command, so that a lost reply can be asked for again by the same
//! key and by no other.
//!
//! Not here: what evidence shows (`attestation`).

use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::convert::ids::selectors_to_state;
use mintmark_proto::mintmark::raft::v1::{AttestNode, command};
use mintmark_proto::spire::agent as wire;
use mintmark_runtime::failpoint::{Step, reach};
use tokio_stream::StreamExt;
use tonic::codegen::BoxStream;
use tonic::{Request, Status, Streaming};

use super::Services;
use super::status::ApiError;
use super::svid::{only, verify_csr, x509_to_wire};
use crate::attestation::{AttestationError, NodeEvidence, join_token};
use crate::issuance::X509Ask;
use crate::issuance::release::SignedX509;
use crate::issuance::subject::Subject;
use crate::policy::{Action, Caller, Permit};

/// Evidence is small; a larger message is refused before it is looked at.
const PAYLOAD_MAX: usize = 64 * 1024;

/// Answers one call of `AttestAgent`.
///
/// # Errors
/// When the caller asks too often.
pub async fn respond(
    services: Services,
    request: Request<Streaming<wire::AttestAgentRequest>>,
) -> Result<BoxStream<wire::AttestAgentResponse>, Status> {
    let (caller, permit) = services.permit(&request, Action::AttestAgent).await?;
    let mut messages = request.into_inner();
    Ok(Box::pin(async_stream::try_stream! {
        let first = messages.next().await.transpose()?;
        let params = match first.and_then(|message| message.step) {
            Some(wire::attest_agent_request::Step::Params(params)) => params,
            _ => Err(ApiError::invalid("params", "are what the first message must hold"))?,
        };
        let (signed, reattestable) = attest(&services, &caller, permit, params).await?;
        let svid = Some(x509_to_wire(signed));
        let result = wire::attest_agent_response::Result { svid, reattestable };
        let step = Some(wire::attest_agent_response::Step::Result(result));
        yield wire::AttestAgentResponse { step };
    }))
}

async fn attest(
    services: &Services,
    caller: &Caller,
    permit: Permit,
    params: wire::attest_agent_request::Params,
) -> Result<(SignedX509, bool), ApiError> {
    services
        .limits
        .attest
        .take(caller.source(), 1)
        .map_err(|wait| ApiError::RateLimited { wait })?;
    let data = params
        .data
        .ok_or_else(|| ApiError::invalid("params.data", "is missing"))?;
    let csr = params
        .params
        .ok_or_else(|| ApiError::invalid("params.params", "is missing"))?
        .csr;
    if data.payload.len() > PAYLOAD_MAX {
        return Err(ApiError::TooLarge {
            what: "the attestation payload",
            limit: PAYLOAD_MAX,
        });
    }
    let csr = verify_csr(&csr)?;
    let evidence = verify_evidence(services, &data.r#type, &data.payload)?;
    let outcome = admit(services, &permit, &evidence, &csr.spki_sha256()).await;
    services.metrics.attested(evidence.method, outcome.is_ok());
    outcome?;
    reach(Step::AttestationCommitted);
    let subject = Subject::Agent {
        id: evidence.agent_id,
        presented: None,
    };
    let signed = only(
        services
            .issuer
            .issue_x509(permit, &[X509Ask { subject, csr }])
            .await,
    )?;
    Ok((signed, evidence.can_reattest))
}

fn verify_evidence(
    services: &Services,
    method: &str,
    payload: &[u8],
) -> Result<NodeEvidence, ApiError> {
    let domain = services
        .consensus
        .read(|state| state.trust_domain().cloned());
    let domain = domain.ok_or(ApiError::NotReady("no cluster yet"))?;
    let verified = match method {
        join_token::METHOD => join_token::verify(&domain, payload),
        other => Err(AttestationError::Unknown(other.chars().take(64).collect())),
    };
    verified
        .map(crate::attestation::Verified::into_inner)
        .map_err(|error| ApiError::invalid("params.data", error))
}

/// Consumes what is to be consumed, and records the node.
async fn admit(
    services: &Services,
    permit: &Permit,
    evidence: &NodeEvidence,
    csr_spki_sha256: &[u8],
) -> Result<(), ApiError> {
    let body = command::Body::AttestNode(AttestNode {
        agent_id: evidence.agent_id.to_string(),
        attestation_type: evidence.method.to_owned(),
        selectors: selectors_to_state(&evidence.selectors),
        csr_spki_sha256: csr_spki_sha256.to_vec(),
        join_token_sha256: evidence
            .join_token_sha256
            .map(|hash| hash.to_vec())
            .unwrap_or_default(),
        can_reattest: evidence.can_reattest,
        evidence_sha256: evidence.evidence_sha256.to_vec(),
    });
    services.propose(permit.actor().clone(), body, None).await?;
    Ok(())
}

/// Parses an agent's SPIFFE ID of our own trust domain.
///
/// # Errors
/// When it is none.
pub fn agent_id(
    services: &Services,
    id: Option<&mintmark_proto::spire::types::Spiffeid>,
) -> Result<SpiffeId, ApiError> {
    let id = id.ok_or_else(|| ApiError::invalid("id", "is missing"))?;
    let id = SpiffeId::try_from(id).map_err(|error| ApiError::Convert(error.within("id")))?;
    let ours = services.consensus.read(|state| {
        state
            .trust_domain()
            .is_some_and(|domain| id.is_member_of(domain))
    });
    if !ours || !id.is_agent() {
        return Err(ApiError::invalid(
            "id",
            format!("is {id}, which is not an agent's"),
        ));
    }
    Ok(id)
}

#[cfg(test)]
mod tests;
