//! `mintmark audit`: the log of everything that was issued, denied and changed.

use clap::{Args, Subcommand};
use mintmark_proto::mintmark::audit::v1 as wire;
use mintmark_proto::mintmark::audit::v1::audit_client::AuditClient;
use mintmark_tlog::checkpoint::Checkpoint;
use mintmark_tlog::note::NoteVerifier;
use mintmark_tlog::tree::{Frontier, Hash, leaf_hash};
use serde::Serialize;

use crate::connect::request;
use crate::consistency::{Consistency, Freshness};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::{Format, note, reader_leaves};

pub mod leaf;

/// Commands about the audit log.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Print the leaves of the log; with --follow, also those to come.
    #[command(after_help = "\
Examples:
  mintmark audit tail
  mintmark audit tail --limit 100                 the last hundred
  mintmark audit tail --from 0 -o json > audit.jsonl
  mintmark audit tail --follow --from 1742        resumes after leaf 1741")]
    Tail(TailArgs),
    /// Recompute the log from its leaves and check the signed checkpoint.
    #[command(after_help = "\
Examples:
  mintmark audit verify
  mintmark audit verify --vkey 'example.org/audit/1+…' -o json
  mintmark audit verify --consistency local       the log of a server that is alone

Exit code 8 when the log does not verify; the output says which leaf breaks it.")]
    Verify {
        /// Public key of the log, as `audit verify` printed it when you trusted it first. Without it
        /// the server's own word is taken, and said so.
        #[arg(long, value_name = "KEY")]
        vkey: Option<String>,
        #[command(flatten)]
        freshness: Freshness,
    },
}

/// `audit tail`.
#[derive(Debug, Args)]
pub struct TailArgs {
    /// First leaf; without it the last ones.
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    /// Wait for leaves to come.
    #[arg(short, long)]
    follow: bool,
    /// Print at most this many leaves and end: without --from the last ones, with --follow the next.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// How fresh the log has to be: linearizable if absent, and local with --follow, which shows later
    /// what it does not show at once.
    #[arg(long, value_enum)]
    consistency: Option<Consistency>,
}

impl TailArgs {
    /// Where to begin, and where to end.
    fn range(&self) -> wire::TailRequest {
        let before_the_end = match self.limit {
            Some(_) if self.follow => 0,
            Some(limit) => limit,
            None => LAST,
        };
        wire::TailRequest {
            start: self.from.unwrap_or(before_the_end),
            from_end: self.from.is_none(),
            follow: self.follow,
            limit: self.limit.unwrap_or(0),
        }
    }

    fn freshness(&self) -> Consistency {
        let usual = if self.follow {
            Consistency::Local
        } else {
            Consistency::Linearizable
        };
        self.consistency.unwrap_or(usual)
    }
}

/// Leaves shown by `tail` that is not told how many.
const LAST: u64 = 20;

/// Runs `mintmark audit …`.
pub async fn run(command: AuditCommand, context: &Context) -> Result<(), Failure> {
    let channel = context.connect.server(&context.host).await?;
    let client = AuditClient::new(channel).max_decoding_message_size(64 * 1024 * 1024);
    match command {
        AuditCommand::Tail(args) => tokio::select! {
            ended = tail(client, &args, context) => ended,
            left = reader_leaves(), if args.follow => Err(left),
        },
        AuditCommand::Verify { vkey, freshness } => {
            verify(client, vkey, freshness.consistency, context).await
        }
    }
}

type Client = AuditClient<tonic::transport::Channel>;

async fn tail(mut client: Client, args: &TailArgs, context: &Context) -> Result<(), Failure> {
    let mut stream = args
        .freshness()
        .request("read the log", args.range(), |asked| client.tail(asked))
        .await?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    loop {
        let message = stream.message().await;
        let Some(message) = message.map_err(|e| Failure::from_status("read the log", &e))? else {
            return Ok(());
        };
        for (index, bytes) in (message.first_index..).zip(&message.leaves) {
            if left == 0 {
                return Ok(());
            }
            left = left.saturating_sub(1);
            leaf::print(leaf::decode(index, bytes)?, context.output)?;
        }
    }
}

#[derive(Serialize)]
struct Verification {
    valid: bool,
    origin: String,
    vkey: String,
    vkey_given: bool,
    leaves: u64,
    root: String,
    checkpoint_size: u64,
    consistency: Consistency,
}

