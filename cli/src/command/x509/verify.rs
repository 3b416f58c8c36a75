//! `x509 verify`, and the checks that `x509 fetch` makes of what it got.

use std::path::Path;

use mintmark_identity::bundle::{Bundle, BundleSet, X509Anchor};
use mintmark_identity::svid::x509::verify::{
    Usage, VerifiedX509Svid, X509SvidError, verify_x509_svid,
};
use mintmark_identity::trust_domain::TrustDomain;
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::inspect;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// A verified SVID, as it is printed.
#[derive(Debug, Serialize)]
pub struct VerifiedDocument {
    /// Always true: what does not verify is an error.
    pub verified: bool,
    /// The identity.
    pub spiffe_id: String,
    /// Serial number, hexadecimal.
    pub serial: String,
    /// Start of its life, RFC 3339.
    pub not_before: String,
    /// End of its life, RFC 3339.
    pub not_after: String,
    /// Authority that signed it.
    pub authority_id: String,
    /// Which signatures were checked.
    pub signatures: Vec<&'static str>,
    /// Operator's label.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

impl VerifiedDocument {
    /// From the verifier's own words.
    pub fn new(svid: &VerifiedX509Svid, hint: &str) -> Self {
        let mut signatures = vec!["native"];
        if svid.hybrid {
            signatures.push("ML-DSA-65");
        }
        Self {
            verified: true,
            spiffe_id: svid.spiffe_id.to_string(),
            serial: svid.serial.clone(),
            not_before: svid.validity.not_before.to_string(),
            not_after: svid.validity.not_after.to_string(),
            authority_id: svid.authority_id.clone(),
            signatures,
            hint: hint.to_owned(),
        }
    }

    /// Names and values for people.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("spiffe id", self.spiffe_id.clone()),
            ("serial", self.serial.clone()),
            (
                "valid",
                format!("{} to {}", self.not_before, self.not_after),
            ),
            ("authority", self.authority_id.clone()),
            (
                "verified",
                format!(
                    "chain, SPIFFE rules, signature {}",
                    self.signatures.join(" and ")
                ),
            ),
        ];
        if !self.hint.is_empty() {
            fields.push(("hint", self.hint.clone()));
        }
        fields
    }
}

/// Runs `x509 verify`.
pub fn run(
    file: &Path,
    bundle: &Path,
    require_hybrid: bool,
    context: &Context,
) -> Result<(), Failure> {
    let chain = inspect::read(file, context)?;
    let anchors = inspect::read(bundle, context)?;
    let trust_domain = inspect::trust_domain_of(&chain)?;
    let bundles = bundle_set(&trust_domain, &anchors)?;
    let svid = verify_x509_svid(&chain, &bundles, context.now(), Usage::Either)
        .map_err(|e| refused(&e))?;
    if require_hybrid && !svid.hybrid {
        return Err(Failure::new(
            "MM-3422",
            Exit::Unhealthy,
            "the SVID has no post-quantum signature",
        )
        .why("its authority is not hybrid")
        .next("see `mintmark cluster authorities -o wide`"));
    }
    let document = VerifiedDocument::new(&svid, "");
    context.output.one(&document, &document.fields())
}

/// A bundle of one trust domain.
pub fn bundle_set(
    trust_domain: &TrustDomain,
    anchors: &[CertificateDer<'_>],
) -> Result<BundleSet, Failure> {
    let mut bundle = Bundle::empty(trust_domain.clone());
    for anchor in anchors {
        let anchor = X509Anchor::parse(anchor.as_ref()).map_err(|e| {
            Failure::new(
                "MM-3423",
                Exit::Unhealthy,
                "the bundle holds something that is no authority",
            )
            .because(&e)
        })?;
        bundle.x509.push(anchor);
    }
    let mut bundles = BundleSet::default();
    bundles.insert(bundle);
    Ok(bundles)
}

/// The failure of a verification.
pub fn refused(error: &X509SvidError) -> Failure {
    Failure::new("MM-3421", Exit::Unhealthy, "the SVID does not verify")
        .because(error)
        .next("look at it with `mintmark x509 inspect`")
}
