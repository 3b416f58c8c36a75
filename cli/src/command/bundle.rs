//! `mintmark bundle`: the trust bundle.

use clap::{Subcommand, ValueEnum};
use mintmark_identity::bundle::Bundle;
use mintmark_proto::spire::bundle as wire;
use mintmark_proto::spire::bundle::bundle_client::BundleClient;

use crate::connect::request;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::pem;

/// Commands about bundles.
#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Print the bundle of this trust domain.
    #[command(after_help = "\
Examples:
  mintmark bundle show > bundle.pem
  mintmark bundle show --format spiffe > bundle.json")]
    Show {
        /// PEM certificates, or the SPIFFE bundle document.
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
    let asked = wire::GetBundleRequest { output_mask: None };
    let bundle = request(
        "get the bundle",
        BundleClient::new(channel).get_bundle(asked),
    )
    .await?;
    let bundle = Bundle::try_from(&bundle).map_err(|e| {
        Failure::new(
            "MM-3301",
            Exit::Failure,
            "the server's bundle cannot be read",
        )
        .because(&e)
    })?;
    match format {
        BundleFormat::Pem => context.output.raw(&to_pem(&bundle)),
        BundleFormat::Spiffe => context
            .output
            .raw(&String::from_utf8_lossy(&bundle.to_document())),
    }
}

/// The X.509 authorities of a bundle as PEM.
pub fn to_pem(bundle: &Bundle) -> String {
    bundle
        .x509
        .iter()
        .map(|anchor| pem::encode("CERTIFICATE", &anchor.certificate))
        .collect()
}
