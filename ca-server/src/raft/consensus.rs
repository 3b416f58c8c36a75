//! One member's handle on consensus.
//!
//! Responsible for: what the rest of the server asks of consensus. Always holds: a value
//! read here was applied here; when consensus ends for good, [`Consensus::failed`] says
//! why. Not here: the parts, and starting them (`start`).

mod error;
mod start;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_proto::mintmark::raft::v1::peer_server::PeerServer;
use mintmark_runtime::Host;
use mintmark_runtime::disk::DiskLock;
use mintmark_runtime::drain::DrainWatch;
use mintmark_runtime::grpc::{ConnectionLimits, GrpcLimits, GrpcServer};
use mintmark_runtime::network::Listener;
use mintmark_runtime::task::Tasks;
use mintmark_runtime::tls::ServerConfigSource;
use openraft::BasicNode;
use openraft::error::{InitializeError, RaftError};
use tokio::sync::watch;
use tonic::service::Routes;

pub use self::error::{BootstrapError, RaftFault, StaleError};
use super::auth::PeerAuth;
use super::clocks::{ClockState, Clocks};
use super::config::RaftConfig;
use super::log_store::LogStore;
use super::machine::Machine;
use super::marks::Marks;
use super::membership::{Change, MembershipChanges, MembershipError};
use super::peers::{MESSAGE_LEN_MAX, Peers};
use super::propose::{ProposeError, Proposed, Proposer};
use super::quorum::QuorumClock;
use super::read_index::ReadIndex;
use super::replicated_state::ReplicatedState;
use super::service::PeerService;
use super::session::Expelled;
use super::status::{RaftStatus, Role, StatusWatch};
use super::type_config::{NodeId, Raft};
use crate::state::{Position, State};
use crate::store::leaves::ReadLeavesError;

/// Calls of one other member at one time; it has one connection or a few.
const PEER_STREAMS_MAX: u32 = 1024;
/// Pause before a read index is asked for again.
const READ_RETRY_PAUSE: Duration = Duration::from_millis(50);

/// One member of the cluster. A clone is another handle.
pub struct Consensus<S = State>(Arc<Inner<S>>);

impl<S> Clone for Consensus<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Inner<S> {
    config: RaftConfig,
    raft: Raft,
    reads: ReadIndex,
    machine: Machine<S>,
    log: LogStore,
    peers: Peers,
    quorum: QuorumClock,
    clocks: Clocks,
    marks: Marks,
    status: StatusWatch,
    proposer: Proposer,
    membership: MembershipChanges,
    auth: Arc<dyn PeerAuth>,
    host: Host,
    tasks: Tasks,
    /// Held as long as the stores are open.
    _lock: Box<dyn DiskLock>,
}

impl<S> std::fmt::Debug for Consensus<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus")
            .field("node_id", &self.0.config.node_id)
            .finish_non_exhaustive()
    }
}

impl<S: ReplicatedState> Consensus<S> {
    /// Makes this member the only one of a new cluster, and waits until it leads.
    ///
    /// # Errors
    /// See [`BootstrapError`].
    pub async fn bootstrap(&self) -> Result<(), BootstrapError> {
        let config = &self.0.config;
        let members =
            std::collections::BTreeMap::from([(config.node_id, BasicNode::new(&config.address))]);
        match self.0.raft.initialize(members).await {
            Ok(()) => {}
            Err(RaftError::APIError(
                InitializeError::NotAllowed(_) | InitializeError::NotInMembers(_),
            )) => return Err(BootstrapError::AlreadyMember),
            Err(RaftError::Fatal(_)) => return Err(BootstrapError::Stopped),
        }
        let mut status = self.0.status.subscribe();
        let leads = status.wait_for(|now| matches!(now.role, Role::Leader | Role::Stopped));
        match leads.await.map(|now| now.role) {
            Ok(Role::Leader) => Ok(()),
            _ => Err(BootstrapError::Stopped),
        }
    }

    /// True if this member takes part in a cluster, or has once.
    #[must_use]
    pub fn is_member(&self) -> bool {
        !self.0.log.is_pristine()
    }

