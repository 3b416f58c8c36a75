//! Deciding whether a chain is somebody's X.509-SVID.
//!
//! Responsible for: [`verify_x509_svid_with`], the one function that every verifier calls: path
//! building by `webpki`, and all the rules that it leaves to its caller.
//! Always holds: the trust domain of the leaf's SPIFFE ID picks the anchors, no other bundle is
//! looked at; limits come before cryptography; time comes in as an argument; what is returned
//! was verified, all of it.
//! Not here: whether the verified identity may do anything (authorisation).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::aws_lc_rs as algorithms;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter};

use super::anchor::check_signing_certificate;
use super::certificate::{Certificate, Content};
use super::profile::key_id;
use super::structure::{CERTIFICATE_MAX, CertificateError};
use crate::bundle::{Bundle, BundleSet};
use crate::clock::Timestamp;
use crate::hybrid::HybridError;
use crate::hybrid::verify::{alternative_spki, verify_path};
use crate::spiffe_id::{SpiffeId, SpiffeIdError};
use crate::trust_domain::TrustDomain;
use crate::validity::Validity;

/// The most certificates in a chain, the leaf included.
pub const CHAIN_MAX: usize = 16;

/// How certificates may be signed.
static NATIVE: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::ED25519,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    algorithms::ML_DSA_44,
    algorithms::ML_DSA_65,
    algorithms::ML_DSA_87,
];

/// In which role the SVID's owner acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// It connects: extendedKeyUsage, if there is one, allows clientAuth.
    Client,
    /// It accepts connections: extendedKeyUsage, if there is one, allows serverAuth.
    Server,
    /// Outside of a connection: either will do.
    Either,
}

/// What a verifier demands beyond the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerificationPolicy {
    /// Trust domains whose anchors must all have an alternative key: the end of a migration to
    /// hybrid signatures, when classical anchors are still in the bundle.
    pub pq_required: BTreeSet<TrustDomain>,
    /// Refuse what chains up to a tainted anchor instead of waiting for its revocation.
    pub refuse_tainted: bool,
}

/// Somebody's X.509-SVID, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedX509Svid {
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// The serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// From when to when the leaf is valid.
    pub validity: Validity,
    /// The id of the authority that signed the leaf: its subject key identifier in hexadecimal.
    pub authority_id: String,
    /// The id of the anchor; the same as `authority_id` unless there are intermediates.
    pub anchor_id: String,
    /// Whether an alternative signature was verified on every certificate below the anchor.
    pub hybrid: bool,
    /// The leaf's key, a DER SubjectPublicKeyInfo.
    pub public_key_spki: Vec<u8>,
}

