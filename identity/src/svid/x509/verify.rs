//! Deciding whether a chain is somebody's X.509-SVID.
//!
//! Responsible for: [`verify_x509_svid_with`], the one function that every verifier calls: path
//! building by `webpki`, and all the rules that it leaves to its caller.
//! Always holds: the trust domain of the leaf's SPIFFE ID picks the anchors, no other bundle is
//! looked at; limits come before cryptography; time comes in as an argument; what is returned
//! was verified, all of it.
//! Not here: whether the verified identity may do anything (authorisation).

mod path;

use std::collections::BTreeSet;

use rustls_pki_types::CertificateDer;

use super::certificate::{Certificate, Content};
use super::structure::{CERTIFICATE_MAX, CertificateError};
use crate::bundle::BundleSet;
use crate::clock::Timestamp;
use crate::hybrid::HybridError;
use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::trust_domain::TrustDomain;
use crate::validity::Validity;

pub(crate) use path::{Anchor, Demands, verify_chain};

/// The most certificates in a chain, the leaf included.
pub const CHAIN_MAX: usize = 16;

/// In which role the SVID's owner acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// It connects: extendedKeyUsage, if there is one, allows clientAuth.
    Client,
    /// It accepts connections: extendedKeyUsage, if there is one, allows serverAuth.
    Server,
    /// Outside of a connection: either will do.
    Either,
}

/// What a verifier demands beyond the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerificationPolicy {
    /// Trust domains whose anchors must all have an alternative key: the end of a migration to
    /// hybrid signatures, when classical anchors are still in the bundle.
    pub pq_required: BTreeSet<TrustDomain>,
    /// Refuse what chains up to a tainted anchor instead of waiting for its revocation.
    pub refuse_tainted: bool,
}

/// Somebody's X.509-SVID, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedX509Svid {
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// The serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// From when to when the leaf is valid.
    pub validity: Validity,
    /// The id of the authority that signed the leaf: its subject key identifier in hexadecimal.
    pub authority_id: String,
    /// The id of the anchor; the same as `authority_id` unless there are intermediates.
    pub anchor_id: String,
    /// Whether an alternative signature was verified on every certificate below the anchor.
    pub hybrid: bool,
    /// The leaf's key, a DER SubjectPublicKeyInfo.
    pub public_key_spki: Vec<u8>,
}

