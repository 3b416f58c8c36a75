//! The keys of an authority.
//!
//! Responsible for: [`AuthorityKey`], what an X.509 authority or the trust domain itself signs
//! with, and its form for sealing.
//! Always holds: with hybrid signatures the P-256 and the ML-DSA-65 key are one thing: made,
//! sealed, activated, tainted and dropped together, and used for nothing else.
//! Not here: the certificate that goes with the keys (`svid::x509::authority`), sealing itself,
//! and the life of authorities (the replicated state).

use zeroize::Zeroizing;

use crate::key_manager::{KeyAlgorithm, KeyError, SigningKey};

/// The form of [`AuthorityKey::to_bytes`] that this version writes.
const FORM: u8 = 1;

/// A P-256 key and, with hybrid signatures, the ML-DSA-65 key that belongs to it.
#[derive(Debug)]
pub struct AuthorityKey {
    native: SigningKey,
    alternative: Option<SigningKey>,
}

impl AuthorityKey {
    /// Makes a key, or the pair for `hybrid` signatures.
    ///
    /// # Errors
    /// [`KeyError::Failed`] if the cryptographic library has no randomness.
    pub fn generate(hybrid: bool) -> Result<Self, KeyError> {
        let alternative = if hybrid {
            Some(SigningKey::generate(KeyAlgorithm::MlDsa65)?)
        } else {
            None
        };
        Ok(Self {
            native: SigningKey::generate(KeyAlgorithm::EcP256)?,
            alternative,
        })
    }

    /// Puts together what was made or kept apart.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] unless the keys are P-256 and ML-DSA-65.
    pub fn from_keys(
        native: SigningKey,
        alternative: Option<SigningKey>,
    ) -> Result<Self, KeyError> {
        let alternative_fits = alternative
            .as_ref()
            .is_none_or(|key| key.algorithm() == KeyAlgorithm::MlDsa65);
        if native.algorithm() != KeyAlgorithm::EcP256 || !alternative_fits {
            return Err(KeyError::Malformed);
        }
        Ok(Self {
            native,
            alternative,
        })
    }

    /// The key whose signatures every verifier understands.
    #[must_use]
    pub const fn native(&self) -> &SigningKey {
        &self.native
    }

    /// The key of the alternative signatures, with hybrid signatures.
    #[must_use]
    pub const fn alternative(&self) -> Option<&SigningKey> {
        self.alternative.as_ref()
    }

    /// Whether signatures are hybrid.
    #[must_use]
    pub const fn is_hybrid(&self) -> bool {
        self.alternative.is_some()
    }

    /// Both keys as bytes, to be sealed: a version, then each key as PKCS#8 behind its length in
    /// two bytes, big-endian.
    ///
    /// # Errors
    /// [`KeyError::Failed`].
    pub fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let mut bytes = Zeroizing::new(vec![FORM]);
        for key in std::iter::once(&self.native).chain(&self.alternative) {
            let pkcs8 = key.to_pkcs8()?;
            let length = u16::try_from(pkcs8.len());
            let length = length.map_err(|_| KeyError::Failed("key is too long".to_owned()))?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&pkcs8);
        }
        Ok(bytes)
    }

    /// Reads what [`AuthorityKey::to_bytes`] wrote, in any version so far.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let Some((&FORM, mut rest)) = bytes.split_first() else {
            return Err(KeyError::Malformed);
        };
        let native = SigningKey::from_pkcs8(KeyAlgorithm::EcP256, take(&mut rest)?)?;
        let alternative = if rest.is_empty() {
            None
        } else {
            Some(SigningKey::from_pkcs8(
                KeyAlgorithm::MlDsa65,
                take(&mut rest)?,
            )?)
        };
        if rest.is_empty() {
            Ok(Self {
                native,
                alternative,
            })
        } else {
            Err(KeyError::Malformed)
        }
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], KeyError> {
    let (length, behind) = rest.split_first_chunk().ok_or(KeyError::Malformed)?;
    let length = usize::from(u16::from_be_bytes(*length));
    let (key, behind) = behind.split_at_checked(length).ok_or(KeyError::Malformed)?;
    *rest = behind;
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn bytes_hold_both_halves() {
        for hybrid in [false, true] {
            let key = AuthorityKey::generate(hybrid).unwrap();
            let again = AuthorityKey::from_bytes(&key.to_bytes().unwrap()).unwrap();
            assert_eq!(again.is_hybrid(), hybrid);
            assert_eq!(again.native().spki_der(), key.native().spki_der());
            assert_eq!(
                again.alternative().map(SigningKey::spki_der),
                key.alternative().map(SigningKey::spki_der)
            );
        }
    }

    #[test]
    fn other_versions_cut_and_longer_bytes_are_refused() {
        let bytes = AuthorityKey::generate(true).unwrap().to_bytes().unwrap();
        for end in 0..bytes.len() {
            let cut = AuthorityKey::from_bytes(&bytes[..end]);
            // Cut exactly between the halves, it is a key without an alternative: sealing
            // detects that.
            assert!(
                cut.is_err() || cut.is_ok_and(|key| !key.is_hybrid()),
                "{end}"
            );
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(AuthorityKey::from_bytes(&longer).is_err());
        let mut newer = bytes.to_vec();
        newer[0] = FORM + 1;
        assert!(AuthorityKey::from_bytes(&newer).is_err());
    }

    #[test]
    fn only_p256_and_ml_dsa_65_make_a_pair() {
        let key = |kind| SigningKey::generate(kind).unwrap();
        let p256 = KeyAlgorithm::EcP256;
        assert!(AuthorityKey::from_keys(key(p256), None).is_ok());
        assert!(AuthorityKey::from_keys(key(p256), Some(key(KeyAlgorithm::MlDsa65))).is_ok());
        assert!(AuthorityKey::from_keys(key(KeyAlgorithm::EcP384), None).is_err());
        assert!(AuthorityKey::from_keys(key(p256), Some(key(p256))).is_err());
    }
}
