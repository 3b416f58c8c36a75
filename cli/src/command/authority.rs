//! `mintmark authority`: the keys that sign, and withdrawing one that others may know.

use clap::{Subcommand, ValueEnum};
use mintmark_identity::clock::Timestamp;
use mintmark_proto::mintmark::cluster::v1 as wire;
use mintmark_proto::mintmark::cluster::v1::cluster_client::ClusterClient;
use mintmark_proto::mintmark::state::v1 as state;
use mintmark_proto::mintmark::state::v1::AuthorityState as Life;
use serde::Serialize;
use tonic::Status;
use tonic::transport::Channel;

use crate::connect::request;
use crate::consistency::Freshness;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Row;

/// Commands about authorities.
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// List the authorities and where they are in their life.
    #[command(
        after_help = "Examples:\n  mintmark authority list\n  mintmark authority list -o wide"
    )]
    List(Freshness),
    /// Prepare the next authority now; it signs as soon as everybody can verify it, and it is due.
    #[command(after_help = "Example:\n  mintmark authority prepare x509")]
    Prepare {
        /// What it will sign.
        kind: Kind,
    },
    /// Withdraw an authority whose key others may know: it signs nothing more, and what it signed is
    /// replaced.
    #[command(after_help = "\
If it is the active one of its kind, another is prepared and activated by itself; for the seconds
that this takes nothing of that kind is issued. What the tainted one signed is still believed until
it is revoked, so that nothing breaks while agents replace it.

Examples:
  mintmark authority taint 3f1c9a0be77d4c51a8f2660e9d4b1c0d5e6f7a8b
  mintmark authority list
  mintmark authority revoke 3f1c9a0be77d4c51a8f2660e9d4b1c0d5e6f7a8b")]
    Taint {
        /// The authority's whole ID, from `mintmark authority list`.
        #[arg(value_name = "AUTHORITY_ID")]
        id: String,
    },
    /// Take a tainted authority out of the bundle for good: what it signed verifies nowhere any more.
    #[command(after_help = "\
Only a tainted authority can be revoked, and only after another of its kind took its place. Whoever
has not replaced its SVID by then is not believed until its agent has asked for another.

Example:
  mintmark authority revoke 3f1c9a0be77d4c51a8f2660e9d4b1c0d5e6f7a8b")]
    Revoke {
        /// The authority's whole ID, from `mintmark authority list`.
        #[arg(value_name = "AUTHORITY_ID")]
        id: String,
    },
}

/// What an authority signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

#[derive(Serialize)]
struct AuthorityDocument {
    id: String,
    kind: &'static str,
    state: &'static str,
    tainted: bool,
    hybrid: bool,
    not_before: String,
    not_after: String,
    published_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_svid_not_after: Option<String>,
}

