//! JSON Web Keys.
//!
//! Responsible for: [`Jwk`], a public key in the form that JWK Sets write, and its conversion
//! from and to a DER SubjectPublicKeyInfo.
//! Always holds: an elliptic-curve point lies on its curve; an RSA modulus has 2048 to 8192
//! bits; both conversions are inverse, so two equal keys have equal bytes.
//! Not here: `use`, `kid` and the other members that say what a key is for.

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use der::asn1::{AnyRef, BitString, Null, ObjectIdentifier, UintRef};
use der::{Decode as _, Encode as _, Sequence};
use serde::Serialize;
use x509_cert::spki::{AlgorithmIdentifier, SubjectPublicKeyInfo, SubjectPublicKeyInfoRef};

use crate::json::{Node, Object};

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// What RFC 7518 section 3.3 asks for at least, and what our verifier can take at most.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
/// Members that only a private or symmetric key has (RFC 7518 section 6).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// The elliptic curves that JWS signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::P521 => "P-521",
        }
    }

    const fn oid(self) -> ObjectIdentifier {
        match self {
            Self::P256 => P256,
            Self::P384 => P384,
            Self::P521 => P521,
        }
    }

    /// Bytes of one coordinate.
    const fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn algorithm(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::P521 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }
}

/// A public key.
#[derive(Clone, PartialEq, Eq)]
pub struct Jwk(Key);

#[derive(Clone, PartialEq, Eq)]
enum Key {
    /// The coordinates, each as long as its curve demands.
    Ec {
        curve: Curve,
        x: Vec<u8>,
        y: Vec<u8>,
    },
    /// Both big-endian without leading zeros.
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    Ed25519 {
        x: Vec<u8>,
    },
}

/// Why something is not a public key that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwkError {
    /// `kty` is missing or unknown.
    #[error("key type is missing or unknown")]
    UnknownKeyType,
    /// The curve is missing or unknown.
    #[error("curve is missing or unknown")]
    UnknownCurve,
    /// A member is missing, not base64url, or of the wrong length.
    #[error("member {member:?} is missing or malformed")]
    Member {
        /// Which member.
        member: &'static str,
    },
    /// The key carries private members; whoever published it has given the key away.
    #[error("key carries the private member {member:?}")]
    Private {
        /// Which member.
        member: &'static str,
    },
    /// The coordinates are not a point of the curve.
    #[error("coordinates are not a point of the curve")]
    NotOnCurve,
    /// The RSA modulus or exponent is outside what is safe.
    #[error("RSA key has {bits} bits or a bad exponent; 2048 to 8192 bits are allowed")]
    RsaParameters {
        /// Bits of the modulus.
        bits: usize,
    },
    /// The bytes are not a SubjectPublicKeyInfo of a known algorithm.
    #[error("not a SubjectPublicKeyInfo of a known algorithm")]
    Spki,
}

/// The members of a JWK that describe the key itself, in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JwkMembers {
    kty: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
}

#[derive(Sequence)]
struct RsaPublicKey<'a> {
    modulus: UintRef<'a>,
    public_exponent: UintRef<'a>,
}

impl Jwk {
    /// Reads the key members of a JWK.
    pub(crate) fn from_object(object: &Object) -> Result<Self, JwkError> {
        let member = |member| -> Result<Vec<u8>, JwkError> {
            let Some(Node::String(text)) = object.get(member) else {
                return Err(JwkError::Member { member });
            };
            URL_SAFE_NO_PAD
                .decode(text)
                .map_err(|_| JwkError::Member { member })
        };
        let kty = object.text("kty").ok_or(JwkError::UnknownKeyType)?;
        if !["EC", "RSA", "OKP"].contains(&kty) {
            return Err(JwkError::UnknownKeyType);
        }
        if let Some(member) = PRIVATE_MEMBERS
            .into_iter()
            .find(|name| object.get(name).is_some())
        {
            return Err(JwkError::Private { member });
        }
        if kty == "RSA" {
            return Self::rsa(&member("n")?, &member("e")?);
        }
        let crv = object.text("crv").ok_or(JwkError::UnknownCurve)?;
        if kty == "OKP" {
            return match crv {
                "Ed25519" => Self::ed25519(member("x")?),
                _ => Err(JwkError::UnknownCurve),
            };
        }
        let curve = Curve::ALL.into_iter().find(|curve| curve.name() == crv);
        Self::ec(
            curve.ok_or(JwkError::UnknownCurve)?,
            member("x")?,
            member("y")?,
        )
    }

    /// Reads a DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`JwkError::Spki`] when the bytes are something else or the algorithm is unknown, and the
    /// rule that the key breaks otherwise.
    pub fn from_spki(spki: &[u8]) -> Result<Self, JwkError> {
        let info = SubjectPublicKeyInfoRef::from_der(spki).map_err(|_| JwkError::Spki)?;
        let key = info.subject_public_key.as_bytes().ok_or(JwkError::Spki)?;
        match info.algorithm.oid {
            EC_PUBLIC_KEY => {
                let curve = info
                    .algorithm
                    .parameters_oid()
                    .map_err(|_| JwkError::Spki)?;
                let curve = Curve::ALL.into_iter().find(|known| known.oid() == curve);
                Self::from_point(curve.ok_or(JwkError::UnknownCurve)?, key)
            }
            RSA => {
                let key = RsaPublicKey::from_der(key).map_err(|_| JwkError::Spki)?;
                Self::rsa(key.modulus.as_bytes(), key.public_exponent.as_bytes())
            }
            ED25519 => Self::ed25519(key.to_vec()),
            _ => Err(JwkError::Spki),
        }
    }

