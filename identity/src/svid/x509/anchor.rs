//! Which certificates may stand in a trust bundle.
//!
//! Responsible for: the checks that a path builder leaves out, because to it an anchor is only a
//! name and a key: that it is a signing certificate at all.
//! Always holds: a leaf never becomes an anchor, so a bundle cannot make an SVID trust itself.
//! Not here: validity in time, which is looked at when a chain is verified.

use der::{Decode as _, Encode as _};
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use crate::jose::jwk::{Jwk, JwkError};

/// Why a certificate cannot be an anchor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnchorError {
    /// The bytes are not exactly one DER certificate.
    #[error("not a DER certificate")]
    Malformed(#[source] der::Error),
    /// basicConstraints or keyUsage is malformed or occurs twice.
    #[error("basicConstraints or keyUsage is malformed")]
    Extension(#[source] der::Error),
    /// The certificate is not a certificate authority's (X509-SVID section 4.1).
    #[error("certificate is not a signing certificate: cA is not set")]
    NotAnAuthority,
    /// keyUsage is present without keyCertSign (X509-SVID section 4.3).
    #[error("certificate is not a signing certificate: keyCertSign is not set")]
    NoKeyCertSign,
    /// The public key is of a kind that neither JWK nor the verifier knows.
    #[error("public key cannot be used")]
    PublicKey(#[source] JwkError),
}

/// Checks that `certificate` may be an anchor, and returns its public key.
///
/// # Errors
/// The rule that the certificate breaks.
pub fn check_anchor(certificate: &[u8]) -> Result<Jwk, AnchorError> {
    let certificate = Certificate::from_der(certificate).map_err(AnchorError::Malformed)?;
    let certificate = certificate.tbs_certificate();
    let constraints = certificate
        .get_extension::<BasicConstraints>()
        .map_err(AnchorError::Extension)?;
    if !constraints.is_some_and(|(_, constraints)| constraints.ca) {
        return Err(AnchorError::NotAnAuthority);
    }
    let usage = certificate
        .get_extension::<KeyUsage>()
        .map_err(AnchorError::Extension)?;
    if !usage.is_none_or(|(_, usage)| usage.key_cert_sign()) {
        return Err(AnchorError::NoKeyCertSign);
    }
    let spki = certificate
        .subject_public_key_info()
        .to_der()
        .map_err(AnchorError::Malformed)?;
    Jwk::from_spki(&spki).map_err(AnchorError::PublicKey)
}
