//! Audit leaves that a snapshot did not bring.
//!
//! Responsible for: fetching them from other members and hashing them up to the root of
//! the replicated state. Always holds: fetched leaves are served to nobody before the
//! whole tree below them hashes to that root; if it does not, all that was fetched goes
//! and another member is asked. Not here: keeping leaves (`crate::store::leaves`).

use std::time::Duration;

use bytes::Bytes;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::cause::chain;
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_tlog::{Frontier, leaf_hash};
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::machine::Machine;
use super::peers::{CallError, Peers, Remote};
use super::replicated_state::ReplicatedState;
use super::status::StatusWatch;
use crate::store::StoreError;
use crate::store::leaves::LeafStore;

/// Leaves of one call.
pub const FETCH_LEAVES_MAX: u64 = 4096;
/// Bytes of one message of leaves.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Time for a call, and again for each message of the answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether something is missing, and the pause after a failure.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Leaves that are hashed between two reads.
const HASH_BYTES: usize = 1024 * 1024;

/// Why a round of backfill ended early.
#[derive(Debug, Error)]
enum BackfillError {
    #[error("a member could not be asked")]
    Call(#[from] CallError),
    #[error("the answer broke off")]
    Stream(#[from] Box<tonic::Status>),
    #[error("the answer took too long")]
    Timeout,
    #[error("the answer has other leaves than were asked for")]
    OtherLeaves,
    #[error("nobody is asked")]
    NoMember,
    #[error("the leaves do not hash to the root of the state")]
    Root,
    #[error("the leaves cannot be stored")]
    Store(#[from] StoreError),
}

/// Fills the gaps of the leaf store whenever there are any.
pub struct Backfill<S> {
    pub machine: Machine<S>,
    pub peers: Peers,
    pub status: StatusWatch,
    pub stop: CancellationToken,
}

impl<S: ReplicatedState> Backfill<S> {
    /// Runs until it is stopped.
    pub async fn run(self) {
        let mut position = self.machine.position();
        let mut turn = 0_usize;
        loop {
            if self.is_due() {
                turn = turn.wrapping_add(1);
                // What was filled may not be all; it is looked at again after the pause.
                tokio::select! {
                    () = self.fill(turn) => {}
                    () = self.stop.cancelled() => return,
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_PERIOD) => {}
                () = self.stop.cancelled() => return,
                // A new snapshot shows as a change of position; changes while something
                // is missing are no reason to ask the failing member again.
                changed = position.changed(), if !self.is_due() => if changed.is_err() { return },
            }
        }
    }

    fn leaves(&self) -> &LeafStore {
        self.machine.leaves()
    }

    fn is_due(&self) -> bool {
        !self.leaves().is_complete()
    }

    /// Asks one member after the other, until nothing is missing.
    async fn fill(&self, turn: usize) {
        let members = self.members(turn);
        // What was fetched in an earlier life needs nobody but is still to be verified.
        let asked = std::iter::once(None).chain(members.iter().map(Some));
        for member in asked {
            match self.fill_from(member).await {
                Ok(()) => return,
                Err(BackfillError::NoMember) => {}
                Err(error) => tracing::info!(
                    member = member.map(|member| member.node),
                    error = chain(&error),
                    "audit leaves are still missing"
                ),
            }
        }
        if members.is_empty() {
            tracing::info!("audit leaves are missing, and no other member is known");
        }
    }

    async fn fill_from(&self, member: Option<&Remote>) -> Result<(), BackfillError> {
        while let Some((start, end)) = self.leaves().first_missing() {
            let member = member.ok_or(BackfillError::NoMember)?;
            self.fetch(member, start, end).await?;
        }
        let verified = self.verify().await;
        if matches!(verified, Err(BackfillError::Root)) {
            self.leaves().reject_fetched().await?;
        }
        verified
    }

    /// The others. Each is the first in its turn, so that a broken one does not hold us up.
    fn members(&self, turn: usize) -> Vec<Remote> {
        let status = self.status.get();
        let own = self.peers.sessions().own().node_id;
        let others = status.members.keys().filter(|node| **node != own);
        let mut members: Vec<Remote> = others.filter_map(|node| status.remote(*node)).collect();
        if let Some(first) = turn.checked_rem(members.len()) {
            members.rotate_left(first);
        }
        members
    }

    async fn fetch(&self, from: &Remote, start: u64, end: u64) -> Result<(), BackfillError> {
        let limit = end.saturating_sub(start).min(FETCH_LEAVES_MAX);
        let request = || pb::FetchLeavesRequest { start, limit };
        let mut answer = self
            .peers
            .call(
                from,
                CALL_TIMEOUT,
                request,
                |mut client, request| async move { client.fetch_leaves(request).await },
            )
            .await?;
        let mut next = start;
        loop {
            let message = tokio::time::timeout(CALL_TIMEOUT, answer.message()).await;
            let message = message.map_err(|_| BackfillError::Timeout)?;
            let Some(chunk) = message.map_err(Box::new)? else {
                break;
            };
            let leaves: Vec<Bytes> = chunk.leaves.into_iter().map(Bytes::from).collect();
            let after = next.saturating_add(leaves.len() as u64);
            if chunk.first_index != next || after > start.saturating_add(limit) {
                return Err(BackfillError::OtherLeaves);
            }
            self.leaves().fill(next, leaves).await?;
            reach(Step::LeavesFetched);
            next = after;
        }
        if next == start {
            return Err(BackfillError::OtherLeaves);
        }
        Ok(())
    }

    /// Hashes all leaves, own ones too, up to a root of the state.
    async fn verify(&self) -> Result<(), BackfillError> {
        let (size, root) = self
            .machine
            .read(|state| (state.audit_size(), state.audit_root()));
        let mut frontier = Frontier::new();
        while frontier.size() < size {
            let leaves = self
                .leaves()
                .read_raw(frontier.size(), size, HASH_BYTES)
                .await?;
            for leaf in leaves {
                frontier.push(leaf_hash(&leaf));
            }
            tokio::task::yield_now().await;
        }
        if frontier.root() != root {
            return Err(BackfillError::Root);
        }
        self.leaves().accept_fetched(size).await?;
        reach(Step::LeavesVerified);
        tracing::info!(size, "all audit leaves are here");
        Ok(())
    }
}
