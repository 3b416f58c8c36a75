//! Authenticated encryption of one record under one key: AES-256-GCM with a drawn nonce.
//!
//! Always: what a record is called, which cluster it belongs to and which version of the key
//! sealed it are bound into the ciphertext, so that no sealed record can stand in for another.
//! A sealed record is `nonce (12) || ciphertext || tag (16)`.
//!
//! Not here: where keys come from (`kek`, `wrap`), where sealed records are kept (the state).

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use mintmark_identity::entropy::{Entropy, draw_bytes};
use mintmark_identity::secret::SecretBytes;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of a key of AES-256-GCM.
pub const KEY_BYTES: usize = 32;

/// Domain of the associated data, so that a sealed record never opens in another role.
const CONTEXT: &[u8] = b"mintmark-vault-v1\0";

/// Why bytes could not be sealed or opened.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum SealError {
    /// The bytes are too short to be a sealed record.
    #[error("a sealed record is shorter than a nonce and a tag")]
    Truncated,
    /// The tag did not verify: wrong key, wrong record, or changed bytes.
    #[error("a sealed record does not open with this key under this name")]
    NotAuthentic,
    /// The cipher refused to encrypt.
    #[error("the cipher refused to seal")]
    Refused,
}

/// What a sealed record is bound to.
#[derive(Debug, Clone, Copy)]
pub struct SealContext<'a> {
    /// 16 bytes that name the cluster; empty for records that precede it.
    pub cluster_id: &'a [u8],
    /// Version of the key that seals.
    pub version: u32,
    /// Name of the record.
    pub name: &'a str,
}

impl SealContext<'_> {
    /// Length-prefixed, so that no two contexts have the same bytes.
    fn associated_data(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CONTEXT.len() + 16 + 8 + self.name.len());
        out.extend_from_slice(CONTEXT);
        out.extend_from_slice(&(self.cluster_id.len() as u64).to_be_bytes());
        out.extend_from_slice(self.cluster_id);
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(self.name.as_bytes());
        out
    }
}

/// A key that seals records.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; KEY_BYTES]>);

impl SealKey {
    /// Takes the key's bytes.
    #[must_use]
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Takes the key's bytes from a slice of exactly [`KEY_BYTES`].
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::new)
    }

    /// Draws a fresh key.
    #[must_use]
    pub fn draw(entropy: &dyn Entropy) -> Self {
        Self(Zeroizing::new(draw_bytes::<KEY_BYTES>(entropy)))
    }

    /// The key's bytes, to be wrapped or derived from.
    #[must_use]
    pub fn expose(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Encrypts `plaintext` for `context`.
    ///
    /// # Errors
    /// [`SealError::Refused`] when the cipher fails, which it does only for absurd lengths.
    pub fn seal(
        &self,
        context: &SealContext<'_>,
        plaintext: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, SealError> {
        let nonce = draw_bytes::<NONCE_LEN>(entropy);
        let mut body = Zeroizing::new(plaintext.to_vec());
        let tag = self
            .cipher()?
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(context.associated_data()),
                body.as_mut_slice(),
            )
            .map_err(|_| SealError::Refused)?;
        let mut out = Vec::with_capacity(NONCE_LEN + body.len() + tag.as_ref().len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&body);
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }

    /// Decrypts what [`SealKey::seal`] made for the same `context`.
    ///
    /// # Errors
    /// [`SealError::Truncated`] for bytes that cannot be a record,
    /// [`SealError::NotAuthentic`] for a wrong key, another context or changed bytes.
    pub fn open(&self, context: &SealContext<'_>, sealed: &[u8]) -> Result<SecretBytes, SealError> {
        if sealed.len() < NONCE_LEN + AES_256_GCM.tag_len() {
            return Err(SealError::Truncated);
        }
        let (nonce, body) = sealed.split_at(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Truncated)?;
        let mut body = Zeroizing::new(body.to_vec());
        let plain = self
            .cipher()?
            .open_in_place(nonce, Aad::from(context.associated_data()), &mut body)
            .map_err(|_| SealError::NotAuthentic)?;
        Ok(SecretBytes::from(plain.to_vec()))
    }

    fn cipher(&self) -> Result<LessSafeKey, SealError> {
        let key =
            UnboundKey::new(&AES_256_GCM, self.0.as_slice()).map_err(|_| SealError::Refused)?;
        Ok(LessSafeKey::new(key))
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use mintmark_identity::entropy::SeededEntropy;

    use super::*;

    fn context(name: &str) -> SealContext<'_> {
        SealContext {
            cluster_id: &[7; 16],
            version: 3,
            name,
        }
    }

    #[test]
    fn what_was_sealed_opens_under_the_same_name() {
        let entropy = SeededEntropy::new(1);
        let key = SealKey::draw(&entropy);
        let sealed = key.seal(&context("a"), b"secret", &entropy).unwrap();
        assert_eq!(
            key.open(&context("a"), &sealed).unwrap().expose(),
            b"secret"
        );
    }

    #[test]
    fn a_record_does_not_open_as_another_record() {
        let entropy = SeededEntropy::new(2);
        let key = SealKey::draw(&entropy);
        let sealed = key.seal(&context("a"), b"secret", &entropy).unwrap();
        let others = [
            context("b"),
            SealContext {
                version: 4,
                ..context("a")
            },
            SealContext {
                cluster_id: &[8; 16],
                ..context("a")
            },
        ];
        for other in others {
            assert_eq!(
                key.open(&other, &sealed).err(),
                Some(SealError::NotAuthentic)
            );
        }
    }

    #[test]
    fn a_changed_or_short_record_does_not_open() {
        let entropy = SeededEntropy::new(3);
        let key = SealKey::draw(&entropy);
        let sealed = key.seal(&context("a"), b"secret", &entropy).unwrap();
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert_eq!(
                key.open(&context("a"), &changed).err(),
                Some(SealError::NotAuthentic)
            );
        }
        assert_eq!(
            key.open(&context("a"), &sealed[..27]).err(),
            Some(SealError::Truncated)
        );
    }

    #[test]
    fn debug_shows_no_key() {
        let key = SealKey::new([0x41; KEY_BYTES]);
        assert_eq!(format!("{key:?}"), "SealKey(..)");
    }
}
