//! Statements of the trust-domain key: how an agent without a bundle that verifies servers gets one.
//!
//! Responsible for: asking a server for a statement and verifying it against the pin. Always
//! holds: nothing in a statement is used before both signatures, the nonce, the trust domain and
//! the position verified. Not here: the signatures (`mintmark_identity::statement`), when a
//! statement is needed (`agent_svid`).

use std::sync::Arc;

use mintmark_identity::{
    bundle::Bundle,
    entropy::{Entropy, draw_bytes},
    statement::{self as signed, Pin, StatementSignatures},
    svid::x509::X509Authority,
    trust_domain::TrustDomain,
};
use mintmark_proto::mintmark::agent::v1::{
    GetStatementRequest, GetStatementResponse, Statement, agent_client::AgentClient,
};
use prost::Message;
use tonic::{Status, transport::Channel};

use crate::code;

/// The largest statement: a bundle with room to spare.
const RESPONSE_MAX: usize = 1 << 20;

/// Why a statement is not believed.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// No server gave one.
    #[error("no server gave a statement")]
    NoAnswer(#[from] Status),
    /// It is not signed by the trust-domain key.
    #[error("{}: the statement is not believed", code::STATEMENT_REFUSED)]
    Unsigned(#[source] signed::StatementError),
    /// It is signed and says what it must not.
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

/// Verifies the answer to a question that held `nonce`. Without a `pin`, the key that it shows is learned.
///
/// # Errors
/// When it does not verify, or is older than `seen`.
pub fn verify(
    response: &GetStatementResponse,
    nonce: &[u8],
    domain: &TrustDomain,
    pin: Option<Pin>,
    seen: (u64, u64),
) -> Result<VerifiedStatement, StatementError> {
    let certificate = &response.trust_domain_key_certificate;
    let pin = match pin {
        Some(pin) => pin,
        None => X509Authority::parse(certificate)
            .map_err(signed::StatementError::from)
            .and_then(|certificate| signed::pin(&certificate))
            .map_err(StatementError::Unsigned)?,
    };
    let signatures = StatementSignatures {
        native: response.native_signature.clone(),
        alternative: response.alternative_signature.clone(),
    };
    signed::verify_statement(&pin, certificate, &response.statement, &signatures)
        .map_err(StatementError::Unsigned)?;
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
        pin,
    })
}

#[cfg(test)]
mod tests;
