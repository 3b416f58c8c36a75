//! `mintmark entry`: registration entries.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mintmark_proto::spire::entry as wire;
use mintmark_proto::spire::entry::entry_client::EntryClient;
use mintmark_proto::spire::types;
use serde::Serialize;
use tonic::transport::Channel;

use crate::connect::request;
use crate::consistency::{Consistency, Freshness};
use crate::context::Context;
use crate::duration::Seconds;
use crate::failure::{Exit, Failure};
use crate::output::note;

pub mod document;

use document::{EntryDocument, SelectorDocument, spiffe_id};

/// Entries asked for in one request.
const PAGE: i32 = 500;
/// Pages followed before giving up: more entries than a cluster can hold.
const PAGES_MAX: usize = 100_000;

/// Commands about entries.
#[derive(Debug, Subcommand)]
pub enum EntryCommand {
    /// Register a workload, or many from a file.
    #[command(after_help = "\
Examples:
  mintmark entry create --parent-id spiffe://example.org/node/a \\
      --spiffe-id spiffe://example.org/web --selector unix:user:www-data --x509-svid-ttl 10m
  mintmark entry create --file entries.yaml
  generate-entries | mintmark entry create --file -")]
    Create(CreateArgs),
    /// Show one entry.
    #[command(after_help = "Example:\n  mintmark entry show 6f1c… -o yaml")]
    Show {
        /// Identifier of the entry.
        id: String,
        #[command(flatten)]
        freshness: Freshness,
    },
    /// List entries.
    #[command(after_help = "\
Examples:
  mintmark entry list
  mintmark entry list --selector unix:uid:1000 -o wide
  mintmark entry list --spiffe-id spiffe://example.org/web -o json
  mintmark entry list --consistency local         what this server knows, without a quorum too")]
    List(FilterArgs),
    /// Change an entry: fields that are not given stay as they are.
    #[command(after_help = "\
Examples:
  mintmark entry update 6f1c… --x509-svid-ttl 5m
  mintmark entry update --file entries.yaml")]
    Update(UpdateArgs),
    /// Delete entries. Agents drop their SVIDs within a second.
    #[command(after_help = "Example:\n  mintmark entry delete 6f1c… 90ab…")]
    Delete {
        /// Identifiers.
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Count entries.
    #[command(
        after_help = "Example:\n  mintmark entry count --parent-id spiffe://example.org/node/a"
    )]
    Count(FilterArgs),
}

/// Fields of an entry as flags.
#[derive(Debug, Default, Args)]
pub struct FieldArgs {
    /// The identity to give.
    #[arg(long)]
    spiffe_id: Option<String>,
    /// Agent, node alias or server it hangs under.
    #[arg(long)]
    parent_id: Option<String>,
    /// What the workload must have; repeat for more, all of them count.
    #[arg(long = "selector", value_name = "KIND:VALUE")]
    selectors: Vec<String>,
    /// Lifetime of X.509-SVIDs, such as 10m; the cluster's if absent.
    #[arg(long, value_name = "DURATION")]
    x509_svid_ttl: Option<Seconds>,
    /// Lifetime of JWT-SVIDs.
    #[arg(long, value_name = "DURATION")]
    jwt_svid_ttl: Option<Seconds>,
    /// Trust domain whose bundle the workload gets; repeat for more.
    #[arg(long = "federates-with", value_name = "TRUST-DOMAIN")]
    federates_with: Vec<String>,
    /// DNS name of the X.509-SVID; repeat for more.
    #[arg(long = "dns-name", value_name = "NAME")]
    dns_names: Vec<String>,
    /// Tells the SVIDs of one workload apart.
    #[arg(long)]
    hint: Option<String>,
    /// Seconds since 1970 at which the entry goes away.
    #[arg(long, value_name = "SECONDS")]
    expires_at: Option<i64>,
    /// The identity may administer the cluster.
    #[arg(long)]
    admin: bool,
    /// The identity may run a downstream cluster.
    #[arg(long)]
    downstream: bool,
    /// The agent stores the SVID instead of serving it.
    #[arg(long)]
    store_svid: bool,
}

/// `entry create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    fields: FieldArgs,
    /// Identifier of the entry; drawn if absent.
    #[arg(long)]
    entry_id: Option<String>,
    /// JSON or YAML file with entries; - reads standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["spiffe_id", "parent_id", "selectors"])]
    file: Option<PathBuf>,
}