/// Why a chain is nobody's X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum X509SvidError {
    /// There is no certificate.
    #[error("certificate chain is empty")]
    EmptyChain,
    /// There are more certificates than any chain has.
    #[error("certificate chain has {length} certificates; at most {CHAIN_MAX} are allowed")]
    ChainTooLong {
        /// The number found.
        length: usize,
    },
    /// The leaf cannot be read.
    #[error("leaf certificate cannot be read")]
    Leaf(#[source] CertificateError),
    /// An intermediate cannot be read.
    #[error("intermediate certificate cannot be read")]
    Intermediate(#[source] CertificateError),
    /// The leaf has no URI name, so no SPIFFE ID.
    #[error("certificate has no SPIFFE ID: there is no URI name in it")]
    NoSpiffeId,
    /// The leaf has several URI names (X509-SVID section 2).
    #[error("certificate has more than one URI name")]
    SeveralUris,
    /// The leaf's URI name is not a SPIFFE ID.
    #[error("URI name of the certificate is not a SPIFFE ID")]
    SpiffeId(#[source] SpiffeIdError),
    /// The leaf's SPIFFE ID is that of a whole trust domain (X509-SVID section 5.2).
    #[error("SPIFFE ID of the certificate has no path")]
    NoPath,
    /// A signing certificate presents itself as a leaf (X509-SVID section 5.2).
    #[error("certificate is a signing certificate, which never authenticates anybody")]
    SigningCertificate,
    /// The leaf does not say what its key may be used for (X509-SVID section 4.3).
    #[error("certificate has no keyUsage")]
    NoKeyUsage,
    /// The leaf's key may not be used to authenticate (X509-SVID section 4.3).
    #[error("keyUsage of the certificate lacks digitalSignature")]
    NoDigitalSignature,
    /// The leaf's key may sign certificates or revocation lists (X509-SVID section 5.2).
    #[error("keyUsage of the certificate includes keyCertSign or cRLSign")]
    SigningKeyUsage,
    /// The leaf, or an intermediate, may not be used in this role.
    #[error("extendedKeyUsage does not allow this role")]
    Purpose,
    /// There is no bundle for the leaf's trust domain.
    #[error("there is no bundle for trust domain {0}")]
    NoBundle(TrustDomain),
    /// The bundle of the leaf's trust domain has no anchors, so it does not do X.509-SVIDs.
    #[error("bundle of trust domain {0} has no X.509 authorities")]
    NoAuthorities(TrustDomain),
    /// No path leads to an anchor of the leaf's trust domain.
    #[error("certificate was not signed by an authority of trust domain {0}")]
    UnknownAuthority(TrustDomain),
    /// A signature does not match.
    #[error("signature of a certificate in the chain does not match")]
    Signature,
    /// The leaf, or an intermediate, was valid in the past.
    #[error("certificate expired at {not_after}")]
    Expired {
        /// Its last instant.
        not_after: Timestamp,
    },
    /// The leaf, or an intermediate, will be valid in the future.
    #[error("certificate is not valid before {not_before}")]
    NotYetValid {
        /// Its first instant.
        not_before: Timestamp,
    },
    /// An intermediate may not sign certificates (RFC 5280 section 6.1.4).
    #[error("intermediate certificate lacks keyCertSign")]
    IntermediateKeyUsage,
    /// The anchor is outside its validity.
    #[error("authority {id} is outside its validity")]
    AnchorExpired {
        /// The anchor's id.
        id: String,
    },
    /// The anchor is being withdrawn, and the policy refuses such.
    #[error("authority {id} is tainted")]
    AnchorTainted {
        /// The anchor's id.
        id: String,
    },
    /// There are more intermediates than the anchor allows.
    #[error("path is longer than authority {id} allows")]
    PathTooLong {
        /// The anchor's id.
        id: String,
    },
    /// The alternative signatures do not verify.
    #[error("hybrid verification failed")]
    Hybrid(#[from] HybridError),
    /// Another rule of RFC 5280 is broken.
    #[error("certificate path is invalid: {0}")]
    Path(String),
}

/// Verifies a chain, leaf first, with the default policy.
///
/// # Errors
/// Why it is nobody's X.509-SVID.
pub fn verify_x509_svid(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: Timestamp,
    usage: Usage,
) -> Result<VerifiedX509Svid, X509SvidError> {
    verify_x509_svid_with(chain, bundles, now, usage, &VerificationPolicy::default())
}

/// Verifies a chain, leaf first, at `now`.
///
/// # Errors
/// Why it is nobody's X.509-SVID.
pub fn verify_x509_svid_with(
    chain: &[CertificateDer<'_>],
    bundles: &BundleSet,
    now: Timestamp,
    usage: Usage,
    policy: &VerificationPolicy,
) -> Result<VerifiedX509Svid, X509SvidError> {
    let (leaf, spiffe_id) = check_leaf(chain)?;
    let trust_domain = spiffe_id.trust_domain();
    let bundle = bundles
        .get(trust_domain)
        .ok_or_else(|| X509SvidError::NoBundle(trust_domain.clone()))?;
    let anchors = Anchor::of_bundle(bundle);
    if anchors.is_empty() {
        return Err(X509SvidError::NoAuthorities(trust_domain.clone()));
    }
    let demands = Demands {
        now,
        usage,
        hybrid: policy.pq_required.contains(trust_domain),
        refuse_tainted: policy.refuse_tainted,
    };
    verify_chain(chain, &leaf, spiffe_id, &anchors, demands)
}

/// Checks the limits of the chain, and everything that the leaf alone tells.
pub(crate) fn check_leaf<'a>(
    chain: &'a [CertificateDer<'_>],
) -> Result<(Certificate<'a>, SpiffeId), X509SvidError> {
    let (leaf, intermediates) = chain.split_first().ok_or(X509SvidError::EmptyChain)?;
    if chain.len() > CHAIN_MAX {
        return Err(X509SvidError::ChainTooLong {
            length: chain.len(),
        });
    }
    if let Some(large) = intermediates
        .iter()
        .find(|other| other.len() > CERTIFICATE_MAX)
    {
        let too_large = CertificateError::TooLarge {
            length: large.len(),
        };
        return Err(X509SvidError::Intermediate(too_large));
    }
    let leaf = Certificate::parse(leaf).map_err(X509SvidError::Leaf)?;
    let spiffe_id = leaf_spiffe_id(&leaf.content)?;
    check_leaf_usage(&leaf.content)?;
    Ok((leaf, spiffe_id))
}

fn leaf_spiffe_id(leaf: &Content<'_>) -> Result<SpiffeId, X509SvidError> {
    let uri = match leaf.names.uris.as_slice() {
        [] => return Err(X509SvidError::NoSpiffeId),
        [uri] => uri,
        _ => return Err(X509SvidError::SeveralUris),
    };
    let spiffe_id = SpiffeId::parse(uri).map_err(X509SvidError::SpiffeId)?;
    if spiffe_id.has_path() {
        Ok(spiffe_id)
    } else {
        Err(X509SvidError::NoPath)
    }
}

fn check_leaf_usage(leaf: &Content<'_>) -> Result<(), X509SvidError> {
    if leaf.is_ca() {
        return Err(X509SvidError::SigningCertificate);
    }
    let usage = leaf.key_usage.ok_or(X509SvidError::NoKeyUsage)?;
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(X509SvidError::SigningKeyUsage);
    }
    if !usage.digital_signature() {
        return Err(X509SvidError::NoDigitalSignature);
    }
    Ok(())
}

/// An anchor, read again: to `webpki` it is only a name and a key.
pub(crate) struct Anchor<'a> {
    certificate: Certificate<'a>,
    trust_anchor: TrustAnchor<'static>,
    alternative_spki: Option<&'a [u8]>,
    tainted: bool,
}

