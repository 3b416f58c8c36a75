//! The answering side of the peers' protocol.
//!
//! Responsible for: checking who calls, then handing the message to whom it concerns.
//! Always holds: certificate, cluster, store and process of the caller are checked
//! before openraft or anything else sees the message; snapshots are bounded and checked
//! before they are installed. Not here: the calling side ([`super::network`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_proto::mintmark::raft::v1::peer_server::Peer;
use mintmark_runtime::failpoint::{Step, reach};
use mintmark_runtime::grpc::ConnectInfo;
use openraft::error::{CheckIsLeaderError, RaftError};
use openraft::raft::AppendEntriesResponse;
use prost::Message;
use sha2::{Digest, Sha256};
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::auth::PeerAuth;
use super::backfill::{CHUNK_BYTES_MAX, FETCH_LEAVES_MAX};
use super::clocks::Clocks;
use super::convert::{self, ConvertError};
use super::marks::Marks;
use super::membership::{Change, MembershipChanges, outcome_to_pb};
use super::propose::Proposer;
use super::quorum::QuorumClock;
use super::read_index::ReadIndex;
use super::session::{MeetError, PROTOCOL, PeerRefusal, Sessions};
use super::snapshot::{SNAPSHOT_LEN_MAX, SnapshotBytes};
use super::type_config::{NodeId, Raft, Snapshot, SnapshotMeta, Vote};
use crate::store::leaves::{LeafStore, ReadLeavesError};

/// Longest that a forwarded proposal is waited for.
const PROPOSE_TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// First piece of memory for a snapshot; it grows with what really arrives.
const SNAPSHOT_BUFFER_LEN: usize = 1024 * 1024;

/// Serves other members.
pub struct PeerService {
    pub raft: Raft,
    pub reads: ReadIndex,
    pub sessions: Sessions,
    pub auth: Arc<dyn PeerAuth>,
    pub clocks: Clocks,
    pub marks: Marks,
    pub quorum: QuorumClock,
    pub leaves: LeafStore,
    pub proposer: Proposer,
    pub membership: MembershipChanges,
    /// One snapshot at a time: each may take gigabytes.
    pub receiving: tokio::sync::Mutex<()>,
}

impl PeerService {
    /// Who makes this call.
    fn caller<M>(&self, request: &Request<M>, is_hello: bool) -> Result<NodeId, Status> {
        let checked = self.check_caller(request.metadata(), request.extensions(), is_hello);
        checked.map_err(|refusal| {
            if !matches!(refusal, PeerRefusal::NoSession { .. }) {
                tracing::warn!(error = %refusal, "a caller on the peers' port is refused");
            }
            refusal.into_status()
        })
    }

    fn check_caller(
        &self,
        metadata: &MetadataMap,
        extensions: &tonic::Extensions,
        is_hello: bool,
    ) -> Result<NodeId, PeerRefusal> {
        let node = self.sessions.caller(metadata, is_hello)?;
        let connection = extensions.get::<ConnectInfo>();
        let certificates = connection.map_or(&[][..], |info| &info.peer_certificates);
        if !self.auth.authorize(node, certificates) {
            return Err(PeerRefusal::NotAuthorized { node });
        }
        Ok(node)
    }

    fn answer<M>(&self, message: M) -> Response<M> {
        let mut response = Response::new(message);
        self.sessions.sign(response.metadata_mut(), None);
        response
    }

