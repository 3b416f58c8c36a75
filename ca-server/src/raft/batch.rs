//! What one log entry carries: the commands that were waiting when it was written.
//!
//! Responsible for: the payload of an entry, encoded once and shared by disk, wire and
//! apply. openraft 0.9 syncs the log once per entry and one entry at a time, so
//! commands share entries, or a cluster could not take more commands than its disk
//! takes syncs. Always holds: the bytes are an encoded `CommandBatch`. Not here: who
//! gathers the batch ([`super::propose`]), what commands do (`crate::state`).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use mintmark_proto::mintmark::raft::v1 as pb;
use prost::Message;
use tokio::sync::watch;

/// How far the write of a batch has come on the server that proposed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WriteStage {
    /// It stands in no log: a refusal now is final.
    Waiting,
    /// It was handed to the log, so it may be committed whatever the answer says.
    Appended,
    /// It is durable here, and the next batch may follow.
    Durable,
}

/// Payload of a log entry.
#[derive(Clone)]
pub struct Batch {
    encoded: Bytes,
    /// Present only on the proposing server, and not after a restart.
    stage: Option<Arc<watch::Sender<WriteStage>>>,
}

impl Batch {
    /// A batch to propose, and the view of its write.
    #[must_use]
    pub fn propose(commands: &pb::CommandBatch) -> (Self, watch::Receiver<WriteStage>) {
        let (stage, seen) = watch::channel(WriteStage::Waiting);
        let batch = Self {
            encoded: commands.encode_to_vec().into(),
            stage: Some(Arc::new(stage)),
        };
        (batch, seen)
    }

    /// A batch out of a log record or a peer's message.
    #[must_use]
    pub fn from_encoded(encoded: impl Into<Bytes>) -> Self {
        Self {
            encoded: encoded.into(),
            stage: None,
        }
    }

    /// The encoded `CommandBatch`.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// The commands in order.
    ///
    /// # Errors
    /// When the bytes are no `CommandBatch`; a leader never writes such.
    pub fn decode(&self) -> Result<Vec<pb::Command>, prost::DecodeError> {
        pb::CommandBatch::decode(self.encoded.clone()).map(|batch| batch.commands)
    }

    /// Notes progress of the write. Stages only go forward.
    pub fn reached(&self, stage: WriteStage) {
        if let Some(sender) = &self.stage {
            sender.send_if_modified(|now| {
                let forward = *now < stage;
                if forward {
                    *now = stage;
                }
                forward
            });
        }
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.encoded.len())
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

/// One result per command of a batch, in order; none for entries without commands. A
/// command that was void has no result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BatchResults(pub Vec<Option<pb::CommandResult>>);