    /// Proposes a command and waits until it is applied here.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(
        &self,
        body: pb::command::Body,
        actor: pb::Actor,
        idempotency: Option<[u8; 16]>,
    ) -> Result<Proposed, ProposeError> {
        self.0.proposer.propose(body, actor, idempotency).await
    }

    /// Looks at the state between two commands. Keep it short: commands wait meanwhile.
    pub fn read<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        self.0.machine.read(look)
    }

    /// Where the state stands; changes after every applied command.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.0.machine.position()
    }

    /// How many snapshots of other members were installed since this process started.
    #[must_use]
    pub fn snapshots_installed(&self) -> u64 {
        self.0.machine.progress().borrow().installs
    }

    /// Waits until the state here has everything that was acknowledged anywhere before
    /// this call.
    ///
    /// # Errors
    /// When no leader confirms that in time.
    pub async fn read_index(&self) -> Result<(), StaleError> {
        let reading = async {
            loop {
                if let Some(index) = self.read_index_once().await {
                    let mut progress = self.0.machine.progress();
                    let reached = progress.wait_for(|now| now.has(index));
                    // The sender lives as long as the machine.
                    let _ = reached.await;
                    return;
                }
                tokio::time::sleep(READ_RETRY_PAUSE).await;
            }
        };
        let read = tokio::time::timeout(self.0.config.read_timeout, reading).await;
        read.map_err(|_| StaleError::NoQuorum)
    }

    pub(super) async fn read_index_once(&self) -> Option<u64> {
        let inner = &self.0;
        let (leader, _term) = inner.status.leader().await;
        if leader.node == inner.config.node_id {
            // Asking the others would keep them from electing another leader.
            if inner.clocks.judge().skew().is_some() {
                return None;
            }
            return inner.reads.confirm().await.ok();
        }
        let asked = inner.peers.call(
            &leader,
            inner.config.read_timeout,
            || pb::ReadIndexRequest {},
            |mut client, request| async move { client.read_index(request).await },
        );
        match asked.await {
            Ok(answer) => Some(answer.index),
            Err(error) => {
                tracing::debug!(%error, "the leader did not confirm a read index");
                None
            }
        }
    }

    /// An upper bound of the time since a quorum last stood behind the leader; `None`
    /// if this member does not know that it ever did, or if its state is wrong.
    #[must_use]
    pub fn quorum_age(&self) -> Option<Duration> {
        if self.0.marks.fault().borrow().is_some() {
            return None;
        }
        self.0.quorum.age()
    }

    /// Looks at this server's clock: how far it is from the voters', and whether it may be used.
    #[must_use]
    pub fn clock(&self) -> ClockState {
        self.0.clocks.judge()
    }

    /// Members whose state differs from this one's, though they applied the same log.
    #[must_use]
    pub fn differing_members(&self) -> usize {
        self.0.marks.differing()
    }

    /// What this member is at the moment.
    #[must_use]
    pub fn role(&self) -> Role {
        self.0.status.get().role
    }

    /// Who leads, as far as this member knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.0.status.get().leader
    }

    /// This member.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.0.config.node_id
    }

    /// Role, leader, term and membership, as they change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.0.status.subscribe()
    }

    /// Adds a member that gets the log and does not vote, through the leader; one that is there
    /// already is reached at this address from now on.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn add_learner(&self, node: NodeId, address: &str) -> Result<(), MembershipError> {
        let address = address.to_owned();
        let change = Change::AddLearner { node, address };
        self.0.membership.change(change).await
    }

    /// Lets a learner vote, through the leader.
    ///
    /// # Errors
    /// [`MembershipError::Behind`] until its log has nearly caught up, [`MembershipError::Leaves`] until
    /// it holds the audit leaves; try again then.
    pub async fn promote(&self, node: NodeId) -> Result<(), MembershipError> {
        self.0.membership.change(Change::Promote { node }).await
    }

    /// Takes a member out, through the leader.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn remove(&self, node: NodeId) -> Result<(), MembershipError> {
        self.0.membership.change(Change::Remove { node }).await
    }

    /// Audit leaves of a range; fewer than asked when they take more than `bytes_max`.
    ///
    /// # Errors
    /// When the range is not all here.
    pub async fn leaves(
        &self,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Bytes>, ReadLeavesError> {
        let leaves = self.0.machine.leaves();
        leaves.read(range.start, range.end, bytes_max).await
    }

    /// Makes a snapshot now.
    pub async fn snapshot(&self) {
        // A library that has stopped says so elsewhere.
        let _ = self.0.raft.trigger().snapshot().await;
    }

    /// Drops log entries that the last snapshot holds.
    #[cfg(test)]
    pub(super) async fn purge(&self) {
        let through = self.0.status.get().snapshot_log_index.unwrap_or(0);
        let _ = self.0.raft.trigger().purge_log(through).await;
    }

    /// The library, to be told what a leader would tell it, and the log.
    #[cfg(test)]
    pub(super) fn parts(&self) -> (&Raft, &LogStore) {
        (&self.0.raft, &self.0.log)
    }

    /// Last entry of the log here.
    #[cfg(test)]
    pub(super) fn log_end(&self) -> Option<u64> {
        self.0.log.last_log_id().map(|id| id.index)
    }

    /// Has this member take audit leaves up to `size` for missing, as a snapshot would.
    #[cfg(test)]
    pub(super) fn miss_leaves(&self, size: u64) {
        self.0.machine.leaves().declare(size);
    }

    /// Changes the state behind the log's back, as rotten memory would.
    #[cfg(test)]
    pub(super) fn disturb(&self, change: impl FnOnce(&mut S)) {
        self.0.machine.disturb(change);
    }

    /// The services of the peers' port.
    #[must_use]
    pub fn peer_routes(&self) -> Routes {
        let inner = &self.0;
        let service = PeerService {
            raft: inner.raft.clone(),
            reads: inner.reads.clone(),
            sessions: inner.peers.sessions().clone(),
            auth: Arc::clone(&inner.auth),
            clocks: inner.clocks.clone(),
            marks: inner.marks.clone(),
            quorum: inner.quorum.clone(),
            leaves: inner.machine.leaves().clone(),
            proposer: inner.proposer.clone(),
            membership: inner.membership.clone(),
            receiving: tokio::sync::Mutex::new(()),
        };
        let server = PeerServer::new(service)
            .max_decoding_message_size(MESSAGE_LEN_MAX)
            .max_encoding_message_size(MESSAGE_LEN_MAX);
        Routes::new(server)
    }

    /// Serves the peers' port until the drain begins.
    pub async fn serve_peers(
        &self,
        listener: Box<dyn Listener>,
        tls: Option<ServerConfigSource>,
        drain: DrainWatch,
    ) {
        let limits = GrpcLimits {
            connections: ConnectionLimits::default(),
            max_concurrent_streams: PEER_STREAMS_MAX,
            ..GrpcLimits::default()
        };
        let server = GrpcServer::new(self.peer_routes(), Arc::clone(&self.0.host.entropy));
        let server = match tls {
            Some(tls) => server.with_tls(tls),
            None => server,
        };
        let server = server.with_limits(limits);
        server.serve(listener, &self.0.tasks, drain).await;
    }

    /// Waits until consensus has ended for good on this server, and says why.
    pub async fn failed(&self) -> RaftFault {
        let inner = &self.0;
        let mut expelled = inner.peers.sessions().expelled();
        let mut metrics = inner.raft.metrics();
        let mut diverged = inner.marks.fault();
        tokio::select! {
            biased;
            Ok(Some(divergence)) = async {
                diverged.wait_for(Option::is_some).await.map(|found| *found)
            } => RaftFault::Diverged(divergence),
            why = expelled.wait_for(Option::is_some) => match why.map(|why| *why) {
                Ok(Some(Expelled::RolledBack)) => RaftFault::RolledBack,
                _ => RaftFault::Wiped,
            },
            stopped = metrics.wait_for(|now| now.running_state.is_err()) => {
                let why = stopped.ok().and_then(|now| now.running_state.clone().err());
                match (inner.log.fault(), inner.machine.fault()) {
                    (Some(fault), _) => RaftFault::Store(fault),
                    (None, Some(fault)) => RaftFault::Machine(fault),
                    (None, None) => RaftFault::Stopped(
                        why.map_or_else(|| "it ended".to_owned(), |why| why.to_string()),
                    ),
                }
            }
        }
    }

    /// Leaves consensus in order: what was applied is durable afterwards.
    pub async fn shutdown(&self) {
        // A panic in the library was reported when it happened.
        let _ = self.0.raft.shutdown().await;
        if let Err(error) = self.0.machine.leaves().flush().await {
            tracing::warn!(%error, "audit leaves were not written; the log still has them");
        }
        if let Err(error) = self.0.log.close().await {
            tracing::warn!(%error, "the end of the log was not written");
        }
    }
}
