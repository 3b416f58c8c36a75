//! A fresh key and the request for its certificate.
//!
//! Responsible for: P-256 keys and PKCS#10 requests. Always holds: each request has a key of
//! its own; the request names the identity that is expected, though the server takes it from
//! the entry. Not here: what comes of it.

use mintmark_identity::spiffe_id::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use zeroize::Zeroizing;

/// Why no request could be made.
#[derive(Debug, thiserror::Error)]
#[error("a key or its certificate signing request cannot be made")]
pub struct CsrError(#[from] rcgen::Error);

/// A key and a request signed with it.
pub struct NewKey {
    /// The private key, PKCS#8 DER.
    pub pkcs8: Zeroizing<Vec<u8>>,
    /// The public key, SubjectPublicKeyInfo DER.
    pub spki: Vec<u8>,
    /// The request, PKCS#10 DER.
    pub csr: Vec<u8>,
}

impl std::fmt::Debug for NewKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewKey").finish_non_exhaustive()
    }
}

impl NewKey {
    /// A new key, and a request for this identity.
    ///
    /// # Errors
    /// When the cryptographic library refuses.
    pub fn for_id(id: &SpiffeId) -> Result<Self, CsrError> {
        Self::request(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, Some(id))
    }

    /// A new key, and a request that leaves the identity to the server.
    ///
    /// # Errors
    /// When the cryptographic library refuses.
    pub fn nameless() -> Result<Self, CsrError> {
        Self::request(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?, None)
    }

    /// A request with a key that exists.
    ///
    /// # Errors
    /// When it is no PKCS#8 key.
    pub fn of(pkcs8: &[u8], id: Option<&SpiffeId>) -> Result<Self, CsrError> {
        Self::request(&KeyPair::try_from(pkcs8)?, id)
    }

    fn request(key: &KeyPair, id: Option<&SpiffeId>) -> Result<Self, CsrError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(id) = id {
            params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        }
        let csr = params.serialize_request(key)?;
        Ok(Self {
            pkcs8: Zeroizing::new(key.serialize_der()),
            spki: rcgen::PublicKeyData::subject_public_key_info(key),
            csr: csr.der().to_vec(),
        })
    }
}
