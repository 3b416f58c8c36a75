//! The Merkle log: tree hashing, compact frontier, proofs, tiles, signed
//! checkpoints and their verification.
//!
//! Always holds: hashing is RFC 6962 with SHA-256, tiles follow C2SP
//! tlog-tiles, checkpoints C2SP tlog-checkpoint inside C2SP signed-note with
//! Ed25519. Everything is pure; what reads nodes or signs comes in through a
//! trait or a closure.
//!
//! Not here: what a leaf means (the audit log of `ca-server` decides), where
//! leaves and nodes are stored, and network access.

pub mod checkpoint;
pub mod note;
pub mod proof;
pub mod tile;
pub mod tree;
pub mod verify;

pub use checkpoint::Checkpoint;
pub use proof::{
    HashReader, consistency_proof, inclusion_proof, root_at, verify_consistency, verify_inclusion,
};
pub use tree::{CompletedNode, Frontier, Hash, leaf_hash, node_hash};
pub use verify::{verify_leaves, verify_log};
