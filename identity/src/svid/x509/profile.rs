//! Our certificate profiles.
//!
//! Responsible for: the exact TBSCertificate of authorities and leaves, and the lint that reads
//! it back before a key is touched and after it was used.
//! Always holds: the lint decodes from bytes and shares no code with the encoder, so a mistake
//! in one shows in the other.
//! Not here: signing (`prepare`), and certificates of others (`verify`).

use der::asn1::{BitString, ObjectIdentifier, OctetStringRef};
use der::flagset::FlagSet;
use der::{Encode as _, TagNumber};
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages};
use x509_cert::time::Time;

use super::certificate::{
    AUTHORITY_KEY_IDENTIFIER, BASIC_CONSTRAINTS, CLIENT_AUTH, Content, EXTENDED_KEY_USAGE,
    KEY_USAGE, SERVER_AUTH, SUBJECT_ALT_NAME, SUBJECT_KEY_IDENTIFIER,
};
use super::serial::Serial;
use super::structure::{CertificateError, PublicKeyParts, TbsParts, VERSION_3, sequence, wrap};
use crate::clock::Timestamp;
use crate::hybrid::{
    ALT_SIGNATURE_ALGORITHM, ALT_SIGNATURE_VALUE, AlternativeAlgorithm,
    SUBJECT_ALT_PUBLIC_KEY_INFO, plain_extension,
};
use crate::key_manager::{KeyAlgorithm, spki_sha256};
use crate::validity::Validity;

/// How many bytes of the hash name a key (RFC 7093 section 2, method 1).
const KEY_ID_LENGTH: usize = 20;

/// The last second that UTCTime can write is 2049-12-31T23:59:59Z; the last one of any
/// certificate is 9999-12-31T23:59:59Z (RFC 5280 section 4.1.2.5).
const LAST_SECOND: i64 = 253_402_300_799;

/// What a certificate is for.
pub(crate) enum Profile<'a> {
    /// Signs certificates of its trust domain.
    Authority {
        /// The key of its own alternative signatures.
        alternative_spki: Option<&'a [u8]>,
    },
    /// Proves an identity.
    Leaf {
        /// More names of the same workload.
        dns_names: &'a [String],
    },
}

/// Everything that a TBSCertificate says.
pub(crate) struct Draft<'a> {
    pub profile: Profile<'a>,
    /// The SPIFFE ID.
    pub uri: &'a str,
    pub serial: Serial,
    pub validity: Validity,
    pub subject: &'a [u8],
    pub spki: &'a [u8],
    pub issuer: &'a [u8],
    /// `None` in a self-signed certificate, where RFC 5280 section 4.2.1.1 leaves it out.
    pub issuer_key_id: Option<&'a [u8]>,
    pub native: KeyAlgorithm,
    pub alternative: Option<AlternativeAlgorithm>,
}

