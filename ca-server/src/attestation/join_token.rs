//! Attestation by join token: whoever knows the token first is the node.
//!
//! Always: a token is looked up by its hash only, and the agent's SPIFFE ID is made of the token's own
//! text, as SPIRE's is. Whether the token exists, lives, and whose key consumed it is decided in
//! `apply()`: of two agents with one token, exactly one wins.
//!
//! Not here: making tokens (`api::agent`).

use mintmark_identity::selector::{Selector, Selectors};
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::trust_domain::TrustDomain;
use sha2::{Digest, Sha256};

use super::{AttestationError, NodeEvidence, Verified};

/// The name of this kind, which is also in agents' SPIFFE IDs.
pub const METHOD: &str = "join_token";
/// Kind of the selector that names the agent itself; node aliases made with a token use it.
pub const SPIFFE_ID_SELECTOR: &str = "spiffe_id";
/// A token is a path segment of a SPIFFE ID; longer ones are refused before they are hashed.
const TOKEN_MAX: usize = 255;

/// The hash under which replicated state keeps a token.
#[must_use]
pub fn token_sha256(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The agent that a token makes.
///
/// # Errors
/// When the token cannot stand in a SPIFFE ID.
pub fn agent_id(trust_domain: &TrustDomain, token: &str) -> Result<SpiffeId, AttestationError> {
    if token.is_empty() || token.len() > TOKEN_MAX || token.contains('/') {
        return Err(AttestationError::Malformed(
            "a token is 1 to 255 letters, digits or -._",
        ));
    }
    SpiffeId::agent_id(trust_domain, METHOD, token)
        .map_err(|_| AttestationError::Malformed("a token is 1 to 255 letters, digits or -._"))
}

/// What an agent's selectors are.
///
/// # Errors
/// Never for an agent id that [`agent_id`] made.
pub fn selectors(agent_id: &SpiffeId) -> Result<Selectors, AttestationError> {
    let selector = Selector::new(SPIFFE_ID_SELECTOR, agent_id.as_str());
    let selector =
        selector.map_err(|_| AttestationError::Malformed("the agent's ID is too long"))?;
    Ok(Selectors::from([selector]))
}

/// Reads the payload of an attestation by join token.
///
/// # Errors
/// When it is no token.
pub fn verify(
    trust_domain: &TrustDomain,
    payload: &[u8],
) -> Result<Verified<NodeEvidence>, AttestationError> {
    let token =
        std::str::from_utf8(payload).map_err(|_| AttestationError::Malformed("a token is text"))?;
    let agent_id = agent_id(trust_domain, token)?;
    let hash = token_sha256(payload);
    Ok(Verified(NodeEvidence {
        selectors: selectors(&agent_id)?,
        agent_id,
        method: METHOD,
        can_reattest: false,
        join_token_sha256: Some(hash),
        evidence_sha256: Sha256::digest(hash).into(),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn domain() -> TrustDomain {
        TrustDomain::parse("example.org").unwrap()
    }

    #[test]
    fn a_token_names_its_agent_and_nothing_of_it_is_in_the_evidence_hash() {
        let evidence = verify(&domain(), b"tok-1").unwrap().into_inner();
        assert_eq!(
            evidence.agent_id.as_str(),
            "spiffe://example.org/spire/agent/join_token/tok-1"
        );
        assert_eq!(evidence.join_token_sha256, Some(token_sha256(b"tok-1")));
        assert_ne!(Some(evidence.evidence_sha256), evidence.join_token_sha256);
        assert!(!evidence.can_reattest);
    }

    #[test]
    fn payloads_that_are_no_token_are_refused() {
        let long = "x".repeat(256);
        for payload in [
            "",
            "a/b",
            "../../server",
            "..",
            "a b",
            "a%2fb",
            "tok\n",
            long.as_str(),
        ] {
            assert!(
                verify(&domain(), payload.as_bytes()).is_err(),
                "{payload:?}"
            );
        }
        assert!(verify(&domain(), &[0xff, 0xfe]).is_err());
    }
}
