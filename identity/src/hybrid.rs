//! Hybrid post-quantum signatures on certificates.
//!
//! Responsible for: the alternative signature of X.509 (10/2019) clauses 7.2.2 and 9.8: its
//! three extensions, what it is over, and when it is demanded.
//! Always holds: both signatures count (AND, never OR); the demand comes from the issuer's
//! certificate, never from the certificate in question; the extensions are not critical, so
//! verifiers that know nothing of them see a normal P-256 certificate.
//! Not here: the keys (`authority`) and the rest of path validation (`svid::x509::verify`).

pub mod pretbs;
pub mod verify;

use der::Encode as _;
use der::asn1::ObjectIdentifier;
use rustls_pki_types::{AlgorithmIdentifier, SignatureVerificationAlgorithm};

use crate::key_manager::KeyAlgorithm;
use crate::svid::x509::structure::{is_algorithm, sequence};

pub use verify::HybridError;

/// subjectAltPublicKeyInfo: the key of the alternative signatures, in certificates of those who
/// make such signatures.
pub const SUBJECT_ALT_PUBLIC_KEY_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.72");
/// altSignatureAlgorithm: how the alternative signature was made; itself covered by it.
pub const ALT_SIGNATURE_ALGORITHM: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.73");
/// altSignatureValue: the alternative signature.
pub const ALT_SIGNATURE_VALUE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.74");

/// How an alternative signature is made. We sign with ML-DSA-65 and verify all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlternativeAlgorithm {
    /// ML-DSA-44.
    MlDsa44,
    /// ML-DSA-65.
    MlDsa65,
    /// ML-DSA-87.
    MlDsa87,
}

impl AlternativeAlgorithm {
    const ALL: [Self; 3] = [Self::MlDsa44, Self::MlDsa65, Self::MlDsa87];

    /// The name of FIPS 204.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MlDsa44 => "ML-DSA-44",
            Self::MlDsa65 => "ML-DSA-65",
            Self::MlDsa87 => "ML-DSA-87",
        }
    }

    /// The length of a signature in bytes (FIPS 204 table 2).
    #[must_use]
    pub const fn signature_length(self) -> usize {
        match self {
            Self::MlDsa44 => 2_420,
            Self::MlDsa65 => 3_309,
            Self::MlDsa87 => 4_627,
        }
    }

    /// The algorithm that a whole AlgorithmIdentifier names; parameters must be absent
    /// (RFC 9881 section 2).
    #[must_use]
    pub fn of_identifier(identifier: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| is_algorithm(identifier, &algorithm.id()))
    }

    /// The algorithm of the alternative signatures that a key of this kind makes.
    #[must_use]
    pub const fn of_key(algorithm: KeyAlgorithm) -> Option<Self> {
        match algorithm {
            KeyAlgorithm::MlDsa65 => Some(Self::MlDsa65),
            KeyAlgorithm::EcP256 | KeyAlgorithm::EcP384 | KeyAlgorithm::Ed25519 => None,
        }
    }

    pub(crate) fn identifier(self) -> der::Result<Vec<u8>> {
        sequence(&[self.id().as_ref()])
    }

    pub(crate) fn verification(self) -> &'static dyn SignatureVerificationAlgorithm {
        match self {
            Self::MlDsa44 => webpki::aws_lc_rs::ML_DSA_44,
            Self::MlDsa65 => webpki::aws_lc_rs::ML_DSA_65,
            Self::MlDsa87 => webpki::aws_lc_rs::ML_DSA_87,
        }
    }

    fn id(self) -> AlgorithmIdentifier {
        self.verification().signature_alg_id()
    }
}

/// An extension that is not critical.
pub(crate) fn plain_extension(oid: ObjectIdentifier, value: &[u8]) -> der::Result<Vec<u8>> {
    sequence(&[
        &oid.to_der()?,
        &der::asn1::OctetStringRef::new(value)?.to_der()?,
    ])
}