impl Row for AuthorityDocument {
    fn titles(wide: bool) -> Vec<&'static str> {
        let mut titles = vec!["ID", "KIND", "STATE", "NOT AFTER"];
        if wide {
            titles.extend(["NOT BEFORE", "HYBRID", "SEQUENCE", "LAST SVID UNTIL"]);
        }
        titles
    }

    fn cells(&self, wide: bool) -> Vec<String> {
        let mut cells = vec![
            self.id.clone(),
            self.kind.to_owned(),
            self.standing(),
            self.not_after.clone(),
        ];
        if wide {
            let last = self.last_svid_not_after.clone();
            cells.extend([
                self.not_before.clone(),
                self.hybrid.to_string(),
                self.published_sequence.to_string(),
                last.unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        cells
    }
}

impl AuthorityDocument {
    fn from_wire(authority: &state::Authority) -> Self {
        let last = authority.last_svid_not_after_ms;
        Self {
            id: authority.id.clone(),
            kind: kind_name(authority.kind()),
            state: state_name(authority.state()),
            tainted: authority.tainted,
            hybrid: authority.hybrid,
            not_before: Timestamp::from_unix_millis(authority.not_before_ms).to_string(),
            not_after: Timestamp::from_unix_millis(authority.not_after_ms).to_string(),
            published_sequence: authority.published_sequence,
            last_svid_not_after: (last > 0).then(|| Timestamp::from_unix_millis(last).to_string()),
        }
    }

    fn standing(&self) -> String {
        if self.tainted {
            format!("{} tainted", self.state)
        } else {
            self.state.to_owned()
        }
    }
}

/// Runs `mintmark authority …`.
pub async fn run(command: AuthorityCommand, context: &Context) -> Result<(), Failure> {
    let mut client = ClusterClient::new(context.connect.server(&context.host).await?);
    match command {
        AuthorityCommand::List(freshness) => list(&mut client, freshness, context).await,
        AuthorityCommand::Prepare { kind } => prepare(&mut client, kind, context).await,
        AuthorityCommand::Taint { id } => {
            let asked = wire::TaintAuthorityRequest { authority_id: id };
            let done = request("taint the authority", client.taint_authority(asked)).await?;
            show(done.authority, after_taint, context)
        }
        AuthorityCommand::Revoke { id } => {
            let asked = wire::RevokeAuthorityRequest { authority_id: id };
            let done = request("revoke the authority", client.revoke_authority(asked)).await?;
            show(done.authority, after_revoke, context)
        }
    }
}

/// Prints all authorities; `mintmark cluster authorities` does too.
pub(super) async fn list(
    client: &mut ClusterClient<Channel>,
    freshness: Freshness,
    context: &Context,
) -> Result<(), Failure> {
    let asked = wire::ListAuthoritiesRequest {};
    let listed = freshness
        .consistency
        .request("list the authorities", asked, |asked| {
            client.list_authorities(asked)
        })
        .await?;
    let all = listed.authorities.iter();
    let authorities: Vec<_> = all.map(AuthorityDocument::from_wire).collect();
    context.output.list(&authorities, "authorities")
}

async fn prepare(
    client: &mut ClusterClient<Channel>,
    kind: Kind,
    context: &Context,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Prepared {
        authority_id: String,
    }
    let kind = match kind {
        Kind::X509 => state::AuthorityKind::X509,
        Kind::Jwt => state::AuthorityKind::Jwt,
    };
    let asked = wire::PrepareAuthorityRequest { kind: kind.into() };
    let made = request("prepare an authority", client.prepare_authority(asked)).await?;
    let authority_id = made.authority_id;
    let next =
        "it is published and activated by itself; `mintmark authority list` shows where it is";
    let fields = [
        ("prepared", authority_id.clone()),
        ("next", next.to_owned()),
    ];
    context.output.one(&Prepared { authority_id }, &fields)
}

/// Prints how a withdrawn authority stands, and for people what comes next.
fn show(
    authority: Option<state::Authority>,
    next: fn(&state::Authority) -> String,
    context: &Context,
) -> Result<(), Failure> {
    let malformed = || Status::internal("the server's answer names no authority");
    let authority =
        authority.ok_or_else(|| Failure::from_status("read the server's answer", &malformed()))?;
    let document = AuthorityDocument::from_wire(&authority);
    let fields = [
        ("authority", document.id.clone()),
        ("kind", document.kind.to_owned()),
        ("state", document.standing()),
        ("next", next(&authority)),
    ];
    context.output.one(&document, &fields)
}

fn after_taint(authority: &state::Authority) -> String {
    let id = &authority.id;
    match authority.state() {
        Life::Active => format!(
            "it signs nothing more; another authority is prepared and activated by itself within seconds,\n\
             and agents replace what this one signed. Look with `mintmark authority list` until this one is\n\
             old, then run `mintmark authority revoke {id}`"
        ),
        Life::Old => format!(
            "agents that reach a server replace what it signed within some ten seconds; then run\n\
             `mintmark authority revoke {id}`"
        ),
        _ => "it never signed and is given up by itself: `mintmark authority list` shows it as retired,\n\
              and nothing is left to revoke"
            .to_owned(),
    }
}

fn after_revoke(_: &state::Authority) -> String {
    "the bundle no longer has it, nor the vault its key. Agents and workloads that reach a server have\n\
     the new bundle at once; give it to whoever keeps a copy: `mintmark bundle show`"
        .to_owned()
}

fn kind_name(kind: state::AuthorityKind) -> &'static str {
    match kind {
        state::AuthorityKind::X509 => "x509",
        state::AuthorityKind::Jwt => "jwt",
        state::AuthorityKind::Wit => "wit",
        state::AuthorityKind::Unspecified => "unknown",
    }
}

fn state_name(state: Life) -> &'static str {
    match state {
        Life::Prepared => "prepared",
        Life::Published => "published",
        Life::Active => "active",
        Life::Old => "old",
        Life::Retired => "retired",
        Life::Revoked => "revoked",
        Life::Unspecified => "unknown",
    }
}
