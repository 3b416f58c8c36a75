//! The vault key pair of one server, and wrapping a data key to it.
//!
//! Always: a wrap is a hybrid of X25519 and ML-KEM-768, combined by HKDF-SHA256 over both shared
//! secrets, both ciphertexts and the recipient's public key; breaking one of the two is not
//! enough. Wrapping needs only the public half, so admission never touches a KEK.
//!
//! Not here: who holds the private half and under what (`kek`).

use std::fmt;

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use mintmark_identity::entropy::Entropy;
use mintmark_identity::secret::SecretBytes;
use thiserror::Error;
use zeroize::Zeroizing;

use super::seal::{KEY_BYTES, SealContext, SealError, SealKey};

const X25519_BYTES: usize = 32;
const KEM_PUBLIC_BYTES: usize = 1184;
const KEM_SECRET_BYTES: usize = 2400;
const KEM_CIPHERTEXT_BYTES: usize = 1088;

/// Bytes of a public vault key: X25519, then the ML-KEM-768 encapsulation key.
pub const PUBLIC_BYTES: usize = X25519_BYTES + KEM_PUBLIC_BYTES;

/// First byte of a wrap and of a serialised key pair.
const FORMAT: u8 = 1;
const HKDF_SALT: &[u8] = b"mintmark-wrap-v1\0";
const RECORD_NAME: &str = "data-key";

/// Why a data key could not be wrapped or unwrapped.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum WrapError {
    /// The public vault key has a wrong length or is no point of the curve.
    #[error("the public vault key is malformed")]
    PublicKey,
    /// The private vault key has a wrong length or format.
    #[error("the private vault key is malformed")]
    PrivateKey,
    /// The wrapped bytes have a wrong length or an unknown format.
    #[error("the wrapped data key is malformed")]
    Malformed,
    /// One of the two key exchanges failed.
    #[error("the key exchange failed")]
    Exchange,
    /// The data key does not open: it was wrapped to another server, cluster or version.
    #[error("the wrapped data key is not for this server, cluster and version")]
    NotForUs,
}

/// What a wrapped data key is bound to, beside the recipient's public key.
#[derive(Debug, Clone, Copy)]
pub struct WrapContext<'a> {
    /// 16 bytes that name the cluster.
    pub cluster_id: &'a [u8],
    /// The version of the data key.
    pub version: u32,
}

/// A public vault key, checked.
#[derive(Clone, PartialEq, Eq)]
pub struct VaultPublicKey(Vec<u8>);

impl VaultPublicKey {
    /// Checks length and encoding.
    ///
    /// # Errors
    /// [`WrapError::PublicKey`] when either half cannot be used.
    pub fn parse(bytes: &[u8]) -> Result<Self, WrapError> {
        if bytes.len() != PUBLIC_BYTES {
            return Err(WrapError::PublicKey);
        }
        let (_, kem) = bytes.split_at(X25519_BYTES);
        EncapsulationKey::new(&ML_KEM_768, kem).map_err(|_| WrapError::PublicKey)?;
        Ok(Self(bytes.to_vec()))
    }

    /// The bytes as they stand in the server's record.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Wraps `data_key` so that only the holder of the private half can use it.
    ///
    /// # Errors
    /// [`WrapError::Exchange`] when a key exchange fails.
    pub fn wrap(
        &self,
        context: &WrapContext<'_>,
        data_key: &SealKey,
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, WrapError> {
        let (x25519, kem) = self.0.split_at(X25519_BYTES);
        let ephemeral = PrivateKey::generate(&X25519).map_err(|_| WrapError::Exchange)?;
        let ephemeral_public = ephemeral
            .compute_public_key()
            .map_err(|_| WrapError::Exchange)?;
        let x_secret = exchange(&ephemeral, x25519)?;
        let (ciphertext, kem_secret) = EncapsulationKey::new(&ML_KEM_768, kem)
            .and_then(|key| key.encapsulate().map_err(Into::into))
            .map_err(|_| WrapError::Exchange)?;
        let mut transcript = ephemeral_public.as_ref().to_vec();
        transcript.extend_from_slice(ciphertext.as_ref());
        let key = combine(
            &x_secret,
            kem_secret.as_ref(),
            &transcript,
            &self.0,
            context,
        )?;
        let sealed = key
            .seal(&seal_context(context), data_key.expose(), entropy)
            .map_err(|_| WrapError::Exchange)?;
        let mut out = Vec::with_capacity(1 + transcript.len() + sealed.len());
        out.push(FORMAT);
        out.extend_from_slice(&transcript);
        out.extend_from_slice(&sealed);
        Ok(out)
    }
}

impl fmt::Debug for VaultPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultPublicKey({} bytes)", self.0.len())
    }
}

