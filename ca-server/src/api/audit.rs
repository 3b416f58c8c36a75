//! `mintmark.audit.v1`: the audit log for its readers.
//!
//! Always: leaves are for administrators, also while they follow: a caller that lost its right in
//! between gets no more. What proves the log (its checkpoint, and that a leaf is in it) is for anybody.
//! Each call may ask for an answer that is fresh (`consistency`); a follower's begins fresh.
//!
//! Not here: reading (`audit::tail`), and signing checkpoints (`audit::checkpoint`).

use std::pin::{Pin, pin};
use std::time::Duration;

use async_stream::try_stream;
use futures_util::{Stream, StreamExt as _};
use mintmark_proto::mintmark::audit::v1 as wire;
use mintmark_runtime::grpc::ConnectInfo;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::Services;
use super::status::ApiError;
use crate::audit::hashes::HashesError;
use crate::audit::tail::{Chunk, LeavesError, TailError, TailRequest};
use crate::policy::Action;
use crate::state::State;

/// A follower's right is looked at again when this much time has passed.
const RECHECK: Duration = Duration::from_secs(10);
/// How long a proof waits for hashes of leaves that were appended just now.
const RECORDING_MAX: Duration = Duration::from_secs(3);

/// The service.
#[derive(Debug, Clone)]
pub struct AuditService(pub Services);

type TailStream = Pin<Box<dyn Stream<Item = Result<wire::TailResponse, Status>> + Send>>;

#[tonic::async_trait]
impl wire::audit_server::Audit for AuditService {
    type TailStream = TailStream;

    async fn get_log_info(
        &self,
        request: Request<wire::GetLogInfoRequest>,
    ) -> Result<Response<wire::LogInfo>, Status> {
        let _permit = self.0.permit(&request, Action::GetLogInfo).await?;
        self.0.fresh_enough(&request).await?;
        let info = self.0.consensus.read(log_info)?;
        Ok(Response::new(info))
    }

    async fn tail(
        &self,
        request: Request<wire::TailRequest>,
    ) -> Result<Response<TailStream>, Status> {
        let _permit = self.0.permit(&request, Action::TailAudit).await?;
        self.0.fresh_enough(&request).await?;
        let connection = request.extensions().get::<ConnectInfo>().cloned();
        let wire::TailRequest {
            start,
            follow,
            limit,
            from_end,
        } = request.into_inner();
        let asked = TailRequest {
            start,
            follow,
            limit,
            from_end,
        };
        let chunks = self.0.audit.log().tail(asked, self.0.tasks.token());
        let chunks = chunks.map_err(ApiError::from)?;
        let stream = watched(self.0.clone(), connection, chunks);
        Ok(Response::new(Box::pin(stream)))
    }

    async fn get_checkpoint(
        &self,
        request: Request<wire::GetCheckpointRequest>,
    ) -> Result<Response<wire::GetCheckpointResponse>, Status> {
        let _permit = self.0.permit(&request, Action::GetCheckpoint).await?;
        self.0.fresh_enough(&request).await?;
        let last = self
            .0
            .consensus
            .read(|state| state.last_checkpoint().cloned());
        let last = last.ok_or(ApiError::NoCheckpoint)?;
        Ok(Response::new(wire::GetCheckpointResponse {
            note: last.note,
            size: last.size,
        }))
    }

    async fn get_inclusion_proof(
        &self,
        request: Request<wire::GetInclusionProofRequest>,
    ) -> Result<Response<wire::GetInclusionProofResponse>, Status> {
        let _permit = self.0.permit(&request, Action::GetInclusionProof).await?;
        self.0.fresh_enough(&request).await?;
        let wire::GetInclusionProofRequest {
            leaf_index,
            tree_size,
        } = request.into_inner();
        let (size, signed) = self.0.consensus.read(|state| {
            (
                state.audit_size(),
                state.last_checkpoint().map_or(0, |last| last.size),
            )
        });
        let tree_size = proof_size(leaf_index, tree_size, size, signed)?;
        let hashes = self.0.audit.hashes();
        // An expired wait shows as hashes that are not recorded.
        let _ = tokio::time::timeout(RECORDING_MAX, hashes.reached(tree_size)).await;
        let proof = hashes
            .inclusion(leaf_index, tree_size)
            .await
            .map_err(ApiError::from)?;
        let hashes = proof.hashes.iter().map(|hash| hash.to_vec()).collect();
        let root = proof.root.to_vec();
        Ok(Response::new(wire::GetInclusionProofResponse {
            hashes,
            tree_size,
            root,
        }))
    }
}