    async fn receive_snapshot(
        &self,
        mut parts: Streaming<pb::SnapshotChunk>,
    ) -> Result<(Vote, Snapshot), Status> {
        use pb::snapshot_chunk::Part;
        let first = parts.message().await?.and_then(|chunk| chunk.part);
        let Some(Part::Begin(begin)) = first else {
            return Err(Status::invalid_argument("a snapshot begins with its head"));
        };
        let vote = convert::vote_from_pb(begin.vote).map_err(malformed)?;
        let head = begin.meta.ok_or(ConvertError::Missing("meta"));
        let head = head.map_err(malformed)?;
        if head.length > SNAPSHOT_LEN_MAX {
            return Err(Status::resource_exhausted("the snapshot is too long"));
        }
        let expected = usize::try_from(head.length).unwrap_or(usize::MAX);
        let mut content = BytesMut::with_capacity(expected.min(SNAPSHOT_BUFFER_LEN));
        while let Some(chunk) = parts.message().await? {
            let Some(Part::Data(data)) = chunk.part else {
                return Err(Status::invalid_argument("a snapshot has one head"));
            };
            if content.len().saturating_add(data.len()) > expected {
                return Err(Status::data_loss(
                    "the snapshot is longer than its head says",
                ));
            }
            content.extend_from_slice(&data);
            reach(Step::SnapshotReceiving);
        }
        if content.len() != expected {
            return Err(Status::data_loss("the snapshot is cut short"));
        }
        if Sha256::digest(&content).as_slice() != head.sha256 {
            return Err(Status::data_loss("the snapshot is damaged"));
        }
        let membership = convert::stored_membership_from_pb(head.last_membership);
        let meta = SnapshotMeta {
            last_log_id: convert::optional_log_id(head.last_log_id).map_err(malformed)?,
            last_membership: membership.map_err(malformed)?,
            snapshot_id: head.snapshot_id,
        };
        let snapshot = Box::new(SnapshotBytes(content.freeze()));
        Ok((vote, Snapshot { meta, snapshot }))
    }
}