/// A server's own vault key pair.
pub struct VaultKeyPair {
    x25519: PrivateKey,
    kem: DecapsulationKey,
    /// Everything needed to make the pair again; kept because a KEM key that was
    /// read back cannot tell its public half.
    serialised: SecretBytes,
    public: VaultPublicKey,
}

impl VaultKeyPair {
    /// Makes a fresh pair.
    ///
    /// # Errors
    /// [`WrapError::Exchange`] when the cryptographic library fails.
    pub fn generate() -> Result<Self, WrapError> {
        let x25519 = PrivateKey::generate(&X25519).map_err(|_| WrapError::Exchange)?;
        let kem = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| WrapError::Exchange)?;
        let seed: Curve25519SeedBin<'_> = x25519.as_be_bytes().map_err(|_| WrapError::Exchange)?;
        let kem_secret = kem.key_bytes().map_err(|_| WrapError::Exchange)?;
        let kem_public = kem
            .encapsulation_key()
            .and_then(|key| key.key_bytes())
            .map_err(|_| WrapError::Exchange)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(
            1 + X25519_BYTES + KEM_SECRET_BYTES + KEM_PUBLIC_BYTES,
        ));
        bytes.push(FORMAT);
        bytes.extend_from_slice(seed.as_ref());
        bytes.extend_from_slice(kem_secret.as_ref());
        bytes.extend_from_slice(kem_public.as_ref());
        Self::from_bytes(&bytes)
    }

    /// Reads back what [`VaultKeyPair::to_bytes`] gave.
    ///
    /// # Errors
    /// [`WrapError::PrivateKey`] when format or length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WrapError> {
        let malformed = WrapError::PrivateKey;
        let rest = bytes.strip_prefix(&[FORMAT]).ok_or(malformed)?;
        if rest.len() != X25519_BYTES + KEM_SECRET_BYTES + KEM_PUBLIC_BYTES {
            return Err(malformed);
        }
        let (seed, rest) = rest.split_at(X25519_BYTES);
        let (kem_secret, kem_public) = rest.split_at(KEM_SECRET_BYTES);
        let x25519 = PrivateKey::from_private_key(&X25519, seed).map_err(|_| malformed)?;
        let kem = DecapsulationKey::new(&ML_KEM_768, kem_secret).map_err(|_| malformed)?;
        let mut public = x25519
            .compute_public_key()
            .map_err(|_| malformed)?
            .as_ref()
            .to_vec();
        public.extend_from_slice(kem_public);
        let public = VaultPublicKey::parse(&public).map_err(|_| malformed)?;
        Ok(Self {
            x25519,
            kem,
            serialised: SecretBytes::from(bytes.to_vec()),
            public,
        })
    }

    /// The bytes to seal under the KEK.
    #[must_use]
    pub fn to_bytes(&self) -> &SecretBytes {
        &self.serialised
    }

    /// The half that others wrap to.
    #[must_use]
    pub fn public(&self) -> &VaultPublicKey {
        &self.public
    }

    /// Opens a data key that was wrapped to this pair.
    ///
    /// # Errors
    /// [`WrapError::Malformed`] for bytes of a wrong shape, [`WrapError::NotForUs`] when the
    /// data key was wrapped to another key, cluster or version.
    pub fn unwrap(&self, context: &WrapContext<'_>, wrapped: &[u8]) -> Result<SealKey, WrapError> {
        let rest = wrapped
            .strip_prefix(&[FORMAT])
            .ok_or(WrapError::Malformed)?;
        let exchange_bytes = X25519_BYTES + KEM_CIPHERTEXT_BYTES;
        if rest.len() <= exchange_bytes {
            return Err(WrapError::Malformed);
        }
        let (transcript, sealed) = rest.split_at(exchange_bytes);
        let (ephemeral, ciphertext) = transcript.split_at(X25519_BYTES);
        let x_secret = exchange(&self.x25519, ephemeral)?;
        let kem_secret = self
            .kem
            .decapsulate(Ciphertext::from(ciphertext))
            .map_err(|_| WrapError::Exchange)?;
        let key = combine(
            &x_secret,
            kem_secret.as_ref(),
            transcript,
            self.public.as_bytes(),
            context,
        )?;
        let opened = key
            .open(&seal_context(context), sealed)
            .map_err(|error| match error {
                SealError::NotAuthentic => WrapError::NotForUs,
                SealError::Truncated | SealError::Refused => WrapError::Malformed,
            })?;
        SealKey::from_slice(opened.expose()).ok_or(WrapError::Malformed)
    }
}

impl fmt::Debug for VaultKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VaultKeyPair(..)")
    }
}

