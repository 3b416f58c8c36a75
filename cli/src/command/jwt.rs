//! `mintmark jwt`: JWT-SVIDs.

use clap::Subcommand;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::spire::svid as wire;
use mintmark_proto::spire::svid::svid_client::SvidClient;
use mintmark_workload_api::client::jwt::JwtToken;
use serde::Serialize;

use super::entry::document::spiffe_id;
use super::x509::client_failure;
use crate::connect::request;
use crate::context::Context;
use crate::duration::Seconds;
use crate::failure::{Exit, Failure};
use crate::output::Format;

/// Commands about JWT-SVIDs.
#[derive(Debug, Subcommand)]
pub enum JwtCommand {
    /// Fetch JWT-SVIDs for this process from the agent.
    #[command(after_help = "\
Examples:
  mintmark jwt fetch --audience billing
  curl -H \"authorization: Bearer $(mintmark jwt fetch --audience billing -o json | jq -r .[0].token)\" …")]
    Fetch {
        /// For whom the token is; repeat for more.
        #[arg(long, required = true)]
        audience: Vec<String>,
        /// Only for this identity, when there are several.
        #[arg(long)]
        spiffe_id: Option<SpiffeId>,
    },
    /// Have the agent validate a token.
    #[command(after_help = "Example:\n  mintmark jwt validate --audience billing eyJhbGciOi…")]
    Validate {
        /// What the token must be for.
        #[arg(long)]
        audience: String,
        /// The token.
        token: String,
    },
    /// Have the server mint a token for any identity of the trust domain. The log says who did.
    #[command(after_help = "\
Example:
  mintmark jwt mint --spiffe-id spiffe://example.org/ops --audience billing --ttl 1m")]
    Mint {
        /// The subject.
        #[arg(long)]
        spiffe_id: String,
        /// For whom the token is; repeat for more.
        #[arg(long, required = true)]
        audience: Vec<String>,
        /// How long it lives; the cluster's if absent.
        #[arg(long, value_name = "DURATION")]
        ttl: Option<Seconds>,
    },
}

#[derive(Serialize)]
struct TokenDocument {
    spiffe_id: String,
    token: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
}

/// Runs `mintmark jwt …`.
pub async fn run(command: JwtCommand, context: &Context) -> Result<(), Failure> {
    match command {
        JwtCommand::Fetch {
            audience,
            spiffe_id,
        } => fetch(&audience, spiffe_id.as_ref(), context).await,
        JwtCommand::Validate { audience, token } => validate(&audience, &token, context).await,
        JwtCommand::Mint {
            spiffe_id,
            audience,
            ttl,
        } => mint(&spiffe_id, audience, ttl, context).await,
    }
}

async fn fetch(
    audience: &[String],
    spiffe_id: Option<&SpiffeId>,
    context: &Context,
) -> Result<(), Failure> {
    let mut client = super::x509::workload_client(context).await?;
    let tokens = client
        .fetch_jwt(audience, spiffe_id)
        .await
        .map_err(|e| client_failure("fetch a JWT-SVID", &e))?;
    print(&tokens, context)
}

fn print(tokens: &[JwtToken], context: &Context) -> Result<(), Failure> {
    if matches!(context.output.format(), Format::Table | Format::Wide) {
        for token in tokens {
            context
                .output
                .raw(&format!("{}\n{}", token.spiffe_id, token.token))?;
        }
        return Ok(());
    }
    let documents: Vec<TokenDocument> = tokens
        .iter()
        .map(|token| TokenDocument {
            spiffe_id: token.spiffe_id.to_string(),
            token: token.token.clone(),
            hint: token.hint.clone(),
            expires_at: None,
        })
        .collect();
    context.output.structured(&documents)
}

async fn validate(audience: &str, token: &str, context: &Context) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Valid<'a> {
        valid: bool,
        spiffe_id: String,
        claims: &'a serde_json::Map<String, serde_json::Value>,
    }
    use mintmark_workload_api::error::ClientError;
    let mut client = super::x509::workload_client(context).await?;
    let valid = match client.validate_jwt(audience, token).await {
        Ok(valid) => valid,
        Err(ClientError::Invalid(why)) => {
            return Err(
                Failure::new("MM-3402", Exit::Unhealthy, "the token is not valid").why(why),
            );
        }
        Err(e) => return Err(client_failure("validate the token", &e)),
    };
    let mut fields = vec![
        ("valid", "yes".to_owned()),
        ("spiffe id", valid.spiffe_id.to_string()),
    ];
    let claims: Vec<(String, String)> = valid
        .claims
        .iter()
        .map(|(name, value)| (name.clone(), value.to_string()))
        .collect();
    fields.extend(
        claims
            .iter()
            .map(|(name, value)| (name.as_str(), value.clone())),
    );
    let document = Valid {
        valid: true,
        spiffe_id: valid.spiffe_id.to_string(),
        claims: &valid.claims,
    };
    context.output.one(&document, &fields)
}

async fn mint(
    id: &str,
    audience: Vec<String>,
    ttl: Option<Seconds>,
    context: &Context,
) -> Result<(), Failure> {
    let channel = context.connect.server(&context.host).await?;
    let asked = wire::MintJwtsvidRequest {
        id: Some(spiffe_id("--spiffe-id", id)?),
        audience,
        ttl: ttl.map_or(0, |ttl| i32::try_from(ttl.0).unwrap_or(i32::MAX)),
    };
    let response = request(
        "mint a JWT-SVID",
        SvidClient::new(channel).mint_jwtsvid(asked),
    )
    .await?;
    let svid = response.svid.ok_or_else(|| {
        Failure::new(
            "MM-3403",
            Exit::Failure,
            "the server's answer holds no token",
        )
    })?;
    let document = TokenDocument {
        spiffe_id: id.to_owned(),
        token: svid.token,
        hint: String::new(),
        expires_at: Some(svid.expires_at),
    };
    let fields = [
        ("spiffe id", document.spiffe_id.clone()),
        (
            "expires",
            Timestamp::from_unix_secs(svid.expires_at).to_string(),
        ),
        ("token", document.token.clone()),
    ];
    context.output.one(&document, &fields)
}
