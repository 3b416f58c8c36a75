//! Checkpoints: the leader says under the log's key how far the log goes.
//!
//! Always: at most one checkpoint a second, and one whenever the tree grew; what is signed is the size and
//! the root that this server has applied, and the state accepts it only as an extension of the last one.
//!
//! Not here: what is in the tree (`state::audit`), witnesses.

use std::sync::Arc;
use std::time::Duration;

use mintmark_proto::mintmark::raft::v1::{Actor, SignCheckpoint, actor, command};
use mintmark_proto::mintmark::state::v1::Checkpoint as Record;
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::host::Host;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::task::periodic::{Periodic, Wake};
use mintmark_tlog::Checkpoint;
use thiserror::Error;
use tokio::time::Instant;

use crate::Consensus;
use crate::authority::keyring::{Keyring, KeyringError, SealedRecord};
use crate::raft::{ProposeError, Role};
use crate::state::State;

/// The shortest time between two checkpoints.
const PERIOD: Duration = Duration::from_secs(1);
/// A server that does not lead signs only when nobody has for so long: the leader may be sealed.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why no checkpoint was signed.
#[derive(Debug, Error)]
pub enum CheckpointJobError {
    /// The log's key.
    #[error("the log key is not usable")]
    Keyring(#[from] KeyringError),
    /// The note.
    #[error("the checkpoint cannot be signed: {0}")]
    Note(String),
    /// The log.
    #[error("the log did not take the checkpoint")]
    Propose(#[from] ProposeError),
    /// The state.
    #[error("the checkpoint was refused: {0}")]
    Refused(String),
}

/// What is to be signed.
struct Draft {
    checkpoint: Checkpoint,
    record: SealedRecord,
}

/// `None` when the tree has not grown since the last checkpoint.
fn draft(state: &State, node_id: u64) -> Option<Result<Draft, KeyringError>> {
    let key = state.log_key()?;
    let (size, root) = (state.audit_size(), state.audit_root());
    if state
        .last_checkpoint()
        .is_some_and(|last| last.size >= size)
    {
        return None;
    }
    let checkpoint = Checkpoint {
        origin: key.origin.clone(),
        size,
        root,
    };
    let record = SealedRecord::find(state, node_id, &key.vault_record);
    Some(record.map(|record| Draft { checkpoint, record }))
}

/// Starts the job.
pub fn start(host: &Host, consensus: Consensus, keyring: Arc<Keyring>, tasks: &Tasks) {
    let schedule = Periodic::new(PERIOD, Wake::new(), tasks.token());
    tasks.spawn(
        "checkpoints",
        run(host.clone(), consensus, keyring, schedule),
    );
}

async fn run(host: Host, consensus: Consensus, keyring: Arc<Keyring>, mut schedule: Periodic) {
    let mut due_since: Option<Instant> = None;
    while schedule.next().await {
        let node_id = keyring.node_id();
        let Some(draft) = consensus.read(|state| draft(state, node_id)) else {
            due_since = None;
            continue;
        };
        let since = *due_since.get_or_insert_with(Instant::now);
        if consensus.role() != Role::Leader && since.elapsed() < PATIENCE {
            continue;
        }
        match sign(&host, &consensus, &keyring, draft).await {
            Ok(()) => due_since = None,
            Err(error) => tracing::debug!(%error, "no checkpoint was signed"),
        }
    }
}

async fn sign(
    host: &Host,
    consensus: &Consensus,
    keyring: &Keyring,
    draft: Result<Draft, KeyringError>,
) -> Result<(), CheckpointJobError> {
    let Draft { checkpoint, record } = draft?;
    reach(Step::LogCheckpointDue);
    let signer = keyring.log_signer(&checkpoint.origin, &record)?;
    let note = signer
        .sign(&checkpoint.to_text())
        .map_err(|error| CheckpointJobError::Note(error.to_string()))?;
    let record = Record {
        size: checkpoint.size,
        root: checkpoint.root.to_vec(),
        note: note.to_string(),
        signed_at_ms: host.clock.now().unix_millis(),
    };
    let actor = Actor {
        kind: actor::Kind::Server.into(),
        node_id: keyring.node_id(),
        ..Actor::default()
    };
    let body = command::Body::SignCheckpoint(SignCheckpoint {
        checkpoint: Some(record),
    });
    reach(Step::LogCheckpointSigned);
    let result = consensus.propose(body, actor, None).await?.result;
    reach(Step::LogCheckpointCommitted);
    crate::api::accepted(&result).map_err(|_| CheckpointJobError::Refused(result.detail))
}
