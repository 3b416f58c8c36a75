//! Certificates as the bytes they consist of.
//!
//! Responsible for: cutting a certificate, a certification request or a public key into the
//! byte strings that its structure names, and putting such strings together again.
//! Always holds: whatever was parsed is strict DER on the levels that are looked at, and every
//! part is a slice of the original bytes. So hashes and signatures are always over what was
//! received, never over what a decoder made of it.
//! Not here: the meaning of the parts (`certificate`).

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, OctetStringRef};
use der::{Decode as _, Encode as _, Header, Length, Reader as _, SliceReader, Tag, TagNumber};
use rustls_pki_types::AlgorithmIdentifier;

/// The largest certificate that is looked at. The largest that anyone issues to us, a hybrid
/// signing certificate with ML-DSA-87, has about 8 KiB.
pub const CERTIFICATE_MAX: usize = 16 * 1_024;

/// More extensions than this are a sign of abuse; our own certificates have at most ten.
pub const EXTENSIONS_MAX: usize = 64;

/// `[0] { INTEGER 2 }`: the version field of an X.509 v3 certificate.
pub(crate) const VERSION_3: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];

/// Why bytes are not a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// There are more bytes than any certificate has.
    #[error("certificate has {length} bytes; at most {CERTIFICATE_MAX} are allowed")]
    TooLarge {
        /// The length found.
        length: usize,
    },
    /// The bytes are not exactly one structure in DER.
    #[error("not a DER certificate")]
    Malformed(#[from] der::Error),
    /// The certificate is not of version 3.
    #[error("certificate is not of version 3")]
    NotVersion3,
    /// The certificate names different signature algorithms inside and outside of its signature.
    #[error("signature algorithms inside and outside of the signature differ")]
    SignatureAlgorithm,
    /// An extension occurs twice (RFC 5280 section 4.2).
    #[error("extension {oid} occurs twice")]
    DuplicateExtension {
        /// Which one.
        oid: ObjectIdentifier,
    },
    /// There are more extensions than any certificate needs.
    #[error("certificate has more than {EXTENSIONS_MAX} extensions")]
    TooManyExtensions,
    /// An extension that matters does not hold what it should.
    #[error("extension {oid} is malformed")]
    Extension {
        /// Which one.
        oid: ObjectIdentifier,
        /// What is wrong with it.
        #[source]
        source: der::Error,
    },
}

/// A certificate, cut into its parts.
#[derive(Debug, Clone)]
pub struct CertificateParts<'a> {
    /// The whole certificate.
    pub der: &'a [u8],
    /// What the signature is over.
    pub tbs: TbsParts<'a>,
    /// The signature algorithm, a whole SEQUENCE.
    pub signature_algorithm: &'a [u8],
    /// The bits of the signature.
    pub signature: &'a [u8],
}

impl<'a> CertificateParts<'a> {
    /// Cuts `der`, which must be exactly one certificate.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        if der.len() > CERTIFICATE_MAX {
            return Err(CertificateError::TooLarge { length: der.len() });
        }
        let mut reader = SliceReader::new(der)?;
        let [tbs, signature_algorithm, signature] = reader.sequence(|reader| {
            Ok::<_, der::Error>([
                element(reader, Tag::Sequence)?,
                element(reader, Tag::Sequence)?,
                element(reader, Tag::BitString)?,
            ])
        })?;
        reader.finish()?;
        let tbs = TbsParts::parse(tbs)?;
        // RFC 5280 section 4.1.1.2; else one of them would be unsigned and could be swapped.
        if tbs.signature_algorithm != signature_algorithm {
            return Err(CertificateError::SignatureAlgorithm);
        }
        let signature = whole_bytes(BitStringRef::from_der(signature)?)?;
        Ok(Self {
            der,
            tbs,
            signature_algorithm,
            signature,
        })
    }
}

