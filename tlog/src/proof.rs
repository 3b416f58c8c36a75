//! Inclusion and consistency proofs, made from stored nodes and verified
//! without them.
//!
//! Always holds: a proof that this module makes for a size verifies against
//! the root of that size; verification reads every hash of a proof, so a proof
//! with something left over is refused.
//!
//! Not here: where nodes are stored ([`HashReader`] is the seam).

use std::error::Error as StdError;

use thiserror::Error;

use crate::tree::{Hash, empty_root, node_hash};

/// Reads completed nodes of a tree.
pub trait HashReader {
    /// The hash of the perfect subtree at `index` of `level` (0: leaves).
    ///
    /// # Errors
    /// [`ReadError::Missing`] when the store has no such node, and
    /// [`ReadError::Failed`] when it could not be read.
    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError>;
}

/// Why a node could not be had.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The tree, or what is kept of it, does not contain this node.
    #[error("node {index} of level {level} is missing")]
    Missing {
        /// Height above the leaves.
        level: u8,
        /// Position in its level.
        index: u64,
    },
    /// The store failed.
    #[error("node {index} of level {level} could not be read")]
    Failed {
        /// Height above the leaves.
        level: u8,
        /// Position in its level.
        index: u64,
        /// What the store said.
        source: Box<dyn StdError + Send + Sync>,
    },
}

/// Why a proof could not be made.
#[derive(Debug, Error)]
pub enum ProofError {
    /// The leaf lies beyond the tree that the proof is asked for.
    #[error("leaf {index} is not in a tree of {size} leaves")]
    LeafBeyondTree {
        /// Leaf asked for.
        index: u64,
        /// Tree size asked for.
        size: u64,
    },
    /// The older tree is larger than the newer one.
    #[error("a tree of {old} leaves is not a prefix of one of {new}")]
    SizesReversed {
        /// Older size.
        old: u64,
        /// Newer size.
        new: u64,
    },
    /// A node that the proof needs could not be had.
    #[error("a node of the tree could not be read")]
    Read(#[source] ReadError),
}

/// Why a proof does not prove what it claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProofMismatch {
    /// The leaf lies beyond the tree, or the older tree is larger.
    #[error("the sizes contradict each other")]
    Sizes,
    /// Too many or too few hashes for these sizes.
    #[error("the proof has the wrong number of hashes")]
    Length,
    /// The computed root differs.
    #[error("the proof leads to another root")]
    Root,
}

impl From<ReadError> for ProofError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Root of the first `size` leaves.
///
/// # Errors
/// When a node cannot be read.
pub fn root_at(reader: &impl HashReader, size: u64) -> Result<Hash, ReadError> {
    if size == 0 {
        return Ok(empty_root());
    }
    range_root(reader, 0, size)
}

/// Proof that leaf `index` is in the tree of `size` leaves (RFC 6962
/// section 2.1.1), nearest sibling first.
///
/// # Errors
/// When the leaf is not in that tree or a node cannot be read.
pub fn inclusion_proof(
    reader: &impl HashReader,
    index: u64,
    size: u64,
) -> Result<Vec<Hash>, ProofError> {
    if index >= size {
        return Err(ProofError::LeafBeyondTree { index, size });
    }
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, size);
    // Walks down to the leaf; at most 64 steps, because each one halves the
    // power of two that covers the range.
    while end - start > 1 {
        let middle = start + split_point(end - start);
        if index < middle {
            proof.push(range_root(reader, middle, end)?);
            end = middle;
        } else {
            proof.push(range_root(reader, start, middle)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Proof that the tree of `old` leaves is a prefix of the one of `new` leaves
/// (RFC 6962 section 2.1.2). Empty when the sizes are equal or `old` is 0.
///
/// # Errors
/// When `old` exceeds `new` or a node cannot be read.
pub fn consistency_proof(
    reader: &impl HashReader,
    old: u64,
    new: u64,
) -> Result<Vec<Hash>, ProofError> {
    if old > new {
        return Err(ProofError::SizesReversed { old, new });
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let mut proof = Vec::new();
    let (mut start, mut end) = (0, new);
    while end > old {
        let middle = start + split_point(end - start);
        if old <= middle {
            proof.push(range_root(reader, middle, end)?);
            end = middle;
        } else {
            proof.push(range_root(reader, start, middle)?);
            start = middle;
        }
    }
    // The verifier knows the old root itself, so it is left out when it is the
    // very node reached.
    if start > 0 {
        proof.push(range_root(reader, start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that a leaf with this [`crate::leaf_hash`] stands at `index` of the
/// tree of `size` leaves with this root.
///
/// # Errors
/// What is wrong with the proof.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofMismatch> {
    if index >= size {
        return Err(ProofMismatch::Sizes);
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(ProofMismatch::Length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            climb_to_right_child(&mut node, &mut last);
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofMismatch::Length);
    }
    if hash == *root {
        Ok(())
    } else {
        Err(ProofMismatch::Root)
    }
}

/// Checks that the tree of `old` leaves with `old_root` is a prefix of the
/// tree of `new` leaves with `new_root`.
///
/// # Errors
/// What is wrong with the proof.
pub fn verify_consistency(
    old: u64,
    old_root: &Hash,
    new: u64,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), ProofMismatch> {
    if old > new {
        return Err(ProofMismatch::Sizes);
    }
    if old == new || old == 0 {
        let same = if old == new {
            old_root == new_root
        } else {
            *old_root == empty_root()
        };
        return match (proof.is_empty(), same) {
            (false, _) => Err(ProofMismatch::Length),
            (true, false) => Err(ProofMismatch::Root),
            (true, true) => Ok(()),
        };
    }
    let (mut node, mut last) = (old - 1, new - 1);
    let shared = node.trailing_ones();
    node >>= shared;
    last >>= shared;
    // Where the old tree is one perfect subtree of the new one, its root is
    // the start, and the proof leaves it out.
    let (seed, rest) = if node == 0 {
        (old_root, proof)
    } else {
        proof.split_first().ok_or(ProofMismatch::Length)?
    };
    let (mut old_hash, mut new_hash) = (*seed, *seed);
    for sibling in rest {
        if last == 0 {
            return Err(ProofMismatch::Length);
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            climb_to_right_child(&mut node, &mut last);
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofMismatch::Length);
    }
    if old_hash == *old_root && new_hash == *new_root {
        Ok(())
    } else {
        Err(ProofMismatch::Root)
    }
}

/// Skips the levels at which a node on the right edge has no sibling.
fn climb_to_right_child(node: &mut u64, last: &mut u64) {
    while *node & 1 == 0 && *node != 0 {
        *node >>= 1;
        *last >>= 1;
    }
}

/// The largest power of two smaller than `length`, which must be at least 2.
fn split_point(length: u64) -> u64 {
    debug_assert!(length > 1, "a single leaf is not split");
    1 << (63 - (length - 1).leading_zeros())
}

/// Root of the leaves `start..end`. `start` must be a multiple of the smallest
/// power of two that covers the length, as every range of RFC 6962 is.
fn range_root(reader: &impl HashReader, start: u64, end: u64) -> Result<Hash, ReadError> {
    let mut length = end - start;
    let mut root: Option<Hash> = None;
    let mut edge = end;
    // From the smallest perfect subtree, on the right, to the largest.
    while length > 0 {
        let level = length.trailing_zeros();
        edge -= 1 << level;
        length &= length - 1;
        let hash = reader.node(level as u8, edge >> level)?;
        root = Some(match root {
            None => hash,
            Some(right) => node_hash(&hash, &right),
        });
    }
    Ok(root.unwrap_or_else(empty_root))
}
