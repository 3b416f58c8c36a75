//! The last checkpoint of the replicated state.
//!
//! Responsible for: one encoded snapshot with its head, replaced as a whole. Always
//! holds: head and content change in one durable transaction, so a crash leaves the old
//! checkpoint or the new one; what is read back has the length and the SHA-256 that the
//! head says. Not here: what the content means.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::disk::Disk;
use mintmark_runtime::failpoint::{Step, reach};
use prost::Message;
use sha2::{Digest, Sha256};

use super::StoreError;
use super::database::{Commit, IndexedTable, NamedTable, SealedDatabase, Trust};
use super::record::Damage;

/// Name of the file in errors.
pub const STATE_FILE: &str = "state.redb";
/// The record without which there is no checkpoint.
pub const HEAD_RECORD: &str = "meta/head";
const META: NamedTable = NamedTable::new("meta");
const HEAD: &str = "head";
const PIECES: IndexedTable = IndexedTable::new("pieces");
/// A value of a megabyte keeps `redb`'s pages and the writer's buffers small.
const PIECE_LEN: usize = 1024 * 1024;

/// A checkpoint as it was saved.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// What it covers.
    pub head: pb::CheckpointHead,
    /// Encoded `SnapshotContent`.
    pub content: Bytes,
}

/// The file of checkpoints. A clone shares it.
#[derive(Clone)]
pub struct CheckpointStore {
    database: Arc<SealedDatabase>,
    disk: Arc<dyn Disk>,
}

impl CheckpointStore {
    /// Opens or creates the file. Blocks.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, StoreError> {
        let database =
            SealedDatabase::open(&*disk, path, STATE_FILE, Commit::TwoPhase, Trust::Checked)?;
        Ok(Self {
            database: Arc::new(database),
            disk,
        })
    }

    /// Replaces the checkpoint; fills in length and SHA-256. Durable when it returns.
    ///
    /// # Errors
    /// When the disk fails; the file then takes no further write.
    pub async fn save(
        &self,
        mut head: pb::CheckpointHead,
        content: Bytes,
    ) -> Result<(), StoreError> {
        let database = Arc::clone(&self.database);
        let work = move || {
            head.length = content.len() as u64;
            head.sha256 = Sha256::digest(&content).to_vec();
            database.write(|writing| {
                writing.remove_range(PIECES, 0, u64::MAX)?;
                let pieces = content.chunks(PIECE_LEN);
                writing.put_all(PIECES, (0_u64..).zip(pieces))?;
                writing.put_named(META, HEAD, &head.encode_to_vec())?;
                reach(Step::StateCheckpointWriting);
                Ok(())
            })
        };
        self.run(work).await
    }

    /// The checkpoint, if one was ever saved.
    ///
    /// # Errors
    /// When the disk fails or the checkpoint is damaged.
    pub async fn load(&self) -> Result<Option<Checkpoint>, StoreError> {
        let database = Arc::clone(&self.database);
        self.run(move || load(&database)).await
    }

    async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let finished = self.disk.run(work).await;
        finished.unwrap_or(Err(StoreError::Interrupted { file: STATE_FILE }))
    }
}

fn load(database: &SealedDatabase) -> Result<Option<Checkpoint>, StoreError> {
    let reading = database.read()?;
    let Some(head) = reading.named(META, HEAD)? else {
        return Ok(None);
    };
    let head = pb::CheckpointHead::decode(head.as_slice())
        .map_err(|_| damaged(HEAD_RECORD, Damage::Content))?;
    let mut content = BytesMut::new();
    let mut next = 0_u64;
    reading.range(PIECES, 0, u64::MAX, |index, piece| {
        if index != next {
            return Err(damaged(&format!("pieces/{next}"), Damage::Place));
        }
        next = next.saturating_add(1);
        content.extend_from_slice(&piece);
        Ok(true)
    })?;
    if content.len() as u64 != head.length {
        return Err(damaged("pieces", Damage::Short));
    }
    if Sha256::digest(&content).as_slice() != head.sha256 {
        return Err(damaged("pieces", Damage::Checksum));
    }
    Ok(Some(Checkpoint {
        head,
        content: content.freeze(),
    }))
}

fn damaged(record: &str, damage: Damage) -> StoreError {
    StoreError::Damaged {
        file: STATE_FILE,
        record: record.to_owned(),
        damage,
    }
}
