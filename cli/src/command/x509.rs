//! `mintmark x509`: X.509-SVIDs.

use std::path::PathBuf;

use clap::Subcommand;
use mintmark_workload_api::client::Client;
use mintmark_workload_api::endpoint::Endpoint;
use mintmark_workload_api::error::ClientError;

use crate::context::Context;
use crate::duration::Seconds;
use crate::failure::{Exit, Failure};

mod fetch;
mod inspect;
mod mint;
mod verify;

/// Commands about X.509-SVIDs.
#[derive(Debug, Subcommand)]
pub enum X509Command {
    /// Fetch the SVIDs of this process from the agent, and verify them.
    #[command(after_help = "\
Examples:
  mintmark x509 fetch
  mintmark x509 fetch --write /run/web/tls        svid.0.pem, svid.0.key, bundle.0.pem
  mintmark x509 fetch --watch --write /run/web/tls")]
    Fetch {
        /// Write certificate, key and bundle of each identity into this directory.
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
        /// Stay, and print (and write) every renewal.
        #[arg(long)]
        watch: bool,
    },
    /// Have the server mint an SVID for any identity of the trust domain. The log says who did.
    #[command(after_help = "\
Example:
  mintmark x509 mint --spiffe-id spiffe://example.org/ops --ttl 10m --write ./ops-tls")]
    Mint {
        /// The identity.
        #[arg(long)]
        spiffe_id: String,
        /// DNS name; repeat for more.
        #[arg(long = "dns-name", value_name = "NAME")]
        dns_names: Vec<String>,
        /// How long it lives; the cluster's if absent.
        #[arg(long, value_name = "DURATION")]
        ttl: Option<Seconds>,
        /// Write svid.pem, svid.key and bundle.pem into this directory; printed otherwise.
        #[arg(long, value_name = "DIR")]
        write: Option<PathBuf>,
    },
    /// Show what is in certificates: identity, lifetime, signatures, hybrid parts.
    #[command(after_help = "Example:\n  mintmark x509 inspect svid.0.pem")]
    Inspect {
        /// PEM or DER file; - reads standard input.
        file: PathBuf,
    },
    /// Verify an SVID as a relying party does: path, SPIFFE rules, both signatures of a hybrid.
    #[command(after_help = "\
Examples:
  mintmark x509 verify svid.0.pem --bundle bundle.0.pem
  mintmark x509 verify svid.0.pem --bundle bundle.0.pem --require-hybrid

Exit code 8 when it does not verify.")]
    Verify {
        /// PEM file, leaf first.
        file: PathBuf,
        /// PEM file with the authorities of its trust domain.
        #[arg(long, value_name = "FILE")]
        bundle: PathBuf,
        /// Refuse what has no post-quantum signature, whatever the bundle says.
        #[arg(long)]
        require_hybrid: bool,
    },
}

/// Runs `mintmark x509 …`.
pub async fn run(command: X509Command, context: &Context) -> Result<(), Failure> {
    match command {
        X509Command::Fetch { write, watch } => fetch::run(write.as_deref(), watch, context).await,
        X509Command::Mint {
            spiffe_id,
            dns_names,
            ttl,
            write,
        } => mint::run(&spiffe_id, dns_names, ttl, write.as_deref(), context).await,
        X509Command::Inspect { file } => inspect::run(&file, context),
        X509Command::Verify {
            file,
            bundle,
            require_hybrid,
        } => verify::run(&file, &bundle, require_hybrid, context),
    }
}

/// A client of the Workload API.
pub async fn workload_client(context: &Context) -> Result<Client, Failure> {
    Client::connect(&workload_endpoint(context)?)
        .await
        .map_err(|e| client_failure("reach the Workload API", &e))
}

/// Where the Workload API is.
pub fn workload_endpoint(context: &Context) -> Result<Endpoint, Failure> {
    let address = context.connect.workload(&context.host)?;
    address.parse().map_err(|e| {
        Failure::new(
            "MM-3401",
            Exit::Usage,
            format!("`{address}` is no Workload API address"),
        )
        .because(&e)
        .next("set SPIFFE_ENDPOINT_SOCKET, or give --socket unix:///path")
    })
}

/// What a failed call to the Workload API means for the exit code, and what to do.
pub fn client_failure(doing: &str, error: &ClientError) -> Failure {
    let (code, exit, next) = match error {
        ClientError::NoAgent { .. } => (
            "MM-3410",
            Exit::Unavailable,
            "is the agent running? Name its socket with --socket or SPIFFE_ENDPOINT_SOCKET",
        ),
        ClientError::NoIdentity(_) => (
            "MM-3411",
            Exit::Denied,
            "ask why: mintmark explain --pid $$",
        ),
        ClientError::Unavailable(_) => ("MM-3412", Exit::Unavailable, "try again in a moment"),
        ClientError::Timeout(_) | ClientError::Late(_) => {
            ("MM-3413", Exit::Timeout, "try again in a moment")
        }
        ClientError::Invalid(_) => ("MM-3414", Exit::Usage, "see --help for what is expected"),
        _ => ("MM-3415", Exit::Failure, "see the agent's log"),
    };
    Failure::new(code, exit, format!("cannot {doing}"))
        .because(error)
        .next(next)
}
