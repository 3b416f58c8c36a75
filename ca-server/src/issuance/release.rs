//! The signature, and everything that must still be true when it is made.
//!
//! Always: only a [`Committed`] is signed, once. Before that this server looks again: nobody denied the
//! subject and nothing tainted the authority since, the quorum was in touch within [`CONTACT_MAX`], the
//! acceptance is younger than [`AGE_MAX`], and its clock is near the voters'. After that it reads the result as a relying party
//! would, and compares it with what was agreed; what fails is not released.
//!
//! Not here: agreement (`batch`).

use std::time::Duration;

use mintmark_identity::bundle::BundleSet;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entry::EntryId;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::jwt::verify_jwt_svid;
use mintmark_identity::svid::x509::{Serial, Usage, svid_hash_of_certificate, verify_x509_svid};
use mintmark_identity::validity::Validity;
use mintmark_proto::mintmark::raft::v1::{Intent, intent};
use mintmark_proto::mintmark::state::v1::AuthorityState;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::time::Instant;

use super::batch::{Committed, LeafPosition};
use super::prepared::{Prepared, PreparedJwt, PreparedX509};
use crate::raft::{ClockOffset, ClockState};
use crate::state::State;

/// How long ago the quorum may have answered.
pub const CONTACT_MAX: Duration = Duration::from_secs(1);
/// How old an acceptance may be when it is signed.
pub const AGE_MAX: Duration = Duration::from_secs(5);

/// Why something that was committed is not released. The leaf stays, without an SVID.
#[derive(Debug, Clone, Error)]
pub enum ReleaseError {
    /// The quorum has not answered lately.
    #[error("the quorum has not answered for {}", .0.map_or_else(|| "long".to_owned(), |age| format!("{} ms", age.as_millis())))]
    OutOfTouch(Option<Duration>),
    /// Too much time passed since the acceptance.
    #[error("{} ms passed since the intent was accepted", .0.as_millis())]
    TooLate(Duration),
    /// This server's clock is wrong.
    #[error("this server's clock is {0}, so it does not sign")]
    ClockSkew(ClockOffset),
    /// Nothing is known of this server's clock.
    #[error("this server's clock is not compared with the voters' yet, so it does not sign")]
    ClockUnknown,
    /// The subject or the authority is no longer good.
    #[error("{0}")]
    DeniedMeanwhile(&'static str),
    /// The key refused to sign.
    #[error("the authority's key does not sign: {0}")]
    Sign(String),
    /// The signed SVID is not what was agreed on, or does not verify.
    #[error("the signed SVID does not pass verification: {0}")]
    SelfCheck(String),
}

/// A certificate that may leave this server.
#[derive(Debug, Clone)]
pub struct SignedX509 {
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// From when until when it is valid.
    pub validity: Validity,
    /// Who signed it.
    pub authority_id: String,
    /// `hint` of its entry.
    pub hint: String,
    /// Its place in the audit log.
    pub leaf: LeafPosition,
}

/// A token that may leave this server.
#[derive(Clone)]
pub struct SignedJwt {
    /// Compact JWS.
    pub token: String,
    /// Whose it is.
    pub spiffe_id: SpiffeId,
    /// When it was made.
    pub issued_at: Timestamp,
    /// From when on it is worthless.
    pub expires_at: Timestamp,
    /// `hint` of its entry.
    pub hint: String,
    /// Its place in the audit log.
    pub leaf: LeafPosition,
}

impl std::fmt::Debug for SignedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignedJwt")
            .field("spiffe_id", &self.spiffe_id)
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}

/// What is known of the cluster at the moment of signing.
#[derive(Debug, Clone, Copy)]
pub struct Contact {
    /// How long ago the quorum answered; `None`: it never did.
    pub quorum_age: Option<Duration>,
    /// This server's clock beside the voters'.
    pub clock: ClockState,
    /// The present.
    pub now: Instant,
}

/// Whether what is committed may still be signed.
///
/// # Errors
/// The first reason why not.
pub fn recheck<P: Prepared>(
    committed: &Committed<P>,
    state: &State,
    contact: Contact,
) -> Result<(), ReleaseError> {
    if contact.quorum_age.is_none_or(|age| age > CONTACT_MAX) {
        return Err(ReleaseError::OutOfTouch(contact.quorum_age));
    }
    match contact.clock {
        ClockState::Good(_) => {}
        ClockState::Skewed(offset) => return Err(ReleaseError::ClockSkew(offset)),
        ClockState::Unknown => return Err(ReleaseError::ClockUnknown),
    }
    let age = contact
        .now
        .saturating_duration_since(committed.accepted_at());
    if age > AGE_MAX {
        return Err(ReleaseError::TooLate(age));
    }
    check_subject(committed.prepared().intent(), state)
}

