//! `mintmark audit`: the log of everything that was issued, denied and changed.

use clap::Subcommand;
use mintmark_proto::mintmark::audit::v1 as wire;
use mintmark_proto::mintmark::audit::v1::audit_client::AuditClient;
use mintmark_tlog::checkpoint::Checkpoint;
use mintmark_tlog::note::NoteVerifier;
use mintmark_tlog::tree::{Frontier, Hash, leaf_hash};
use serde::Serialize;

use crate::connect::request;
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
  mintmark audit tail --from 0 -o json > audit.jsonl
  mintmark audit tail --follow --from 1742        resumes after leaf 1741")]
    Tail {
        /// First leaf; without it the last ones.
        #[arg(long, value_name = "INDEX")]
        from: Option<u64>,
        /// Wait for leaves to come.
        #[arg(short, long)]
        follow: bool,
        /// Print at most this many leaves and end.
        #[arg(long, value_name = "COUNT")]
        limit: Option<u64>,
    },
    /// Recompute the log from its leaves and check the signed checkpoint.
    #[command(after_help = "\
Examples:
  mintmark audit verify
  mintmark audit verify --vkey 'example.org/audit/1+…' -o json

Exit code 8 when the log does not verify; the output says which leaf breaks it.")]
    Verify {
        /// Public key of the log, as `audit verify` printed it when you trusted it first. Without it
        /// the server's own word is taken, and said so.
        #[arg(long, value_name = "KEY")]
        vkey: Option<String>,
    },
}

/// Leaves shown by `tail` without `--from`.
const LAST: u64 = 20;

/// Runs `mintmark audit …`.
pub async fn run(command: AuditCommand, context: &Context) -> Result<(), Failure> {
    let channel = context.connect.server(&context.host).await?;
    let client = AuditClient::new(channel).max_decoding_message_size(64 * 1024 * 1024);
    match command {
        AuditCommand::Tail {
            from,
            follow,
            limit,
        } => tokio::select! {
            ended = tail(client, from, follow, limit, context) => ended,
            left = reader_leaves(), if follow => Err(left),
        },
        AuditCommand::Verify { vkey } => verify(client, vkey, context).await,
    }
}

type Client = AuditClient<tonic::transport::Channel>;

async fn tail(
    mut client: Client,
    from: Option<u64>,
    follow: bool,
    limit: Option<u64>,
    context: &Context,
) -> Result<(), Failure> {
    let info = request(
        "read the log",
        client.get_log_info(wire::GetLogInfoRequest {}),
    )
    .await?;
    let start = from.unwrap_or_else(|| info.size.saturating_sub(LAST));
    let asked = wire::TailRequest {
        start,
        follow,
        limit: limit.unwrap_or(0),
        from_end: false,
    };
    let mut stream = request("read the log", client.tail(asked)).await?;
    let mut left = limit.unwrap_or(u64::MAX);
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
}

/// Recomputes the tree from all leaves, and compares it with the checkpoint's signature and root and
/// with what the server says of itself.
async fn verify(
    mut client: Client,
    vkey: Option<String>,
    context: &Context,
) -> Result<(), Failure> {
    let checkpoint = request(
        "get the checkpoint",
        client.get_checkpoint(wire::GetCheckpointRequest {}),
    )
    .await?;
    // Asked after the checkpoint, so that the log is at least as long.
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
    report(
        &rebuilt.leaves,
        vkey,
        vkey_given,
        info.origin,
        signed.size,
        context,
    )
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

fn report(
    tree: &Frontier,
    vkey: String,
    vkey_given: bool,
    origin: String,
    checkpoint_size: u64,
    context: &Context,
) -> Result<(), Failure> {
    let verification = Verification {
        valid: true,
        origin,
        vkey,
        vkey_given,
        leaves: tree.size(),
        root: hex::encode(tree.root()),
        checkpoint_size,
    };
    let fields = [
        ("log", verification.origin.clone()),
        (
            "verified",
            format!("{} leaves, each at its place", verification.leaves),
        ),
        ("root", verification.root.clone()),
        (
            "checkpoint",
            format!("signed at {checkpoint_size} leaves, signature and root agree"),
        ),
        ("key", verification.vkey.clone()),
    ];
    context.output.one(&verification, &fields)?;
    if !vkey_given && context.output.format() == Format::Table {
        note("The key is the server's own word. Keep it, and give it next time: --vkey KEY.");
    }
    Ok(())
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
