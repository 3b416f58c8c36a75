//! Resuming after the agent's SVID expired.
//!
//! Responsible for: proving to a server that this is still the same agent, by its last key over
//! a nonce that is bound to the TLS connection. Always holds: the proof is of no use on another
//! connection; the key of the next SVID is on disk before it is sent. Not here: when.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use mintmark_identity::{
    key_manager::{KeyAlgorithm, SigningKey},
    secret::SecretBytes,
};
use mintmark_proto::mintmark::agent::v1::{
    GetResumeNonceRequest, ResumeRequest, agent_client::AgentClient,
};
use mintmark_runtime::{
    grpc::{ChannelOptions, Target, channel},
    network::Address,
};
use tonic::{Code, Status};

use super::{AgentError, AgentSvid, Failure, same_agent, store::Own};
use crate::{
    code,
    csr::NewKey,
    status::{NOT_ACTIVE, code_of, explain},
    sync::denial_of,
};

/// What the proof is over, before everything else.
const DOMAIN: &[u8] = b"mintmark-resume-v1\0";

impl AgentSvid {
    /// Resumes with whichever server answers and whichever of the agent's keys it knows.
    pub(super) async fn resume(&mut self, own: &Own) -> Result<Own, Failure> {
        let key = self.request_key(own)?;
        let mut refused = None;
        for last in self.store.known_keys()? {
            let asked = self
                .servers
                .call(|address| self.ask(address, own, &last, &key));
            match asked.await {
                Ok(chain) => {
                    let fresh = self.take(chain, key, own.evidence.clone())?;
                    return same_agent(own, fresh);
                }
                Err(status) => {
                    if let Some(denial) = denial_of(&status) {
                        self.cache.change(|state| state.deny(denial));
                        return Err(Failure::Passing(explain(&status)));
                    }
                    if !is_refusal(&status) {
                        return Err(Failure::of(&status));
                    }
                    refused = Some(status);
                }
            }
        }
        let reason = refused.map_or_else(|| "its keys are gone".to_owned(), |s| explain(&s));
        self.attest_instead(own, reason).await
    }

    /// No server knows this agent's keys. Evidence that was not used before is a way out.
    async fn attest_instead(&mut self, own: &Own, reason: String) -> Result<Own, Failure> {
        let fresh_evidence = self
            .attestor
            .as_ref()
            .is_some_and(|attestor| attestor.fingerprint() != own.evidence);
        if !fresh_evidence {
            return Err(Failure::Final(AgentError::NotResumed { reason }));
        }
        tracing::warn!(reason, code = %code::AGENT_NOT_RESUMED, "attesting anew");
        self.attest().await
    }

    async fn ask(
        &self,
        address: Address,
        own: &Own,
        last: &SecretBytes,
        key: &NewKey,
    ) -> Result<Vec<Vec<u8>>, Status> {
        let exporter = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&exporter);
        let options = ChannelOptions {
            on_connected: Some(Arc::new(move |connected| {
                *heard.lock().unwrap_or_else(PoisonError::into_inner) = connected.tls_exporter;
            })),
            ..ChannelOptions::default()
        };
        let target = Target::Tcp {
            address,
            tls: Some(Arc::clone(&self.tls.0)),
        };
        let mut client = AgentClient::new(channel(Arc::clone(&self.host.network), target, options));
        let agent_id = own.svid.spiffe_id().to_string();
        let request = GetResumeNonceRequest {
            agent_id: agent_id.clone(),
        };
        let nonce = client.get_resume_nonce(request).await?.into_inner().nonce;
        // Should the connection be lost and made anew from here on, the nonce is of no use
        // there, and the next attempt begins again.
        let bound = exporter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ok_or_else(|| Status::unavailable("the TLS connection has no exporter"))?;
        let (signature, public_key_spki) = prove(last, &bound, &nonce, &key.csr)?;
        let request = ResumeRequest {
            agent_id,
            csr: key.csr.clone(),
            nonce,
            signature,
            public_key_spki,
        };
        let response = client.resume(request).await?.into_inner();
        let svid = response
            .svid
            .ok_or_else(|| Status::data_loss("the answer has no SVID"))?;
        Ok(svid.chain)
    }
}

fn prove(
    last: &SecretBytes,
    exporter: &[u8; 32],
    nonce: &[u8],
    csr: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), Status> {
    let broken = |_| Status::internal("the agent's key cannot sign");
    let key = SigningKey::from_pkcs8(KeyAlgorithm::EcP256, last.expose()).map_err(broken)?;
    let csr_hash = digest::digest(&digest::SHA256, csr);
    let message = [DOMAIN, exporter, nonce, csr_hash.as_ref()].concat();
    Ok((key.sign(&message).map_err(broken)?, key.spki_der().to_vec()))
}

/// Whether the server says that this key is not, or no longer, the agent's. A nonce that it
/// does not take is a lost connection, not a refusal; nor is it one that another server, which was
/// asked too, has just resumed the agent.
fn is_refusal(status: &Status) -> bool {
    let code = code_of(status);
    let passes = matches!(code.as_deref(), Some("MM-1210" | NOT_ACTIVE));
    let codes = [
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::NotFound,
        Code::InvalidArgument,
    ];
    codes.contains(&status.code()) && !passes
}
