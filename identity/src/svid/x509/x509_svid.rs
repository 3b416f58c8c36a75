//! An X.509-SVID together with its private key.
//!
//! Responsible for: [`X509Svid`], what a workload, an agent or a server presents as its own.
//! Always holds: the leaf is one that every verifier would let pass, the intermediates may
//! sign, and the private key belongs to the leaf; so a wrong delivery is noticed when it
//! arrives, not in the first handshake (X509-SVID section 5.2, X509-N6).
//! Not here: whether the chain leads to an anchor, which the other side's bundles decide.

use std::fmt;
use std::sync::Arc;

use der::{Reader as _, SliceReader};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::certificate::Certificate;
use super::structure::CertificateError;
use super::verify::{X509SvidError, check_leaf};
use crate::secret::SecretBytes;
use crate::spiffe_id::SpiffeId;
use crate::validity::Validity;

/// Why an SVID that was delivered cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum X509SvidLoadError {
    /// The certificates that follow each other cannot be told apart.
    #[error("certificate chain is not a sequence of DER certificates")]
    Malformed(#[source] der::Error),
    /// The leaf breaks a rule.
    #[error("leaf is not an X.509-SVID")]
    Leaf(#[from] X509SvidError),
    /// An intermediate cannot be read.
    #[error("intermediate certificate cannot be read")]
    Intermediate(#[source] CertificateError),
    /// An intermediate may not sign certificates.
    #[error("intermediate certificate may not sign certificates: cA or keyCertSign is not set")]
    IntermediateNotSigning,
    /// The private key cannot be read.
    #[error("private key is malformed or of an unknown kind")]
    PrivateKey,
    /// The private key is not the leaf's.
    #[error("private key does not belong to the certificate")]
    KeyMismatch,
}

/// An X.509-SVID with its private key.
#[derive(Clone)]
pub struct X509Svid {
    spiffe_id: SpiffeId,
    validity: Validity,
    serial: String,
    private_key: SecretBytes,
    certified: Arc<CertifiedKey>,
}

impl X509Svid {
    /// Checks an SVID as it was delivered: certificates one after the other, leaf first, and a
    /// private key in PKCS#8.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn parse(chain: &[u8], private_key: SecretBytes) -> Result<Self, X509SvidLoadError> {
        Self::new(
            split(chain).map_err(X509SvidLoadError::Malformed)?,
            private_key,
        )
    }

    /// Checks an SVID: certificates, leaf first, and a private key in PKCS#8.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        private_key: SecretBytes,
    ) -> Result<Self, X509SvidLoadError> {
        let (leaf, spiffe_id) = check_leaf(&chain)?;
        for intermediate in chain.iter().skip(1) {
            check_intermediate(intermediate)?;
        }
        let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(private_key.expose()));
        let key = any_supported_type(&pkcs8).map_err(|_| X509SvidLoadError::PrivateKey)?;
        let public = key.public_key().ok_or(X509SvidLoadError::PrivateKey)?;
        if public.as_ref() != leaf.parts.tbs.spki {
            return Err(X509SvidLoadError::KeyMismatch);
        }
        Ok(Self {
            spiffe_id,
            validity: leaf.content.validity,
            serial: leaf.content.serial.clone(),
            private_key,
            certified: Arc::new(CertifiedKey::new(chain, key)),
        })
    }

    /// Who it is.
    #[must_use]
    pub const fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// From when to when the leaf is valid.
    #[must_use]
    pub const fn validity(&self) -> Validity {
        self.validity
    }

    /// The leaf's serial number in lower-case hexadecimal digits.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The certificates, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The certificates one after the other, leaf first, as the Workload API sends them.
    #[must_use]
    pub fn chain_der_concat(&self) -> Vec<u8> {
        self.chain()
            .iter()
            .flat_map(|certificate| certificate.iter().copied())
            .collect()
    }

    /// The private key in PKCS#8.
    #[must_use]
    pub const fn private_key(&self) -> &SecretBytes {
        &self.private_key
    }

    /// The same for rustls.
    #[must_use]
    pub const fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("serial", &self.serial)
            .field("not_after", &self.validity.not_after)
            .finish_non_exhaustive()
    }
}

fn check_intermediate(der: &[u8]) -> Result<(), X509SvidLoadError> {
    let certificate = Certificate::parse(der).map_err(X509SvidLoadError::Intermediate)?;
    let usage = certificate.content.key_usage;
    if certificate.content.is_ca() && usage.is_some_and(|usage| usage.key_cert_sign()) {
        Ok(())
    } else {
        Err(X509SvidLoadError::IntermediateNotSigning)
    }
}

fn split(chain: &[u8]) -> der::Result<Vec<CertificateDer<'static>>> {
    let mut reader = SliceReader::new(chain)?;
    let mut certificates = Vec::new();
    while !reader.is_finished() {
        certificates.push(CertificateDer::from(reader.tlv_bytes()?.to_vec()));
    }
    Ok(certificates)
}
