//! Building and judging the path from a leaf to an anchor.
//!
//! Responsible for: calling `webpki`, and checking on each path that it offers what it leaves
//! out: the intermediates' key usage, the anchor's validity and path length, and the
//! alternative signatures.
//! Always holds: the path that is judged is the path that was built, certificate by
//! certificate; a path that fails a rule does not stop the search for a better one.
//! Not here: choosing the anchors, and what the leaf alone tells (`verify`).

use std::cell::RefCell;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::aws_lc_rs as algorithms;
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter};

use super::{Usage, VerifiedX509Svid, X509SvidError};
use crate::bundle::{Bundle, X509Anchor};
use crate::clock::Timestamp;
use crate::hybrid::HybridError;
use crate::hybrid::verify::{alternative_spki, verify_path};
use crate::spiffe_id::SpiffeId;
use crate::svid::x509::anchor::{check_signing_certificate, key_id_of};
use crate::svid::x509::certificate::Certificate;
use crate::trust_domain::TrustDomain;
use crate::validity::Validity;

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

    pub(crate) fn of_bundle(bundle: &'a Bundle) -> Vec<Self> {
        let parse = |anchor: &'a X509Anchor| Self::parse(&anchor.certificate, anchor.tainted);
        bundle.x509.iter().filter_map(parse).collect()
    }

    pub(crate) fn validity(&self) -> Validity {
        self.certificate.content.validity
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
