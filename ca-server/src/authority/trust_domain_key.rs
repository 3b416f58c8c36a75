//! The trust-domain key: the one long-lived key, which signs peer certificates and statements.
//!
//! Always: it is a pair of P-256 and ML-DSA-65, both of which must verify; it is never in the trust
//! bundle and signs no SVID. Its certificate is what servers verify each other by, and its hash is
//! what join lines pin.
//!
//! Not here: its successor, the sealed bytes (replicated vault).

use mintmark_identity::authority::AuthorityKey;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::entropy::Entropy;
use mintmark_identity::key_manager::KeyError;
use mintmark_identity::svid::x509::authority::{
    AuthorityError, SelfSignError, X509Authority, self_signed_authority,
};
use mintmark_identity::svid::x509::name::CaSubject;
use mintmark_identity::svid::x509::peer::{PeerName, endless_validity, prepare_peer};
use mintmark_identity::svid::x509::prepare::{ProfileError, SignError};
use mintmark_identity::svid::x509::serial::Serial;
use mintmark_identity::trust_domain::TrustDomain;
use thiserror::Error;

/// Name of the vault record that holds the key.
pub const VAULT_RECORD: &str = "trust-domain-key";

/// Why the trust-domain key cannot be made or used.
#[derive(Debug, Error)]
pub enum TrustDomainKeyError {
    /// A key could not be generated, read or used.
    #[error("the trust-domain key cannot be used")]
    Key(#[source] KeyError),
    /// Its own certificate could not be made.
    #[error("the certificate of the trust-domain key cannot be made")]
    SelfSign(#[source] SelfSignError),
    /// Its own certificate could not be read.
    #[error("the certificate of the trust-domain key cannot be read")]
    Certificate(#[source] AuthorityError),
    /// A peer certificate breaks a rule.
    #[error("the peer certificate breaks a rule")]
    Profile(#[source] ProfileError),
    /// A peer certificate could not be signed.
    #[error("the peer certificate cannot be signed")]
    Sign(#[source] SignError),
    /// The key lacks its ML-DSA-65 half.
    #[error("the trust-domain key lacks its alternative half")]
    NotHybrid,
}

/// The trust-domain key with its certificate.
#[derive(Debug)]
pub struct TrustDomainKey {
    authority: X509Authority,
    key: AuthorityKey,
}

impl TrustDomainKey {
    /// Makes the key of a new trust domain.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn generate(
        trust_domain: &TrustDomain,
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Self, TrustDomainKeyError> {
        let key = AuthorityKey::generate(true).map_err(TrustDomainKeyError::Key)?;
        let certificate = self_signed_authority(
            trust_domain,
            &key,
            Serial::draw(entropy),
            endless_validity(now),
            &CaSubject::default(),
        )
        .map_err(TrustDomainKeyError::SelfSign)?;
        Self::new(&certificate, key)
    }

    /// Puts the certificate and the opened key together.
    ///
    /// # Errors
    /// When the certificate does not parse or the key has no alternative half.
    pub fn new(certificate: &[u8], key: AuthorityKey) -> Result<Self, TrustDomainKeyError> {
        let authority =
            X509Authority::parse(certificate).map_err(TrustDomainKeyError::Certificate)?;
        if !authority.is_hybrid() || !key.is_hybrid() {
            return Err(TrustDomainKeyError::NotHybrid);
        }
        Ok(Self { authority, key })
    }

    /// The self-signed certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        self.authority.certificate_der()
    }

    /// The key itself, to be sealed or to sign statements.
    #[must_use]
    pub fn key(&self) -> &AuthorityKey {
        &self.key
    }

    /// Certifies a server's key under `name`. The certificate does not end: committed membership
    /// decides who counts, not time.
    ///
    /// # Errors
    /// When the certificate cannot be built or signed.
    pub fn certify_peer(
        &self,
        name: &PeerName,
        public_key_spki: &[u8],
        now: Timestamp,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, TrustDomainKeyError> {
        let validity = endless_validity(now);
        prepare_peer(
            name,
            public_key_spki,
            Serial::draw(entropy),
            validity,
            &self.authority,
        )
        .map_err(TrustDomainKeyError::Profile)?
        .sign(&self.key)
        .map_err(TrustDomainKeyError::Sign)
    }
}
