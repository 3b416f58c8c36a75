//! `mintmark explain`: which selectors a process has, which entries match, which nearly match and by
//! what they miss, on which agent, since when.

use clap::Args;
use mintmark_identity::clock::Timestamp;
use mintmark_identity::spiffe_id::SpiffeId;
use mintmark_proto::mintmark::agentadmin::v1 as agent;
use mintmark_proto::mintmark::agentadmin::v1::agent_admin_client::AgentAdminClient;
use mintmark_proto::mintmark::agentadmin::v1::explain_request::Target;
use mintmark_proto::mintmark::cluster::v1 as cluster;
use mintmark_proto::mintmark::cluster::v1::cluster_client::ClusterClient;
use mintmark_proto::mintmark::state::v1 as state;
use serde::Serialize;

use crate::connect::request;
use crate::context::Context;
use crate::failure::{Exit, Failure};

/// `explain`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("target").required(true),
    after_help = "\
Examples:
  mintmark explain --pid 4711
  mintmark explain --uid 1000
  mintmark explain --spiffe-id spiffe://example.org/web -o json"
)]
pub struct ExplainArgs {
    /// A process on this node.
    #[arg(long, group = "target", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Any process of this user on this node.
    #[arg(long, group = "target")]
    uid: Option<u32>,
    /// An identity: where it is registered, and whether this node serves it.
    #[arg(long, group = "target")]
    spiffe_id: Option<SpiffeId>,
}

#[derive(Debug, Default, Serialize)]
struct Explanation {
    verdict: String,
    agent: String,
    agent_connected: bool,
    last_update: Option<String>,
    selectors: Vec<String>,
    unreadable: Vec<Unreadable>,
    matches: Vec<Match>,
    near: Vec<Near>,
    registered: Vec<Registered>,
}

#[derive(Debug, Serialize)]
struct Unreadable {
    selector: String,
    reason: String,
}

#[derive(Debug, Serialize)]
struct Match {
    entry_id: String,
    spiffe_id: String,
    since: String,
    svid_serial: String,
    svid_not_after: Option<String>,
    problem: String,
}

#[derive(Debug, Serialize)]
struct Near {
    entry_id: String,
    spiffe_id: String,
    missing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Registered {
    entry_id: String,
    spiffe_id: String,
    parent_id: String,
    selectors: Vec<String>,
    missing: Vec<String>,
    agents: Vec<String>,
}

/// Runs `mintmark explain`.
pub async fn run(args: ExplainArgs, context: &Context) -> Result<(), Failure> {
    let target = match (args.pid, args.uid, &args.spiffe_id) {
        (Some(pid), _, _) => Target::Pid(pid),
        (_, Some(uid), _) => Target::Uid(uid),
        (_, _, id) => Target::SpiffeId(id.as_ref().map(ToString::to_string).unwrap_or_default()),
    };
    let mut explanation = Explanation::default();
    let local = ask_agent(target, context).await;
    let selectors = match &local {
        Ok(local) => {
            explanation.take_agent(local);
            local.selectors.clone()
        }
        Err(_) => Vec::new(),
    };
    let asked = cluster::ExplainEntriesRequest {
        spiffe_id: args
            .spiffe_id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        selectors,
    };
    let central = ask_server(asked, context).await;
    if let Ok(central) = &central {
        explanation.registered = central.matches.iter().map(Registered::new).collect();
    }
    if let (Some(pid), Err(failure)) = (args.pid, &local)
        && failure.exit() == Exit::NotFound
    {
        let what = format!("there is no process {pid} on this node");
        return Err(Failure::new("MM-3017", Exit::NotFound, what));
    }
    // One side is enough: operators sit by a server, workload owners by an agent.
    if let (Err(agent), Err(_)) = (local, central) {
        return Err(agent);
    }
    explanation.verdict = explanation.verdict();
    context.output.one(&explanation, &explanation.fields())
}

async fn ask_agent(target: Target, context: &Context) -> Result<agent::ExplainResponse, Failure> {
    let channel = context.connect.agent(&context.host).await?;
    let asked = agent::ExplainRequest {
        target: Some(target),
    };
    request(
        "ask the agent",
        AgentAdminClient::new(channel).explain(asked),
    )
    .await
}

async fn ask_server(
    asked: cluster::ExplainEntriesRequest,
    context: &Context,
) -> Result<cluster::ExplainEntriesResponse, Failure> {
    let channel = context.connect.server(&context.host).await?;
    request(
        "ask the server",
        ClusterClient::new(channel).explain_entries(asked),
    )
    .await
}

fn selector_texts(selectors: &[state::Selector]) -> Vec<String> {
    selectors
        .iter()
        .map(|s| format!("{}:{}", s.kind, s.value))
        .collect()
}

fn time(millis: i64) -> String {
    Timestamp::from_unix_millis(millis).to_string()
}

impl Registered {
    fn new(found: &cluster::explain_entries_response::Match) -> Self {
        let entry = found.entry.clone().unwrap_or_default();
        Self {
            entry_id: entry.id,
            spiffe_id: entry.spiffe_id,
            parent_id: entry.parent_id,
            selectors: selector_texts(&entry.selectors),
            missing: selector_texts(&found.missing),
            agents: found.agents.clone(),
        }
    }
}

impl Explanation {
    fn take_agent(&mut self, local: &agent::ExplainResponse) {
        self.agent.clone_from(&local.agent_id);
        self.agent_connected = local.connected;
        self.last_update = (local.last_update_ms > 0).then(|| time(local.last_update_ms));
        self.selectors = selector_texts(&local.selectors);
        self.unreadable = local
            .unreadable
            .iter()
            .map(|u| Unreadable {
                selector: u.selector.clone(),
                reason: u.reason.clone(),
            })
            .collect();
        self.matches = local
            .matches
            .iter()
            .map(|found| {
                let entry = found.entry.clone().unwrap_or_default();
                Match {
                    entry_id: entry.id,
                    spiffe_id: entry.spiffe_id,
                    since: time(found.since_ms),
                    svid_serial: found.serial.clone(),
                    svid_not_after: (found.svid_not_after_ms > 0)
                        .then(|| time(found.svid_not_after_ms)),
                    problem: found.svid_problem.clone(),
                }
            })
            .collect();
        self.near = local
            .near
            .iter()
            .map(|near| {
                let entry = near.entry.clone().unwrap_or_default();
                Near {
                    entry_id: entry.id,
                    spiffe_id: entry.spiffe_id,
                    missing: selector_texts(&near.missing),
                }
            })
            .collect();
    }

