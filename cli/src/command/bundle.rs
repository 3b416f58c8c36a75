//! `mintmark bundle`: the trust bundle.

use clap::{Subcommand, ValueEnum};
use mintmark_identity::bundle::Bundle;
use mintmark_identity::pem;
use mintmark_proto::spire::bundle as wire;
use mintmark_proto::spire::bundle::bundle_client::BundleClient;
use mintmark_proto::spire::types;

use tonic::transport::Channel;

use crate::connect::request;
use crate::context::Context;
use crate::failure::{Exit, Failure};

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
    let bundle = fetch(channel).await?;
    match format {
        BundleFormat::Pem => context.output.raw(&to_pem(&bundle)),
        BundleFormat::Spiffe => context
            .output
            .raw(&String::from_utf8_lossy(&bundle.to_document())),
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
    Bundle::try_from(bundle).map_err(|e| {
        let what = "the server's bundle cannot be read";
        Failure::new("MM-3301", Exit::Failure, what).because(&e)
    })
}

/// The X.509 authorities of a bundle as PEM.
pub fn to_pem(bundle: &Bundle) -> String {
    pem::encode_certificates(bundle.x509.iter().map(|anchor| &anchor.certificate))
}
