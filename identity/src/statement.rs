//! Statements of the trust-domain key: who speaks for a trust domain, to somebody who knows
//! nothing but a hash.
//!
//! Responsible for: the pin of a trust-domain key, and signing and verifying statements by it.
//! Always holds: the pin covers both halves of the key, and both signatures must verify; so who
//! breaks one algorithm gains nothing.
//! Not here: what a statement says (`mintmark.agent.v1.Statement`, opaque bytes here), and
//! whether it is new enough, which only the one who keeps the last one can judge.

use sha2::{Digest as _, Sha256};

use crate::authority::AuthorityKey;
use crate::key_manager::{KeyError, verify_signature};
use crate::svid::x509::authority::{AuthorityError, X509Authority};

/// What is signed before the statement's own bytes, so that a signature fits nothing else.
pub const STATEMENT_CONTEXT: &[u8] = b"mintmark-statement-v1\0";

/// The hash that stands for a trust-domain key in join lines.
pub type Pin = [u8; 32];

/// Both signatures under a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementSignatures {
    /// By the P-256 key.
    pub native: Vec<u8>,
    /// By the ML-DSA-65 key.
    pub alternative: Vec<u8>,
}

/// Why a statement is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The certificate of the trust-domain key cannot be read.
    #[error("certificate of the trust-domain key cannot be read")]
    Certificate(#[from] AuthorityError),
    /// The certificate has no ML-DSA-65 key.
    #[error("trust-domain key lacks its ML-DSA-65 half")]
    NotHybrid,
    /// The key is not the pinned one.
    #[error("trust-domain key {} is not the pinned one", hex::encode(.found))]
    OtherKey {
        /// The pin that would fit it.
        found: Pin,
    },
    /// The P-256 signature does not verify.
    #[error("statement's native signature does not verify")]
    NativeSignature,
    /// The ML-DSA-65 signature does not verify.
    #[error("statement's alternative signature does not verify")]
    AlternativeSignature,
    /// The key could not sign.
    #[error("statement cannot be signed")]
    Sign(#[source] KeyError),
}

/// The pin of the trust-domain key with this certificate: SHA-256 over the
/// SubjectPublicKeyInfo of its P-256 key, then that of its ML-DSA-65 key.
///
/// # Errors
/// [`StatementError::NotHybrid`].
pub fn pin(certificate: &X509Authority) -> Result<Pin, StatementError> {
    let alternative = certificate.alternative_spki();
    let alternative = alternative.ok_or(StatementError::NotHybrid)?;
    let mut hash = Sha256::new();
    hash.update(certificate.spki());
    hash.update(alternative);
    Ok(hash.finalize().into())
}

fn message(statement: &[u8]) -> Vec<u8> {
    [STATEMENT_CONTEXT, statement].concat()
}

/// Signs the encoded `statement` with both halves of the trust-domain key.
///
/// # Errors
/// [`StatementError::NotHybrid`], [`StatementError::Sign`].
pub fn sign_statement(
    key: &AuthorityKey,
    statement: &[u8],
) -> Result<StatementSignatures, StatementError> {
    let alternative = key.alternative().ok_or(StatementError::NotHybrid)?;
    let message = message(statement);
    Ok(StatementSignatures {
        native: key.native().sign(&message).map_err(StatementError::Sign)?,
        alternative: alternative.sign(&message).map_err(StatementError::Sign)?,
    })
}

/// Verifies that the key behind `pin`, with the given certificate in DER, signed the encoded
/// `statement`. Returns the certificate.
///
/// # Errors
/// Why it is not to be believed.
pub fn verify_statement(
    pinned: &Pin,
    certificate: &[u8],
    statement: &[u8],
    signatures: &StatementSignatures,
) -> Result<X509Authority, StatementError> {
    let authority = X509Authority::parse(certificate)?;
    let found = pin(&authority)?;
    if found != *pinned {
        return Err(StatementError::OtherKey { found });
    }
    let alternative = authority
        .alternative_spki()
        .ok_or(StatementError::NotHybrid)?;
    let message = message(statement);
    verify_signature(authority.spki(), &message, &signatures.native)
        .map_err(|_| StatementError::NativeSignature)?;
    verify_signature(alternative, &message, &signatures.alternative)
        .map_err(|_| StatementError::AlternativeSignature)?;
    Ok(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::entropy::SeededEntropy;
    use crate::svid::x509::peer::endless_validity;
    use crate::svid::x509::{CaSubject, Serial, self_signed_authority};
    use crate::trust_domain::TrustDomain;

    fn certified(hybrid: bool) -> (AuthorityKey, Vec<u8>) {
        let key = AuthorityKey::generate(hybrid).unwrap();
        let certificate = self_signed_authority(
            &TrustDomain::parse("example.org").unwrap(),
            &key,
            Serial::draw(&SeededEntropy::new(1)),
            endless_validity(Timestamp::from_unix_secs(1_790_000_000)),
            &CaSubject::default(),
        );
        (key, certificate.unwrap())
    }

    fn pin_of(certificate: &[u8]) -> Pin {
        pin(&X509Authority::parse(certificate).unwrap()).unwrap()
    }

    #[test]
    fn a_statement_of_the_pinned_key_verifies() {
        let (key, certificate) = certified(true);
        let signatures = sign_statement(&key, b"statement").unwrap();
        let pinned = pin_of(&certificate);
        let verified = verify_statement(&pinned, &certificate, b"statement", &signatures);
        assert_eq!(verified.unwrap().certificate_der(), certificate);
    }

    #[test]
    fn both_signatures_and_the_exact_bytes_count() {
        let (key, certificate) = certified(true);
        let pinned = pin_of(&certificate);
        let good = sign_statement(&key, b"statement").unwrap();
        let verify = |statement: &[u8], signatures: &StatementSignatures| {
            verify_statement(&pinned, &certificate, statement, signatures).err()
        };
        assert_eq!(
            verify(b"another", &good),
            Some(StatementError::NativeSignature)
        );
        let mut changed = good.clone();
        changed.native = key.native().sign(b"statement").unwrap();
        assert_eq!(
            verify(b"statement", &changed),
            Some(StatementError::NativeSignature)
        );
        let mut changed = good.clone();
        changed.alternative[0] ^= 1;
        assert_eq!(
            verify(b"statement", &changed),
            Some(StatementError::AlternativeSignature)
        );
        changed.alternative.clear();
        assert_eq!(
            verify(b"statement", &changed),
            Some(StatementError::AlternativeSignature)
        );
    }

    #[test]
    fn another_key_is_named_and_a_classical_one_is_refused() {
        let (key, certificate) = certified(true);
        let signatures = sign_statement(&key, b"statement").unwrap();
        let (other_key, other) = certified(true);
        let found = pin_of(&other);
        let verified = verify_statement(&pin_of(&certificate), &other, b"statement", &signatures);
        assert_eq!(verified.err(), Some(StatementError::OtherKey { found }));
        // The right certificate does not help who cannot sign by its key.
        let forged = sign_statement(&other_key, b"statement").unwrap();
        let verified = verify_statement(&pin_of(&certificate), &certificate, b"statement", &forged);
        assert_eq!(verified.err(), Some(StatementError::NativeSignature));
        let (classical, certificate) = certified(false);
        assert_eq!(
            sign_statement(&classical, b"s").err(),
            Some(StatementError::NotHybrid)
        );
        let verified = verify_statement(&[0; 32], &certificate, b"statement", &signatures);
        assert_eq!(verified.err(), Some(StatementError::NotHybrid));
        let verified = verify_statement(&[0; 32], b"rubbish", b"statement", &signatures);
        assert!(matches!(verified, Err(StatementError::Certificate(_))));
    }
}
