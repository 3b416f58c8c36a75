//! JSON Web Signatures, as far as SPIFFE uses them.
//!
//! Responsible for: the nine signature algorithms that JWT-SVID section 2.1 allows, and the
//! compact serialisation.
//! Always holds: an algorithm is used only with a key of the kind that it names, so a token
//! cannot choose how its own key is understood; nothing is parsed leniently.
//! Not here: claims (`svid::jwt`), and headers that would fetch or carry a key (`jku`, `jwk`,
//! `x5u`, `x5c`): they are never acted on.

pub mod jwk;

use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use self::jwk::{Curve, Jwk};
use crate::json::{JsonError, Object};

/// A signature algorithm of JWT-SVID section 2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JwsAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
}

/// The signature does not belong to the message and the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwsError {
    /// The key is of another kind than the algorithm needs.
    #[error("key is not of the kind that {} needs", .algorithm.name())]
    KeyMismatch {
        /// The algorithm named.
        algorithm: JwsAlgorithm,
    },
    /// The signature is not the key's over this message.
    #[error("signature does not verify")]
    Signature,
}

impl JwsAlgorithm {
    /// All of them, in the order of the specification.
    pub const ALL: [Self; 9] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
    ];

    /// The algorithm with this registered name; case matters.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// The registered name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
        }
    }

    /// The algorithm in which a key signs tokens: the one of its curve, RS256 for RSA; none for
    /// a key that JWT-SVID has no algorithm for, such as Ed25519.
    #[must_use]
    pub const fn for_key(key: &Jwk) -> Option<Self> {
        match key.curve() {
            Some(Curve::P256) => Some(Self::Es256),
            Some(Curve::P384) => Some(Self::Es384),
            Some(Curve::P521) => Some(Self::Es512),
            None if key.is_rsa() => Some(Self::Rs256),
            None => None,
        }
    }

    const fn curve(self) -> Option<Curve> {
        match self {
            Self::Es256 => Some(Curve::P256),
            Self::Es384 => Some(Curve::P384),
            Self::Es512 => Some(Curve::P521),
            _ => None,
        }
    }

    fn verifier(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        }
    }

    /// Checks a JWS signature (for ECDSA `r || s`) by the key in `spki`.
    ///
    /// # Errors
    /// [`JwsError::KeyMismatch`] when the key is of another kind than the algorithm's,
    /// [`JwsError::Signature`] when the signature is not good.
    pub fn verify(self, spki: &[u8], message: &[u8], signature: &[u8]) -> Result<(), JwsError> {
        let mismatch = JwsError::KeyMismatch { algorithm: self };
        let key = Jwk::from_spki(spki).map_err(|_| mismatch)?;
        let fits = match self.curve() {
            Some(curve) => key.curve() == Some(curve),
            None => key.is_rsa(),
        };
        if !fits {
            return Err(mismatch);
        }
        UnparsedPublicKey::new(self.verifier(), spki)
            .verify(message, signature)
            .map_err(|_| JwsError::Signature)
    }
}

/// Why a text is not a JWS in compact serialisation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompactError {
    #[error("not three base64url parts joined by dots")]
    Shape,
    #[error("{part} is not base64url without padding")]
    Encoding { part: &'static str },
    #[error("{part} is not a JSON object without duplicate names")]
    Json {
        part: &'static str,
        #[source]
        source: JsonError,
    },
}

/// A JWS taken apart but not verified; the parts are decoded when they are asked for.
#[derive(Debug)]
pub(crate) struct CompactJws<'a> {
    signing_input: &'a str,
    header: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> CompactJws<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, CompactError> {
        let (signing_input, signature) = text.rsplit_once('.').ok_or(CompactError::Shape)?;
        let (header, payload) = signing_input.split_once('.').ok_or(CompactError::Shape)?;
        let parts = [header, payload, signature];
        if parts
            .iter()
            .any(|part| part.is_empty() || part.contains('.'))
        {
            return Err(CompactError::Shape);
        }
        Ok(Self {
            signing_input,
            header,
            payload,
            signature,
        })
    }

    /// The bytes that the signature covers.
    pub(crate) const fn signing_input(&self) -> &'a [u8] {
        self.signing_input.as_bytes()
    }

    pub(crate) fn header(&self) -> Result<Object, CompactError> {
        object("header", self.header)
    }

    pub(crate) fn payload(&self) -> Result<Object, CompactError> {
        object("payload", self.payload)
    }

    pub(crate) fn signature(&self) -> Result<Vec<u8>, CompactError> {
        decode("signature", self.signature)
    }
}

/// base64url without padding, and without stray bits in the last character: a token has one
/// spelling only.
fn decode(part: &'static str, text: &str) -> Result<Vec<u8>, CompactError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| CompactError::Encoding { part })
}

fn object(part: &'static str, text: &str) -> Result<Object, CompactError> {
    let bytes = decode(part, text)?;
    Object::parse(&bytes).map_err(|source| CompactError::Json { part, source })
}

/// Joins a signing input and a raw signature to a compact JWS.
pub(crate) fn attach_signature(signing_input: &str, signature: &[u8]) -> String {
    format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Encodes header and payload as the bytes to sign.
pub(crate) fn encode_signing_input(header: &[u8], payload: &[u8]) -> String {
    format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    )
}
