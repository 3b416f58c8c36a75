//! The seam through which signing keys are used.
//!
//! Responsible for: [`KeyManager`], who keeps named keys and signs with them; the words that go
//! with it: [`KeyAlgorithm`], [`KeyName`], [`PublicKey`]; and [`verify_signature`].
//! Always holds: a key name is given out once, so generating never replaces a key that
//! something still depends on.
//! Not here: which key is used when (`rotation`, the state machine), and sealing keys at rest.

pub mod memory;
mod signing_key;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;

use rustls_pki_types::SignatureVerificationAlgorithm;
use sha2::{Digest as _, Sha256};

use crate::svid::x509::structure::PublicKeyParts;

pub use signing_key::SigningKey;

/// A future of a [`KeyManager`], boxed so that the trait stays object-safe.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The longest name of a key in bytes; cloud key services take at least this much.
pub const KEY_NAME_MAX: usize = 128;

/// The kinds of keys that we make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256 with SHA-256, the default everywhere.
    EcP256,
    /// ECDSA on P-384 with SHA-384.
    EcP384,
    /// Ed25519, for log checkpoints.
    Ed25519,
    /// ML-DSA-65 (FIPS 204), pure, with an empty context.
    MlDsa65,
}

impl KeyAlgorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::EcP256, Self::EcP384, Self::Ed25519, Self::MlDsa65];

    /// The name used in configuration and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256",
            Self::EcP384 => "ec-p384",
            Self::Ed25519 => "ed25519",
            Self::MlDsa65 => "ml-dsa-65",
        }
    }

    /// How signatures of this kind are made and verified.
    #[must_use]
    pub fn verification(self) -> &'static dyn SignatureVerificationAlgorithm {
        match self {
            Self::EcP256 => webpki::aws_lc_rs::ECDSA_P256_SHA256,
            Self::EcP384 => webpki::aws_lc_rs::ECDSA_P384_SHA384,
            Self::Ed25519 => webpki::aws_lc_rs::ED25519,
            Self::MlDsa65 => webpki::aws_lc_rs::ML_DSA_65,
        }
    }

    /// The kind of key that a DER SubjectPublicKeyInfo holds; `None` if it is not one of ours.
    #[must_use]
    pub fn of_spki(spki: &[u8]) -> Option<Self> {
        let parts = PublicKeyParts::parse(spki).ok()?;
        Self::ALL
            .into_iter()
            .find(|kind| parts.has_algorithm(&kind.verification().public_key_alg_id()))
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KeyAlgorithm {
    type Err = KeyError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or(KeyError::UnknownAlgorithm)
    }
}

/// The name of a key inside a [`KeyManager`]: 1 to 128 bytes of `A-Za-z0-9.-_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl KeyName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`KeyError::BadName`].
    pub fn parse(name: &str) -> Result<Self, KeyError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > KEY_NAME_MAX || !name.bytes().all(allowed) {
            return Err(KeyError::BadName);
        }
        Ok(Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyName({self})")
    }
}

/// The public half of a managed key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// What kind of key it is.
    pub algorithm: KeyAlgorithm,
    /// The key as a DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
}

/// Why a key could not be made, found or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No key has this name.
    #[error("there is no key of this name")]
    NotFound,
    /// A key of this name exists; it is never replaced.
    #[error("a key of this name exists already")]
    Exists,
    /// The manager cannot do this: a hardware module does not export, an old one has no ML-DSA.
    #[error("the key manager does not support this operation")]
    Unsupported,
    /// A name is empty, too long, or has a character that is not allowed.
    #[error("key name must be 1 to 128 characters of A-Z, a-z, 0-9, '.', '-' and '_'")]
    BadName,
    /// No kind of key is called so.
    #[error("unknown key algorithm; use ec-p256, ec-p384, ed25519 or ml-dsa-65")]
    UnknownAlgorithm,
    /// The bytes are not a private key of the expected kind.
    #[error("private key is malformed or of another kind")]
    Malformed,
    /// The cryptographic library or the device failed.
    #[error("key operation failed: {0}")]
    Failed(String),
}

