//! Node attestation: how a node without an identity shows which node it is.
//!
//! Always: what an attestor concludes comes from bytes it verified, as [`Verified`], which nothing else
//! can make; consuming evidence that may be used once is left to `apply()`.
//!
//! Not here: the wire (`api::attest`), the record of an attested node (`state::agents`).

pub mod join_token;

use mintmark_identity::selector::Selectors;
use mintmark_identity::spiffe_id::SpiffeId;
use thiserror::Error;

/// What evidence shows, made only by the attestor that verified it.
#[derive(Debug)]
pub struct Verified<E>(E);

impl<E> Verified<E> {
    /// What was shown.
    #[must_use]
    pub fn into_inner(self) -> E {
        self.0
    }
}

/// What an attestor found out about a node.
#[derive(Debug)]
pub struct NodeEvidence {
    /// The agent's SPIFFE ID.
    pub agent_id: SpiffeId,
    /// What the node is, for node aliases.
    pub selectors: Selectors,
    /// The kind of attestation.
    pub method: &'static str,
    /// Whether the node can attest again with the same evidence.
    pub can_reattest: bool,
    /// Hash of a join token to consume; `None` for other kinds.
    pub join_token_sha256: Option<[u8; 32]>,
    /// Hash of the evidence, for the audit log.
    pub evidence_sha256: [u8; 32],
}

/// Why evidence shows nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AttestationError {
    /// No attestor of this kind.
    #[error("attestation type {0:?} is not offered; this server takes join_token")]
    Unknown(String),
    /// The evidence is malformed.
    #[error("the evidence is malformed: {0}")]
    Malformed(&'static str),
}