    fn from_point(curve: Curve, point: &[u8]) -> Result<Self, JwkError> {
        let (Some((0x04, coordinates)), size) = (point.split_first(), curve.size()) else {
            return Err(JwkError::NotOnCurve);
        };
        let (x, y) = coordinates
            .split_at_checked(size)
            .ok_or(JwkError::NotOnCurve)?;
        Self::ec(curve, x.to_vec(), y.to_vec())
    }

    fn ec(curve: Curve, x: Vec<u8>, y: Vec<u8>) -> Result<Self, JwkError> {
        for (member, coordinate) in [("x", &x), ("y", &y)] {
            if coordinate.len() != curve.size() {
                return Err(JwkError::Member { member });
            }
        }
        let point = [&[0x04], x.as_slice(), y.as_slice()].concat();
        ParsedPublicKey::new(curve.algorithm(), point).map_err(|_| JwkError::NotOnCurve)?;
        Ok(Self(Key::Ec { curve, x, y }))
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, JwkError> {
        let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
        let bits = modulus.first().map_or(0, |first| {
            modulus
                .len()
                .saturating_mul(8)
                .saturating_sub(first.leading_zeros() as usize)
        });
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        let exponent_fits = exponent.len() <= 8 && odd(exponent) && exponent != [1];
        if !RSA_BITS.contains(&bits) || !odd(modulus) || !exponent_fits {
            return Err(JwkError::RsaParameters { bits });
        }
        Ok(Self(Key::Rsa {
            modulus: modulus.to_vec(),
            exponent: exponent.to_vec(),
        }))
    }

    fn ed25519(x: Vec<u8>) -> Result<Self, JwkError> {
        if x.len() != 32 {
            return Err(JwkError::Member { member: "x" });
        }
        Ok(Self(Key::Ed25519 { x }))
    }

    /// The curve, for an elliptic-curve key of JWS.
    #[must_use]
    pub const fn curve(&self) -> Option<Curve> {
        match self.0 {
            Key::Ec { curve, .. } => Some(curve),
            Key::Rsa { .. } | Key::Ed25519 { .. } => None,
        }
    }

    /// Whether this is an RSA key.
    #[must_use]
    pub const fn is_rsa(&self) -> bool {
        matches!(self.0, Key::Rsa { .. })
    }

    /// The members to write into a JWK.
    #[must_use]
    pub fn members(&self) -> JwkMembers {
        let text = |bytes: &Vec<u8>| Some(URL_SAFE_NO_PAD.encode(bytes));
        let blank = JwkMembers {
            kty: "EC",
            crv: None,
            x: None,
            y: None,
            n: None,
            e: None,
        };
        match &self.0 {
            Key::Ec { curve, x, y } => JwkMembers {
                crv: Some(curve.name()),
                x: text(x),
                y: text(y),
                ..blank
            },
            Key::Rsa { modulus, exponent } => JwkMembers {
                kty: "RSA",
                n: text(modulus),
                e: text(exponent),
                ..blank
            },
            Key::Ed25519 { x } => JwkMembers {
                kty: "OKP",
                crv: Some("Ed25519"),
                x: text(x),
                ..blank
            },
        }
    }

    /// The key as a DER SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`JwkError::Spki`] when the encoder refuses, which no key that was parsed makes it do.
    pub fn to_spki(&self) -> Result<Vec<u8>, JwkError> {
        self.encode_spki().map_err(|_| JwkError::Spki)
    }

    fn encode_spki(&self) -> der::Result<Vec<u8>> {
        let (oid, parameters, key) = match &self.0 {
            Key::Ec { curve, x, y } => {
                let point = [&[0x04], x.as_slice(), y.as_slice()].concat();
                (EC_PUBLIC_KEY, Some(curve.oid().to_der()?), point)
            }
            Key::Rsa { modulus, exponent } => {
                let key = RsaPublicKey {
                    modulus: UintRef::new(modulus)?,
                    public_exponent: UintRef::new(exponent)?,
                };
                (RSA, Some(Null.to_der()?), key.to_der()?)
            }
            Key::Ed25519 { x } => (ED25519, None, x.clone()),
        };
        let parameters = parameters.as_deref().map(AnyRef::from_der).transpose()?;
        let algorithm = AlgorithmIdentifier { oid, parameters };
        let subject_public_key = BitString::from_bytes(&key)?;
        SubjectPublicKeyInfo {
            algorithm,
            subject_public_key,
        }
        .to_der()
    }
}

impl std::fmt::Debug for Jwk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Key::Ec { curve, .. } => write!(f, "Jwk(EC {})", curve.name()),
            Key::Rsa { modulus, .. } => write!(f, "Jwk(RSA, {} bytes)", modulus.len()),
            Key::Ed25519 { .. } => f.write_str("Jwk(Ed25519)"),
        }
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}
