//! Attestation by a join token, over SPIRE's `Agent.AttestAgent`.
//!
//! Responsible for: sending the token once per attempt. Always holds: the token is never logged
//! and never part of an error. Not here: the key that the token gets bound to, which must be on
//! disk before (`agent_svid`).

use async_trait::async_trait;
use mintmark_identity::secret::SecretBytes;
use mintmark_proto::spire::{
    agent::{
        AgentX509svidParams, AttestAgentRequest, agent_client::AgentClient, attest_agent_request,
        attest_agent_response,
    },
    types::AttestationData,
};
use sha2::{Digest, Sha256};
use tonic::{Status, transport::Channel};

use super::NodeAttestor;

/// SPIRE's name of this kind of evidence.
const KIND: &str = "join_token";

/// Attests with a token.
#[derive(Debug)]
pub struct JoinToken(SecretBytes);

impl JoinToken {
    /// With this token.
    #[must_use]
    pub fn new(token: SecretBytes) -> Self {
        Self(token)
    }
}

#[async_trait]
impl NodeAttestor for JoinToken {
    async fn attest(&self, channel: Channel, csr: Vec<u8>) -> Result<Vec<Vec<u8>>, Status> {
        let params = attest_agent_request::Params {
            data: Some(AttestationData {
                r#type: KIND.to_owned(),
                payload: self.0.expose().to_vec(),
            }),
            params: Some(AgentX509svidParams { csr }),
        };
        let request = AttestAgentRequest {
            step: Some(attest_agent_request::Step::Params(params)),
        };
        let mut client = AgentClient::new(channel);
        // The stream stays open until the answer is there: an early end could look like a
        // cancelled attestation.
        let (keep_open, requests) = tokio::sync::mpsc::channel(1);
        keep_open
            .try_send(request)
            .map_err(|_| Status::internal("the channel is closed"))?;
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let mut answers = client.attest_agent(requests).await?.into_inner();
        let answer = answers.message().await?;
        drop(keep_open);
        match answer.and_then(|answer| answer.step) {
            Some(attest_agent_response::Step::Result(result)) => {
                let svid = result
                    .svid
                    .ok_or_else(|| Status::data_loss("the answer has no SVID"))?;
                Ok(svid.cert_chain)
            }
            Some(attest_agent_response::Step::Challenge(_)) => {
                Err(Status::data_loss("a join token cannot be challenged"))
            }
            None => Err(Status::unavailable(
                "the server ended the attestation without an answer",
            )),
        }
    }

    fn fingerprint(&self) -> String {
        let digest = Sha256::new()
            .chain_update(b"mintmark-join-token\0")
            .chain_update(self.0.expose());
        hex::encode(digest.finalize())
    }
}
