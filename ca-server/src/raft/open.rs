//! Opening the stores of a member.
//!
//! Responsible for: finding out whose data folder it is, before anything in it changes.
//! Always holds: one process uses a folder at a time; the files of another cluster or
//! member are left as they are; a log that should be there and is not is never replaced
//! by an empty one. Not here: what the stores hold.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use mintmark_identity::entropy::draw_bytes;
use mintmark_runtime::Host;
use mintmark_runtime::disk::{Disk, DiskLock, MODE_DIRECTORY, MODE_SECRET};
use mintmark_runtime::failpoint::{Step, reach};
use thiserror::Error;

use super::config::{ClusterId, RaftConfig};
use super::log_store::{LogStore, LogWriter, Owner};
use super::machine::MachineError;
use super::type_config::NodeId;
use crate::store::checkpoint::CheckpointStore;
use crate::store::database;
use crate::store::leaves::LeafStore;
use crate::store::record::{self, Damage};
use crate::store::{StoreError, StorePaths};

/// Name under which the owner is sealed.
const OWNER: &str = "owner";

/// Why a member cannot start.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The folder is in use.
    #[error("the data folder {} is in use by another process", folder.display())]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder belongs to another cluster. Nothing in it was changed.
    #[error("the data folder {} belongs to cluster {found}, not to {expected}", folder.display())]
    ForeignCluster {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: ClusterId,
    },
    /// The folder belongs to another member. Nothing in it was changed.
    #[error("the data folder {} belongs to member {found}, not to {expected}", folder.display())]
    ForeignNode {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// The member has a past but no log. Its disk lost it, or somebody did.
    #[error(
        "{} is missing although this member has taken part before; remove the member and \
         admit it under a new id", path.display()
    )]
    LogMissing {
        /// The file.
        path: PathBuf,
    },
    /// The note whose folder it is cannot be read.
    #[error("{} is damaged: {damage}", path.display())]
    OwnerDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The folder cannot be used.
    #[error("the data folder {} cannot be used", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A store cannot be used.
    #[error("the stores cannot be opened")]
    Store(#[from] StoreError),
    /// The state cannot be restored.
    #[error("the state cannot be restored")]
    Machine(#[from] MachineError),
    /// The log cannot be applied.
    #[error("the log cannot be applied")]
    Replay(#[source] Arc<MachineError>),
    /// The times do not fit together.
    #[error("heartbeat and election times do not fit together: {0}")]
    Timing(String),
    /// Consensus did not start.
    #[error("consensus did not start: {0}")]
    Consensus(String),
}

/// The open files of a member.
pub struct Stores {
    pub lock: Box<dyn DiskLock>,
    pub log: LogStore,
    pub writer: LogWriter,
    pub checkpoints: CheckpointStore,
    pub leaves: LeafStore,
}

/// Whose folder it is, if anybody's: for a server that restarts and has to know its id.
///
/// # Errors
/// When there is a note that cannot be read.
pub fn folder_owner(
    disk: &dyn Disk,
    folder: impl Into<PathBuf>,
) -> Result<Option<(NodeId, ClusterId)>, OpenError> {
    let Some(owner) = read_owner(disk, &StorePaths::new(folder))? else {
        return Ok(None);
    };
    Ok(ClusterId::from_bytes(&owner.cluster_id).map(|cluster| (owner.node_id, cluster)))
}

/// Opens everything. Blocks.
pub fn open_stores(host: &Host, config: &RaftConfig) -> Result<Stores, OpenError> {
    let paths = config.paths();
    let lock = lock(host, &paths)?;
    let noted = read_owner(&*host.disk, &paths)?;
    if let Some(owner) = &noted {
        check_owner(owner, config)?;
        let log = paths.log();
        let unmade = database::is_unmade(&*host.disk, &log);
        let unmade = unmade.map_err(|source| folder_error(&paths, source))?;
        if unmade || !exists(&*host.disk, &paths, log)? {
            return Err(OpenError::LogMissing { path: paths.log() });
        }
    }
    let owner = Owner {
        cluster_id: config.cluster_id.as_bytes().to_vec(),
        node_id: config.node_id,
        incarnation: draw_bytes(&*host.entropy),
    };
    let (log, writer) = LogStore::open(Arc::clone(&host.disk), &paths.log(), &owner)?;
    check_owner(log.owner(), config)?;
    if noted.is_none() {
        reach(Step::LogMade);
        let sealed = record::seal(OWNER, &[], &log.owner().encode());
        let written = host.disk.write_atomic(&paths.owner(), &sealed, MODE_SECRET);
        written.map_err(|source| folder_error(&paths, source))?;
        reach(Step::OwnerNoted);
    }
    Ok(Stores {
        lock,
        log,
        writer,
        checkpoints: CheckpointStore::open(Arc::clone(&host.disk), &paths.state())?,
        leaves: LeafStore::open(Arc::clone(&host.disk), &paths.leaves())?,
    })
}

fn lock(host: &Host, paths: &StorePaths) -> Result<Box<dyn DiskLock>, OpenError> {
    let made = host.disk.create_dir_all(paths.folder(), MODE_DIRECTORY);
    made.map_err(|source| folder_error(paths, source))?;
    host.disk.lock_exclusive(&paths.lock()).map_err(|source| {
        if source.kind() == io::ErrorKind::WouldBlock {
            OpenError::Locked {
                folder: paths.folder().to_owned(),
            }
        } else {
            folder_error(paths, source)
        }
    })
}

fn read_owner(disk: &dyn Disk, paths: &StorePaths) -> Result<Option<Owner>, OpenError> {
    let path = paths.owner();
    let sealed = match disk.read(&path) {
        Ok(sealed) => sealed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(folder_error(paths, source)),
    };
    let owner = record::open(OWNER, &[], &sealed).and_then(Owner::decode);
    owner
        .map(Some)
        .map_err(|damage| OpenError::OwnerDamaged { path, damage })
}

fn check_owner(owner: &Owner, config: &RaftConfig) -> Result<(), OpenError> {
    if owner.cluster_id != config.cluster_id.as_bytes() {
        return Err(OpenError::ForeignCluster {
            folder: config.folder.clone(),
            found: hex::encode(&owner.cluster_id),
            expected: config.cluster_id,
        });
    }
    if owner.node_id != config.node_id {
        return Err(OpenError::ForeignNode {
            folder: config.folder.clone(),
            found: owner.node_id,
            expected: config.node_id,
        });
    }
    Ok(())
}

fn exists(disk: &dyn Disk, paths: &StorePaths, path: PathBuf) -> Result<bool, OpenError> {
    disk.exists(&path)
        .map_err(|source| folder_error(paths, source))
}

fn folder_error(paths: &StorePaths, source: io::Error) -> OpenError {
    OpenError::Folder {
        folder: paths.folder().to_owned(),
        source,
    }
}
