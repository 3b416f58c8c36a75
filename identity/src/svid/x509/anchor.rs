//! Which certificates may stand in a trust bundle.
//!
//! Responsible for: the checks that a path builder leaves out, because to it an anchor is only a
//! name and a key: that it is a signing certificate at all, and that an alternative key in it
//! can be used.
//! Always holds: a leaf never becomes an anchor, so a bundle cannot make an SVID trust itself;
//! an anchor with an alternative key that we cannot use does not count as one without.
//! Not here: validity in time and path length, which are looked at when a chain is verified.

use super::certificate::{Certificate, Content};
use super::profile::key_id;
use super::structure::CertificateError;
use crate::hybrid::HybridError;
use crate::hybrid::verify::alternative_spki;
use crate::jose::jwk::{Jwk, JwkError};

/// Why a certificate may not sign certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SigningCertificateError {
    /// basicConstraints is absent or does not say cA (X509-SVID section 4.1).
    #[error("cA is not set")]
    NotAnAuthority,
    /// keyUsage is present without keyCertSign (X509-SVID section 4.3).
    #[error("keyCertSign is not set")]
    NoKeyCertSign,
}

/// Why a certificate cannot be an anchor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// Certificates that follow each other cannot be told apart.
    #[error("not a DER certificate")]
    Malformed(#[source] der::Error),
    /// The bytes are not exactly one certificate that can be read.
    #[error("certificate cannot be read")]
    Certificate(#[from] CertificateError),
    /// The certificate is not a certificate authority's.
    #[error("certificate is not a signing certificate")]
    NotSigning(#[from] SigningCertificateError),
    /// The public key is of a kind that neither JWK nor the verifier knows.
    #[error("public key cannot be used")]
    PublicKey(#[source] JwkError),
    /// The alternative key is malformed or of a kind that the verifier does not know.
    #[error("alternative public key cannot be used")]
    Alternative(#[from] HybridError),
}

/// Checks that a certificate says of itself that it signs certificates. Absent keyUsage is
/// accepted: old roots that SPIFFE knows nothing of have none (RFC 5280 section 6.1.4 (n)).
///
/// # Errors
/// The rule that the certificate breaks.
pub fn check_signing_certificate(content: &Content<'_>) -> Result<(), SigningCertificateError> {
    if !content.is_ca() {
        return Err(SigningCertificateError::NotAnAuthority);
    }
    if !content.key_usage.is_none_or(|usage| usage.key_cert_sign()) {
        return Err(SigningCertificateError::NoKeyCertSign);
    }
    Ok(())
}

/// Checks that `certificate` may be an anchor, and returns its public key and its id.
///
/// # Errors
/// The rule that the certificate breaks.
pub fn check_anchor(certificate: &[u8]) -> Result<(Jwk, String), AnchorError> {
    let certificate = Certificate::parse(certificate)?;
    check_signing_certificate(&certificate.content)?;
    alternative_spki(&certificate.parts.tbs)?;
    let public_key = Jwk::from_spki(certificate.parts.tbs.spki).map_err(AnchorError::PublicKey)?;
    Ok((public_key, hex::encode(key_id_of(&certificate))))
}

/// The subject key identifier that a certificate names, or else the one that follows from its key.
pub(super) fn key_id_of(certificate: &Certificate<'_>) -> Vec<u8> {
    let own = || key_id(certificate.parts.tbs.spki).unwrap_or_default();
    certificate
        .content
        .subject_key_id
        .clone()
        .unwrap_or_else(own)
}
