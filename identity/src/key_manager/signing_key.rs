//! Software keys.
//!
//! Responsible for: [`SigningKey`], a private key held in memory.
//! Always holds: nothing of the private half is printed, and copies of it that leave are wiped
//! when dropped; the library wipes its own.
//! Not here: who may use the key, and where it is kept.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, ML_DSA_65_SIGNING, PqdsaKeyPair,
};
use der::asn1::UintRef;
use der::{Decode as _, Reader as _, SliceReader};
use zeroize::Zeroizing;

use super::{KeyAlgorithm, KeyError, PublicKey};

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    MlDsa(PqdsaKeyPair),
}

/// A private key in memory.
pub struct SigningKey {
    algorithm: KeyAlgorithm,
    pair: Pair,
    spki: Vec<u8>,
}

impl SigningKey {
    /// Makes a key from the randomness of the cryptographic library.
    ///
    /// # Errors
    /// [`KeyError::Failed`] if the library has none.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Failed("key generation".to_owned());
        let pair = match (ecdsa_signing(algorithm), algorithm) {
            (Some(kind), _) => Pair::Ecdsa(EcdsaKeyPair::generate(kind).map_err(failed)?),
            (None, KeyAlgorithm::Ed25519) => {
                Pair::Ed25519(Ed25519KeyPair::generate().map_err(failed)?)
            }
            (None, _) => Pair::MlDsa(PqdsaKeyPair::generate(&ML_DSA_65_SIGNING).map_err(failed)?),
        };
        Self::new(algorithm, pair)
    }

    /// Reads a key of a known kind from PKCS#8.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] if the bytes are not exactly such a key.
    pub fn from_pkcs8(algorithm: KeyAlgorithm, pkcs8: &[u8]) -> Result<Self, KeyError> {
        // The library stops reading at the end of the structure, whatever follows it.
        der::asn1::AnyRef::from_der(pkcs8).map_err(|_| KeyError::Malformed)?;
        let malformed = |_| KeyError::Malformed;
        let pair = match (ecdsa_signing(algorithm), algorithm) {
            (Some(kind), _) => {
                Pair::Ecdsa(EcdsaKeyPair::from_pkcs8(kind, pkcs8).map_err(malformed)?)
            }
            (None, KeyAlgorithm::Ed25519) => {
                Pair::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(malformed)?)
            }
            (None, _) => {
                Pair::MlDsa(PqdsaKeyPair::from_pkcs8(&ML_DSA_65_SIGNING, pkcs8).map_err(malformed)?)
            }
        };
        Self::new(algorithm, pair)
    }

    /// Reads a key whose kind its PKCS#8 structure tells.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] if the bytes are not exactly one key of a kind that we make.
    pub fn from_any_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        KeyAlgorithm::ALL
            .into_iter()
            .find_map(|kind| Self::from_pkcs8(kind, pkcs8).ok())
            .ok_or(KeyError::Malformed)
    }

    /// Derives an ML-DSA-65 key from its seed (FIPS 204 section 6.1).
    ///
    /// # Errors
    /// [`KeyError::Malformed`] unless the seed has 32 bytes.
    pub fn from_ml_dsa_seed(seed: &[u8]) -> Result<Self, KeyError> {
        let pair = PqdsaKeyPair::from_seed(&ML_DSA_65_SIGNING, seed);
        Self::new(
            KeyAlgorithm::MlDsa65,
            Pair::MlDsa(pair.map_err(|_| KeyError::Malformed)?),
        )
    }

    fn new(algorithm: KeyAlgorithm, pair: Pair) -> Result<Self, KeyError> {
        let spki: Result<PublicKeyX509Der<'_>, _> = match &pair {
            Pair::Ecdsa(pair) => pair.public_key().as_der(),
            Pair::Ed25519(pair) => pair.public_key().as_der(),
            Pair::MlDsa(pair) => pair.public_key().as_der(),
        };
        let spki = spki.map_err(|_| KeyError::Failed("public key".to_owned()))?;
        let spki = spki.as_ref().to_vec();
        Ok(Self {
            algorithm,
            pair,
            spki,
        })
    }

    /// The key in PKCS#8; an ML-DSA key in its seed form (RFC 9881 section 6).
    ///
    /// # Errors
    /// [`KeyError::Failed`].
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let document = match &self.pair {
            Pair::Ecdsa(pair) => pair.to_pkcs8v1(),
            Pair::Ed25519(pair) => pair.to_pkcs8v1(),
            Pair::MlDsa(pair) => pair.to_pkcs8v1(),
        };
        let document = document.map_err(|_| KeyError::Failed("export".to_owned()))?;
        Ok(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// What kind of key this is.
    #[must_use]
    pub const fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The public half as a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// The public half as the bits inside the SubjectPublicKeyInfo.
    #[must_use]
    pub fn raw_public_key(&self) -> &[u8] {
        match &self.pair {
            Pair::Ecdsa(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
            Pair::MlDsa(pair) => pair.public_key().as_ref(),
        }
    }

    /// The public half with its kind.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey {
            algorithm: self.algorithm,
            spki: self.spki.clone(),
        }
    }

    /// Signs `message`; ECDSA signatures are in ASN.1, as in certificates.
    ///
    /// # Errors
    /// [`KeyError::Failed`] if the library fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |_| KeyError::Failed("signing".to_owned());
        match &self.pair {
            Pair::Ecdsa(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message).map_err(failed)?;
                Ok(signature.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Ok(pair.try_sign(message).map_err(failed)?.as_ref().to_vec()),
            Pair::MlDsa(pair) => {
                let mut signature = vec![0; pair.algorithm().signature_len()];
                let length = pair.sign(message, &mut signature).map_err(failed)?;
                signature.truncate(length);
                Ok(signature)
            }
        }
    }

    /// Signs `message` in the form that JOSE uses: ECDSA as r and s of fixed length, one after
    /// the other (RFC 7518 section 3.4).
    ///
    /// # Errors
    /// [`KeyError::Failed`] if the library fails.
    pub fn sign_jws(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self.sign(message)?;
        let half = match self.algorithm {
            KeyAlgorithm::EcP256 => 32,
            KeyAlgorithm::EcP384 => 48,
            KeyAlgorithm::Ed25519 | KeyAlgorithm::MlDsa65 => return Ok(signature),
        };
        fixed_length(&signature, half)
            .ok_or_else(|| KeyError::Failed("signature encoding".to_owned()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = hex::encode(super::spki_sha256(&self.spki));
        write!(
            f,
            "SigningKey({}, public half sha256:{public})",
            self.algorithm
        )
    }
}

const fn ecdsa_signing(algorithm: KeyAlgorithm) -> Option<&'static EcdsaSigningAlgorithm> {
    match algorithm {
        KeyAlgorithm::EcP256 => Some(&ECDSA_P256_SHA256_ASN1_SIGNING),
        KeyAlgorithm::EcP384 => Some(&ECDSA_P384_SHA384_ASN1_SIGNING),
        KeyAlgorithm::Ed25519 | KeyAlgorithm::MlDsa65 => None,
    }
}

