//! Judging SVIDs as a relying party would, before anybody is given one.
//!
//! Responsible for: taking in a certificate chain from a server only when it is for the
//! expected identity and key and verifies against the bundle, and telling later whether it
//! still does. Always holds: what is [`Accepted`] went through the one verifier of the system.
//! Not here: that verifier (`mintmark_identity::svid::x509::verify`).

use std::time::Duration;

use mintmark_identity::{
    bundle::BundleSet,
    clock::Timestamp,
    spiffe_id::SpiffeId,
    svid::x509::{Usage, VerifiedX509Svid, X509SvidError, verify_x509_svid},
    validity::Validity,
};
use mintmark_runtime::cause;
use rustls_pki_types::CertificateDer;

use crate::{cache::state::CachedSvid, csr::NewKey, issuer::IssueError};

/// How far this node's clock may be behind the server's.
const CLOCK_BEHIND_MAX: Duration = Duration::from_secs(60);

/// A chain that was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// The certificates, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The identity.
    pub spiffe_id: SpiffeId,
    /// Serial in hex.
    pub serial: String,
    /// The authority that signed the leaf.
    pub authority_id: String,
    /// The authority in the bundle that the chain leads to.
    pub anchor_id: String,
    /// From when to when it holds.
    pub validity: Validity,
}

/// Verifies a chain for an identity and a key.
///
/// # Errors
/// [`IssueError`] that says what is wrong with it.
pub fn accept(
    chain: Vec<Vec<u8>>,
    id: &SpiffeId,
    key: &NewKey,
    bundles: &BundleSet,
    now: Timestamp,
) -> Result<Accepted, IssueError> {
    let accepted = accept_any(chain, key, bundles, now)?;
    if accepted.spiffe_id != *id {
        return Err(bad("is for another identity"));
    }
    Ok(accepted)
}

/// Verifies a chain for a key, whatever identity it names.
///
/// # Errors
/// [`IssueError`] that says what is wrong with it.
pub fn accept_any(
    chain: Vec<Vec<u8>>,
    key: &NewKey,
    bundles: &BundleSet,
    now: Timestamp,
) -> Result<Accepted, IssueError> {
    let verified = verify(&chain, bundles, now)
        .map_err(|error| bad(&format!("does not verify: {}", cause::chain(&error))))?;
    if verified.public_key_spki != key.spki {
        return Err(bad("is for another key"));
    }
    Ok(Accepted {
        chain,
        spiffe_id: verified.spiffe_id,
        serial: verified.serial,
        authority_id: verified.authority_id,
        anchor_id: verified.anchor_id,
        validity: verified.validity,
    })
}

/// Whether an SVID that was accepted once still verifies.
#[must_use]
pub fn still_verifies(svid: &CachedSvid, bundles: &BundleSet, now: Timestamp) -> bool {
    verify(&svid.chain, bundles, now).is_ok()
}

/// The authority that a chain leads to, if it verifies.
#[must_use]
pub fn authority_of(chain: &[Vec<u8>], bundles: &BundleSet, now: Timestamp) -> Option<String> {
    verify(chain, bundles, now)
        .ok()
        .map(|verified| verified.authority_id)
}

fn verify(
    chain: &[Vec<u8>],
    bundles: &BundleSet,
    now: Timestamp,
) -> Result<VerifiedX509Svid, X509SvidError> {
    let chain: Vec<CertificateDer<'_>> = chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    match verify_x509_svid(&chain, bundles, now, Usage::Either) {
        // A clock that is a little behind must not keep a node from its SVIDs.
        Err(X509SvidError::NotYetValid { not_before })
            if not_before.since(now) <= CLOCK_BEHIND_MAX =>
        {
            verify_x509_svid(&chain, bundles, not_before, Usage::Either)
        }
        result => result,
    }
}

fn bad(what: &str) -> IssueError {
    IssueError::misbehaved(&format!("the SVID issued {what}"))
}
