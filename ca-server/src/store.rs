//! What a server keeps on its own disk: log, checkpoints, audit leaves.
//!
//! Responsible for: the `redb` files of one member and the format of their records.
//! Always holds: every record carries a version and a CRC32C over its place and its
//! content; every transaction is durable when it returns; damage is reported with the
//! name of the record and never repaired by dropping committed data; after a failed
//! write or sync a file is not written again.
//! Not here: what the records mean to consensus (`crate::raft`) or to the trust
//! domain (`crate::state`).

pub mod checkpoint;
pub mod database;
pub mod leaves;
mod ranges;
pub mod record;

use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

/// A store that cannot be used any further. A server that meets one stops.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// A record is not what was written. The member has to be rebuilt under a new id.
    #[error("record {record} of {file} is damaged: {damage}")]
    Damaged {
        /// File of the store.
        file: &'static str,
        /// Table and key.
        record: String,
        /// What is wrong with it.
        damage: record::Damage,
    },
    /// A record that must be there is not.
    #[error("record {record} of {file} is missing")]
    Missing {
        /// File of the store.
        file: &'static str,
        /// Table and key.
        record: String,
    },
    /// A file as a whole is not what was written: its own checksums do not fit. The member
    /// has to be rebuilt under a new id.
    #[error("{file} is damaged")]
    Corrupted {
        /// File of the store.
        file: &'static str,
        /// What `redb` says.
        #[source]
        source: Arc<redb::Error>,
    },
    /// The file system or `redb` refused. After a failed write nothing is written again.
    #[error("{file} cannot be read or written")]
    Io {
        /// File of the store.
        file: &'static str,
        /// What `redb` says.
        #[source]
        source: Arc<redb::Error>,
    },
    /// An earlier write failed, so nobody knows what the disk holds.
    #[error("{file} was closed after a failed write")]
    Closed {
        /// File of the store.
        file: &'static str,
    },
    /// Work on the disk was cut off because the process is ending, or it panicked.
    #[error("work on {file} did not finish")]
    Interrupted {
        /// File of the store.
        file: &'static str,
    },
    /// An audit leaf is appended a second time with other bytes: replicas diverge.
    #[error("audit leaf {index} differs from the one that is stored")]
    LeafDiffers {
        /// Index of the leaf.
        index: u64,
    },
}

impl StoreError {
    /// Wraps whichever of `redb`'s errors for `file`.
    pub(crate) fn io(file: &'static str, source: impl Into<redb::Error>) -> Self {
        let source = Arc::new(source.into());
        match *source {
            redb::Error::Corrupted(_) => Self::Corrupted { file, source },
            _ => Self::Io { file, source },
        }
    }
}

/// Where the files of one member lie.
#[derive(Debug, Clone)]
pub struct StorePaths {
    folder: PathBuf,
}

impl StorePaths {
    /// The files under this folder.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Locked while a process uses the folder.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.folder.join("lock")
    }

    /// Whose folder it is; read before anything is opened.
    #[must_use]
    pub fn owner(&self) -> PathBuf {
        self.folder.join("owner")
    }

    /// Log, vote and what must be in step with them.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("log.redb")
    }

    /// The last checkpoint of the state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("state.redb")
    }

    /// Audit leaves.
    #[must_use]
    pub fn leaves(&self) -> PathBuf {
        self.folder.join("leaves.redb")
    }
}