/// A TBSCertificate, cut into its parts; each is a whole element with its header.
#[derive(Debug, Clone)]
pub struct TbsParts<'a> {
    /// The whole TBSCertificate.
    pub der: &'a [u8],
    /// The serial number, an INTEGER.
    pub serial: &'a [u8],
    /// The signature algorithm.
    pub signature_algorithm: &'a [u8],
    /// The issuer's name.
    pub issuer: &'a [u8],
    /// The validity.
    pub validity: &'a [u8],
    /// The subject's name.
    pub subject: &'a [u8],
    /// The subject's public key.
    pub spki: &'a [u8],
    /// The unique identifiers of version 2, if any, as they stand there.
    pub unique_ids: Vec<&'a [u8]>,
    /// The extensions in their order.
    pub extensions: Vec<ExtensionParts<'a>>,
}

impl<'a> TbsParts<'a> {
    /// Cuts `der`, which must be exactly one TBSCertificate.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        let mut reader = SliceReader::new(der)?;
        let parts = reader.sequence(|reader| {
            // Version 1 has no version field, and no extensions, which an SVID needs.
            if reader.peek_byte() != VERSION_3.first().copied() || reader.tlv_bytes()? != VERSION_3
            {
                reader.drain(reader.remaining_len())?;
                return Err(CertificateError::NotVersion3);
            }
            let mut parts = Self {
                der,
                serial: element(reader, Tag::Integer)?,
                signature_algorithm: element(reader, Tag::Sequence)?,
                issuer: element(reader, Tag::Sequence)?,
                validity: element(reader, Tag::Sequence)?,
                subject: element(reader, Tag::Sequence)?,
                spki: element(reader, Tag::Sequence)?,
                unique_ids: Vec::new(),
                extensions: Vec::new(),
            };
            for number in [1, 2] {
                if next_is(reader, TagNumber(number).context_specific(false)) {
                    parts.unique_ids.push(reader.tlv_bytes()?);
                }
            }
            if !reader.is_finished() {
                let wrapped = element(reader, TagNumber(3).context_specific(true))?;
                parts.extensions = parse_extensions(AnyRef::from_der(wrapped)?.value())?;
            }
            Ok(parts)
        })?;
        reader.finish()?;
        Ok(parts)
    }

    /// The extension with this OID, if there is one.
    #[must_use]
    pub fn extension(&self, oid: ObjectIdentifier) -> Option<&ExtensionParts<'a>> {
        self.extensions
            .iter()
            .find(|extension| extension.oid == oid)
    }
}

/// An extension, cut into its parts.
#[derive(Debug, Clone, Copy)]
pub struct ExtensionParts<'a> {
    /// The whole extension.
    pub der: &'a [u8],
    /// Which extension it is.
    pub oid: ObjectIdentifier,
    /// Whether who does not understand it must refuse the certificate.
    pub critical: bool,
    /// What it says.
    pub value: &'a [u8],
}

impl<'a> ExtensionParts<'a> {
    fn parse(der: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(der)?;
        let parts = reader.sequence(|reader| {
            let oid = reader.decode()?;
            let critical = next_is(reader, Tag::Boolean) && reader.decode()?;
            let value: &OctetStringRef = reader.decode()?;
            Ok::<_, der::Error>(Self {
                der,
                oid,
                critical,
                value: value.as_bytes(),
            })
        })?;
        reader.finish()?;
        Ok(parts)
    }
}

/// The extensions inside an element that holds a SEQUENCE OF Extension and nothing else.
pub(crate) fn parse_extensions(der: &[u8]) -> Result<Vec<ExtensionParts<'_>>, CertificateError> {
    let mut reader = SliceReader::new(der)?;
    let extensions = reader.sequence(|reader| {
        let mut extensions: Vec<ExtensionParts<'_>> = Vec::new();
        while !reader.is_finished() {
            let extension = ExtensionParts::parse(reader.tlv_bytes()?)?;
            if extensions
                .iter()
                .any(|earlier| earlier.oid == extension.oid)
            {
                return Err(CertificateError::DuplicateExtension { oid: extension.oid });
            }
            if extensions.len() >= EXTENSIONS_MAX {
                return Err(CertificateError::TooManyExtensions);
            }
            extensions.push(extension);
        }
        Ok(extensions)
    })?;
    reader.finish()?;
    Ok(extensions)
}