/// Recomputes the tree from all leaves, and compares it with the checkpoint's signature and root and
/// with what the server says of itself.
async fn verify(
    mut client: Client,
    vkey: Option<String>,
    consistency: Consistency,
    context: &Context,
) -> Result<(), Failure> {
    let asked = wire::GetCheckpointRequest {};
    let checkpoint = consistency
        .request("get the checkpoint", asked, |asked| {
            client.get_checkpoint(asked)
        })
        .await?;
    // Asked after the checkpoint, so that the log is at least as long, and of the same server, so that
    // it is as fresh.
    let info = request(
        "read the log",
        client.get_log_info(wire::GetLogInfoRequest {}),
    )
    .await?;
    let vkey_given = vkey.is_some();
    let vkey = vkey.unwrap_or_else(|| info.vkey.clone());
    let verifier = NoteVerifier::parse(&vkey).map_err(|e| {
        Failure::new("MM-3503", Exit::Usage, "the key of the log cannot be read").because(&e)
    })?;
    let signed = Checkpoint::open(&checkpoint.note, &verifier)
        .map_err(|e| broken("the checkpoint does not verify").because(&e))?;
    if signed.origin != info.origin {
        return Err(broken("the checkpoint is of another log").why(format!(
            "it is of {}, the server writes {}",
            signed.origin, info.origin
        )));
    }
    let rebuilt = rebuild(client, &info, &signed).await?;
    rebuilt.compare("the server's replicated state", &info.root)?;
    let tree = &rebuilt.leaves;
    let verification = Verification {
        valid: true,
        origin: info.origin,
        vkey,
        vkey_given,
        leaves: tree.size(),
        root: hex::encode(tree.root()),
        checkpoint_size: signed.size,
        consistency,
    };
    verification.report(context)
}

/// The tree as the leaves give it, and as the hashes recorded beside them give it.
struct Rebuilt {
    leaves: Frontier,
    recorded: Frontier,
    altered: Option<u64>,
}

async fn rebuild(
    mut client: Client,
    info: &wire::LogInfo,
    signed: &Checkpoint,
) -> Result<Rebuilt, Failure> {
    let mut rebuilt = Rebuilt {
        leaves: Frontier::new(),
        recorded: Frontier::new(),
        altered: None,
    };
    let asked = wire::TailRequest {
        start: 0,
        follow: false,
        limit: info.size,
        from_end: false,
    };
    let mut stream = request("read the log", client.tail(asked)).await?;
    while rebuilt.leaves.size() < info.size {
        let message = stream.message().await;
        let message = message.map_err(|e| Failure::from_status("read the log", &e))?;
        let Some(message) = message else { break };
        for (position, bytes) in message.leaves.iter().enumerate() {
            rebuilt.push(bytes, message.leaf_hashes.get(position))?;
            if rebuilt.leaves.size() == signed.size {
                rebuilt.compare("the signed checkpoint", &signed.root)?;
            }
        }
    }
    let size = rebuilt.leaves.size();
    let promised = info.size.max(signed.size);
    if size < promised {
        return Err(broken(&format!("the log ends before leaf {size}"))
            .why(format!("the server says it has {promised} leaves")));
    }
    Ok(rebuilt)
}

impl Rebuilt {
    fn push(&mut self, leaf: &[u8], recorded: Option<&Vec<u8>>) -> Result<(), Failure> {
        let index = self.leaves.size();
        leaf::decode(index, leaf)
            .map_err(|e| broken(&format!("leaf {index} breaks the log")).why(e.to_string()))?;
        let hash = leaf_hash(leaf);
        let recorded = recorded
            .and_then(|h| Hash::try_from(h.as_slice()).ok())
            .unwrap_or(hash);
        if recorded != hash && self.altered.is_none() {
            self.altered = Some(index);
        }
        self.leaves.push(hash);
        self.recorded.push(recorded);
        Ok(())
    }

