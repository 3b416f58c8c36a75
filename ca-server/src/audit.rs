//! The audit log as its readers meet it: leaves that are committed, in order, for ever.
//!
//! Always: readers never hold up whoever writes the log.
//!
//! Not here: what a leaf says (`state::audit`), and where leaves are stored (`store::leaves`).

pub mod checkpoint;
pub mod committed;
pub mod denials;
pub mod document;
pub mod hashes;
pub mod sink;
pub mod tail;

use std::path::Path;
use std::sync::Arc;

use mintmark_runtime::Host;
use mintmark_runtime::task::Tasks;

use self::hashes::{HashKeeper, HashStore};
use self::sink::file::FileSink;
use self::sink::{SinkMetrics, SinkTask};
use self::tail::{CommittedLeaves, Log};
use crate::store::StoreError;

/// The audit log of this server.
#[derive(Debug, Clone)]
pub struct AuditLog {
    leaves: Arc<dyn CommittedLeaves>,
    hashes: HashStore,
}

impl AuditLog {
    /// Opens the recorded hashes of `leaves` in `folder`, and starts the task that goes on recording.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn start(
        host: &Host,
        leaves: Arc<dyn CommittedLeaves>,
        folder: &Path,
        tasks: &Tasks,
    ) -> Result<Self, StoreError> {
        let hashes = HashStore::open_in(Arc::clone(&host.disk), folder).await?;
        let keeper = HashKeeper::new(Arc::clone(&leaves), hashes.clone());
        tasks.spawn("audit hashes", keeper.run(tasks.token()));
        Ok(Self { leaves, hashes })
    }

    /// Starts to copy the log to a file.
    pub fn copy_to_file(&self, host: &Host, path: &Path, metrics: &SinkMetrics, tasks: &Tasks) {
        let sink = Box::new(FileSink::new(Arc::clone(&host.disk), path));
        let leaves = Arc::clone(&self.leaves);
        let task = SinkTask::new(leaves, sink, Arc::clone(&host.entropy), metrics);
        tasks.spawn("audit file sink", task.run(tasks.token()));
    }

    /// The log, to be read.
    #[must_use]
    pub fn log(&self) -> Log {
        Log {
            leaves: Arc::clone(&self.leaves),
            hashes: Some(Arc::new(self.hashes.clone())),
        }
    }

    /// The recorded hashes.
    #[must_use]
    pub fn hashes(&self) -> &HashStore {
        &self.hashes
    }
}