/// Turns the ASN.1 form of an ECDSA signature into r || s, each padded to `half` bytes.
fn fixed_length(signature: &[u8], half: usize) -> Option<Vec<u8>> {
    let mut reader = SliceReader::new(signature).ok()?;
    let parts: Result<[UintRef<'_>; 2], der::Error> =
        reader.sequence(|reader| Ok([reader.decode()?, reader.decode()?]));
    let mut out = Vec::with_capacity(half.checked_mul(2)?);
    for part in parts.ok()? {
        let bytes = part.as_bytes();
        out.resize(out.len().checked_add(half.checked_sub(bytes.len())?)?, 0);
        out.extend_from_slice(bytes);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;
    use crate::key_manager::verify_signature;

    #[test]
    fn pkcs8_round_trip_keeps_the_key() {
        for kind in KeyAlgorithm::ALL {
            let key = SigningKey::generate(kind).unwrap();
            let pkcs8 = key.to_pkcs8().unwrap();
            let again = SigningKey::from_any_pkcs8(&pkcs8).unwrap();
            assert_eq!(again.algorithm(), kind);
            assert_eq!(again.spki_der(), key.spki_der());
            let signature = again.sign(b"m").unwrap();
            assert_eq!(verify_signature(key.spki_der(), b"m", &signature), Ok(()));
        }
    }

    #[test]
    fn keys_of_another_kind_and_bytes_behind_a_key_are_refused() {
        let key = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        let pkcs8 = key.to_pkcs8().unwrap();
        for kind in [
            KeyAlgorithm::EcP384,
            KeyAlgorithm::Ed25519,
            KeyAlgorithm::MlDsa65,
        ] {
            assert!(SigningKey::from_pkcs8(kind, &pkcs8).is_err(), "{kind}");
        }
        let mut longer = pkcs8.to_vec();
        longer.push(0);
        assert!(SigningKey::from_pkcs8(KeyAlgorithm::EcP256, &longer).is_err());
        assert!(SigningKey::from_any_pkcs8(b"").is_err());
    }

    #[test]
    fn an_ml_dsa_key_is_its_seed() {
        let key = SigningKey::from_ml_dsa_seed(&[7; 32]).unwrap();
        let again = SigningKey::from_ml_dsa_seed(&[7; 32]).unwrap();
        assert_eq!(key.raw_public_key(), again.raw_public_key());
        assert_eq!(key.to_pkcs8().unwrap().len(), 54, "seed form");
        assert!(SigningKey::from_ml_dsa_seed(&[7; 31]).is_err());
        assert!(SigningKey::from_ml_dsa_seed(&[7; 33]).is_err());
    }

    #[test]
    fn ml_dsa_signatures_are_hedged() {
        let key = SigningKey::from_ml_dsa_seed(&[7; 32]).unwrap();
        assert_ne!(key.sign(b"m").unwrap(), key.sign(b"m").unwrap());
    }

    #[test]
    fn jose_signatures_have_fixed_length_and_verify() {
        let key = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.raw_public_key());
        // Every 256th r or s is shorter than 32 bytes and needs padding.
        for round in 0..600_u32 {
            let message = round.to_be_bytes();
            let signature = key.sign_jws(&message).unwrap();
            assert_eq!(signature.len(), 64);
            assert!(public.verify(&message, &signature).is_ok());
        }
    }

    #[test]
    fn debug_shows_only_the_public_half() {
        let key = SigningKey::from_ml_dsa_seed(&[0x5a; 32]).unwrap();
        let text = format!("{key:?}");
        assert!(
            text.starts_with("SigningKey(ml-dsa-65, public half sha256:"),
            "{text}"
        );
        assert!(!text.contains("5a5a5a"), "{text}");
    }
}
