//! `mintmark token`: tokens with which nodes and servers join.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::cluster::v1 as cluster;
use mintmark_proto::mintmark::cluster::v1::cluster_client::ClusterClient;
use mintmark_proto::spire::agent as wire;
use mintmark_proto::spire::agent::agent_client::AgentClient;
use serde::Serialize;

use super::entry::document::spiffe_id;
use crate::connect::request;
use crate::context::Context;
use crate::duration::Seconds;
use crate::failure::Failure;

/// Commands about tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token for one node: the first key that shows it becomes the agent.
    #[command(after_help = "\
Examples:
  mintmark token generate --spiffe-id spiffe://example.org/node/a
  mintmark token generate --ttl 5m --write /etc/mintmark/agent.token
  TOKEN=$(mintmark token generate -o json | jq -r .token)")]
    Generate {
        /// Node alias: an ID that entries can name as parent whichever agent the node becomes.
        #[arg(long)]
        spiffe_id: Option<String>,
        /// How long it can be used.
        #[arg(long, default_value = "10m", value_name = "DURATION")]
        ttl: Seconds,
        /// Write the token into this file, for its owner only, instead of printing it.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Make a token with which one more ca-server joins this cluster.
    #[command(after_help = "Example:\n  mintmark token server --ttl 10m")]
    Server {
        /// How long it can be used.
        #[arg(long, default_value = "10m", value_name = "DURATION")]
        ttl: Seconds,
    },
}

#[derive(Serialize)]
struct TokenDocument {
    token: String,
    expires_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<String>,
}

/// Says where a token is.
fn written(path: &Path, expires_at: i64, context: &Context) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Written {
        file: String,
        expires_at: i64,
    }
    let file = path.display().to_string();
    let expires = Timestamp::from_unix_secs(expires_at).to_string();
    let fields = [("token in", file.clone()), ("expires", expires)];
    context.output.one(&Written { file, expires_at }, &fields)
}

/// Runs `mintmark token …`.
pub async fn run(command: TokenCommand, context: &Context) -> Result<(), Failure> {
    let channel = context.connect.server(&context.host).await?;
    match command {
        TokenCommand::Generate {
            spiffe_id: alias,
            ttl,
            write,
        } => {
            let agent_id = alias
                .as_deref()
                .map(|id| spiffe_id("--spiffe-id", id))
                .transpose()?;
            let asked = wire::CreateJoinTokenRequest {
                ttl: i32::try_from(ttl.0).unwrap_or(i32::MAX),
                agent_id,
                ..Default::default()
            };
            let made = request(
                "make a token",
                AgentClient::new(channel).create_join_token(asked),
            )
            .await?;
            if let Some(path) = write {
                context.write(&path, &made.value, 0o600)?;
                return written(&path, made.expires_at, context);
            }
            let document = TokenDocument {
                token: made.value,
                expires_at: made.expires_at,
                pin: None,
            };
            let expires = Timestamp::from_unix_secs(document.expires_at).to_string();
            let fields = [("token", document.token.clone()), ("expires", expires)];
            context.output.one(&document, &fields)
        }
        TokenCommand::Server { ttl } => {
            let asked = cluster::CreateServerTokenRequest {
                ttl_seconds: u64::from(ttl.0),
            };
            let made = request(
                "make a server token",
                ClusterClient::new(channel).create_server_token(asked),
            )
            .await?;
            let expires = Timestamp::from_unix_millis(made.expires_at_ms);
            let document = TokenDocument {
                token: made.token,
                expires_at: expires.unix_secs(),
                pin: Some(hex::encode(&made.pin)),
            };
            let fields = [
                ("token", document.token.clone()),
                ("pin", document.pin.clone().unwrap_or_default()),
                ("expires", expires.to_string()),
            ];
            context.output.one(&document, &fields)
        }
    }
}