/// What identifies the log, and where it stands.
fn log_info(state: &State) -> Result<wire::LogInfo, ApiError> {
    let verifier = state
        .log_verifier()
        .ok_or(ApiError::NotReady("there is no cluster yet"))?;
    Ok(wire::LogInfo {
        origin: verifier.name().to_owned(),
        vkey: verifier.to_string(),
        size: state.audit_size(),
        root: state.audit_root().to_vec(),
        epoch: state.epoch(),
    })
}

/// The size of the tree that a proof is about: the one asked for, or else that of the last checkpoint,
/// whose root somebody has signed, or else that of the whole log.
fn proof_size(leaf: u64, asked: u64, size: u64, signed: u64) -> Result<u64, ApiError> {
    let chosen = match asked {
        0 if leaf < signed => signed,
        0 => size,
        asked => asked,
    };
    if chosen > size {
        return Err(ApiError::AuditRange {
            what: format!("a tree of {chosen} leaves"),
            size,
        });
    }
    if leaf >= chosen {
        return Err(ApiError::AuditRange {
            what: format!("leaf {leaf}"),
            size: chosen,
        });
    }
    Ok(chosen)
}

/// The chunks, as long as the caller may read them.
fn watched(
    services: Services,
    connection: Option<ConnectInfo>,
    chunks: impl Stream<Item = Result<Chunk, TailError>> + Send,
) -> impl Stream<Item = Result<wire::TailResponse, Status>> + Send {
    try_stream! {
        let mut chunks = pin!(chunks);
        let mut checked = Instant::now();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(ApiError::from)?;
            if checked.elapsed() >= RECHECK {
                let mut probe = Request::new(());
                if let Some(connection) = &connection {
                    probe.extensions_mut().insert(connection.clone());
                }
                let _permit = services.permit(&probe, Action::TailAudit).await?;
                checked = Instant::now();
            }
            yield chunk_to_wire(chunk);
        }
    }
}

fn chunk_to_wire(chunk: Chunk) -> wire::TailResponse {
    wire::TailResponse {
        first_index: chunk.first_index,
        leaves: chunk.leaves.iter().map(|leaf| leaf.to_vec()).collect(),
        tree_size: chunk.tree_size,
        leaf_hashes: chunk.leaf_hashes.iter().map(|hash| hash.to_vec()).collect(),
    }
}

impl From<LeavesError> for ApiError {
    fn from(error: LeavesError) -> Self {
        match error {
            LeavesError::Absent(leaf) => Self::LeavesMissing(leaf),
            LeavesError::Beyond { size } => Self::AuditRange {
                what: "the end".to_owned(),
                size,
            },
            LeavesError::Store(error) => Self::Internal(error.to_string()),
        }
    }
}

impl From<TailError> for ApiError {
    fn from(error: TailError) -> Self {
        match error {
            TailError::OutOfRange { start, size } => Self::AuditRange {
                what: format!("leaf {start}"),
                size,
            },
            TailError::Leaves(error) => error.into(),
            TailError::ShuttingDown => Self::ShuttingDown,
        }
    }
}

impl From<HashesError> for ApiError {
    fn from(error: HashesError) -> Self {
        match error {
            HashesError::Leaves(error) => error.into(),
            HashesError::NotRecorded { size } => Self::LeavesMissing(size.saturating_sub(1)),
            HashesError::Store(_) | HashesError::Diverged { .. } | HashesError::Proof(_) => {
                Self::Internal(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests;