/// `entry update`.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// Identifier of the entry.
    #[arg(required_unless_present = "file")]
    id: Option<String>,
    #[command(flatten)]
    fields: FieldArgs,
    /// JSON or YAML file with whole entries; - reads standard input.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Which entries.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Only those that give this identity.
    #[arg(long)]
    spiffe_id: Option<String>,
    /// Only those below this parent.
    #[arg(long)]
    parent_id: Option<String>,
    /// Only those with this selector among theirs; repeat for more.
    #[arg(long = "selector", value_name = "KIND:VALUE")]
    selectors: Vec<String>,
    /// Only those with this hint.
    #[arg(long)]
    hint: Option<String>,
    /// Only downstream entries.
    #[arg(long)]
    downstream: bool,
    #[command(flatten)]
    freshness: Freshness,
}

/// Runs `mintmark entry …`.
pub async fn run(command: EntryCommand, context: &Context) -> Result<(), Failure> {
    let mut client = EntryClient::new(context.connect.server(&context.host).await?);
    match command {
        EntryCommand::Create(args) => create(&mut client, args, context).await,
        EntryCommand::Show { id, freshness } => {
            let entry = get(&mut client, &id, freshness.consistency).await?;
            context.output.one(&entry, &entry.fields())
        }
        EntryCommand::List(filter) => {
            let entries = list(&mut client, &filter).await?;
            context.output.list(&entries, "entries")
        }
        EntryCommand::Update(args) => update(&mut client, args, context).await,
        EntryCommand::Delete { ids } => delete(&mut client, ids, context).await,
        EntryCommand::Count(filter) => count(&mut client, &filter, context).await,
    }
}

async fn create(
    client: &mut EntryClient<Channel>,
    args: CreateArgs,
    context: &Context,
) -> Result<(), Failure> {
    let documents = match &args.file {
        Some(path) => document::read(&path.display().to_string(), &context.read_text(path)?)?,
        None => vec![args.fields.into_new(args.entry_id)?],
    };
    let entries = documents
        .iter()
        .map(EntryDocument::to_wire)
        .collect::<Result<Vec<_>, _>>()?;
    let response = request(
        "create entries",
        client.batch_create_entry(wire::BatchCreateEntryRequest {
            entries,
            output_mask: None,
        }),
    )
    .await?;
    let results = response
        .results
        .iter()
        .map(|r| (r.status.as_ref(), r.entry.as_ref()));
    let printed = Printed::of(args.file.as_deref());
    report(results, &documents, "create", printed, context)
}

async fn update(
    client: &mut EntryClient<Channel>,
    args: UpdateArgs,
    context: &Context,
) -> Result<(), Failure> {
    let (documents, input_mask) = match (&args.file, &args.id) {
        (Some(path), _) => {
            let text = context.read_text(path)?;
            (document::read(&path.display().to_string(), &text)?, None)
        }
        (None, Some(id)) => {
            let mut entry = get(client, id, Consistency::Linearizable).await?;
            // What is not given is not sent: somebody else may be changing it.
            let mask = args.fields.mask();
            args.fields.change(&mut entry);
            (vec![entry], Some(mask))
        }
        (None, None) => (Vec::new(), None),
    };
    let entries = documents
        .iter()
        .map(EntryDocument::to_wire)
        .collect::<Result<Vec<_>, _>>()?;
    let response = request(
        "update entries",
        client.batch_update_entry(wire::BatchUpdateEntryRequest {
            entries,
            input_mask,
            output_mask: None,
        }),
    )
    .await?;
    let results = response
        .results
        .iter()
        .map(|r| (r.status.as_ref(), r.entry.as_ref()));
    let printed = Printed::of(args.file.as_deref());
    report(results, &documents, "update", printed, context)
}

/// How entries are printed: what comes from a file is a list, however many stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Printed {
    One,
    List,
}

impl Printed {
    fn of(file: Option<&Path>) -> Self {
        file.map_or(Self::One, |_| Self::List)
    }
}