fn check_subject(intent: &Intent, state: &State) -> Result<(), ReleaseError> {
    let denied = |why| Err(ReleaseError::DeniedMeanwhile(why));
    let Some(authority) = state.authority(&intent.authority_id) else {
        return denied("the authority is gone");
    };
    let signs = matches!(
        authority.state(),
        AuthorityState::Active | AuthorityState::Old
    );
    if authority.tainted || !signs {
        return denied("the authority no longer signs");
    }
    let attested = |agent: &str| {
        let id = SpiffeId::parse(agent).ok()?;
        let node = state.attested_node(&id)?;
        (!node.banned).then_some(id)
    };
    match &intent.subject {
        Some(intent::Subject::Entry(subject)) => {
            let id = EntryId::parse(&subject.id).ok();
            let Some(entry) = id.and_then(|id| state.entry(&id)) else {
                return denied("the entry was deleted");
            };
            let Some(agent) = attested(&intent.requesting_agent) else {
                return denied("the agent was banned or evicted");
            };
            if entry.spiffe_id.as_str() != intent.spiffe_id {
                return denied("the entry gives another identity");
            }
            if !state.is_authorized(&agent, entry) {
                return denied("the entry is no longer under the agent");
            }
        }
        Some(intent::Subject::Agent(agent)) => {
            if attested(&agent.agent_id).is_none() {
                return denied("the agent was banned or evicted");
            }
        }
        Some(intent::Subject::Server(_) | intent::Subject::AdminMint(_)) => {}
        None => return denied("the intent has no subject"),
    }
    Ok(())
}

/// Signs a certificate and reads it back as a relying party.
///
/// # Errors
/// When the key does not sign, or the result is not what was agreed on.
pub fn sign_x509(
    committed: Committed<PreparedX509>,
    bundles: &BundleSet,
    now: Timestamp,
) -> Result<SignedX509, ReleaseError> {
    let leaf = committed.leaf();
    let prepared = committed.into_prepared();
    let der = prepared
        .tbs
        .sign(&prepared.issuing.key)
        .map_err(|error| ReleaseError::Sign(error.to_string()))?;
    let wrong = |what: &str| ReleaseError::SelfCheck(what.to_owned());
    let hash = svid_hash_of_certificate(&der)
        .map_err(|error| ReleaseError::SelfCheck(error.to_string()))?;
    if hash.as_slice() != prepared.intent.svid_hash {
        return Err(wrong("its hash is not the one agreed on"));
    }
    let chain = [CertificateDer::from(der.as_slice())];
    let verified = verify_x509_svid(&chain, bundles, now, Usage::Either)
        .map_err(|error| ReleaseError::SelfCheck(error.to_string()))?;
    if verified.spiffe_id != prepared.spiffe_id || verified.serial != prepared.serial.to_string() {
        return Err(wrong("it names another identity or serial number"));
    }
    if verified.public_key_spki != prepared.public_key_spki {
        return Err(wrong("it holds another key"));
    }
    Ok(SignedX509 {
        chain: vec![der],
        spiffe_id: prepared.spiffe_id,
        serial: prepared.serial,
        validity: prepared.validity,
        authority_id: prepared.issuing.authority_id,
        hint: prepared.hint,
        leaf,
    })
}

/// Signs a token and reads it back as a relying party.
///
/// # Errors
/// When the key does not sign, or the result is not what was agreed on.
pub fn sign_jwt(
    committed: Committed<PreparedJwt>,
    bundles: &BundleSet,
    now: Timestamp,
) -> Result<SignedJwt, ReleaseError> {
    let leaf = committed.leaf();
    let prepared = committed.into_prepared();
    let signature = prepared
        .issuing
        .key
        .native()
        .sign_jws(prepared.input.bytes())
        .map_err(|error| ReleaseError::Sign(error.to_string()))?;
    if prepared.input.svid_hash().as_slice() != prepared.intent.svid_hash {
        return Err(ReleaseError::SelfCheck(
            "its hash is not the one agreed on".to_owned(),
        ));
    }
    let claims = prepared.claims;
    let token = prepared.input.attach(&signature);
    let verified = verify_jwt_svid(&token, &claims.audience, bundles, now, Duration::ZERO)
        .map_err(|error| ReleaseError::SelfCheck(error.to_string()))?;
    if verified.spiffe_id != claims.spiffe_id {
        return Err(ReleaseError::SelfCheck(
            "it names another identity".to_owned(),
        ));
    }
    Ok(SignedJwt {
        token,
        spiffe_id: claims.spiffe_id,
        issued_at: claims.issued_at,
        expires_at: claims.expires_at,
        hint: prepared.hint,
        leaf,
    })
}

#[cfg(test)]
mod tests;
