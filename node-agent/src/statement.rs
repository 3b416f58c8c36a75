//! Statements of the trust-domain key: how an agent without a valid bundle gets one.
//!
//! Responsible for: asking a server for a statement and verifying it against the pin. Always
//! holds: nothing in a statement is used before both signatures, the nonce, the trust domain and
//! the position verified; the pin covers the native key, whose signature on the certificate
//! covers the alternative one. Not here: when a statement is needed (`identity`).

use std::sync::Arc;

use mintmark_identity::{
    bundle::Bundle,
    entropy::{Entropy, draw_bytes},
    key_manager::{spki_sha256, verify_signature},
    svid::x509::{X509Authority, structure::CertificateParts},
    trust_domain::TrustDomain,
};
use mintmark_proto::mintmark::agent::v1::{
    GetStatementRequest, GetStatementResponse, Statement, agent_client::AgentClient,
};
use prost::Message;
use tonic::{Status, transport::Channel};

use crate::code;

/// What both signatures are over, before the statement.
const DOMAIN: &[u8] = b"mintmark-statement-v1\0";
/// The largest statement: a bundle with room to spare.
const RESPONSE_MAX: usize = 1 << 20;

/// SHA-256 of the trust-domain key's SubjectPublicKeyInfo.
pub type Pin = [u8; 32];

/// Why a statement is not believed.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// No server gave one.
    #[error("no server gave a statement")]
    NoAnswer(#[from] Status),
    /// It does not verify.
    #[error("{}: the statement is not believed: {reason}", code::STATEMENT_REFUSED)]
    Refused {
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl StatementError {
    /// It is not believed, for this reason.
    #[must_use]
    pub const fn refused(reason: &'static str) -> Self {
        Self::Refused { reason }
    }
}

/// What a statement says, verified.
#[derive(Clone, Debug)]
pub struct VerifiedStatement {
    /// The bundle now.
    pub bundle: Arc<Bundle>,
    /// Epoch and sequence of it.
    pub position: (u64, u64),
    /// The key that signed it.
    pub pin: Pin,
}

/// Asks for a statement and verifies it. Without a `pin`, the connection must have verified the
/// server, and the key that it shows is learned.
///
/// # Errors
/// When no server answers, or the statement does not verify or is older than `seen`.
pub async fn ask(
    channel: Channel,
    entropy: &dyn Entropy,
    domain: &TrustDomain,
    pin: Option<Pin>,
    seen: (u64, u64),
) -> Result<VerifiedStatement, StatementError> {
    let nonce = draw_bytes::<32>(entropy);
    let mut client = AgentClient::new(channel).max_decoding_message_size(RESPONSE_MAX);
    let request = GetStatementRequest {
        nonce: nonce.to_vec(),
    };
    let response = client.get_statement(request).await?.into_inner();
    verify(&response, &nonce, domain, pin, seen)
}

fn verify(
    response: &GetStatementResponse,
    nonce: &[u8],
    domain: &TrustDomain,
    pin: Option<Pin>,
    seen: (u64, u64),
) -> Result<VerifiedStatement, StatementError> {
    let certificate = &response.trust_domain_key_certificate;
    let key = X509Authority::parse(certificate)
        .map_err(|_| StatementError::refused("the certificate of its key cannot be read"))?;
    let shown = spki_sha256(key.spki());
    if pin.is_some_and(|pin| pin != shown) {
        return Err(StatementError::refused(
            "it is by another key than the pinned one",
        ));
    }
    let parts = CertificateParts::parse(certificate)
        .map_err(|_| StatementError::refused("the certificate of its key cannot be read"))?;
    verify_signature(key.spki(), parts.tbs.der, parts.signature)
        .map_err(|_| StatementError::refused("the certificate of its key is not signed by it"))?;
    let alternative = key
        .alternative_spki()
        .ok_or(StatementError::refused("its key has no alternative key"))?;
    let signed = [DOMAIN, &response.statement].concat();
    verify_signature(key.spki(), &signed, &response.native_signature)
        .map_err(|_| StatementError::refused("the native signature does not verify"))?;
    verify_signature(alternative, &signed, &response.alternative_signature)
        .map_err(|_| StatementError::refused("the alternative signature does not verify"))?;
    let statement = Statement::decode(response.statement.as_slice())
        .map_err(|_| StatementError::refused("it cannot be read"))?;
    if statement.nonce != nonce {
        return Err(StatementError::refused("it answers another question"));
    }
    if statement.trust_domain != domain.as_str() {
        return Err(StatementError::refused("it is about another trust domain"));
    }
    let position = (statement.epoch, statement.sequence);
    if position < seen {
        return Err(StatementError::refused(
            "it is older than what this agent has seen",
        ));
    }
    let (bundle, _skipped) = Bundle::from_document(domain, &statement.bundle_document)
        .map_err(|_| StatementError::refused("its bundle cannot be read"))?;
    if bundle.x509.is_empty() {
        return Err(StatementError::refused("its bundle has no authority"));
    }
    Ok(VerifiedStatement {
        bundle: Arc::new(bundle),
        position,
        pin: shown,
    })
}

#[cfg(test)]
mod tests;
