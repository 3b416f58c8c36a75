//! `mintmark agent`: run one, and what operators do with attested nodes.

use clap::Subcommand;
use mintmark_identity::clock::Timestamp;
use mintmark_proto::spire::agent as wire;
use mintmark_proto::spire::agent::agent_client::AgentClient;
use mintmark_proto::spire::types;
use serde::Serialize;
use tonic::transport::Channel;

use super::daemon::{self, RunArgs};
use super::entry::document::{spiffe_id, spiffe_id_text};
use crate::connect::request;
use crate::consistency::{Consistency, Freshness};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Row;

/// Agents asked for in one request.
const PAGE: i32 = 500;
/// Pages followed before giving up.
const PAGES_MAX: usize = 100_000;

/// Commands about agents.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Run a node agent in the foreground.
    #[command(after_help = "Example:\n  mintmark agent run --config /etc/mintmark/agent.toml")]
    Run(RunArgs),
    /// List attested nodes.
    #[command(after_help = "Examples:\n  mintmark agent list\n  mintmark agent list -o wide")]
    List(Freshness),
    /// Show one attested node.
    #[command(
        after_help = "Example:\n  mintmark agent show spiffe://example.org/spire/agent/join_token/…"
    )]
    Show {
        /// SPIFFE ID of the agent.
        id: String,
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Deny an agent for good: it gets nothing more, and cannot attest again until it is evicted.
    #[command(
        after_help = "Example:\n  mintmark agent ban spiffe://example.org/spire/agent/join_token/…"
    )]
    Ban {
        /// SPIFFE ID of the agent.
        id: String,
    },
    /// Forget an agent: it gets nothing more, and may attest again.
    #[command(
        after_help = "Example:\n  mintmark agent evict spiffe://example.org/spire/agent/join_token/…"
    )]
    Evict {
        /// SPIFFE ID of the agent.
        id: String,
    },
}

/// An attested node, as it is printed.
#[derive(Debug, Serialize)]
struct AgentDocument {
    id: String,
    attestation_type: String,
    selectors: Vec<String>,
    x509_svid_serial_number: String,
    x509_svid_expires_at: i64,
    banned: bool,
    can_reattest: bool,
    #[serde(skip)]
    now: Option<Timestamp>,
}

impl AgentDocument {
    fn from_wire(agent: &types::Agent, now: Timestamp) -> Self {
        Self {
            id: agent.id.as_ref().map(spiffe_id_text).unwrap_or_default(),
            attestation_type: agent.attestation_type.clone(),
            selectors: agent
                .selectors
                .iter()
                .map(|s| format!("{}:{}", s.r#type, s.value))
                .collect(),
            x509_svid_serial_number: agent.x509svid_serial_number.clone(),
            x509_svid_expires_at: agent.x509svid_expires_at,
            banned: agent.banned,
            can_reattest: agent.can_reattest,
            now: Some(now),
        }
    }

    fn state(&self) -> &'static str {
        let expires = Timestamp::from_unix_secs(self.x509_svid_expires_at);
        if self.banned {
            "banned"
        } else if self.now.is_some_and(|now| expires <= now) {
            "expired"
        } else {
            "active"
        }
    }

    fn expires(&self) -> String {
        Timestamp::from_unix_secs(self.x509_svid_expires_at).to_string()
    }
}

impl Row for AgentDocument {
    fn titles(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["ID", "STATE", "ATTESTED BY", "SVID EXPIRES"];
        if wide {
            titles.extend(["SERIAL", "SELECTORS"]);
        }
        titles
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let mut cells = vec![
            self.id.clone(),
            self.state().to_owned(),
            self.attestation_type.clone(),
            self.expires(),
        ];
        if wide {
            cells.extend([
                self.x509_svid_serial_number.clone(),
                self.selectors.join(","),
            ]);
        }
        cells
    }
}

/// What was done to whom.
#[derive(Debug, Default, Serialize)]
struct Done {
    #[serde(skip_serializing_if = "Option::is_none")]
    banned: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    evicted: Option<String>,
}

/// Runs `mintmark agent …`.
pub async fn run(command: AgentCommand, context: &Context) -> Result<u8, Failure> {
    if let AgentCommand::Run(args) = command {
        return daemon::run_agent(args, context).await;
    }
    administer(command, context).await.map(|()| 0)
}

async fn administer(command: AgentCommand, context: &Context) -> Result<(), Failure> {
    let mut client = AgentClient::new(context.connect.server(&context.host).await?);
    match command {
        AgentCommand::Run(_) => Ok(()),
        AgentCommand::List(freshness) => {
            let agents = list(&mut client, freshness.consistency, context).await?;
            context.output.list(&agents, "agents")
        }
        AgentCommand::Show { id, freshness } => {
            let asked = wire::GetAgentRequest {
                id: Some(spiffe_id("the agent", &id)?),
                output_mask: None,
            };
            let agent = freshness
                .consistency
                .request("show the agent", asked, |asked| client.get_agent(asked))
                .await?;
            let agent = AgentDocument::from_wire(&agent, context.now());
            let fields = [
                ("id", agent.id.clone()),
                ("state", agent.state().to_owned()),
                ("attested by", agent.attestation_type.clone()),
                ("selectors", agent.selectors.join("\n")),
                ("serial", agent.x509_svid_serial_number.clone()),
                ("svid expires", agent.expires()),
            ];
            context.output.one(&agent, &fields)
        }
        AgentCommand::Ban { id } => {
            let asked = wire::BanAgentRequest {
                id: Some(spiffe_id("the agent", &id)?),
            };
            request("ban the agent", client.ban_agent(asked)).await?;
            let fields = [("banned", id.clone())];
            context.output.one(
                &Done {
                    banned: Some(id),
                    ..Done::default()
                },
                &fields,
            )
        }
        AgentCommand::Evict { id } => {
            let asked = wire::DeleteAgentRequest {
                id: Some(spiffe_id("the agent", &id)?),
            };
            request("evict the agent", client.delete_agent(asked)).await?;
            let fields = [("evicted", id.clone())];
            context.output.one(
                &Done {
                    evicted: Some(id),
                    ..Done::default()
                },
                &fields,
            )
        }
    }
}

async fn list(
    client: &mut AgentClient<Channel>,
    consistency: Consistency,
    context: &Context,
) -> Result<Vec<AgentDocument>, Failure> {
    let mut agents = Vec::new();
    let mut page_token = String::new();
    for _ in 0..PAGES_MAX {
        let asked = wire::ListAgentsRequest {
            page_size: PAGE,
            page_token,
            ..Default::default()
        };
        let response = consistency
            .request("list agents", asked, |asked| client.list_agents(asked))
            .await?;
        let now = context.now();
        let page = response.agents.iter();
        agents.extend(page.map(|agent| AgentDocument::from_wire(agent, now)));
        page_token = response.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(agents)
}
