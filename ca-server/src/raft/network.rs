//! openraft's way to the other members.
//!
//! Responsible for: carrying the library's messages over [`Peers`]. Always holds: what
//! the library is told was said by the member it asked, in the process that was met.
//! Not here: the answering side ([`super::service`]).

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use mintmark_proto::mintmark::raft::v1 as pb;
use mintmark_runtime::failpoint::{Step, reach};
use openraft::error::{Fatal, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::convert;
use super::peers::{CallError, Peers, Remote};
use super::quorum::QuorumClock;
use super::type_config::{NodeId, RpcError, Snapshot, SnapshotMeta, TypeConfig, Vote};

/// Piece of a snapshot on the wire.
const SNAPSHOT_CHUNK_LEN: usize = 64 * 1024;
/// Time that the smallest snapshot may take.
const SNAPSHOT_TIMEOUT_MIN: Duration = Duration::from_secs(30);
/// Slowest acceptable rate, in bytes per second.
const SNAPSHOT_RATE_MIN: u64 = 1024 * 1024;
/// Time that the greatest may take.
pub const SNAPSHOT_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Pause before a member is tried again that could not be reached.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Makes links to members.
pub struct Links {
    pub peers: Peers,
    pub quorum: QuorumClock,
}

/// The link to one member.
pub struct Link {
    to: Remote,
    peers: Peers,
    quorum: QuorumClock,
}

impl RaftNetworkFactory<TypeConfig> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Link {
        Link {
            to: Remote {
                node: target,
                address: node.addr.clone(),
            },
            peers: self.peers.clone(),
            quorum: self.quorum.clone(),
        }
    }
}

fn unreachable(error: &CallError) -> RpcError {
    Unreachable::new(error).into()
}

impl Link {
    /// Notes what an answer shows: leadership as of `sent`, and what the peer holds.
    async fn note(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        sent: Instant,
        answer: &AppendEntriesResponse<NodeId>,
    ) -> Result<(), CallError> {
        let sent_through = request.entries.last().map(|entry| entry.log_id);
        let sent_through = sent_through.or(request.prev_log_id);
        let holds = match answer {
            AppendEntriesResponse::Success => sent_through,
            AppendEntriesResponse::PartialSuccess(matching) => *matching,
            AppendEntriesResponse::Conflict => None,
            AppendEntriesResponse::HigherVote(_) => return Ok(()),
        };
        self.quorum.answered(self.to.node, &request.vote, sent);
        if let Some(log_id) = holds {
            let sessions = self.peers.sessions();
            sessions
                .acknowledged(self.to.node, log_id, &request.vote)
                .await?;
        }
        Ok(())
    }

    async fn append(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        time: Duration,
    ) -> Result<AppendEntriesResponse<NodeId>, CallError> {
        let sessions = self.peers.sessions();
        let age = self.quorum.age().map_or(u64::MAX, |age| {
            u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
        });
        let sent = Instant::now();
        let answer = self
            .peers
            .call(
                &self.to,
                time,
                || convert::append_request_to_pb(request, age, sessions.echo(self.to.node)),
                |mut client, request| async move { client.append_entries(request).await },
            )
            .await?;
        sessions.note_clock(self.to.node, answer.clock_ms);
        let answer = self.understood(convert::append_response_from_pb(answer))?;
        self.note(request, sent, &answer).await?;
        Ok(answer)
    }

    async fn send_snapshot(
        &self,
        vote: &Vote,
        snapshot: &Snapshot,
    ) -> Result<SnapshotResponse<NodeId>, CallError> {
        let content = &snapshot.snapshot.0;
        let begin = begin(vote, &snapshot.meta, content);
        let seconds = (content.len() as u64).div_ceil(SNAPSHOT_RATE_MIN);
        let time = SNAPSHOT_TIMEOUT_MIN
            .saturating_add(Duration::from_secs(seconds))
            .min(SNAPSHOT_TIMEOUT_MAX);
        let answer = self
            .peers
            .call(
                &self.to,
                time,
                || stream::iter(chunks(begin.clone(), content.clone())),
                |mut client, request| async move { client.install_snapshot(request).await },
            )
            .await?;
        let answered = self.understood(convert::vote_from_pb(answer.vote))?;
        if answered.leader_id == vote.leader_id
            && let Some(log_id) = snapshot.meta.last_log_id
        {
            let sessions = self.peers.sessions();
            sessions.acknowledged(self.to.node, log_id, vote).await?;
        }
        Ok(SnapshotResponse { vote: answered })
    }

    fn understood<T>(&self, answer: Result<T, convert::ConvertError>) -> Result<T, CallError> {
        answer.map_err(|source| CallError::Answer {
            node: self.to.node,
            source,
        })
    }
}

fn begin(vote: &Vote, meta: &SnapshotMeta, content: &Bytes) -> pb::snapshot_chunk::Begin {
    pb::snapshot_chunk::Begin {
        vote: Some(convert::vote_to_pb(vote)),
        meta: Some(pb::SnapshotMeta {
            last_log_id: meta.last_log_id.as_ref().map(convert::log_id_to_pb),
            last_membership: Some(convert::stored_membership_to_pb(&meta.last_membership)),
            snapshot_id: meta.snapshot_id.clone(),
            sha256: Sha256::digest(content).to_vec(),
            length: content.len() as u64,
        }),
    }
}

fn chunks(
    begin: pb::snapshot_chunk::Begin,
    content: Bytes,
) -> impl Iterator<Item = pb::SnapshotChunk> {
    use pb::snapshot_chunk::Part;
    let count = content.len().div_ceil(SNAPSHOT_CHUNK_LEN);
    let pieces = (0..count).map(move |number| {
        let start = number.saturating_mul(SNAPSHOT_CHUNK_LEN);
        let end = start.saturating_add(SNAPSHOT_CHUNK_LEN).min(content.len());
        reach(Step::SnapshotSending);
        Part::Data(content.slice(start..end).to_vec())
    });
    std::iter::once(Part::Begin(begin))
        .chain(pieces)
        .map(|part| pb::SnapshotChunk { part: Some(part) })
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError> {
        let answer = self.append(&request, option.hard_ttl()).await;
        answer.map_err(|error| unreachable(&error))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RpcError> {
        let answer = self
            .peers
            .call(
                &self.to,
                option.hard_ttl(),
                || convert::vote_request_to_pb(&request),
                |mut client, request| async move { client.vote(request).await },
            )
            .await
            .and_then(|answer| self.understood(convert::vote_response_from_pb(answer)));
        answer.map_err(|error| unreachable(&error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(&vote, &snapshot) => {
                sent.map_err(|error| Unreachable::new(&error).into())
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_PAUSE))
    }
}
