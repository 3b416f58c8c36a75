//! `mintmark cluster`: members, roles and authorities.

use clap::Subcommand;
use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::cluster::v1 as wire;
use mintmark_proto::mintmark::cluster::v1::cluster_client::ClusterClient;
use mintmark_proto::mintmark::state::v1 as state;
use serde::Serialize;

use super::authority;
use crate::connect::request;
use crate::consistency::Freshness;
use crate::context::Context;
use crate::failure::Failure;

/// Commands about the cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Show the server that answers: role, leader, log, members.
    #[command(
        after_help = "Examples:\n  mintmark cluster status\n  mintmark cluster status -o json"
    )]
    Status,
    /// List the authorities and where they are in their life, as `mintmark authority list` does.
    #[command(after_help = "Example:\n  mintmark cluster authorities -o wide")]
    Authorities(Freshness),
}

#[derive(Serialize)]
struct StatusDocument {
    trust_domain: String,
    cluster_id: String,
    epoch: u64,
    node_id: u64,
    role: String,
    leader: u64,
    term: u64,
    last_log_index: u64,
    applied_index: u64,
    sealed: bool,
    clock: String,
    clock_offset_ms: i64,
    cluster_time_ahead_ms: u64,
    differing_members: u64,
    bundle_sequence: u64,
    audit_size: u64,
    audit_root: String,
    trust_domain_key_pin: String,
    version: String,
    started_at: String,
    pq: &'static str,
    members: Vec<MemberDocument>,
}

#[derive(Serialize)]
struct MemberDocument {
    node_id: u64,
    name: String,
    peer_address: String,
    api_address: String,
    voter: bool,
    issuing: bool,
}

/// Runs `mintmark cluster …`.
pub async fn run(command: ClusterCommand, context: &Context) -> Result<(), Failure> {
    let mut client = ClusterClient::new(context.connect.server(&context.host).await?);
    match command {
        ClusterCommand::Status => {
            let status = request(
                "get the status",
                client.get_status(wire::GetStatusRequest {}),
            )
            .await?;
            let document = status_document(status);
            context.output.one(&document, &status_fields(&document))
        }
        ClusterCommand::Authorities(freshness) => {
            authority::list(&mut client, freshness, context).await
        }
    }
}

fn status_document(status: wire::Status) -> StatusDocument {
    let pq = status
        .settings
        .as_ref()
        .map_or(state::PqMode::Off, state::Settings::pq);
    StatusDocument {
        trust_domain: status.trust_domain,
        cluster_id: hex::encode(status.cluster_id),
        epoch: status.epoch,
        node_id: status.node_id,
        role: status.role,
        leader: status.leader,
        term: status.term,
        last_log_index: status.last_log_index,
        applied_index: status.applied_index,
        sealed: status.sealed,
        clock: status.clock,
        clock_offset_ms: status.clock_offset_ms,
        cluster_time_ahead_ms: status.cluster_time_ahead_ms,
        differing_members: status.differing_members,
        bundle_sequence: status.bundle_sequence,
        audit_size: status.audit_size,
        audit_root: hex::encode(status.audit_root),
        trust_domain_key_pin: hex::encode(status.trust_domain_key_pin),
        version: status.version,
        started_at: Timestamp::from_unix_millis(status.started_at_ms).to_string(),
        pq: match pq {
            state::PqMode::Off => "off",
            state::PqMode::Hybrid => "hybrid",
        },
        members: status
            .members
            .into_iter()
            .map(|member| MemberDocument {
                node_id: member.node_id,
                name: member.name,
                peer_address: member.peer_address,
                api_address: member.api_address,
                voter: member.voter,
                issuing: member.issuing,
            })
            .collect(),
    }
}

fn status_fields(status: &StatusDocument) -> Vec<(&'static str, String)> {
    let members: Vec<String> = status
        .members
        .iter()
        .map(|member| {
            let leads = if member.node_id == status.leader {
                ", leader"
            } else {
                ""
            };
            let votes = if member.voter { "voter" } else { "learner" };
            let issues = if member.issuing { ", issuing" } else { "" };
            format!(
                "{} {} at {} ({votes}{issues}{leads})",
                member.node_id, member.name, member.api_address
            )
        })
        .collect();
    vec![
        ("trust domain", status.trust_domain.clone()),
        (
            "answered by",
            format!("node {} ({})", status.node_id, status.role),
        ),
        ("term", status.term.to_string()),
        (
            "log",
            format!(
                "last {}, applied {}",
                status.last_log_index, status.applied_index
            ),
        ),
        (
            "vault",
            if status.sealed {
                "sealed: this server does not issue"
            } else {
                "open"
            }
            .to_owned(),
        ),
        ("clock", clock_line(status)),
        ("post-quantum", status.pq.to_owned()),
        ("bundle", format!("sequence {}", status.bundle_sequence)),
        (
            "audit log",
            format!("{} leaves, root {}", status.audit_size, status.audit_root),
        ),
        ("join pin", status.trust_domain_key_pin.clone()),
        ("members", members.join("\n")),
        ("version", status.version.clone()),
        ("started", status.started_at.clone()),
    ]
}

/// A server says so when its clock, or the cluster's time, keeps it from issuing.
fn clock_line(status: &StatusDocument) -> String {
    let mut line = format!(
        "{}, {} ms from the voters' median",
        status.clock, status.clock_offset_ms
    );
    if status.clock == "skewed" {
        line.push_str("; this server neither proposes, campaigns nor signs");
    }
    if status.cluster_time_ahead_ms > 5_000 {
        let seconds = status.cluster_time_ahead_ms / 1_000;
        line.push_str(&format!(
            "; the cluster's time is {seconds} s ahead, and nothing is issued until the clocks catch up"
        ));
    }
    if status.differing_members > 0 {
        line.push_str(&format!(
            "; {} members have another state than this server",
            status.differing_members
        ));
    }
    line
}
