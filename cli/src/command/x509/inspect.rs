//! `x509 inspect`: what is in certificates.

use std::path::Path;

use mintmark_identity::hybrid::{
    ALT_SIGNATURE_ALGORITHM, ALT_SIGNATURE_VALUE, SUBJECT_ALT_PUBLIC_KEY_INFO,
};
use mintmark_identity::pem;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_identity::svid::x509::certificate::Certificate;
use mintmark_identity::trust_domain::TrustDomain;
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use crate::context::Context;
use crate::failure::{Exit, Failure};

/// What a certificate in DER begins with, and no PEM text does.
const DER_SEQUENCE: u8 = 0x30;

/// A certificate, as it is printed.
#[derive(Debug, Serialize)]
struct CertificateDocument {
    position: usize,
    role: &'static str,
    uris: Vec<String>,
    dns_names: Vec<String>,
    serial: String,
    not_before: String,
    not_after: String,
    authority: bool,
    subject_key_id: Option<String>,
    authority_key_id: Option<String>,
    hybrid: HybridDocument,
    bytes: usize,
}

/// The alternative-signature extensions (X.509 (2019)).
#[derive(Debug, Serialize)]
struct HybridDocument {
    alternative_key: bool,
    alternative_signature: bool,
    alternative_signature_bytes: usize,
}

/// Runs `x509 inspect`.
pub fn run(file: &Path, context: &Context) -> Result<(), Failure> {
    use crate::output::Format;
    let chain = read(file, context)?;
    let mut documents = Vec::with_capacity(chain.len());
    for (position, der) in chain.iter().enumerate() {
        documents.push(document(position, der)?);
    }
    if matches!(context.output.format(), Format::Json | Format::Yaml) {
        return context.output.structured(&documents);
    }
    for (index, document) in documents.iter().enumerate() {
        if index > 0 {
            context.output.raw("")?;
        }
        context.output.one(document, &document.fields())?;
    }
    Ok(())
}

fn document(position: usize, der: &CertificateDer<'_>) -> Result<CertificateDocument, Failure> {
    let certificate = parse(position, der)?;
    let content = &certificate.content;
    let extension = |id| certificate.parts.tbs.extension(id).map(|e| e.value.len());
    Ok(CertificateDocument {
        position,
        role: if content.is_ca() { "authority" } else { "leaf" },
        uris: content.names.uris.iter().map(ToString::to_string).collect(),
        dns_names: content
            .names
            .dns_names
            .iter()
            .map(ToString::to_string)
            .collect(),
        serial: content.serial.clone(),
        not_before: content.validity.not_before.to_string(),
        not_after: content.validity.not_after.to_string(),
        authority: content.is_ca(),
        subject_key_id: content.subject_key_id.as_ref().map(hex::encode),
        authority_key_id: content.authority_key_id.as_ref().map(hex::encode),
        hybrid: HybridDocument {
            alternative_key: extension(SUBJECT_ALT_PUBLIC_KEY_INFO).is_some(),
            alternative_signature: extension(ALT_SIGNATURE_ALGORITHM).is_some()
                && extension(ALT_SIGNATURE_VALUE).is_some(),
            alternative_signature_bytes: extension(ALT_SIGNATURE_VALUE).unwrap_or(0),
        },
        bytes: der.len(),
    })
}

impl CertificateDocument {
    fn fields(&self) -> Vec<(&'static str, String)> {
        let hybrid = match (
            self.hybrid.alternative_key,
            self.hybrid.alternative_signature,
        ) {
            (true, true) => "post-quantum key and signature (2.5.29.72, 73, 74)",
            (true, false) => "post-quantum key without a signature",
            (false, true) => "post-quantum signature (2.5.29.73, 74)",
            (false, false) => "no",
        };
        let mut fields = vec![
            (
                "certificate",
                format!("{} ({}, {} bytes)", self.position, self.role, self.bytes),
            ),
            ("uri names", self.uris.join("\n")),
            ("serial", self.serial.clone()),
            (
                "valid",
                format!("{} to {}", self.not_before, self.not_after),
            ),
            (
                "subject key",
                self.subject_key_id.clone().unwrap_or_default(),
            ),
            (
                "authority key",
                self.authority_key_id.clone().unwrap_or_default(),
            ),
            ("hybrid", hybrid.to_owned()),
        ];
        if !self.dns_names.is_empty() {
            fields.push(("dns names", self.dns_names.join("\n")));
        }
        fields
    }
}

/// Reads certificates from a file.
pub fn read(file: &Path, context: &Context) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let wrong = |why: String| {
        Failure::new(
            "MM-3420",
            Exit::Usage,
            format!("{} holds no certificate that can be read", file.display()),
        )
        .why(why)
        .next("give a PEM file, or one certificate in DER")
    };
    let bytes = context.read(file)?;
    if bytes.first() == Some(&DER_SEQUENCE) {
        return Ok(vec![CertificateDer::from(bytes)]);
    }
    let certificates = pem::certificates(&bytes).map_err(|e| wrong(e.to_string()))?;
    if certificates.is_empty() {
        Err(wrong("there is none".to_owned()))
    } else {
        Ok(certificates)
    }
}

/// The trust domain that the leaf of a chain names; which bundle has to verify it.
pub fn trust_domain_of(chain: &[CertificateDer<'_>]) -> Result<TrustDomain, Failure> {
    let unknown = |why: String| {
        Failure::new(
            "MM-3427",
            Exit::Unhealthy,
            "the certificate is no X.509-SVID",
        )
        .why(why)
    };
    let leaf = chain
        .first()
        .ok_or_else(|| unknown("there is none".to_owned()))?;
    let certificate = parse(0, leaf)?;
    let uri = certificate.content.names.uris.first();
    let uri = uri.ok_or_else(|| unknown("it has no URI name".to_owned()))?;
    let id = SpiffeId::parse(uri).map_err(|e| unknown(e.to_string()))?;
    Ok(id.trust_domain().clone())
}

fn parse<'d>(position: usize, der: &'d CertificateDer<'_>) -> Result<Certificate<'d>, Failure> {
    Certificate::parse(der.as_ref()).map_err(|e| {
        Failure::new(
            "MM-3428",
            Exit::Unhealthy,
            format!("certificate {position} cannot be read"),
        )
        .because(&e)
    })
}
