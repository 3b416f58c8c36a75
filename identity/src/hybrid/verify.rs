//! Verifying alternative signatures.
//!
//! Responsible for: [`verify_alternative`] for one certificate, and [`verify_path`] for all
//! certificates of a path.
//! Always holds: a certificate whose issuer has an alternative key must bear an alternative
//! signature by it; below an anchor that has one, so must every signing certificate. Leaving
//! the signature out is as wrong as forging it.
//! Not here: the native signatures, validity and names, which are always checked as well.

use der::Decode as _;
use der::asn1::{BitStringRef, ObjectIdentifier};

use super::pretbs::pre_tbs;
use super::{
    ALT_SIGNATURE_ALGORITHM, ALT_SIGNATURE_VALUE, AlternativeAlgorithm, SUBJECT_ALT_PUBLIC_KEY_INFO,
};
use crate::svid::x509::structure::{
    CertificateParts, ExtensionParts, PublicKeyParts, TbsParts, whole_bytes,
};

/// Why a certificate fails hybrid verification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HybridError {
    /// The issuer makes alternative signatures, and the certificate bears none or half of one.
    #[error("alternative signature is missing (no extension {oid}), but the issuer makes them")]
    Missing {
        /// The extension that is not there.
        oid: ObjectIdentifier,
    },
    /// An extension of the alternative signature is critical, which unaware verifiers refuse.
    #[error("extension {oid} is critical")]
    Critical {
        /// Which one.
        oid: ObjectIdentifier,
    },
    /// An alternative key or signature cannot be decoded or has the wrong length.
    #[error("extension {oid} is malformed")]
    Malformed {
        /// Where it stands.
        oid: ObjectIdentifier,
    },
    /// The certificate names another algorithm than its issuer's alternative key has.
    #[error("alternative signature algorithm is not that of the issuer's alternative key")]
    AlgorithmMismatch,
    /// The algorithm is none of ML-DSA-44, -65 and -87 without parameters.
    #[error("alternative key is of an unknown algorithm")]
    UnknownAlgorithm,
    /// The issuer's alternative key did not make this signature over this certificate.
    #[error("alternative signature does not match")]
    Mismatch,
    /// The anchor makes alternative signatures, and a signing certificate below it does not.
    #[error("intermediate has no alternative key, but the anchor has one")]
    IntermediateWithoutKey,
    /// The policy demands alternative signatures, and the anchor does not make them.
    #[error("anchor has no alternative key, but this trust domain requires hybrid signatures")]
    AnchorWithoutKey,
}

/// The alternative key in a certificate, a DER SubjectPublicKeyInfo.
///
/// # Errors
/// [`HybridError::Malformed`] or [`HybridError::UnknownAlgorithm`] for a key that is there and
/// cannot be used: it must not pass for "none".
pub fn alternative_spki<'a>(tbs: &TbsParts<'a>) -> Result<Option<&'a [u8]>, HybridError> {
    let Some(extension) = tbs.extension(SUBJECT_ALT_PUBLIC_KEY_INFO) else {
        return Ok(None);
    };
    let oid = SUBJECT_ALT_PUBLIC_KEY_INFO;
    let key = PublicKeyParts::parse(extension.value).map_err(|_| HybridError::Malformed { oid })?;
    AlternativeAlgorithm::of_identifier(key.algorithm).ok_or(HybridError::UnknownAlgorithm)?;
    Ok(Some(extension.value))
}

/// Verifies the alternative signature of `certificate` by the key `issuer_spki`.
///
/// # Errors
/// See [`HybridError`].
pub fn verify_alternative(
    certificate: &CertificateParts<'_>,
    issuer_spki: &[u8],
) -> Result<(), HybridError> {
    let key = PublicKeyParts::parse(issuer_spki).map_err(|_| HybridError::Malformed {
        oid: SUBJECT_ALT_PUBLIC_KEY_INFO,
    })?;
    let algorithm =
        AlternativeAlgorithm::of_identifier(key.algorithm).ok_or(HybridError::UnknownAlgorithm)?;
    let named = demand(&certificate.tbs, ALT_SIGNATURE_ALGORITHM)?;
    let value = demand(&certificate.tbs, ALT_SIGNATURE_VALUE)?;
    if named.value != key.algorithm {
        return Err(HybridError::AlgorithmMismatch);
    }
    let malformed = HybridError::Malformed {
        oid: ALT_SIGNATURE_VALUE,
    };
    let signature = BitStringRef::from_der(value.value).and_then(whole_bytes);
    let signature = signature.map_err(|_| malformed.clone())?;
    if signature.len() != algorithm.signature_length() {
        return Err(malformed);
    }
    let message = pre_tbs(&certificate.tbs).map_err(|_| malformed)?;
    algorithm
        .verification()
        .verify_signature(key.key, &message, signature)
        .map_err(|_| HybridError::Mismatch)
}

fn demand<'t, 'a>(
    tbs: &'t TbsParts<'a>,
    oid: ObjectIdentifier,
) -> Result<&'t ExtensionParts<'a>, HybridError> {
    let extension = tbs.extension(oid).ok_or(HybridError::Missing { oid })?;
    if extension.critical {
        Err(HybridError::Critical { oid })
    } else {
        Ok(extension)
    }
}

/// Verifies the alternative signatures of a path whose native half has been verified.
///
/// `anchor_spkis` are the alternative keys of all anchors that share name and native key with
/// the path's anchor: of two that differ only in extension 72, the one without it must not be a
/// way around. `path` runs from below the anchor down to the leaf. Returns whether the path is
/// hybrid from top to bottom.
///
/// # Errors
/// See [`HybridError`].
pub fn verify_path(
    anchor_spkis: &[&[u8]],
    path: &[&CertificateParts<'_>],
) -> Result<bool, HybridError> {
    let hybrid = !anchor_spkis.is_empty();
    let mut issuer_spkis = anchor_spkis.to_vec();
    let (last, above) = match path.split_last() {
        Some((leaf, intermediates)) => (*leaf, intermediates),
        None => return Ok(hybrid),
    };
    for certificate in above {
        verify_by_any(certificate, &issuer_spkis)?;
        let spki = alternative_spki(&certificate.tbs)?;
        if hybrid && spki.is_none() {
            return Err(HybridError::IntermediateWithoutKey);
        }
        issuer_spkis = spki.into_iter().collect();
    }
    verify_by_any(last, &issuer_spkis)?;
    Ok(hybrid)
}

fn verify_by_any(certificate: &CertificateParts<'_>, spkis: &[&[u8]]) -> Result<(), HybridError> {
    let mut outcome = Ok(());
    for spki in spkis {
        outcome = verify_alternative(certificate, spki);
        if outcome.is_ok() {
            return Ok(());
        }
    }
    outcome
}
