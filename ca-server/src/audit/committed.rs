//! Committed leaves of this server, for readers.
//!
//! Always: readers hold no lock of the state while they read.
//!
//! Not here: the store (`store::leaves`), and fetching what is absent (`raft`).

use async_trait::async_trait;
use bytes::Bytes;

use super::tail::{CommittedLeaves, Head, LeavesError};
use crate::raft::Consensus;
use crate::state::State;
use crate::store::leaves::ReadLeavesError;

/// Leaves of the log that this server applies.
#[derive(Debug, Clone)]
pub struct CommittedLog(Consensus<State>);

impl CommittedLog {
    /// The leaves behind this handle.
    #[must_use]
    pub fn new(consensus: Consensus<State>) -> Self {
        Self(consensus)
    }
}

#[async_trait]
impl CommittedLeaves for CommittedLog {
    fn origin(&self) -> Option<String> {
        self.0
            .read(|state| state.log_key().map(|key| key.origin.clone()))
    }

    fn head(&self) -> Head {
        self.0.read(|state| Head {
            size: state.audit_size(),
            root: state.audit_root(),
        })
    }

    async fn grown(&self, size: u64) {
        let mut applied = self.0.applied();
        loop {
            applied.mark_unchanged();
            if self.0.read(|state| state.audit_size()) > size {
                return;
            }
            if applied.changed().await.is_err() {
                // Consensus has ended: the log never grows again.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn read(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, LeavesError> {
        let read = self.0.leaves(start..end, bytes_max).await;
        read.map_err(|error| match error {
            ReadLeavesError::Absent { first_absent } => LeavesError::Absent(first_absent),
            ReadLeavesError::BeyondEnd { end } => LeavesError::Beyond { size: end },
            ReadLeavesError::Store(error) => LeavesError::Store(error.into()),
        })
    }
}