/// The rule of our own profile that a certificate breaks: a bug in the issuer, caught before it
/// does harm.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LintError {
    /// What was built cannot be read back.
    #[error("certificate cannot be read back")]
    Unreadable(#[from] CertificateError),
    /// What was built says something else than what was asked for.
    #[error("certificate breaks its profile: {0}")]
    Rule(&'static str),
}

/// The name of a key: the first 160 bits of the SHA-256 hash of its bits.
pub(crate) fn key_id(spki: &[u8]) -> der::Result<Vec<u8>> {
    let key = PublicKeyParts::parse(spki)?;
    Ok(spki_sha256(key.key)
        .iter()
        .take(KEY_ID_LENGTH)
        .copied()
        .collect())
}

/// Whether both ends can be written in a certificate: whole seconds from 1970 to 9999.
pub(crate) fn can_be_written(validity: Validity) -> bool {
    let whole = |t: Timestamp| t == t.floor_to_second();
    validity.not_before < validity.not_after
        && validity.not_before >= Timestamp::UNIX_EPOCH
        && validity.not_after.unix_secs() <= LAST_SECOND
        && whole(validity.not_before)
        && whole(validity.not_after)
}

/// Builds the TBSCertificate, complete but for the alternative signature.
pub(crate) fn build_tbs(draft: &Draft<'_>) -> der::Result<Vec<u8>> {
    let extensions = extensions(draft)?;
    let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
    let validity = sequence(&[
        &time(draft.validity.not_before)?.to_der()?,
        &time(draft.validity.not_after)?.to_der()?,
    ])?;
    sequence(&[
        VERSION_3,
        &draft.serial.to_der()?,
        &native_identifier(draft.native)?,
        draft.issuer,
        &validity,
        draft.subject,
        draft.spki,
        &wrap(
            TagNumber(3).context_specific(true),
            &[&sequence(&extensions)?],
        )?,
    ])
}

/// The AlgorithmIdentifier of native signatures by a key of this kind.
pub(crate) fn native_identifier(native: KeyAlgorithm) -> der::Result<Vec<u8>> {
    sequence(&[native.verification().signature_alg_id().as_ref()])
}

fn time(at: Timestamp) -> der::Result<Time> {
    let seconds = u64::try_from(at.unix_secs()).unwrap_or_default();
    let date = der::DateTime::from_unix_duration(std::time::Duration::from_secs(seconds))?;
    // UTCTime until 2049, GeneralizedTime from 2050 on.
    Ok(Time::from(date))
}

fn extensions(draft: &Draft<'_>) -> der::Result<Vec<Vec<u8>>> {
    let key_usage = |usage: FlagSet<KeyUsages>| KeyUsage(usage).to_der();
    let constraints = |ca| {
        BasicConstraints {
            ca,
            path_len_constraint: None,
        }
        .to_der()
    };
    let mut list = Vec::new();
    match draft.profile {
        Profile::Authority { .. } => {
            // No EKU: verifiers disagree on what it means here (X509-SVID section 4.4). No
            // name constraints: rustls refuses every chain that has one for URIs.
            let usage = KeyUsages::KeyCertSign | KeyUsages::CRLSign;
            list.push(critical_extension(BASIC_CONSTRAINTS, &constraints(true)?)?);
            list.push(critical_extension(KEY_USAGE, &key_usage(usage)?)?);
        }
        Profile::Leaf { .. } => {
            // digitalSignature alone: SPIRE adds keyEncipherment, which RFC 8813 forbids for EC
            // keys, and keyAgreement, which only static Diffie-Hellman needs.
            let usage = FlagSet::from(KeyUsages::DigitalSignature);
            let roles = ExtendedKeyUsage(vec![SERVER_AUTH, CLIENT_AUTH]).to_der()?;
            list.push(critical_extension(KEY_USAGE, &key_usage(usage)?)?);
            list.push(plain_extension(EXTENDED_KEY_USAGE, &roles)?);
            list.push(critical_extension(BASIC_CONSTRAINTS, &constraints(false)?)?);
        }
    }
    let subject_key_id = OctetStringRef::new(&key_id(draft.spki)?)?.to_der()?;
    list.push(plain_extension(SUBJECT_KEY_IDENTIFIER, &subject_key_id)?);
    if let Some(id) = draft.issuer_key_id {
        list.push(plain_extension(
            AUTHORITY_KEY_IDENTIFIER,
            &authority_key_identifier(id)?,
        )?);
    }
    let names = alt_names(draft)?;
    list.push(if is_empty_name(draft.subject) {
        critical_extension(SUBJECT_ALT_NAME, &names)?
    } else {
        plain_extension(SUBJECT_ALT_NAME, &names)?
    });
    if let Profile::Authority {
        alternative_spki: Some(spki),
    } = draft.profile
    {
        list.push(plain_extension(SUBJECT_ALT_PUBLIC_KEY_INFO, spki)?);
    }
    if let Some(alternative) = draft.alternative {
        list.push(plain_extension(
            ALT_SIGNATURE_ALGORITHM,
            &alternative.identifier()?,
        )?);
    }
    Ok(list)
}

/// Extension 74 with an alternative signature.
pub(crate) fn alternative_signature(signature: &[u8]) -> der::Result<Vec<u8>> {
    plain_extension(
        ALT_SIGNATURE_VALUE,
        &BitString::from_bytes(signature)?.to_der()?,
    )
}

fn critical_extension(oid: ObjectIdentifier, value: &[u8]) -> der::Result<Vec<u8>> {
    sequence(&[
        &oid.to_der()?,
        &true.to_der()?,
        &OctetStringRef::new(value)?.to_der()?,
    ])
}

fn authority_key_identifier(id: &[u8]) -> der::Result<Vec<u8>> {
    sequence(&[&wrap(TagNumber(0).context_specific(false), &[id])?])
}

fn alt_names(draft: &Draft<'_>) -> der::Result<Vec<u8>> {
    let mut names = vec![wrap(
        TagNumber(6).context_specific(false),
        &[draft.uri.as_bytes()],
    )?];
    if let Profile::Leaf { dns_names } = draft.profile {
        for name in dns_names {
            names.push(wrap(
                TagNumber(2).context_specific(false),
                &[name.as_bytes()],
            )?);
        }
    }
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    sequence(&names)
}

fn is_empty_name(name: &[u8]) -> bool {
    name == [0x30, 0x00]
}

/// Reads a TBSCertificate back and compares it with what was asked for.
pub(crate) fn lint(tbs: &[u8], draft: &Draft<'_>) -> Result<(), LintError> {
    let parts = TbsParts::parse(tbs)?;
    let content = Content::parse(&parts)?;
    lint_fields(&parts, &content, draft)?;
    lint_usage(&parts, &content, draft)?;
    lint_names(&parts, &content, draft)?;
    lint_alternative(&parts, draft)
}

fn rule(holds: bool, text: &'static str) -> Result<(), LintError> {
    if holds {
        Ok(())
    } else {
        Err(LintError::Rule(text))
    }
}

fn lint_fields(
    parts: &TbsParts<'_>,
    content: &Content<'_>,
    draft: &Draft<'_>,
) -> Result<(), LintError> {
    rule(content.serial == draft.serial.to_string(), "serial number")?;
    rule(content.validity == draft.validity, "validity")?;
    rule(parts.subject == draft.subject, "subject")?;
    rule(
        parts.issuer == draft.issuer && !is_empty_name(parts.issuer),
        "issuer",
    )?;
    rule(parts.spki == draft.spki, "public key")?;
    rule(parts.unique_ids.is_empty(), "no unique identifiers")?;
    let own = key_id(draft.spki).map_err(CertificateError::from)?;
    rule(
        content.subject_key_id == Some(own),
        "subject key identifier",
    )?;
    rule(
        content.authority_key_id.as_deref() == draft.issuer_key_id,
        "authority key identifier",
    )
}

fn lint_usage(
    parts: &TbsParts<'_>,
    content: &Content<'_>,
    draft: &Draft<'_>,
) -> Result<(), LintError> {
    let critical = |oid| {
        parts
            .extension(oid)
            .is_some_and(|extension| extension.critical)
    };
    rule(critical(KEY_USAGE), "keyUsage is present and critical")?;
    rule(
        critical(BASIC_CONSTRAINTS),
        "basicConstraints is present and critical",
    )?;
    let usage = content.key_usage.map(|usage| usage.0);
    match draft.profile {
        Profile::Authority { .. } => {
            let signing = KeyUsages::KeyCertSign | KeyUsages::CRLSign;
            rule(content.is_ca(), "authority has cA")?;
            rule(
                usage == Some(signing),
                "authority's keyUsage is keyCertSign and cRLSign",
            )?;
            rule(
                content.extended_key_usage.is_none(),
                "authority has no extendedKeyUsage",
            )
        }
        Profile::Leaf { .. } => {
            let roles = [SERVER_AUTH, CLIENT_AUTH];
            rule(!content.is_ca(), "leaf has no cA")?;
            rule(
                usage == Some(KeyUsages::DigitalSignature.into()),
                "leaf's keyUsage is digitalSignature",
            )?;
            rule(
                content.extended_key_usage.as_deref() == Some(&roles),
                "leaf's extendedKeyUsage is serverAuth and clientAuth",
            )
        }
    }
}

fn lint_names(
    parts: &TbsParts<'_>,
    content: &Content<'_>,
    draft: &Draft<'_>,
) -> Result<(), LintError> {
    let names = &content.names;
    let dns_names: &[String] = match draft.profile {
        Profile::Authority { .. } => &[],
        Profile::Leaf { dns_names } => dns_names,
    };
    rule(
        names.uris == [draft.uri],
        "exactly one URI name, the SPIFFE ID",
    )?;
    rule(
        names.others == 0 && names.dns_names == dns_names,
        "DNS names",
    )?;
    let critical = parts
        .extension(SUBJECT_ALT_NAME)
        .is_some_and(|names| names.critical);
    rule(
        critical == is_empty_name(parts.subject),
        "subjectAltName is critical exactly when the subject is empty",
    )
}

fn lint_alternative(parts: &TbsParts<'_>, draft: &Draft<'_>) -> Result<(), LintError> {
    let value = |oid| {
        parts
            .extension(oid)
            .map(|extension| (extension.critical, extension.value))
    };
    let spki = match draft.profile {
        Profile::Authority { alternative_spki } => alternative_spki,
        Profile::Leaf { .. } => None,
    };
    rule(
        value(SUBJECT_ALT_PUBLIC_KEY_INFO) == spki.map(|spki| (false, spki)),
        "alternative public key",
    )?;
    let named = value(ALT_SIGNATURE_ALGORITHM);
    let algorithm = named.and_then(|(_, value)| AlternativeAlgorithm::of_identifier(value));
    rule(
        algorithm == draft.alternative && named.is_none_or(|(critical, _)| !critical),
        "alternative signature algorithm",
    )?;
    rule(
        value(ALT_SIGNATURE_VALUE).is_none(),
        "no alternative signature before signing",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_manager::SigningKey;

    const DNS_NAMES: [String; 0] = [];

    fn leaf<'a>(spki: &'a [u8], serial: Serial, subject: &'a [u8]) -> Draft<'a> {
        let second = |seconds: i64| Timestamp::from_unix_secs(1_795_518_000 + seconds);
        Draft {
            profile: Profile::Leaf {
                dns_names: &DNS_NAMES,
            },
            uri: "spiffe://example.org/w",
            serial,
            validity: Validity {
                not_before: second(0),
                not_after: second(60),
            },
            subject,
            spki,
            issuer: &[0x30, 0x02, 0x31, 0x00],
            issuer_key_id: Some(&[7; 20]),
            native: KeyAlgorithm::EcP256,
            alternative: Some(AlternativeAlgorithm::MlDsa65),
        }
    }

    #[test]
    fn the_lint_notices_everything_that_differs_from_what_was_asked_for() {
        let key = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        let other_key = SigningKey::generate(KeyAlgorithm::EcP256).unwrap();
        let serial = Serial::from_bytes([0x41; 16]).unwrap();
        let empty: &[u8] = &[0x30, 0x00];
        let dns_names = ["a.example.org".to_owned()];
        let draft = || leaf(key.spki_der(), serial, empty);
        let tbs = build_tbs(&draft()).unwrap();
        assert_eq!(lint(&tbs, &draft()), Ok(()));
        let life = draft().validity;
        let longer = Validity {
            not_after: Timestamp::from_unix_secs(1_795_519_000),
            ..life
        };
        let authority = Profile::Authority {
            alternative_spki: None,
        };
        for other in [
            Draft {
                serial: Serial::from_bytes([0x42; 16]).unwrap(),
                ..draft()
            },
            Draft {
                validity: longer,
                ..draft()
            },
            Draft {
                subject: &[0x30, 0x02, 0x31, 0x00],
                ..draft()
            },
            Draft {
                issuer: empty,
                ..draft()
            },
            Draft {
                spki: other_key.spki_der(),
                ..draft()
            },
            Draft {
                issuer_key_id: None,
                ..draft()
            },
            Draft {
                uri: "spiffe://example.org/v",
                ..draft()
            },
            Draft {
                profile: Profile::Leaf {
                    dns_names: &dns_names,
                },
                ..draft()
            },
            Draft {
                profile: authority,
                ..draft()
            },
            Draft {
                alternative: None,
                ..draft()
            },
        ] {
            assert!(matches!(lint(&tbs, &other), Err(LintError::Rule(_))));
        }
        assert!(matches!(
            lint(&tbs[1..], &draft()),
            Err(LintError::Unreadable(_))
        ));
    }
}