/// Keeps named signing keys and signs with them; the private half need never leave it.
///
/// An implementation passes [`crate::testing::check_key_manager`].
pub trait KeyManager: Send + Sync + fmt::Debug {
    /// Makes a key and keeps it under `name`.
    ///
    /// # Errors
    /// [`KeyError::Exists`] if the name is taken, [`KeyError::Unsupported`] for a kind that the
    /// manager cannot make.
    fn generate<'a>(
        &'a self,
        name: &'a KeyName,
        algorithm: KeyAlgorithm,
    ) -> BoxFuture<'a, Result<PublicKey, KeyError>>;

    /// The public half of a key.
    ///
    /// # Errors
    /// [`KeyError::NotFound`].
    fn public_key<'a>(&'a self, name: &'a KeyName) -> BoxFuture<'a, Result<PublicKey, KeyError>>;

    /// Signs `message`; ECDSA signatures are in ASN.1, as in certificates.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], or [`KeyError::Failed`].
    fn sign<'a>(
        &'a self,
        name: &'a KeyName,
        message: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, KeyError>>;

    /// Forgets a key. Forgetting what does not exist is a success.
    ///
    /// # Errors
    /// [`KeyError::Failed`].
    fn remove<'a>(&'a self, name: &'a KeyName) -> BoxFuture<'a, Result<(), KeyError>>;

    /// Takes a key that was made elsewhere.
    ///
    /// # Errors
    /// [`KeyError::Exists`], or [`KeyError::Unsupported`] where keys only ever stay inside.
    fn import<'a>(
        &'a self,
        _name: &'a KeyName,
        _key: SigningKey,
    ) -> BoxFuture<'a, Result<PublicKey, KeyError>> {
        Box::pin(std::future::ready(Err(KeyError::Unsupported)))
    }

    /// Hands out a copy of a key.
    ///
    /// # Errors
    /// [`KeyError::NotFound`], or [`KeyError::Unsupported`] where keys never leave.
    fn export<'a>(&'a self, _name: &'a KeyName) -> BoxFuture<'a, Result<SigningKey, KeyError>> {
        Box::pin(std::future::ready(Err(KeyError::Unsupported)))
    }
}

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// The public key is malformed or not of a kind that we make.
    #[error("public key is malformed or of an unknown kind")]
    PublicKey,
    /// The key did not make this signature over this message.
    #[error("signature does not match")]
    Mismatch,
}

/// Verifies what [`SigningKey::sign`] made. `spki` is a DER SubjectPublicKeyInfo.
///
/// # Errors
/// See [`SignatureError`].
pub fn verify_signature(
    spki: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), SignatureError> {
    let kind = KeyAlgorithm::of_spki(spki).ok_or(SignatureError::PublicKey)?;
    let key = PublicKeyParts::parse(spki).map_err(|_| SignatureError::PublicKey)?;
    kind.verification()
        .verify_signature(key.key, message, signature)
        .map_err(|_| SignatureError::Mismatch)
}

/// SHA-256 of a DER SubjectPublicKeyInfo: how keys are named in records and logs.
#[must_use]
pub fn spki_sha256(spki: &[u8]) -> [u8; 32] {
    Sha256::digest(spki).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_file_system_or_cloud_would_trip_over_are_refused() {
        for name in ["", "a/b", "a b", "ä", "a:b", &"x".repeat(129)] {
            assert_eq!(KeyName::parse(name), Err(KeyError::BadName), "{name:?}");
        }
        assert_eq!(
            KeyName::parse("x509-authority.1_a").unwrap().as_str(),
            "x509-authority.1_a"
        );
    }

    #[test]
    fn algorithms_are_read_back_from_their_names_and_their_keys() {
        for kind in KeyAlgorithm::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            let key = SigningKey::generate(kind).unwrap();
            assert_eq!(KeyAlgorithm::of_spki(key.spki_der()), Some(kind));
        }
        assert_eq!(
            "rsa".parse::<KeyAlgorithm>(),
            Err(KeyError::UnknownAlgorithm)
        );
        assert_eq!(KeyAlgorithm::of_spki(b"\x30\x00"), None);
    }

    #[test]
    fn a_signature_counts_only_for_its_key_message_and_bytes() {
        for kind in KeyAlgorithm::ALL {
            let key = SigningKey::generate(kind).unwrap();
            let other = SigningKey::generate(kind).unwrap();
            let mut signature = key.sign(b"message").unwrap();
            assert_eq!(
                verify_signature(key.spki_der(), b"message", &signature),
                Ok(())
            );
            let mismatch = Err(SignatureError::Mismatch);
            assert_eq!(
                verify_signature(key.spki_der(), b"massage", &signature),
                mismatch
            );
            assert_eq!(
                verify_signature(other.spki_der(), b"message", &signature),
                mismatch
            );
            let last = signature.len() - 1;
            signature[last] ^= 1;
            assert_eq!(
                verify_signature(key.spki_der(), b"message", &signature),
                mismatch
            );
            assert_eq!(
                verify_signature(&key.spki_der()[1..], b"message", &signature),
                Err(SignatureError::PublicKey)
            );
        }
    }
}