    fn verdict(&self) -> String {
        if let Some(found) = self.matches.first() {
            return if found.problem.is_empty() {
                match self.matches.len() {
                    1 => format!("this node serves {}", found.spiffe_id),
                    all => format!("this node serves {}, first of {all}", found.spiffe_id),
                }
            } else {
                format!(
                    "{} matches, but has no SVID: {}",
                    found.spiffe_id, found.problem
                )
            };
        }
        if let Some(near) = self.near.first() {
            return format!(
                "nothing matches; {} misses {}",
                near.spiffe_id,
                near.missing.join(", ")
            );
        }
        match self.registered.iter().find(|r| r.missing.is_empty()) {
            Some(elsewhere) if elsewhere.agents.is_empty() => {
                format!(
                    "{} is registered, but no attested node may serve it: see its parent",
                    elsewhere.spiffe_id
                )
            }
            Some(elsewhere) => format!("{} is registered for other nodes", elsewhere.spiffe_id),
            None => "no entry matches: register one with `mintmark entry create`".to_owned(),
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![("verdict", self.verdict.clone())];
        if !self.agent.is_empty() {
            let link = if self.agent_connected {
                "connected"
            } else {
                "cut off from every server"
            };
            let since = self.last_update.as_deref().unwrap_or("never");
            fields.push((
                "agent",
                format!("{}\n{link}, last update {since}", self.agent),
            ));
        }
        if !self.selectors.is_empty() {
            fields.push(("selectors", self.selectors.join("\n")));
        }
        let blocks = [
            (
                "not readable",
                lines(&self.unreadable, |u| {
                    format!("{}: {}", u.selector, u.reason)
                }),
            ),
            (
                "matches",
                lines(&self.matches, |m| {
                    let svid = match &m.svid_not_after {
                        Some(until) => format!("SVID {} until {until}", m.svid_serial),
                        None if m.problem.is_empty() => "no SVID yet".to_owned(),
                        None => format!("no SVID: {}", m.problem),
                    };
                    format!(
                        "{} (entry {}, here since {})\n  {svid}",
                        m.spiffe_id, m.entry_id, m.since
                    )
                }),
            ),
            (
                "nearly",
                lines(&self.near, |n| {
                    format!(
                        "{} (entry {}) misses {}",
                        n.spiffe_id,
                        n.entry_id,
                        n.missing.join(", ")
                    )
                }),
            ),
            (
                "registered",
                lines(&self.registered, |r| {
                    let missing = if r.missing.is_empty() {
                        String::new()
                    } else {
                        format!(", misses {}", r.missing.join(", "))
                    };
                    let agents = if r.agents.is_empty() {
                        "no attested node".to_owned()
                    } else {
                        r.agents.join(", ")
                    };
                    format!(
                        "{} (entry {}) below {}{missing}\n  served by {agents}",
                        r.spiffe_id, r.entry_id, r.parent_id
                    )
                }),
            ),
        ];
        fields.extend(blocks.into_iter().filter(|(_, text)| !text.is_empty()));
        fields
    }
}

fn lines<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    items.iter().map(line).collect::<Vec<_>>().join("\n")
}
