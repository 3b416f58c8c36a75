//! The types that our use of openraft fixes, once.
//!
//! Responsible for: names for openraft's generic types. Always holds: nothing of this
//! leaves `crate::raft`; disk and wire speak `mintmark.raft.v1`
//! ([`super::convert`]). Leader ids are (term, node), the library's default: two
//! candidates of one term are ordered, so a split vote resolves at once. Not here:
//! behaviour.

use openraft::impls::OneshotResponder;
use openraft::{BasicNode, RaftTypeConfig};

use super::batch::{Batch, BatchResults};
use super::runtime::SeededRuntime;
use super::snapshot::SnapshotBytes;

/// Id of a member. It comes out of the log and is never reused.
pub type NodeId = u64;

/// Our instance of openraft's types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Batch;
    type R = BatchResults;
    type NodeId = NodeId;
    type Node = BasicNode;
    type Entry = openraft::Entry<Self>;
    type SnapshotData = SnapshotBytes;
    type AsyncRuntime = SeededRuntime;
    type Responder = OneshotResponder<Self>;
}

pub type Raft = openraft::Raft<TypeConfig>;
pub type Entry = openraft::Entry<TypeConfig>;
pub type LogId = openraft::LogId<NodeId>;
pub type Vote = openraft::Vote<NodeId>;
pub type Membership = openraft::Membership<NodeId, BasicNode>;
pub type StoredMembership = openraft::StoredMembership<NodeId, BasicNode>;
pub type SnapshotMeta = openraft::SnapshotMeta<NodeId, BasicNode>;
pub type Snapshot = openraft::Snapshot<TypeConfig>;
pub type RaftMetrics = openraft::RaftMetrics<NodeId, BasicNode>;
pub type StorageError = openraft::StorageError<NodeId>;
pub type StorageIoError = openraft::StorageIOError<NodeId>;
pub type RaftError<E = openraft::error::Infallible> = openraft::error::RaftError<NodeId, E>;
pub type RpcError = openraft::error::RPCError<NodeId, BasicNode, RaftError>;