/// Prints what succeeded and fails with the first thing that did not.
fn report<'a>(
    results: impl Iterator<Item = (Option<&'a types::Status>, Option<&'a types::Entry>)>,
    asked: &[EntryDocument],
    verb: &str,
    printed: Printed,
    context: &Context,
) -> Result<(), Failure> {
    let mut entries = Vec::new();
    let mut failure = None;
    for (index, (status, entry)) in results.enumerate() {
        let code = status.map_or(0, |status| status.code);
        if code == 0 {
            entries.extend(entry.map(EntryDocument::from_wire));
            continue;
        }
        let message = status
            .map(|status| status.message.clone())
            .unwrap_or_default();
        let what = asked
            .get(index)
            .map(|e| e.spiffe_id.clone())
            .unwrap_or_default();
        let status = tonic::Status::new(tonic::Code::from(code), message);
        let refused = Failure::from_status(&format!("{verb} the entry for {what}"), &status);
        if failure.is_some() {
            note(&refused.to_string());
        } else {
            failure = Some(refused);
        }
    }
    if let ([entry], Printed::One) = (entries.as_slice(), printed) {
        context.output.one(entry, &entry.fields())?;
    } else if !entries.is_empty() {
        context.output.list(&entries, "entries")?;
    }
    failure.map_or(Ok(()), Err)
}

async fn get(
    client: &mut EntryClient<Channel>,
    id: &str,
    consistency: Consistency,
) -> Result<EntryDocument, Failure> {
    let asked = wire::GetEntryRequest {
        id: id.to_owned(),
        output_mask: None,
    };
    let entry = consistency
        .request("show the entry", asked, |asked| client.get_entry(asked))
        .await?;
    Ok(EntryDocument::from_wire(&entry))
}

/// All entries that pass the filter.
async fn list(
    client: &mut EntryClient<Channel>,
    filter: &FilterArgs,
) -> Result<Vec<EntryDocument>, Failure> {
    let consistency = filter.freshness.consistency;
    let filter = filter.to_list()?;
    let mut entries = Vec::new();
    let mut page_token = String::new();
    for _ in 0..PAGES_MAX {
        let asked = wire::ListEntriesRequest {
            filter: Some(filter.clone()),
            output_mask: None,
            page_size: PAGE,
            page_token,
        };
        let response = consistency
            .request("list entries", asked, |asked| client.list_entries(asked))
            .await?;
        entries.extend(response.entries.iter().map(EntryDocument::from_wire));
        page_token = response.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(entries)
}

async fn delete(
    client: &mut EntryClient<Channel>,
    ids: Vec<String>,
    context: &Context,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Deleted {
        deleted: Vec<String>,
    }
    let response = request(
        "delete entries",
        client.batch_delete_entry(wire::BatchDeleteEntryRequest { ids }),
    )
    .await?;
    let mut deleted = Vec::new();
    let mut failure = None;
    for result in response.results {
        match result.status {
            Some(status) if status.code != 0 => {
                let status = tonic::Status::new(tonic::Code::from(status.code), status.message);
                failure = Some(Failure::from_status(
                    &format!("delete entry {}", result.id),
                    &status,
                ));
            }
            _ => deleted.push(result.id),
        }
    }
    if !deleted.is_empty() {
        let text = deleted.join("\n");
        context
            .output
            .one(&Deleted { deleted }, &[("deleted", text)])?;
    }
    failure.map_or(Ok(()), Err)
}

async fn count(
    client: &mut EntryClient<Channel>,
    filter: &FilterArgs,
    context: &Context,
) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Count {
        count: i32,
    }
    let asked = wire::CountEntriesRequest {
        filter: Some(filter.to_count()?),
    };
    let consistency = filter.freshness.consistency;
    let response = consistency
        .request("count entries", asked, |asked| client.count_entries(asked))
        .await?;
    let text = response.count.to_string();
    context.output.one(
        &Count {
            count: response.count,
        },
        &[("entries", text)],
    )
}

impl FieldArgs {
    fn into_new(self, id: Option<String>) -> Result<EntryDocument, Failure> {
        let missing = |flag: &str| {
            Failure::new("MM-3205", Exit::Usage, format!("an entry needs {flag}"))
                .next("see `mintmark entry create --help`, or give a file with --file")
        };
        if self.selectors.is_empty() {
            return Err(missing("--selector"));
        }
        let mut entry = EntryDocument {
            id: id.unwrap_or_default(),
            spiffe_id: self
                .spiffe_id
                .clone()
                .ok_or_else(|| missing("--spiffe-id"))?,
            parent_id: self
                .parent_id
                .clone()
                .ok_or_else(|| missing("--parent-id"))?,
            ..EntryDocument::default()
        };
        self.change(&mut entry);
        Ok(entry)
    }

