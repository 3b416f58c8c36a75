//! What is to be signed, complete to the last byte, before anybody has agreed to it.
//!
//! Always: the subject comes from replicated state and the key from a verified proof of possession; the
//! intent holds the hash of exactly the bytes that will be signed; nothing here can sign.
//!
//! Not here: agreement (`batch`), signing (`release`).

use std::sync::Arc;

use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::jose::JwsAlgorithm;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::jwt::{JwtClaims, JwtSigningInput, jwt_signing_input};
use mintmark_identity::svid::x509::{
    LeafRequest, LeafSubject, PreparedTbs, Serial, VerifiedCsr, X509Authority, prepare_leaf,
};
use mintmark_identity::validity::Validity;
use mintmark_proto::mintmark::raft::v1::{Intent, intent};
use sha2::{Digest, Sha256};

use super::IssueError;
use super::subject::Resolved;

/// Version of the certificate and token profiles, recorded with every SVID.
pub const PROFILE_VERSION: u32 = 1;

/// Something that is ready to be agreed on.
pub trait Prepared: Send + 'static {
    /// What replicated state decides.
    fn intent(&self) -> &Intent;
}

/// The authority that is going to sign.
#[derive(Debug, Clone)]
pub struct Issuing {
    /// Its id.
    pub authority_id: String,
    /// Its key, open.
    pub key: Arc<AuthorityKey>,
}

/// An X.509-SVID that nobody has agreed to yet.
#[derive(Debug)]
pub struct PreparedX509 {
    pub(super) intent: Intent,
    pub(super) tbs: PreparedTbs,
    pub(super) issuing: Issuing,
    pub(super) spiffe_id: SpiffeId,
    pub(super) serial: Serial,
    pub(super) public_key_spki: Vec<u8>,
    pub(super) validity: Validity,
    pub(super) hint: String,
}

impl Prepared for PreparedX509 {
    fn intent(&self) -> &Intent {
        &self.intent
    }
}

impl PreparedX509 {
    /// Builds the certificate for `resolved` and the key that `csr` proved.
    ///
    /// # Errors
    /// When the profile does not allow it.
    pub(super) fn build(
        resolved: &Resolved,
        csr: &VerifiedCsr,
        issuing: Issuing,
        authority: &X509Authority,
        serial: Serial,
    ) -> Result<Self, IssueError> {
        let validity = resolved.validity.ending_by(authority.validity().not_after);
        let request = LeafRequest {
            spiffe_id: resolved.spiffe_id.clone(),
            public_key_spki: csr.public_key_spki().to_vec(),
            serial,
            validity,
            dns_names: resolved.dns_names.clone(),
            subject: LeafSubject::default(),
        };
        let tbs = prepare_leaf(&request, authority).map_err(IssueError::Profile)?;
        let intent = Intent {
            kind: intent::Kind::X509.into(),
            subject: Some(resolved.subject.clone()),
            spiffe_id: resolved.spiffe_id.to_string(),
            requesting_agent: resolved.requesting_agent.clone(),
            spki_sha256: csr.spki_sha256().to_vec(),
            serial: serial.as_bytes().to_vec(),
            svid_hash: tbs.svid_hash().to_vec(),
            profile_version: PROFILE_VERSION,
            authority_id: issuing.authority_id.clone(),
            not_before_ms: validity.not_before.unix_millis(),
            not_after_ms: validity.not_after.unix_millis(),
            audience_sha256: Vec::new(),
        };
        Ok(Self {
            intent,
            tbs,
            issuing,
            spiffe_id: request.spiffe_id,
            serial,
            public_key_spki: request.public_key_spki,
            validity,
            hint: resolved.hint.clone(),
        })
    }
}

/// A JWT-SVID that nobody has agreed to yet.
#[derive(Debug)]
pub struct PreparedJwt {
    pub(super) intent: Intent,
    pub(super) input: JwtSigningInput,
    pub(super) issuing: Issuing,
    pub(super) claims: JwtClaims,
    pub(super) hint: String,
}

impl Prepared for PreparedJwt {
    fn intent(&self) -> &Intent {
        &self.intent
    }
}

impl PreparedJwt {
    /// Builds the token for `resolved` with these claims.
    ///
    /// # Errors
    /// When the claims make no token.
    pub(super) fn build(
        resolved: &Resolved,
        claims: JwtClaims,
        issuing: Issuing,
    ) -> Result<Self, IssueError> {
        let input = jwt_signing_input(&claims, &issuing.authority_id, JwsAlgorithm::Es256)
            .map_err(IssueError::Claims)?;
        let intent = Intent {
            kind: intent::Kind::Jwt.into(),
            subject: Some(resolved.subject.clone()),
            spiffe_id: resolved.spiffe_id.to_string(),
            requesting_agent: resolved.requesting_agent.clone(),
            spki_sha256: Vec::new(),
            serial: Vec::new(),
            svid_hash: input.svid_hash().to_vec(),
            profile_version: PROFILE_VERSION,
            authority_id: issuing.authority_id.clone(),
            not_before_ms: claims.issued_at.unix_millis(),
            not_after_ms: claims.expires_at.unix_millis(),
            audience_sha256: audience_hash(claims.audience.values()).to_vec(),
        };
        Ok(Self {
            intent,
            input,
            issuing,
            claims,
            hint: resolved.hint.clone(),
        })
    }
}

/// Commits to an audience without naming it: every value with its length before it.
fn audience_hash(values: &[String]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for value in values {
        hasher.update((value.len() as u64).to_be_bytes());
        hasher.update(value.as_bytes());
    }
    hasher.finalize().into()
}
