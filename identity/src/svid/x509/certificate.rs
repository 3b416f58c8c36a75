//! Certificates as what they say.
//!
//! Responsible for: [`Certificate`], the fields and extensions that this system looks at.
//! Always holds: what is looked at was decoded strictly; an extension that is present and
//! cannot be decoded makes the whole certificate unreadable, never "absent".
//! Not here: judging what is said (`verify` for chains, `anchor` for authorities, `profile` for
//! what we issue).

use std::time::Duration;

use der::asn1::{AnyRef, IntRef, ObjectIdentifier};
use der::{Decode, Reader as _, SliceReader, Tag, TagNumber};
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier,
};

use super::structure::{CertificateError, CertificateParts, TbsParts};
use crate::clock::Timestamp;
use crate::validity::Validity;

pub(crate) const SUBJECT_KEY_IDENTIFIER: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("2.5.29.14");
pub(crate) const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.15");
pub(crate) const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
pub(crate) const BASIC_CONSTRAINTS: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.19");
pub(crate) const AUTHORITY_KEY_IDENTIFIER: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("2.5.29.35");
pub(crate) const EXTENDED_KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
pub(crate) const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
pub(crate) const CLIENT_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.2");

/// More names than this in one certificate are a sign of abuse.
pub const NAMES_MAX: usize = 1_024;

/// A certificate that could be read.
#[derive(Debug, Clone)]
pub struct Certificate<'a> {
    /// The bytes it consists of.
    pub parts: CertificateParts<'a>,
    /// What it says.
    pub content: Content<'a>,
}

impl<'a> Certificate<'a> {
    /// Reads `der`, which must be exactly one certificate.
    ///
    /// # Errors
    /// The rule that the bytes break.
    pub fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        let parts = CertificateParts::parse(der)?;
        let content = Content::parse(&parts.tbs)?;
        Ok(Self { parts, content })
    }

    /// Whether issuer and subject are the same name.
    #[must_use]
    pub fn is_self_issued(&self) -> bool {
        self.parts.tbs.issuer == self.parts.tbs.subject
    }
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct Content<'a> {
    /// The serial number in lower-case hexadecimal digits, two for each byte.
    pub serial: String,
    /// From when to when it is valid.
    pub validity: Validity,
    /// All names in the SAN.
    pub names: SubjectAltNames<'a>,
    /// Whether and how it may sign certificates.
    pub basic_constraints: Option<BasicConstraints>,
    /// What its key may be used for.
    pub key_usage: Option<KeyUsage>,
    /// In which roles its subject may act.
    pub extended_key_usage: Option<Vec<ObjectIdentifier>>,
    /// The name of its key.
    pub subject_key_id: Option<Vec<u8>>,
    /// The name of the key that signed it.
    pub authority_key_id: Option<Vec<u8>>,
}

impl<'a> Content<'a> {
    pub(crate) fn parse(tbs: &TbsParts<'a>) -> Result<Self, CertificateError> {
        let names = tbs
            .extension(SUBJECT_ALT_NAME)
            .map(|extension| SubjectAltNames::parse(extension.value))
            .transpose()
            .map_err(|source| CertificateError::Extension {
                oid: SUBJECT_ALT_NAME,
                source,
            })?;
        let subject_key_id: Option<SubjectKeyIdentifier> = decode(tbs, SUBJECT_KEY_IDENTIFIER)?;
        let authority_key_id: Option<AuthorityKeyIdentifier> =
            decode(tbs, AUTHORITY_KEY_IDENTIFIER)?;
        let extended_key_usage: Option<ExtendedKeyUsage> = decode(tbs, EXTENDED_KEY_USAGE)?;
        Ok(Self {
            serial: serial_hex(tbs.serial)?,
            validity: parse_validity(tbs.validity)?,
            names: names.unwrap_or_default(),
            basic_constraints: decode(tbs, BASIC_CONSTRAINTS)?,
            key_usage: decode(tbs, KEY_USAGE)?,
            extended_key_usage: extended_key_usage.map(|usage| usage.0),
            subject_key_id: subject_key_id.map(|id| id.0.into_bytes().into()),
            authority_key_id: authority_key_id
                .and_then(|id| id.key_identifier)
                .map(|id| id.into_bytes().into()),
        })
    }

    /// Whether it is a signing certificate: basicConstraints says cA.
    #[must_use]
    pub fn is_ca(&self) -> bool {
        self.basic_constraints
            .as_ref()
            .is_some_and(|constraints| constraints.ca)
    }
}

/// The names in a subjectAltName extension.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubjectAltNames<'a> {
    /// The URIs in their order; in an SVID exactly one.
    pub uris: Vec<&'a str>,
    /// The DNS names in their order.
    pub dns_names: Vec<&'a str>,
    /// How many names of other kinds there are.
    pub others: usize,
}

impl<'a> SubjectAltNames<'a> {
    pub(crate) fn parse(value: &'a [u8]) -> der::Result<Self> {
        let uri = TagNumber(6).context_specific(false);
        let dns_name = TagNumber(2).context_specific(false);
        let mut reader = SliceReader::new(value)?;
        let names = reader.sequence(|reader| {
            let mut names = Self::default();
            for _ in 0..NAMES_MAX {
                if reader.is_finished() {
                    return Ok(names);
                }
                let name = AnyRef::from_der(reader.tlv_bytes()?)?;
                match der::Tagged::tag(&name) {
                    tag if tag == uri => names.uris.push(ia5(name.value())?),
                    tag if tag == dns_name => names.dns_names.push(ia5(name.value())?),
                    _ => names.others = names.others.saturating_add(1),
                }
            }
            Err(der::Error::from(Tag::Sequence.length_error()))
        })?;
        reader.finish()?;
        Ok(names)
    }
}

fn ia5(bytes: &[u8]) -> der::Result<&str> {
    let text = bytes.is_ascii().then(|| std::str::from_utf8(bytes).ok());
    text.flatten()
        .ok_or_else(|| Tag::Ia5String.value_error().into())
}

fn decode<'a, T>(tbs: &TbsParts<'a>, oid: ObjectIdentifier) -> Result<Option<T>, CertificateError>
where
    T: Decode<'a, Error = der::Error>,
{
    let Some(extension) = tbs.extension(oid) else {
        return Ok(None);
    };
    let value = T::from_der(extension.value);
    value
        .map(Some)
        .map_err(|source| CertificateError::Extension { oid, source })
}

fn serial_hex(serial: &[u8]) -> der::Result<String> {
    let number = IntRef::from_der(serial)?.as_bytes();
    // DER puts a zero byte before a positive number whose highest bit is set.
    let digits = match number {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    Ok(hex::encode(digits))
}

fn parse_validity(validity: &[u8]) -> der::Result<Validity> {
    let validity: x509_cert::time::Validity = Decode::from_der(validity)?;
    Ok(Validity {
        not_before: timestamp(validity.not_before.to_unix_duration()),
        not_after: timestamp(validity.not_after.to_unix_duration()),
    })
}

fn timestamp(since_epoch: Duration) -> Timestamp {
    Timestamp::UNIX_EPOCH.saturating_add(since_epoch)
}