    /// The fields that are given.
    fn mask(&self) -> types::EntryMask {
        types::EntryMask {
            spiffe_id: self.spiffe_id.is_some(),
            parent_id: self.parent_id.is_some(),
            selectors: !self.selectors.is_empty(),
            x509_svid_ttl: self.x509_svid_ttl.is_some(),
            jwt_svid_ttl: self.jwt_svid_ttl.is_some(),
            federates_with: !self.federates_with.is_empty(),
            dns_names: !self.dns_names.is_empty(),
            hint: self.hint.is_some(),
            expires_at: self.expires_at.is_some(),
            admin: self.admin,
            downstream: self.downstream,
            store_svid: self.store_svid,
            ..types::EntryMask::default()
        }
    }

    fn change(self, entry: &mut EntryDocument) {
        if let Some(id) = self.spiffe_id {
            entry.spiffe_id = id;
        }
        if let Some(id) = self.parent_id {
            entry.parent_id = id;
        }
        if !self.selectors.is_empty() {
            entry.selectors = self
                .selectors
                .into_iter()
                .map(SelectorDocument::Text)
                .collect();
        }
        if let Some(ttl) = self.x509_svid_ttl {
            entry.x509_svid_ttl = ttl.0;
        }
        if let Some(ttl) = self.jwt_svid_ttl {
            entry.jwt_svid_ttl = ttl.0;
        }
        if !self.federates_with.is_empty() {
            entry.federates_with = self.federates_with;
        }
        if !self.dns_names.is_empty() {
            entry.dns_names = self.dns_names;
        }
        if let Some(hint) = self.hint {
            entry.hint = hint;
        }
        if let Some(expires_at) = self.expires_at {
            entry.expires_at = expires_at;
        }
        entry.admin |= self.admin;
        entry.downstream |= self.downstream;
        entry.store_svid |= self.store_svid;
    }
}

impl FilterArgs {
    fn selector_match(&self) -> Result<Option<types::SelectorMatch>, Failure> {
        if self.selectors.is_empty() {
            return Ok(None);
        }
        let template = EntryDocument {
            spiffe_id: "spiffe://any/any".to_owned(),
            parent_id: "spiffe://any/any".to_owned(),
            selectors: self
                .selectors
                .iter()
                .cloned()
                .map(SelectorDocument::Text)
                .collect(),
            ..EntryDocument::default()
        };
        Ok(Some(types::SelectorMatch {
            selectors: template.to_wire()?.selectors,
            r#match: types::selector_match::MatchBehavior::MatchSuperset.into(),
        }))
    }

    fn to_list(&self) -> Result<wire::list_entries_request::Filter, Failure> {
        Ok(wire::list_entries_request::Filter {
            by_spiffe_id: self
                .spiffe_id
                .as_deref()
                .map(|id| spiffe_id("--spiffe-id", id))
                .transpose()?,
            by_parent_id: self
                .parent_id
                .as_deref()
                .map(|id| spiffe_id("--parent-id", id))
                .transpose()?,
            by_selectors: self.selector_match()?,
            by_federates_with: None,
            by_hint: self.hint.clone(),
            by_downstream: self.downstream.then_some(true),
        })
    }

    fn to_count(&self) -> Result<wire::count_entries_request::Filter, Failure> {
        let list = self.to_list()?;
        Ok(wire::count_entries_request::Filter {
            by_spiffe_id: list.by_spiffe_id,
            by_parent_id: list.by_parent_id,
            by_selectors: list.by_selectors,
            by_federates_with: None,
            by_hint: list.by_hint,
            by_downstream: list.by_downstream,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_given_is_sent_in_an_update() {
        let given = FieldArgs {
            hint: Some("x".to_owned()),
            admin: true,
            ..FieldArgs::default()
        };
        let expected = types::EntryMask {
            hint: true,
            admin: true,
            ..types::EntryMask::default()
        };
        assert_eq!(given.mask(), expected);
        let nothing = FieldArgs::default().mask();
        assert_eq!(nothing, types::EntryMask::default());
    }
}
