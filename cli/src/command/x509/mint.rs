//! `x509 mint`: an administrator's SVID. The key is made here and never leaves this process.

use std::path::Path;

use mintmark_identity::key_manager::{KeyAlgorithm, SigningKey};
use mintmark_identity::pem;
use mintmark_proto::spire::svid as wire;
use mintmark_proto::spire::svid::svid_client::SvidClient;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use serde::Serialize;

use crate::command::bundle;
use crate::command::entry::document::spiffe_id;
use crate::connect::request;
use crate::context::Context;
use crate::duration::Seconds;
use crate::failure::{Exit, Failure};

#[derive(Debug, Serialize)]
struct Minted {
    spiffe_id: String,
    expires_at: i64,
    certificate_pem: String,
    private_key_pem: String,
    bundle_pem: String,
}

/// Runs `x509 mint`.
pub async fn run(
    id: &str,
    dns_names: Vec<String>,
    ttl: Option<Seconds>,
    write: Option<&Path>,
    context: &Context,
) -> Result<(), Failure> {
    // Parsed for its error message; the request carries the name in the CSR, as SPIRE's does.
    spiffe_id("--spiffe-id", id)?;
    let unusable = |e: &dyn std::error::Error| {
        Failure::new("MM-3425", Exit::Usage, "cannot make the signing request").because(e)
    };
    let key = SigningKey::generate(KeyAlgorithm::EcP256).map_err(|e| unusable(&e))?;
    let pkcs8 = key.to_pkcs8().map_err(|e| unusable(&e))?;
    let csr = signing_request(&pkcs8, id, dns_names).map_err(|e| unusable(&e))?;
    let channel = context.connect.server(&context.host).await?;
    let asked = wire::MintX509svidRequest {
        csr,
        ttl: ttl.map_or(0, |ttl| i32::try_from(ttl.0).unwrap_or(i32::MAX)),
    };
    let minted = request(
        "mint an X.509-SVID",
        SvidClient::new(channel.clone()).mint_x509svid(asked),
    )
    .await?;
    let svid = minted.svid.ok_or_else(|| {
        Failure::new(
            "MM-3426",
            Exit::Failure,
            "the server's answer holds no SVID",
        )
    })?;
    let bundle = bundle::fetch(channel).await?;
    let minted = Minted {
        spiffe_id: id.to_owned(),
        expires_at: svid.expires_at,
        certificate_pem: pem::encode_certificates(&svid.cert_chain),
        private_key_pem: pem::encode(pem::PRIVATE_KEY, &pkcs8),
        bundle_pem: bundle::to_pem(&bundle),
    };
    match write {
        Some(directory) => write_files(directory, &minted, context),
        None => {
            let fields = [
                ("spiffe id", minted.spiffe_id.clone()),
                ("svid", minted.certificate_pem.clone()),
                ("key", minted.private_key_pem.clone()),
                ("bundle", minted.bundle_pem.clone()),
            ];
            context.output.one(&minted, &fields)
        }
    }
}

fn signing_request(
    pkcs8: &[u8],
    id: &str,
    dns_names: Vec<String>,
) -> Result<Vec<u8>, rcgen::Error> {
    let key = KeyPair::try_from(pkcs8)?;
    let mut params = CertificateParams::new(dns_names)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .subject_alt_names
        .insert(0, SanType::URI(id.try_into()?));
    Ok(params.serialize_request(&key)?.der().to_vec())
}

fn write_files(directory: &Path, minted: &Minted, context: &Context) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Written {
        spiffe_id: String,
        files: Vec<String>,
    }
    context.make_directory(directory)?;
    let mut files = Vec::new();
    for (name, text, mode) in [
        ("svid.key", &minted.private_key_pem, 0o600),
        ("svid.pem", &minted.certificate_pem, 0o644),
        ("bundle.pem", &minted.bundle_pem, 0o644),
    ] {
        let path = directory.join(name);
        context.write(&path, text, mode)?;
        files.push(path.display().to_string());
    }
    let fields = [
        ("spiffe id", minted.spiffe_id.clone()),
        ("written", files.join("\n")),
    ];
    context.output.one(
        &Written {
            spiffe_id: minted.spiffe_id.clone(),
            files,
        },
        &fields,
    )
}
