//! How a member of the Raft group is set up.
//!
//! Responsible for: names, places and times. Always holds: the library's own bounds on
//! these times. Not here: reading configuration files.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::SnapshotPolicy;

use super::open::OpenError;
use super::type_config::NodeId;
use crate::store::StorePaths;

/// Marks a cluster among all clusters, whatever their trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// From the bytes of a message.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// For a message.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Heartbeats and elections.
///
/// openraft lets a leader's lease of `election_max` run out before the drawn election
/// timeout begins, and looks at its timers one and a half heartbeats apart. So a lost
/// leader is replaced after `election_max` plus a draw of `election_min..election_max`,
/// rounded up: with the defaults in 0.6 to 0.95 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftTiming {
    /// How often a leader speaks to each member. Also the time that one message to a
    /// follower may take, its sync included, so slow disks want more.
    pub heartbeat: Duration,
    /// Least election timeout.
    pub election_min: Duration,
    /// Greatest election timeout, and the lease of a leader.
    pub election_max: Duration,
}

impl Default for RaftTiming {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(400),
        }
    }
}

/// One member's part in the group.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// This member.
    pub node_id: NodeId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Where the other members reach this one, `host:port`.
    pub address: String,
    /// Folder of the stores.
    pub folder: PathBuf,
    /// Heartbeats and elections.
    pub timing: RaftTiming,
    /// Log entries between two snapshots.
    pub snapshot_every: u64,
    /// Entries that stay in the log although a snapshot holds them, so that a member
    /// that was away for a moment needs no snapshot.
    pub entries_kept: u64,
    /// How long a proposal may take before its outcome is called unknown.
    pub propose_timeout: Duration,
    /// How long a read index may take.
    pub read_timeout: Duration,
}

impl RaftConfig {
    /// Defaults for this member.
    #[must_use]
    pub fn new(
        node_id: NodeId,
        cluster_id: ClusterId,
        address: impl Into<String>,
        folder: impl Into<PathBuf>,
    ) -> Self {
        Self {
            node_id,
            cluster_id,
            address: address.into(),
            folder: folder.into(),
            timing: RaftTiming::default(),
            snapshot_every: 10_000,
            entries_kept: 1_000,
            propose_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(2),
        }
    }

    /// The same with a snapshot after so many entries, a tenth of which stay in the log.
    #[must_use]
    pub fn with_snapshots_every(self, entries: u64) -> Self {
        Self {
            snapshot_every: entries,
            entries_kept: entries / KEPT_PART,
            ..self
        }
    }

    /// Where the files lie.
    #[must_use]
    pub fn paths(&self) -> StorePaths {
        StorePaths::new(&self.folder)
    }

    /// The library's configuration.
    pub(super) fn openraft(&self) -> Result<Arc<openraft::Config>, OpenError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: self.cluster_id.to_string(),
            heartbeat_interval: millis(self.timing.heartbeat),
            election_timeout_min: millis(self.timing.election_min),
            election_timeout_max: millis(self.timing.election_max),
            // The sender bounds a snapshot by its length; this bounds nothing of ours.
            install_snapshot_timeout: millis(super::network::SNAPSHOT_TIMEOUT_MAX),
            max_payload_entries: ENTRIES_PER_MESSAGE,
            replication_lag_threshold: self.snapshot_every.saturating_mul(2),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.entries_kept,
            purge_batch_size: 1,
            // Not before the clock was compared; see `super::compare`.
            enable_elect: false,
            enable_heartbeat: false,
            ..openraft::Config::default()
        };
        let valid = config.validate();
        valid
            .map(Arc::new)
            .map_err(|error| OpenError::Timing(error.to_string()))
    }
}

/// Of the entries between two snapshots, the part that stays in the log.
const KEPT_PART: u64 = 10;
/// Entries of one message; bytes are bounded by the log store.
const ENTRIES_PER_MESSAGE: u64 = 300;