#[allow(clippy::needless_pass_by_value, reason = "used with map_err")]
fn malformed(error: ConvertError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped<E: std::fmt::Display>(error: E) -> Status {
    tracing::debug!(%error, "consensus cannot answer");
    Status::unavailable("consensus has stopped on this server")
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn hello(
        &self,
        request: Request<pb::HelloRequest>,
    ) -> Result<Response<pb::HelloResponse>, Status> {
        let node = self.caller(&request, true)?;
        let met = self.sessions.meet(node, request.into_inner()).await;
        met.map_err(|error| match error {
            MeetError::Refused(refusal) => {
                tracing::error!(error = %refusal, "a member of the cluster is refused");
                refusal.into_status()
            }
            MeetError::Store(_) => Status::unavailable("the log of this server is closed"),
        })?;
        let own = self.sessions.hello(self.clocks.read().0.unix_millis());
        Ok(self.answer(pb::HelloResponse {
            node_id: own.node_id,
            incarnation: own.incarnation,
            protocol: PROTOCOL,
            clock_ms: own.clock_ms,
            last_log_id: own.last_log_id,
            boot: own.boot,
            vote: own.vote,
        }))
    }

    async fn append_entries(
        &self,
        request: Request<pb::AppendEntriesRequest>,
    ) -> Result<Response<pb::AppendEntriesResponse>, Status> {
        self.caller(&request, false)?;
        let message = request.into_inner();
        let (age_ms, echo_ms) = (message.quorum_age_ms, message.echo_ms);
        let message = convert::append_request_from_pb(message).map_err(malformed)?;
        let brings_entries = !message.entries.is_empty();
        let answer = self.raft.append_entries(message).await.map_err(stopped)?;
        if brings_entries {
            reach(Step::FollowerUnanswered);
        }
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) && age_ms != u64::MAX {
            self.quorum.told(Duration::from_millis(age_ms), echo_ms);
        }
        let mut answer = convert::append_response_to_pb(&answer);
        answer.clock_ms = self.quorum.clock_ms();
        Ok(self.answer(answer))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        self.caller(&request, false)?;
        let message = convert::vote_request_from_pb(request.into_inner()).map_err(malformed)?;
        let answer = self.raft.vote(message).await.map_err(stopped)?;
        Ok(self.answer(convert::vote_response_to_pb(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        self.caller(&request, false)?;
        let Ok(_receiving) = self.receiving.try_lock() else {
            return Err(Status::resource_exhausted(
                "another snapshot is being received",
            ));
        };
        let (vote, snapshot) = self.receive_snapshot(request.into_inner()).await?;
        reach(Step::SnapshotReceived);
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        let answer = installed.map_err(stopped)?;
        Ok(self.answer(pb::SnapshotResponse {
            vote: Some(convert::vote_to_pb(&answer.vote)),
        }))
    }

    async fn propose(
        &self,
        request: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeResponse>, Status> {
        let node = self.caller(&request, false)?;
        let message = request.into_inner();
        let command = pb::Command::decode(message.command.as_slice())
            .map_err(|_| Status::invalid_argument("the command cannot be decoded"))?;
        if command.proposer != node {
            return Err(Status::invalid_argument(
                "the command names another proposer",
            ));
        }
        let time = Duration::from_millis(message.deadline_ms).min(PROPOSE_TIMEOUT_MAX);
        let verdict = tokio::time::timeout(time, self.proposer.take_forwarded(command)).await;
        let verdict = verdict.unwrap_or(super::propose::Verdict::Unknown);
        if matches!(verdict, super::propose::Verdict::Committed { .. }) {
            reach(Step::ForwardUnanswered);
        }
        Ok(self.answer(verdict.into_pb()))
    }

    async fn change_membership(
        &self,
        request: Request<pb::ChangeMembershipRequest>,
    ) -> Result<Response<pb::ChangeMembershipResponse>, Status> {
        self.caller(&request, false)?;
        let change = Change::from_pb(request.into_inner())
            .ok_or_else(|| Status::invalid_argument("the change is missing"))?;
        let outcome = self.membership.change_as_leader(change).await;
        Ok(self.answer(outcome_to_pb(outcome)))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        self.caller(&request, false)?;
        // Asking the others would keep them from electing another leader.
        if self.clocks.judge().skew().is_some() {
            return Err(Status::failed_precondition(
                "this server's clock is wrong: it leads no longer",
            ));
        }
        let index = match self.reads.confirm().await {
            Ok(index) => index,
            Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(_))) => {
                return Err(Status::failed_precondition("this server does not lead"));
            }
            Err(error) => return Err(stopped(error)),
        };
        Ok(self.answer(pb::ReadIndexResponse { index }))
    }

    async fn compare(
        &self,
        request: Request<pb::CompareRequest>,
    ) -> Result<Response<pb::CompareResponse>, Status> {
        let node = self.caller(&request, false)?;
        let answer = super::compare::answer(
            node,
            request.get_ref(),
            &self.clocks,
            &self.marks,
            &self.leaves,
        );
        Ok(self.answer(answer))
    }

    type FetchLeavesStream =
        std::pin::Pin<Box<dyn Stream<Item = Result<pb::LeafChunk, Status>> + Send + 'static>>;

    async fn fetch_leaves(
        &self,
        request: Request<pb::FetchLeavesRequest>,
    ) -> Result<Response<Self::FetchLeavesStream>, Status> {
        self.caller(&request, false)?;
        let message = request.into_inner();
        let limit = message.limit.min(FETCH_LEAVES_MAX);
        let end = message.start.saturating_add(limit).min(self.leaves.end());
        let leaves = self.leaves.clone();
        let mut next = message.start;
        let chunks = async_stream::try_stream! {
            while next < end {
                let read = leaves.read(next, end, CHUNK_BYTES_MAX).await.map_err(absent)?;
                let first_index = next;
                next = next.saturating_add(read.len() as u64);
                yield pb::LeafChunk {
                    first_index,
                    leaves: read.into_iter().map(Vec::from).collect(),
                };
            }
        };
        Ok(self.answer(Box::pin(chunks)))
    }
}

fn absent(error: ReadLeavesError) -> Status {
    match error {
        ReadLeavesError::Absent { .. } | ReadLeavesError::BeyondEnd { .. } => {
            Status::out_of_range(error.to_string())
        }
        ReadLeavesError::Store(error) => {
            tracing::error!(%error, "audit leaves cannot be read");
            Status::data_loss("audit leaves cannot be read")
        }
    }
}