fn seal_context<'a>(context: &WrapContext<'a>) -> SealContext<'a> {
    SealContext {
        cluster_id: context.cluster_id,
        version: context.version,
        name: RECORD_NAME,
    }
}

fn exchange(private: &PrivateKey, public: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrapError> {
    agree(
        private,
        UnparsedPublicKey::new(&X25519, public),
        WrapError::Exchange,
        |secret| Ok(Zeroizing::new(secret.to_vec())),
    )
}

struct KeyLength;

impl KeyType for KeyLength {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

/// HKDF-SHA256 over both shared secrets; the transcript and the recipient go into the
/// info, so that the derived key commits to every byte that was exchanged.
fn combine(
    x_secret: &[u8],
    kem_secret: &[u8],
    transcript: &[u8],
    recipient: &[u8],
    context: &WrapContext<'_>,
) -> Result<SealKey, WrapError> {
    let mut secret = Zeroizing::new(Vec::with_capacity(x_secret.len() + kem_secret.len()));
    secret.extend_from_slice(x_secret);
    secret.extend_from_slice(kem_secret);
    let prk = Salt::new(HKDF_SHA256, HKDF_SALT).extract(&secret);
    let version = context.version.to_be_bytes();
    let info = [transcript, recipient, context.cluster_id, &version];
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    prk.expand(&info, KeyLength)
        .and_then(|okm| okm.fill(key.as_mut_slice()))
        .map_err(|_| WrapError::Exchange)?;
    Ok(SealKey::new(*key))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use mintmark_identity::entropy::SeededEntropy;

    use super::*;

    const CONTEXT: WrapContext<'static> = WrapContext {
        cluster_id: &[9; 16],
        version: 1,
    };

    #[test]
    fn a_wrapped_data_key_opens_with_the_private_half() {
        let entropy = SeededEntropy::new(1);
        let pair = VaultKeyPair::generate().unwrap();
        let data_key = SealKey::draw(&entropy);
        let wrapped = pair.public().wrap(&CONTEXT, &data_key, &entropy).unwrap();
        let again = VaultKeyPair::from_bytes(pair.to_bytes().expose()).unwrap();
        assert_eq!(again.public(), pair.public());
        assert_eq!(
            again.unwrap(&CONTEXT, &wrapped).unwrap().expose(),
            data_key.expose()
        );
    }

    #[test]
    fn another_server_cluster_or_version_cannot_open_it() {
        let entropy = SeededEntropy::new(2);
        let pair = VaultKeyPair::generate().unwrap();
        let other = VaultKeyPair::generate().unwrap();
        let wrapped = pair
            .public()
            .wrap(&CONTEXT, &SealKey::draw(&entropy), &entropy)
            .unwrap();
        assert_eq!(
            other.unwrap(&CONTEXT, &wrapped).err(),
            Some(WrapError::NotForUs)
        );
        let version = WrapContext {
            version: 2,
            ..CONTEXT
        };
        assert_eq!(
            pair.unwrap(&version, &wrapped).err(),
            Some(WrapError::NotForUs)
        );
        let cluster = WrapContext {
            cluster_id: &[8; 16],
            ..CONTEXT
        };
        assert_eq!(
            pair.unwrap(&cluster, &wrapped).err(),
            Some(WrapError::NotForUs)
        );
    }

    #[test]
    fn changed_wraps_are_refused_in_both_halves_of_the_exchange() {
        let entropy = SeededEntropy::new(3);
        let pair = VaultKeyPair::generate().unwrap();
        let wrapped = pair
            .public()
            .wrap(&CONTEXT, &SealKey::draw(&entropy), &entropy)
            .unwrap();
        for index in [1, 1 + X25519_BYTES, 1 + X25519_BYTES + KEM_CIPHERTEXT_BYTES] {
            let mut changed = wrapped.clone();
            changed[index] ^= 1;
            assert!(pair.unwrap(&CONTEXT, &changed).is_err(), "byte {index}");
        }
        assert_eq!(pair.unwrap(&CONTEXT, &[]).err(), Some(WrapError::Malformed));
        assert_eq!(
            pair.unwrap(&CONTEXT, &wrapped[..100]).err(),
            Some(WrapError::Malformed)
        );
        let mut format = wrapped;
        format[0] = 2;
        assert_eq!(
            pair.unwrap(&CONTEXT, &format).err(),
            Some(WrapError::Malformed)
        );
    }

    #[test]
    fn malformed_keys_are_refused() {
        assert_eq!(
            VaultPublicKey::parse(&[1; 31]).err(),
            Some(WrapError::PublicKey)
        );
        assert!(VaultKeyPair::from_bytes(&[1; 100]).is_err());
        assert!(VaultKeyPair::from_bytes(&[]).is_err());
    }
}