/// A SubjectPublicKeyInfo, cut into its parts.
#[derive(Debug, Clone, Copy)]
pub struct PublicKeyParts<'a> {
    /// The algorithm identifier, a whole SEQUENCE.
    pub algorithm: &'a [u8],
    /// The bits of the key.
    pub key: &'a [u8],
}

impl<'a> PublicKeyParts<'a> {
    /// Cuts `spki`, which must be exactly one SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn parse(spki: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(spki)?;
        let (algorithm, key) = reader.sequence(|reader| {
            Ok::<_, der::Error>((element(reader, Tag::Sequence)?, reader.decode()?))
        })?;
        reader.finish()?;
        Ok(Self {
            algorithm,
            key: whole_bytes(key)?,
        })
    }

    /// Whether the algorithm is `id`, byte for byte, parameters included.
    #[must_use]
    pub fn has_algorithm(&self, id: &AlgorithmIdentifier) -> bool {
        is_algorithm(self.algorithm, id)
    }
}

/// Whether a whole AlgorithmIdentifier is `id`, byte for byte, parameters included.
pub(crate) fn is_algorithm(algorithm: &[u8], id: &AlgorithmIdentifier) -> bool {
    AnyRef::from_der(algorithm).is_ok_and(|any| any.value() == id.as_ref())
}

/// The bits of a BIT STRING that consists of whole bytes, as keys and signatures do.
pub(crate) fn whole_bytes(bits: BitStringRef<'_>) -> der::Result<&[u8]> {
    bits.as_bytes()
        .ok_or_else(|| Tag::BitString.value_error().into())
}

/// The next element with its header, which must carry `tag`.
pub(crate) fn element<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<&'a [u8]> {
    Tag::peek(reader)?.assert_eq(tag)?;
    reader.tlv_bytes()
}

/// Whether there is a next element and it carries `tag`.
pub(crate) fn next_is(reader: &SliceReader<'_>, tag: Tag) -> bool {
    !reader.is_finished() && Tag::peek(reader).is_ok_and(|next| next == tag)
}

/// An element with `tag` around `parts`.
pub(crate) fn wrap(tag: Tag, parts: &[&[u8]]) -> der::Result<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut bytes = Header::new(tag, Length::try_from(length)?).to_der()?;
    bytes.reserve_exact(length);
    for part in parts {
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
}

/// A SEQUENCE of `parts`.
pub(crate) fn sequence(parts: &[&[u8]]) -> der::Result<Vec<u8>> {
    wrap(Tag::Sequence, parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = CertificateParts::parse(&bytes);
            let _ = TbsParts::parse(&bytes);
            let _ = PublicKeyParts::parse(&bytes);
            let _ = parse_extensions(&bytes);
        }
    }

    #[test]
    fn explicit_default_of_critical_is_kept_as_it_is() {
        // SEQUENCE { OID 2.5.29.14, BOOLEAN FALSE, OCTET STRING "" }: not DER, but seen.
        let der = [
            0x30, 0x0a, 0x06, 0x03, 0x55, 0x1d, 0x0e, 0x01, 0x01, 0x00, 0x04, 0x00,
        ];
        let extension = ExtensionParts::parse(&der).unwrap();
        assert!(!extension.critical);
        assert_eq!(extension.der, der);
    }

    #[test]
    fn an_extension_that_occurs_twice_is_refused() {
        let one = [0x30, 0x07, 0x06, 0x03, 0x55, 0x1d, 0x0e, 0x04, 0x00];
        let single = sequence(&[&one]).unwrap();
        let twice = sequence(&[&one, &one]).unwrap();
        assert_eq!(parse_extensions(&single).unwrap().len(), 1);
        let oid = ObjectIdentifier::new_unwrap("2.5.29.14");
        assert_eq!(
            parse_extensions(&twice).unwrap_err(),
            CertificateError::DuplicateExtension { oid }
        );
    }
}
