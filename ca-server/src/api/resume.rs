//! How an agent comes back whose SVID expired: by its last accepted key.
//!
//! Always: a nonce serves once, for one agent, on the TLS session it was asked on, within
//! `NONCE_LIFE`; the proof signs nonce, session and CSR together, so nothing of it can be moved
//! elsewhere. Whether the key is the last accepted one is decided in `apply()`.
//!
//! Not here: first attestation (`attest`).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mintmark_identity::entropy::{Entropy, draw_bytes};
use mintmark_identity::key_manager::verify_signature;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::agent::v1::ResumeRequest;
use mintmark_proto::mintmark::raft::v1::{RecordResume, Refusal, command};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::status::ApiError;
use super::svid::{only, verify_csr};
use super::{Services, Shared};
use crate::issuance::X509Ask;
use crate::issuance::release::SignedX509;
use crate::issuance::subject::Subject;
use crate::policy::Permit;

/// What is signed before everything else, so that the proof fits nothing else.
pub const RESUME_CONTEXT: &[u8] = b"mintmark-resume-v1\0";
/// How long a nonce can be used.
const NONCE_LIFE: Duration = Duration::from_secs(30);
/// Nonces that are outstanding at once; the oldest goes first.
const NONCES_MAX: usize = 10_000;
/// A nonce's length.
const NONCE_BYTES: usize = 32;
/// No public key of an agent is longer.
const SPKI_MAX: usize = 1024;

/// Outstanding nonces of this server.
#[derive(Debug, Default)]
pub struct Nonces(Mutex<BTreeMap<[u8; NONCE_BYTES], Outstanding>>);

#[derive(Debug)]
struct Outstanding {
    agent: SpiffeId,
    exporter: [u8; 32],
    made_at: Instant,
}

impl Nonces {
    /// Makes a nonce for `agent` on the TLS session that `exporter` names.
    pub fn make(&self, agent: SpiffeId, exporter: [u8; 32], entropy: &dyn Entropy) -> Vec<u8> {
        let nonce = draw_bytes::<NONCE_BYTES>(entropy);
        let made_at = Instant::now();
        let mut nonces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.retain(|_, nonce| nonce.made_at.elapsed() < NONCE_LIFE);
        if nonces.len() >= NONCES_MAX {
            let oldest = nonces.iter().min_by_key(|(_, nonce)| nonce.made_at);
            if let Some(oldest) = oldest.map(|(nonce, _)| *nonce) {
                nonces.remove(&oldest);
            }
        }
        nonces.insert(
            nonce,
            Outstanding {
                agent,
                exporter,
                made_at,
            },
        );
        nonce.to_vec()
    }

    /// Uses a nonce up, whether it fits or not.
    fn take(&self, nonce: &[u8], agent: &SpiffeId, exporter: &[u8; 32]) -> Result<(), ApiError> {
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| ApiError::Nonce)?;
        let mut nonces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = nonces.remove(&nonce).ok_or(ApiError::Nonce)?;
        let fits = found.agent == *agent
            && found.exporter == *exporter
            && found.made_at.elapsed() < NONCE_LIFE;
        if fits { Ok(()) } else { Err(ApiError::Nonce) }
    }
}

/// What the agent signs by its last key.
#[must_use]
pub fn proof_message(exporter: &[u8; 32], nonce: &[u8], csr: &[u8]) -> Vec<u8> {
    let csr_hash: [u8; 32] = Sha256::digest(csr).into();
    [RESUME_CONTEXT, exporter, nonce, &csr_hash].concat()
}

impl Shared {
    /// Parses an agent's SPIFFE ID of our own trust domain from its text.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse_agent_id(&self, text: &str) -> Result<SpiffeId, ApiError> {
        let id = SpiffeId::parse(text).map_err(|error| ApiError::invalid("agent_id", error))?;
        let ours = self.consensus.read(|state| {
            state
                .trust_domain()
                .is_some_and(|domain| id.is_member_of(domain))
        });
        if !ours || !id.is_agent() {
            return Err(ApiError::invalid(
                "agent_id",
                "is not an agent of this trust domain",
            ));
        }
        Ok(id)
    }
}

/// Verifies the proof, records the resume and issues the agent's SVID.
///
/// # Errors
/// When anything does not fit; then nothing has changed.
pub async fn resume(
    services: &Services,
    permit: Permit,
    exporter: Option<[u8; 32]>,
    request: &ResumeRequest,
) -> Result<SignedX509, ApiError> {
    let exporter = exporter.ok_or(ApiError::Resume("the connection has no TLS session".into()))?;
    let agent = services.parse_agent_id(&request.agent_id)?;
    services.nonces.take(&request.nonce, &agent, &exporter)?;
    if request.public_key_spki.len() > SPKI_MAX {
        return Err(ApiError::TooLarge {
            what: "public_key_spki",
            limit: SPKI_MAX,
        });
    }
    let csr = verify_csr(&request.csr)?;
    let message = proof_message(&exporter, &request.nonce, &request.csr);
    verify_signature(&request.public_key_spki, &message, &request.signature)
        .map_err(|_| ApiError::Resume("the signature does not verify".into()))?;
    let proven: [u8; 32] = Sha256::digest(&request.public_key_spki).into();
    let next = csr.spki_sha256();
    let body = command::Body::RecordResume(RecordResume {
        agent_id: agent.to_string(),
        key_spki_sha256: proven.to_vec(),
        new_key_spki_sha256: if next == proven {
            Vec::new()
        } else {
            next.to_vec()
        },
    });
    let recorded = services.propose(permit.actor().clone(), body, None).await;
    recorded.map_err(of_resume)?;
    let subject = Subject::Agent {
        id: agent,
        presented: None,
    };
    only(
        services
            .issuer
            .issue_x509(permit, &[X509Ask { subject, csr }])
            .await,
    )
}

/// What the state says of the key and the agent is about resuming here, not about an entry.
fn of_resume(error: ApiError) -> ApiError {
    match error {
        ApiError::Refused {
            refusal: Refusal::NotAuthorized,
            detail,
        } => ApiError::Resume(detail.into()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use mintmark_identity::entropy::SeededEntropy;

    use super::*;

    fn agent(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!(
            "spiffe://example.org/spire/agent/join_token/{name}"
        ))
        .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_nonce_serves_once_one_agent_one_session_and_not_for_long() {
        let (nonces, entropy) = (Nonces::default(), SeededEntropy::new(1));
        let make = || nonces.make(agent("a"), [1; 32], &entropy);
        let nonce = make();
        assert!(nonces.take(&nonce, &agent("a"), &[1; 32]).is_ok());
        assert!(nonces.take(&nonce, &agent("a"), &[1; 32]).is_err(), "used");
        assert!(
            nonces.take(&make(), &agent("b"), &[1; 32]).is_err(),
            "another agent"
        );
        assert!(
            nonces.take(&make(), &agent("a"), &[2; 32]).is_err(),
            "another session"
        );
        let late = make();
        tokio::time::advance(NONCE_LIFE).await;
        assert!(nonces.take(&late, &agent("a"), &[1; 32]).is_err(), "late");
        assert!(nonces.take(b"short", &agent("a"), &[1; 32]).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn outstanding_nonces_are_bounded() {
        let (nonces, entropy) = (Nonces::default(), SeededEntropy::new(1));
        for _ in 0..NONCES_MAX + 5 {
            nonces.make(agent("a"), [1; 32], &entropy);
        }
        assert_eq!(nonces.0.lock().unwrap().len(), NONCES_MAX);
    }
}
