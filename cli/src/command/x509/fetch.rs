//! `x509 fetch`: the SVIDs of this process, verified before they are shown or written.

use std::path::Path;

use mintmark_identity::pem;
use mintmark_identity::svid::x509::verify::{Usage, verify_x509_svid};
use mintmark_identity::svid::x509::x509_svid::X509Svid;
use mintmark_workload_api::client::x509::{X509Identity, X509Update};
use mintmark_workload_api::source::x509::X509Source;
use mintmark_workload_api::source::{Event, Settings};
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::verify::{VerifiedDocument, bundle_set, refused};
use super::{client_failure, workload_client, workload_endpoint};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{note, reader_leaves};

/// A fetched SVID, as it is printed.
#[derive(Debug, Serialize)]
struct FetchedDocument {
    #[serde(flatten)]
    verified: VerifiedDocument,
    not_before_unix: i64,
    not_after_unix: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    federated_with: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
}

/// Runs `x509 fetch`.
pub async fn run(write: Option<&Path>, watch: bool, context: &Context) -> Result<(), Failure> {
    let mut client = workload_client(context).await?;
    if !watch {
        let update = client
            .fetch_x509()
            .await
            .map_err(|e| client_failure("fetch X.509-SVIDs", &e))?;
        let documents = documents(&update, write, context)?;
        return print(&documents, context);
    }
    tokio::select! {
        ended = follow(write, context) => ended,
        left = reader_leaves(), if write.is_none() => Err(left),
    }
}

/// Shows and writes each update until the agent refuses for good. Reconnecting is the source's affair.
async fn follow(write: Option<&Path>, context: &Context) -> Result<(), Failure> {
    let source = X509Source::spawn(Settings {
        clock: context.host.clock.clone(),
        entropy: context.host.entropy.clone(),
        ..Settings::new(workload_endpoint(context)?)
    });
    let mut events = source.watch();
    while let Some(event) = events.next().await {
        match event {
            Event::Value(update) => {
                for document in documents(&update.to_update(), write, context)? {
                    let line = document.line();
                    context.output.stream(&document, &line)?;
                }
            }
            Event::Trouble(error) if !error.is_retryable() => {
                return Err(client_failure("fetch X.509-SVIDs", &error));
            }
            Event::Trouble(error) | Event::Withdrawn(error) => {
                note(&format!("{error}; trying again"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Verifies every identity of an update, and writes it when asked to.
fn documents(
    update: &X509Update,
    write: Option<&Path>,
    context: &Context,
) -> Result<Vec<FetchedDocument>, Failure> {
    let mut documents = Vec::with_capacity(update.identities.len());
    for (index, identity) in update.identities.iter().enumerate() {
        let mut document = verified(identity, context)?;
        document.federated_with = update.federated.keys().map(ToString::to_string).collect();
        if let Some(directory) = write {
            document.files = write_files(directory, index, identity, context)?;
        }
        documents.push(document);
    }
    if let Some(directory) = write {
        for (index, (_, authorities)) in update.federated.iter().enumerate() {
            let text = pem::encode_certificates(authorities);
            let path = directory.join(format!("federated_bundle.{index}.pem"));
            context.write(&path, &text, 0o644)?;
        }
    }
    Ok(documents)
}

/// The checks of a relying party, and that the agent's words, the certificate and the key agree.
fn verified(identity: &X509Identity, context: &Context) -> Result<FetchedDocument, Failure> {
    let chain: Vec<CertificateDer<'_>> = identity
        .chain
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let anchors: Vec<CertificateDer<'_>> = identity
        .bundle
        .iter()
        .map(|der| CertificateDer::from(der.as_slice()))
        .collect();
    let bundles = bundle_set(identity.spiffe_id.trust_domain(), &anchors)?;
    let svid = verify_x509_svid(&chain, &bundles, context.now(), Usage::Either)
        .map_err(|e| refused(&e))?;
    let disagree = |what: &str| {
        Failure::new(
            "MM-3424",
            Exit::Unhealthy,
            "the agent's answer contradicts itself",
        )
        .why(what)
    };
    if svid.spiffe_id != identity.spiffe_id {
        return Err(disagree(
            "the certificate names another SPIFFE ID than the agent",
        ));
    }
    let owned = chain.into_iter().map(CertificateDer::into_owned).collect();
    X509Svid::new(owned, identity.private_key.clone())
        .map_err(|e| disagree("the SVID cannot be used with its private key").because(&e))?;
    Ok(FetchedDocument {
        not_before_unix: svid.validity.not_before.unix_secs(),
        not_after_unix: svid.validity.not_after.unix_secs(),
        verified: VerifiedDocument::new(&svid, &identity.hint),
        federated_with: Vec::new(),
        files: Vec::new(),
    })
}

fn print(documents: &[FetchedDocument], context: &Context) -> Result<(), Failure> {
    use crate::output::Format;
    if matches!(context.output.format(), Format::Json | Format::Yaml) {
        return context.output.structured(&documents);
    }
    for (index, document) in documents.iter().enumerate() {
        if index > 0 {
            context.output.raw("")?;
        }
        let mut fields = document.verified.fields();
        if !document.federated_with.is_empty() {
            fields.push(("federated", document.federated_with.join("\n")));
        }
        if !document.files.is_empty() {
            fields.push(("written", document.files.join("\n")));
        }
        context.output.one(document, &fields)?;
    }
    Ok(())
}

impl FetchedDocument {
    fn line(&self) -> String {
        format!(
            "{}  serial {}  until {}  verified",
            self.verified.spiffe_id, self.verified.serial, self.verified.not_after
        )
    }
}

/// `svid.N.pem`, `svid.N.key`, `bundle.N.pem`, named as SPIRE names them. Each file is replaced as a
/// whole; the key is written before the certificate that needs it.
fn write_files(
    directory: &Path,
    index: usize,
    identity: &X509Identity,
    context: &Context,
) -> Result<Vec<String>, Failure> {
    context.make_directory(directory)?;
    let files = [
        (
            format!("svid.{index}.key"),
            pem::encode(pem::PRIVATE_KEY, identity.private_key.expose()),
            0o600,
        ),
        (
            format!("svid.{index}.pem"),
            pem::encode_certificates(&identity.chain),
            0o644,
        ),
        (
            format!("bundle.{index}.pem"),
            pem::encode_certificates(&identity.bundle),
            0o644,
        ),
    ];
    let mut written = Vec::new();
    for (name, text, mode) in files {
        let path = directory.join(name);
        context.write(&path, &text, mode)?;
        written.push(path.display().to_string());
    }
    Ok(written)
}