/// Why a chain is nobody's X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum X509SvidError {
    /// There is no certificate.
    #[error("certificate chain is empty")]
    EmptyChain,
    /// There are more certificates than any chain has.
    #[error("certificate chain has {length} certificates; at most {CHAIN_MAX} are allowed")]
    ChainTooLong {
        /// The number found.
        length: usize,
    },
    /// The leaf cannot be read.
    #[error("leaf certificate cannot be read")]
    Leaf(#[source] CertificateError),
    /// An intermediate cannot be read.
    #[error("intermediate certificate cannot be read")]
    Intermediate(#[source] CertificateError),
    /// The leaf has no URI name, so no SPIFFE ID.
    #[error("certificate has no SPIFFE ID: there is no URI name in it")]
    NoSpiffeId,
    /// The leaf has several URI names (X509-SVID section 2).
    #[error("certificate has more than one URI name")]
    SeveralUris,
    /// The leaf's URI name is not a SPIFFE ID.
    #[error("URI name of the certificate is not a SPIFFE ID")]
    SpiffeId(#[source] SpiffeIdError),
    /// The leaf's SPIFFE ID is that of a whole trust domain (X509-SVID section 5.2).
    #[error("SPIFFE ID of the certificate has no path")]
    NoPath,
    /// A signing certificate presents itself as a leaf (X509-SVID section 5.2).
    #[error("certificate is a signing certificate, which never authenticates anybody")]
    SigningCertificate,
    /// The leaf does not say what its key may be used for (X509-SVID section 4.3).
    #[error("certificate has no keyUsage")]
    NoKeyUsage,
    /// The leaf's key may not be used to authenticate (X509-SVID section 4.3).
    #[error("keyUsage of the certificate lacks digitalSignature")]
    NoDigitalSignature,
    /// The leaf's key may sign certificates or revocation lists (X509-SVID section 5.2).
    #[error("keyUsage of the certificate includes keyCertSign or cRLSign")]
    SigningKeyUsage,
    /// The leaf, or an intermediate, may not be used in this role.
    #[error("extendedKeyUsage does not allow this role")]
    Purpose,
    /// There is no bundle for the leaf's trust domain.
    #[error("there is no bundle for trust domain {0}")]
    NoBundle(TrustDomain),
    /// The bundle of the leaf's trust domain has no anchors, so it does not do X.509-SVIDs.
    #[error("bundle of trust domain {0} has no X.509 authorities")]
    NoAuthorities(TrustDomain),
    /// No path leads to an anchor of the leaf's trust domain.
    #[error("certificate was not signed by an authority of trust domain {0}")]
    UnknownAuthority(TrustDomain),
    /// A signature does not match.
    #[error("signature of a certificate in the chain does not match")]
    Signature,
    /// The leaf, or an intermediate, was valid in the past.
    #[error("certificate expired at {not_after}")]
    Expired {
        /// Its last instant.
        not_after: Timestamp,
    },
    /// The leaf, or an intermediate, will be valid in the future.
    #[error("certificate is not valid before {not_before}")]
    NotYetValid {
        /// Its first instant.
        not_before: Timestamp,
    },
    /// An intermediate may not sign certificates (RFC 5280 section 6.1.4).
    #[error("intermediate certificate lacks keyCertSign")]
    IntermediateKeyUsage,
    /// The anchor is outside its validity.
    #[error("authority {id} is outside its validity")]
    AnchorExpired {
        /// The anchor's id.
        id: String,
    },
    /// The anchor is being withdrawn, and the policy refuses such.
    #[error("authority {id} is tainted")]
    AnchorTainted {
        /// The anchor's id.
        id: String,
    },
    /// There are more intermediates than the anchor allows.
    #[error("path is longer than authority {id} allows")]
    PathTooLong {
        /// The anchor's id.
        id: String,
    },
    /// The alternative signatures do not verify.
    #[error("hybrid verification failed")]
    Hybrid(#[from] HybridError),
    /// Another rule of RFC 5280 is broken.
    #[error("certificate path is invalid: {0}")]
    Path(String),
}

/// Verifies a chain, leaf first, with the default policy.
///
/// # Errors
/// Why it is nobody's X.509-SVID.
pub fn verify_x509_svid(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: Timestamp,
    usage: Usage,
) -> Result<VerifiedX509Svid, X509SvidError> {
    verify_x509_svid_with(chain, bundles, now, usage, &VerificationPolicy::default())
}

/// Verifies a chain, leaf first, at `now`.
///
/// # Errors
/// Why it is nobody's X.509-SVID.
pub fn verify_x509_svid_with(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: Timestamp,
    usage: Usage,
    policy: &VerificationPolicy,
) -> Result<VerifiedX509Svid, X509SvidError> {
    let (leaf, spiffe_id) = check_leaf(chain)?;
    let trust_domain = spiffe_id.trust_domain();
    let bundle = bundles
        .get(trust_domain)
        .ok_or_else(|| X509SvidError::NoBundle(trust_domain.clone()))?;
    let anchors = Anchor::of_bundle(bundle);
    if anchors.is_empty() {
        return Err(X509SvidError::NoAuthorities(trust_domain.clone()));
    }
    let demands = Demands {
        now,
        usage,
        hybrid: policy.pq_required.contains(trust_domain),
        refuse_tainted: policy.refuse_tainted,
    };
    verify_chain(chain, &leaf, spiffe_id, &anchors, demands)
}

/// Checks the limits of the chain, and everything that the leaf alone tells.
pub(crate) fn check_leaf<'a>(
    chain: &'a [CertificateDer<'_>],
) -> Result<(Certificate<'a>, SpiffeId), X509SvidError> {
    let (leaf, intermediates) = chain.split_first().ok_or(X509SvidError::EmptyChain)?;
    if chain.len() > CHAIN_MAX {
        return Err(X509SvidError::ChainTooLong {
            length: chain.len(),
        });
    }
    if let Some(large) = intermediates
        .iter()
        .find(|other| other.len() > CERTIFICATE_MAX)
    {
        let too_large = CertificateError::TooLarge {
            length: large.len(),
        };
        return Err(X509SvidError::Intermediate(too_large));
    }
    let leaf = Certificate::parse(leaf).map_err(X509SvidError::Leaf)?;
    let spiffe_id = leaf_spiffe_id(&leaf.content)?;
    check_leaf_usage(&leaf.content)?;
    Ok((leaf, spiffe_id))
}

fn leaf_spiffe_id(leaf: &Content<'_>) -> Result<SpiffeId, X509SvidError> {
    let uri = match leaf.names.uris.as_slice() {
        [] => return Err(X509SvidError::NoSpiffeId),
        [uri] => uri,
        _ => return Err(X509SvidError::SeveralUris),
    };
    let spiffe_id = SpiffeId::parse(uri).map_err(X509SvidError::SpiffeId)?;
    if spiffe_id.has_path() {
        Ok(spiffe_id)
    } else {
        Err(X509SvidError::NoPath)
    }
}

fn check_leaf_usage(leaf: &Content<'_>) -> Result<(), X509SvidError> {
    if leaf.is_ca() {
        return Err(X509SvidError::SigningCertificate);
    }
    let usage = leaf.key_usage.ok_or(X509SvidError::NoKeyUsage)?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(X509SvidError::SigningKeyUsage);
    }
    if !usage.digital_signature() {
        return Err(X509SvidError::NoDigitalSignature);
    }
    Ok(())
}
