//! Certificates of authorities.
//!
//! Responsible for: making the certificate of an authority and of the trust-domain key, and
//! [`X509Authority`], a signing certificate that has been read and checked.
//! Always holds: an authority that we load signs for one trust domain at most, and its SPIFFE ID
//! has no path (X509-SVID section 3.2).
//! Not here: the keys (`crate::authority`), and anchors of others (`anchor`).

use super::anchor::{SigningCertificateError, check_signing_certificate};
use super::certificate::Certificate;
use super::name::CaSubject;
use super::prepare::{PreparedTbs, ProfileError, SignError};
use super::profile::{Draft, Profile, key_id};
use super::serial::Serial;
use super::structure::CertificateError;
use crate::authority::AuthorityKey;
use crate::hybrid::{AlternativeAlgorithm, HybridError, verify::alternative_spki};
use crate::key_manager::{KeyAlgorithm, SigningKey};
use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::trust_domain::TrustDomain;
use crate::validity::Validity;

/// Why a certificate is not an authority's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The certificate cannot be read.
    #[error("certificate cannot be read")]
    Certificate(#[from] CertificateError),
    /// The certificate may not sign certificates.
    #[error("certificate may not sign certificates")]
    NotSigning(#[from] SigningCertificateError),
    /// There are several URI names.
    #[error("signing certificate has more than one URI name")]
    SeveralUris,
    /// The URI name is not a SPIFFE ID.
    #[error("URI name of the signing certificate is not a SPIFFE ID")]
    SpiffeId(#[source] SpiffeIdError),
    /// The SPIFFE ID has a path, which only a leaf's may (X509-SVID section 3.2).
    #[error("SPIFFE ID of the signing certificate has a path")]
    Path,
    /// The alternative key cannot be used.
    #[error("alternative key of the signing certificate cannot be used")]
    Alternative(#[from] HybridError),
}

/// A signing certificate, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Authority {
    certificate: Vec<u8>,
    id: String,
    key_id: Vec<u8>,
    subject: Vec<u8>,
    spki: Vec<u8>,
    alternative_spki: Option<Vec<u8>>,
    validity: Validity,
    trust_domain: Option<TrustDomain>,
}

impl X509Authority {
    /// Reads a signing certificate.
    ///
    /// # Errors
    /// The rule that the certificate breaks.
    pub fn parse(der: &[u8]) -> Result<Self, AuthorityError> {
        let certificate = Certificate::parse(der)?;
        check_signing_certificate(&certificate.content)?;
        let tbs = &certificate.parts.tbs;
        let trust_domain = match certificate.content.names.uris.as_slice() {
            [] => None,
            [uri] => {
                let id = SpiffeId::parse(uri).map_err(AuthorityError::SpiffeId)?;
                if id.has_path() {
                    return Err(AuthorityError::Path);
                }
                Some(id.trust_domain().clone())
            }
            _ => return Err(AuthorityError::SeveralUris),
        };
        let key_id = match &certificate.content.subject_key_id {
            Some(id) => id.clone(),
            None => key_id(tbs.spki).map_err(CertificateError::from)?,
        };
        Ok(Self {
            certificate: der.to_vec(),
            id: hex::encode(&key_id),
            key_id,
            subject: tbs.subject.to_vec(),
            spki: tbs.spki.to_vec(),
            alternative_spki: alternative_spki(tbs)?.map(<[u8]>::to_vec),
            validity: certificate.content.validity,
            trust_domain,
        })
    }

    /// The certificate.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// The authority's id: its subject key identifier in hexadecimal, as SPIRE names it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The subject key identifier itself.
    #[must_use]
    pub fn key_id(&self) -> &[u8] {
        &self.key_id
    }

    /// The subject, a DER name; what it signs has this as issuer, byte for byte.
    #[must_use]
    pub fn subject(&self) -> &[u8] {
        &self.subject
    }

    /// The key of the native signatures, a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The key of the alternative signatures, a DER SubjectPublicKeyInfo, if there is one.
    #[must_use]
    pub fn alternative_spki(&self) -> Option<&[u8]> {
        self.alternative_spki.as_deref()
    }

    /// Whether everything it signs bears an alternative signature.
    #[must_use]
    pub const fn is_hybrid(&self) -> bool {
        self.alternative_spki.is_some()
    }

    /// From when to when it may sign, and what it signed is valid.
    #[must_use]
    pub const fn validity(&self) -> Validity {
        self.validity
    }

    /// The trust domain that it signs for; `None` for a foreign authority without SPIFFE ID.
    #[must_use]
    pub const fn trust_domain(&self) -> Option<&TrustDomain> {
        self.trust_domain.as_ref()
    }

    /// Whether these are the keys in the certificate.
    #[must_use]
    pub fn has_key(&self, key: &AuthorityKey) -> bool {
        key.native().spki_der() == self.spki
            && key.alternative().map(SigningKey::spki_der) == self.alternative_spki()
    }

    pub(crate) fn native(&self) -> Option<KeyAlgorithm> {
        KeyAlgorithm::of_spki(&self.spki)
    }

    pub(crate) fn alternative(&self) -> Option<AlternativeAlgorithm> {
        let key = super::structure::PublicKeyParts::parse(self.alternative_spki()?).ok()?;
        AlternativeAlgorithm::of_identifier(key.algorithm)
    }
}

/// Why an authority's certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelfSignError {
    /// What was asked for does not fit the profile.
    #[error("certificate does not fit the profile of authorities")]
    Profile(#[from] ProfileError),
    /// Signing failed.
    #[error("certificate could not be signed")]
    Sign(#[from] SignError),
}

/// Makes the self-signed certificate of an authority: of one that signs SVIDs, or of the
/// trust-domain key, which only differ in `subject` and `validity`.
///
/// # Errors
/// See [`SelfSignError`].
pub fn self_signed_authority(
    trust_domain: &TrustDomain,
    key: &AuthorityKey,
    serial: Serial,
    validity: Validity,
    subject: &CaSubject,
) -> Result<Vec<u8>, SelfSignError> {
    let id = trust_domain.id();
    let subject = subject.to_der(serial).map_err(ProfileError::Name)?;
    let alternative_spki = key.alternative().map(SigningKey::spki_der);
    let draft = Draft {
        profile: Profile::Authority { alternative_spki },
        uri: id.as_str(),
        serial,
        validity,
        subject: &subject,
        spki: key.native().spki_der(),
        issuer: &subject,
        issuer_key_id: None,
        native: key.native().algorithm(),
        alternative: alternative_of(key),
    };
    Ok(PreparedTbs::build(&draft, key.native().spki_der(), alternative_spki)?.sign(key)?)
}

fn alternative_of(key: &AuthorityKey) -> Option<AlternativeAlgorithm> {
    key.alternative()
        .and_then(|key| AlternativeAlgorithm::of_key(key.algorithm()))
}