impl<'a> Anchor<'a> {
    /// `None` if the certificate may not be an anchor.
    pub(crate) fn parse(der: &'a [u8], tainted: bool) -> Option<Self> {
        let certificate = Certificate::parse(der).ok()?;
        check_signing_certificate(&certificate.content).ok()?;
        let alternative_spki = alternative_spki(&certificate.parts.tbs).ok()?;
        let whole = CertificateDer::from(der);
        let trust_anchor = webpki::anchor_from_trusted_cert(&whole).ok()?.to_owned();
        Some(Self {
            certificate,
            trust_anchor,
            alternative_spki,
            tainted,
        })
    }

    fn of_bundle(bundle: &'a Bundle) -> Vec<Self> {
        let parse = |anchor: &'a crate::bundle::X509Anchor| {
            Self::parse(&anchor.certificate, anchor.tainted)
        };
        bundle.x509.iter().filter_map(parse).collect()
    }

    fn id(&self) -> String {
        hex::encode(key_id_of(&self.certificate))
    }

    /// Whether the other has the same name and key, so that both verify the same certificates.
    fn is_twin_of(&self, other: &Self) -> bool {
        self.certificate.parts.tbs.subject == other.certificate.parts.tbs.subject
            && self.certificate.parts.tbs.spki == other.certificate.parts.tbs.spki
    }

    fn check(&self, intermediates: usize, demands: &Demands) -> Result<(), X509SvidError> {
        let content = &self.certificate.content;
        if !content.validity.contains(demands.now) {
            return Err(X509SvidError::AnchorExpired { id: self.id() });
        }
        if self.tainted && demands.refuse_tainted {
            return Err(X509SvidError::AnchorTainted { id: self.id() });
        }
        let limit = content
            .basic_constraints
            .as_ref()
            .and_then(|c| c.path_len_constraint);
        if limit.is_some_and(|limit| intermediates > usize::from(limit)) {
            return Err(X509SvidError::PathTooLong { id: self.id() });
        }
        Ok(())
    }
}