    /// Compares with a root. Where the recorded hashes lead to it and the leaves do not, the first
    /// leaf that differs from its hash is the one that was altered.
    fn compare(&self, whose: &str, root: &[u8]) -> Result<(), Failure> {
        let computed = self.leaves.root();
        if computed.as_slice() == root {
            return Ok(());
        }
        let what = match self
            .altered
            .filter(|_| self.recorded.root().as_slice() == root)
        {
            Some(index) => format!("leaf {index} is not the one in the log"),
            None => format!("the first {} leaves are not the log", self.leaves.size()),
        };
        Err(broken(&what).why(format!(
            "computed root {}, {whose} has {}",
            hex::encode(computed),
            hex::encode(root)
        )))
    }
}

impl Verification {
    fn report(&self, context: &Context) -> Result<(), Failure> {
        let checkpoint = format!(
            "signed at {} leaves, signature and root agree",
            self.checkpoint_size
        );
        let fields = [
            ("log", self.origin.clone()),
            (
                "verified",
                format!("{} leaves, each at its place", self.leaves),
            ),
            ("root", self.root.clone()),
            ("checkpoint", checkpoint),
            ("key", self.vkey.clone()),
        ];
        context.output.one(self, &fields)?;
        if context.output.format() != Format::Table {
            return Ok(());
        }
        if self.consistency == Consistency::Local {
            note("This is what one server has; others may have more leaves.");
        }
        if !self.vkey_given {
            note("The key is the server's own word. Keep it, and give it next time: --vkey KEY.");
        }
        Ok(())
    }
}

fn broken(what: &str) -> Failure {
    Failure::new("MM-3501", Exit::Unhealthy, what).next(
        "keep a copy of the server's data before anything else, and compare with other servers",
    )
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_limit_counts_from_the_end_unless_it_is_told_where_to_begin() {
        let range = |from, follow, limit| {
            let args = TailArgs {
                from,
                follow,
                limit,
                consistency: None,
            };
            let range = args.range();
            (range.start, range.from_end, range.limit)
        };
        assert_eq!(range(None, false, None), (LAST, true, 0));
        assert_eq!(range(None, false, Some(3)), (3, true, 3));
        assert_eq!(range(None, false, Some(300)), (300, true, 300));
        assert_eq!(range(Some(7), false, Some(3)), (7, false, 3));
        assert_eq!(range(Some(0), true, None), (0, false, 0));
        assert_eq!(range(None, true, None), (LAST, true, 0));
        assert_eq!(range(None, true, Some(3)), (0, true, 3), "the next three");
    }

    fn leaf(index: u64) -> Vec<u8> {
        wire::Leaf {
            version: 1,
            index,
            ..Default::default()
        }
        .encode_to_vec()
    }

    fn rebuilt(altered: Option<u64>) -> (Rebuilt, Hash) {
        let mut honest = Frontier::new();
        let mut rebuilt = Rebuilt {
            leaves: Frontier::new(),
            recorded: Frontier::new(),
            altered: None,
        };
        for index in 0..5 {
            let original = leaf(index);
            let hash = leaf_hash(&original);
            honest.push(hash);
            let shown = if altered == Some(index) {
                wire::Leaf {
                    version: 1,
                    index,
                    action: "x".into(),
                    ..Default::default()
                }
                .encode_to_vec()
            } else {
                original
            };
            rebuilt.push(&shown, Some(&hash.to_vec())).unwrap();
        }
        (rebuilt, honest.root())
    }

    #[test]
    fn an_untouched_log_verifies() {
        let (rebuilt, root) = rebuilt(None);
        assert!(rebuilt.compare("x", &root).is_ok());
        assert!(
            rebuilt
                .compare("x", &[0; 32])
                .unwrap_err()
                .to_string()
                .contains("first 5 leaves")
        );
    }

    #[test]
    fn an_altered_leaf_is_named() {
        for index in 0..5 {
            let (rebuilt, root) = rebuilt(Some(index));
            let failure = rebuilt.compare("x", &root).unwrap_err().to_string();
            assert!(
                failure.contains(&format!("leaf {index} is not")),
                "{failure}"
            );
        }
    }

    #[test]
    fn a_leaf_at_the_wrong_place_is_named() {
        let mut rebuilt = Rebuilt {
            leaves: Frontier::new(),
            recorded: Frontier::new(),
            altered: None,
        };
        rebuilt.push(&leaf(0), None).unwrap();
        assert!(
            rebuilt
                .push(&leaf(2), None)
                .unwrap_err()
                .to_string()
                .contains("leaf 1")
        );
    }
}
