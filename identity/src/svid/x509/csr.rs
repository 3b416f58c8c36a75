//! Certificate signing requests.
//!
//! Responsible for: [`VerifiedCsr`], the proof that whoever asks has the private key; and
//! [`AllowedKey`], which keys we certify.
//! Always holds: size, shape and kind of key are checked before any cryptography runs; only the
//! key comes from a request. The names in it are shown to those who look for mistakes and
//! never reach a certificate.
//! Not here: whose SVID it becomes.

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, UintRef};
use der::{Decode as _, Reader as _, SliceReader, Tag, TagNumber};
use rustls_pki_types::{AlgorithmIdentifier, SignatureVerificationAlgorithm, alg_id};
use webpki::aws_lc_rs as algorithms;
use x509_cert::name::Name;

use super::certificate::{SUBJECT_ALT_NAME, SubjectAltNames};
use super::name::display_name;
use super::structure::{
    CertificateError, PublicKeyParts, element, is_algorithm, parse_extensions, whole_bytes,
};
use crate::key_manager::spki_sha256;

/// The largest request that is looked at; real ones have a few hundred bytes.
pub const CSR_MAX: usize = 16 * 1_024;

/// More attributes than this are a sign of abuse.
pub const ATTRIBUTES_MAX: usize = 16;

/// The sizes of RSA keys in bits that we certify. More than the upper bound makes every
/// handshake a burden on the other side.
pub const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=4_096;

const EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");

/// How a request may be signed, by the kind of its key.
static PROOFS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// Why a public key may not be certified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefused {
    /// The bytes are not exactly one public key.
    #[error("public key is malformed")]
    Malformed,
    /// The key is of another kind; Ed25519, for one, is refused because Envoy cannot use it.
    #[error("public key must be ECDSA P-256, ECDSA P-384 or RSA")]
    Algorithm,
    /// An RSA key is too small or too large.
    #[error("RSA key has {bits} bits; 2048 to 4096 are allowed")]
    RsaSize {
        /// The size found.
        bits: usize,
    },
    /// The public exponent is even, less than 3 or more than 32 bits.
    #[error("RSA public exponent must be odd, at least 3 and at most 32 bits")]
    RsaExponent,
}

/// The kinds of keys that we certify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedKey {
    /// ECDSA on P-256.
    EcP256,
    /// ECDSA on P-384.
    EcP384,
    /// RSA.
    Rsa {
        /// The size of the modulus.
        bits: usize,
    },
}

impl AllowedKey {
    /// Looks at a DER SubjectPublicKeyInfo. Whether an EC point lies on its curve is seen when
    /// the key's signature is verified.
    ///
    /// # Errors
    /// Why the key may not be certified.
    pub fn parse(spki: &[u8]) -> Result<Self, KeyRefused> {
        let parts = PublicKeyParts::parse(spki).map_err(|_| KeyRefused::Malformed)?;
        let is = |id: AlgorithmIdentifier| parts.has_algorithm(&id);
        // Uncompressed points only: nothing else is allowed in certificates that TLS uses.
        let point = |length| match parts.key {
            [0x04, rest @ ..] if rest.len() == length => Ok(()),
            _ => Err(KeyRefused::Malformed),
        };
        if is(alg_id::ECDSA_P256) {
            point(64).map(|()| Self::EcP256)
        } else if is(alg_id::ECDSA_P384) {
            point(96).map(|()| Self::EcP384)
        } else if is(alg_id::RSA_ENCRYPTION) {
            rsa(parts.key)
        } else {
            Err(KeyRefused::Algorithm)
        }
    }
}

fn rsa(key: &[u8]) -> Result<AllowedKey, KeyRefused> {
    let numbers = || -> der::Result<[UintRef<'_>; 2]> {
        let mut reader = SliceReader::new(key)?;
        let numbers =
            reader.sequence(|reader| Ok::<_, der::Error>([reader.decode()?, reader.decode()?]))?;
        reader.finish()?;
        Ok(numbers)
    };
    let [modulus, exponent] = numbers().map_err(|_| KeyRefused::Malformed)?;
    let bits = bit_length(modulus.as_bytes());
    if !RSA_BITS.contains(&bits) {
        return Err(KeyRefused::RsaSize { bits });
    }
    let exponent = exponent.as_bytes();
    let odd = exponent.last().is_some_and(|last| last & 1 == 1);
    if !odd || exponent == [1] || exponent.len() > 4 {
        return Err(KeyRefused::RsaExponent);
    }
    Ok(AllowedKey::Rsa { bits })
}