fn key_id_of(certificate: &Certificate<'_>) -> Vec<u8> {
    let own = || key_id(certificate.parts.tbs.spki).unwrap_or_default();
    certificate
        .content
        .subject_key_id
        .clone()
        .unwrap_or_else(own)
}

/// What is demanded of a path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demands {
    pub now: Timestamp,
    pub usage: Usage,
    /// Refuse anchors without an alternative key.
    pub hybrid: bool,
    pub refuse_tainted: bool,
}

struct Found {
    hybrid: bool,
    authority_id: String,
    anchor_id: String,
}

/// Builds and verifies a path from a checked leaf to one of the anchors.
pub(crate) fn verify_chain(
    chain: &[CertificateDer<'_>],
    leaf: &Certificate<'_>,
    spiffe_id: SpiffeId,
    anchors: &[Anchor<'_>],
    demands: Demands,
) -> Result<VerifiedX509Svid, X509SvidError> {
    let (end_entity, intermediates) = chain.split_first().ok_or(X509SvidError::EmptyChain)?;
    // A leaf that stands in the bundle itself would be trusted without being signed by anybody.
    if anchors
        .iter()
        .any(|anchor| anchor.certificate.parts.der == leaf.parts.der)
    {
        return Err(X509SvidError::SigningCertificate);
    }
    let trust_domain = spiffe_id.trust_domain();
    let foreign = |error| from_webpki(error, trust_domain);
    let end_entity = EndEntityCert::try_from(end_entity).map_err(foreign)?;
    let trust_anchors: Vec<_> = anchors.iter().map(|a| a.trust_anchor.clone()).collect();
    let refusal = RefCell::new(None);
    let found = RefCell::new(None);
    let check = |path: &webpki::VerifiedPath<'_>| {
        let index = trust_anchors
            .iter()
            .position(|anchor| std::ptr::eq(anchor, path.anchor()));
        match check_path(
            path,
            index.and_then(|i| anchors.get(i)),
            anchors,
            leaf,
            &demands,
        ) {
            Ok(outcome) => {
                found.replace(Some(outcome));
                Ok(())
            }
            Err(error) => {
                refusal.replace(Some(error));
                Err(webpki::Error::UnknownIssuer)
            }
        }
    };
    let result = end_entity.verify_for_usage(
        NATIVE,
        &trust_anchors,
        intermediates,
        unix_time(demands.now),
        demands.usage,
        None,
        Some(&check),
    );
    if let Err(error) = result {
        // A path that was good but for our own rules says more than the search that went on.
        return Err(refusal
            .take()
            .unwrap_or_else(|| from_webpki(error, trust_domain)));
    }
    let found = found
        .take()
        .ok_or_else(|| X509SvidError::Path("no path".to_owned()))?;
    Ok(VerifiedX509Svid {
        serial: leaf.content.serial.clone(),
        validity: leaf.content.validity,
        authority_id: found.authority_id,
        anchor_id: found.anchor_id,
        hybrid: found.hybrid,
        public_key_spki: leaf.parts.tbs.spki.to_vec(),
        spiffe_id,
    })
}

/// Checks one candidate path, whose native signatures, validity, names and constraints hold.
fn check_path(
    path: &webpki::VerifiedPath<'_>,
    anchor: Option<&Anchor<'_>>,
    anchors: &[Anchor<'_>],
    leaf: &Certificate<'_>,
    demands: &Demands,
) -> Result<Found, X509SvidError> {
    let anchor = anchor.ok_or_else(|| X509SvidError::Path("anchor is unknown".to_owned()))?;
    let ders: Vec<_> = path
        .intermediate_certificates()
        .map(|cert| cert.der())
        .collect();
    let intermediates: Result<Vec<_>, _> = ders.iter().map(|der| Certificate::parse(der)).collect();
    let intermediates = intermediates.map_err(X509SvidError::Intermediate)?;
    for intermediate in &intermediates {
        if !intermediate
            .content
            .key_usage
            .is_some_and(|usage| usage.key_cert_sign())
        {
            return Err(X509SvidError::IntermediateKeyUsage);
        }
    }
    anchor.check(intermediates.len(), demands)?;
    let twins = anchors.iter().filter(|other| other.is_twin_of(anchor));
    let spkis: Vec<&[u8]> = twins.filter_map(|twin| twin.alternative_spki).collect();
    if demands.hybrid && spkis.is_empty() {
        return Err(HybridError::AnchorWithoutKey.into());
    }
    let mut downwards: Vec<_> = intermediates.iter().rev().map(|cert| &cert.parts).collect();
    downwards.push(&leaf.parts);
    let hybrid = verify_path(&spkis, &downwards)?;
    let anchor_id = anchor.id();
    let authority_id = match intermediates.first() {
        Some(issuer) => hex::encode(key_id_of(issuer)),
        None => anchor_id.clone(),
    };
    Ok(Found {
        hybrid,
        authority_id,
        anchor_id,
    })
}

impl ExtendedKeyUsageValidator for Usage {
    /// Absent is fine, present must allow the role (decision A-21).
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        // id-kp-serverAuth and id-kp-clientAuth, 1.3.6.1.5.5.7.3.1 and .2.
        const SERVER: KeyPurposeId<'_> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 1]);
        const CLIENT: KeyPurposeId<'_> = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]);
        let mut absent = true;
        for purpose in purposes {
            let purpose = purpose?;
            absent = false;
            let fits = match self {
                Self::Client => purpose == CLIENT,
                Self::Server => purpose == SERVER,
                Self::Either => purpose == CLIENT || purpose == SERVER,
            };
            if fits {
                return Ok(());
            }
        }
        // The plain variant is deprecated for its lack of detail, which we would not use.
        #[expect(
            deprecated,
            reason = "the variant with context cannot be built from outside"
        )]
        let missing = webpki::Error::RequiredEkuNotFound;
        if absent { Ok(()) } else { Err(missing) }
    }
}

