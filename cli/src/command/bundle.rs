//! `mintmark bundle`: the trust bundle.

use clap::{Subcommand, ValueEnum};
use mintmark_identity::bundle::Bundle;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::pem;
use mintmark_proto::spire::bundle as wire;
use mintmark_proto::spire::bundle::bundle_client::BundleClient;
use mintmark_proto::spire::types;
use serde::Serialize;
use tonic::transport::Channel;

use crate::connect::request;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Format;

/// What a PEM block with a SubjectPublicKeyInfo is called (RFC 7468 section 13).
const PUBLIC_KEY: &str = "PUBLIC KEY";

/// Commands about bundles.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Print the bundle of this trust domain.
    #[command(after_help = "\
Examples:
  mintmark bundle show > bundle.pem
  mintmark bundle show --format spiffe > bundle.json
  mintmark bundle show -o json                    all that the server says of it")]
    Show {
        /// PEM certificates, or the SPIFFE bundle document. With -o json or yaml, PEM is a field.
        #[arg(long, value_enum, default_value_t)]
        format: BundleFormat,
    },
}

/// How a bundle is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum BundleFormat {
    /// The X.509 authorities as PEM.
    #[default]
    Pem,
    /// The SPIFFE bundle document (JSON): X.509 and JWT authorities, sequence, refresh hint.
    Spiffe,
}

/// Runs `mintmark bundle …`.
pub async fn run(command: BundleCommand, context: &Context) -> Result<(), Failure> {
    let BundleCommand::Show { format } = command;
    let channel = context.connect.server(&context.host).await?;
    let bundle = fetch(channel).await?;
    match (format, context.output.format()) {
        (BundleFormat::Pem, Format::Json | Format::Yaml) => {
            context.output.structured(&BundleDocument::new(&bundle))
        }
        (BundleFormat::Pem, _) => context.output.raw(&to_pem(&bundle)),
        (BundleFormat::Spiffe, Format::Yaml) => {
            let document: serde_json::Value =
                serde_json::from_slice(&bundle.to_document()).map_err(|e| unreadable(&e))?;
            context.output.structured(&document)
        }
        // The document is JSON in itself.
        (BundleFormat::Spiffe, _) => context
            .output
            .raw(&String::from_utf8_lossy(&bundle.to_document())),
    }
}

/// A bundle, as it is printed for programs.
#[derive(Debug, Serialize)]
struct BundleDocument {
    trust_domain: String,
    sequence: Option<u64>,
    refresh_hint_seconds: Option<u64>,
    x509_authorities: Vec<X509AuthorityDocument>,
    jwt_authorities: Vec<JwtAuthorityDocument>,
    pem: String,
}

#[derive(Debug, Serialize)]
struct X509AuthorityDocument {
    pem: String,
    tainted: bool,
}

#[derive(Debug, Serialize)]
struct JwtAuthorityDocument {
    key_id: String,
    public_key_pem: String,
    expires_at: Option<i64>,
    tainted: bool,
}

impl BundleDocument {
    fn new(bundle: &Bundle) -> Self {
        let x509 = bundle.x509.iter().map(|anchor| X509AuthorityDocument {
            pem: pem::encode_certificates([&anchor.certificate]),
            tainted: anchor.tainted,
        });
        let jwt = bundle.jwt.iter().map(|authority| JwtAuthorityDocument {
            key_id: authority.kid().to_owned(),
            public_key_pem: pem::encode(PUBLIC_KEY, authority.public_key_spki()),
            expires_at: authority.expires_at.map(Timestamp::unix_secs),
            tainted: authority.tainted,
        });
        Self {
            trust_domain: bundle.trust_domain.to_string(),
            sequence: bundle.sequence,
            refresh_hint_seconds: bundle.refresh_hint.map(|hint| hint.as_secs()),
            x509_authorities: x509.collect(),
            jwt_authorities: jwt.collect(),
            pem: to_pem(bundle),
        }
    }
}

/// The bundle of the server's own trust domain.
pub async fn fetch(channel: Channel) -> Result<Bundle, Failure> {
    let mut client = BundleClient::new(channel);
    let asked = wire::GetBundleRequest { output_mask: None };
    let bundle = request("get the bundle", client.get_bundle(asked)).await?;
    from_wire(&bundle)
}

/// A bundle as a server sent it.
pub fn from_wire(bundle: &types::Bundle) -> Result<Bundle, Failure> {
    Bundle::try_from(bundle).map_err(|e| unreadable(&e))
}

fn unreadable(cause: &dyn std::error::Error) -> Failure {
    let what = "the server's bundle cannot be read";
    Failure::new("MM-3301", Exit::Failure, what).because(cause)
}

/// The X.509 authorities of a bundle as PEM.
pub fn to_pem(bundle: &Bundle) -> String {
    pem::encode_certificates(bundle.x509.iter().map(|anchor| &anchor.certificate))
}