fn bit_length(number: &[u8]) -> usize {
    let bits = number.len().saturating_mul(8);
    let unused = number.first().map_or(0, |first| first.leading_zeros());
    bits.saturating_sub(usize::try_from(unused).unwrap_or_default())
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// The request has more bytes than any sensible one.
    #[error("request has {length} bytes; at most {CSR_MAX} are allowed")]
    TooLarge {
        /// The length found.
        length: usize,
    },
    /// The bytes are not exactly one PKCS#10 request in DER.
    #[error("not a PKCS#10 certificate request in DER")]
    Malformed(#[from] der::Error),
    /// The extensions that it asks for cannot be read.
    #[error("requested extensions cannot be read")]
    Extensions(#[from] CertificateError),
    /// There are more attributes than any sensible request has.
    #[error("request has more than {ATTRIBUTES_MAX} attributes")]
    TooManyAttributes,
    /// The key may not be certified.
    #[error("public key may not be certified")]
    Key(#[from] KeyRefused),
    /// The signature is of a kind that does not fit the key or is not safe.
    #[error("request is signed with an algorithm that is not allowed")]
    SignatureAlgorithm,
    /// The private key that belongs to the public key did not sign the request.
    #[error("request is not signed by the private key it asks a certificate for")]
    Signature,
}

/// A request whose sender has proved possession of the private key.
#[derive(Debug)]
pub struct VerifiedCsr {
    spki: Vec<u8>,
    key: AllowedKey,
    wishes: RequestedNames,
}

/// What a request wishes to be called. Nothing of it is ever granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestedNames {
    /// The subject in the notation of RFC 4514.
    pub subject: String,
    /// URIs in their order.
    pub uris: Vec<String>,
    /// DNS names in their order.
    pub dns_names: Vec<String>,
    /// How many names of other kinds there are.
    pub others: usize,
    /// Which extensions are asked for.
    pub extensions: Vec<ObjectIdentifier>,
}

impl VerifiedCsr {
    /// Verifies `der`, which must be exactly one PKCS#10 request.
    ///
    /// # Errors
    /// Why the request is refused.
    pub fn verify(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > CSR_MAX {
            return Err(CsrError::TooLarge { length: der.len() });
        }
        let request = Request::parse(der)?;
        let key = AllowedKey::parse(request.spki)?;
        request.verify()?;
        Ok(Self {
            spki: request.spki.to_vec(),
            key,
            wishes: request.wishes,
        })
    }

    /// The public key, a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn public_key_spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_sha256(&self) -> [u8; 32] {
        spki_sha256(&self.spki)
    }

    /// What kind of key it is.
    #[must_use]
    pub const fn key(&self) -> AllowedKey {
        self.key
    }

    /// The names that were asked for, to be compared and reported, never granted.
    #[must_use]
    pub const fn requested(&self) -> &RequestedNames {
        &self.wishes
    }
}

struct Request<'a> {
    info: &'a [u8],
    spki: &'a [u8],
    wishes: RequestedNames,
    signature_algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(der: &'a [u8]) -> Result<Self, CsrError> {
        let mut reader = SliceReader::new(der)?;
        let (info, signature_algorithm, signature) = reader.sequence(|reader| {
            let info = element(reader, Tag::Sequence)?;
            let algorithm = element(reader, Tag::Sequence)?;
            let signature: BitStringRef<'_> = reader.decode()?;
            Ok::<_, der::Error>((info, algorithm, signature))
        })?;
        reader.finish()?;
        let signature = whole_bytes(signature)?;
        let mut reader = SliceReader::new(info)?;
        let (spki, wishes) = reader.sequence(|reader| {
            let version: u8 = reader.decode()?;
            if version != 0 {
                return Err(CsrError::Malformed(reader.error(der::ErrorKind::Failed)));
            }
            let subject = element(reader, Tag::Sequence)?;
            Name::from_der(subject)?;
            let spki = element(reader, Tag::Sequence)?;
            let attributes = element(reader, TagNumber(0).context_specific(true))?;
            let mut wishes = parse_attributes(AnyRef::from_der(attributes)?.value())?;
            wishes.subject = display_name(subject);
            Ok((spki, wishes))
        })?;
        reader.finish()?;
        Ok(Self {
            info,
            spki,
            wishes,
            signature_algorithm,
            signature,
        })
    }

    fn verify(&self) -> Result<(), CsrError> {
        let key = PublicKeyParts::parse(self.spki)?;
        let proof = PROOFS.iter().find(|proof| {
            key.has_algorithm(&proof.public_key_alg_id())
                && is_algorithm(self.signature_algorithm, &proof.signature_alg_id())
        });
        proof
            .ok_or(CsrError::SignatureAlgorithm)?
            .verify_signature(key.key, self.info, self.signature)
            .map_err(|_| CsrError::Signature)
    }
}

fn parse_attributes(attributes: &[u8]) -> Result<RequestedNames, CsrError> {
    let mut reader = SliceReader::new(attributes)?;
    let mut wishes = RequestedNames::default();
    for _ in 0..ATTRIBUTES_MAX {
        if reader.is_finished() {
            return Ok(wishes);
        }
        let (oid, values) = reader.sequence(|reader| {
            let oid: ObjectIdentifier = reader.decode()?;
            Ok::<_, der::Error>((oid, element(reader, Tag::Set)?))
        })?;
        if oid == EXTENSION_REQUEST {
            parse_extension_request(AnyRef::from_der(values)?.value(), &mut wishes)?;
        }
    }
    if reader.is_finished() {
        Ok(wishes)
    } else {
        Err(CsrError::TooManyAttributes)
    }
}

fn parse_extension_request(values: &[u8], wishes: &mut RequestedNames) -> Result<(), CsrError> {
    for extension in parse_extensions(values)? {
        wishes.extensions.push(extension.oid);
        if extension.oid == SUBJECT_ALT_NAME {
            let names = SubjectAltNames::parse(extension.value)?;
            wishes
                .uris
                .extend(names.uris.into_iter().map(str::to_owned));
            wishes
                .dns_names
                .extend(names.dns_names.into_iter().map(str::to_owned));
            wishes.others = wishes.others.saturating_add(names.others);
        }
    }
    Ok(())
}