fn unix_time(now: Timestamp) -> UnixTime {
    // Before 1970 nothing was valid, nor is it at its first second.
    let seconds = u64::try_from(now.unix_secs()).unwrap_or_default();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn from_unix_time(time: UnixTime) -> Timestamp {
    Timestamp::from_unix_secs(i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

#[expect(
    deprecated,
    reason = "older variants of some errors are still produced"
)]
fn from_webpki(error: webpki::Error, trust_domain: &TrustDomain) -> X509SvidError {
    match error {
        webpki::Error::UnknownIssuer => X509SvidError::UnknownAuthority(trust_domain.clone()),
        webpki::Error::InvalidSignatureForPublicKey => X509SvidError::Signature,
        webpki::Error::CertExpired { not_after, .. } => X509SvidError::Expired {
            not_after: from_unix_time(not_after),
        },
        webpki::Error::CertNotValidYet { not_before, .. } => X509SvidError::NotYetValid {
            not_before: from_unix_time(not_before),
        },
        webpki::Error::RequiredEkuNotFound | webpki::Error::RequiredEkuNotFoundContext(_) => {
            X509SvidError::Purpose
        }
        webpki::Error::CaUsedAsEndEntity => X509SvidError::SigningCertificate,
        other => X509SvidError::Path(other.to_string()),
    }
}
