//! Hashing and the compact right edge of an append-only Merkle tree.
//!
//! Always holds: a [`Frontier`] of `n` leaves keeps exactly one hash per set
//! bit of `n`, the largest perfect subtree first, so appending and computing
//! the root cost at most 64 hashes, whatever the size.
//!
//! Not here: proofs (they need interior nodes, see [`crate::proof`]).

use sha2::{Digest, Sha256};
use thiserror::Error;

/// A SHA-256 digest.
pub type Hash = [u8; HASH_LENGTH];

/// Length of a [`type@Hash`] in bytes.
pub const HASH_LENGTH: usize = 32;

/// Format version that [`Frontier::encode`] writes.
const FRONTIER_VERSION: u8 = 1;

/// Hash of a leaf (RFC 6962 section 2.1): SHA-256 of 0x00 and the data.
#[must_use]
pub fn leaf_hash(data: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(data);
    hasher.finalize().into()
}

/// Hash of an interior node (RFC 6962 section 2.1): SHA-256 of 0x01 and both children.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([1]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// Root of the empty tree (RFC 6962 section 2.1): SHA-256 of nothing.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// A node whose perfect subtree was completed by a push. It never changes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletedNode {
    /// Height above the leaves; 0 is a leaf.
    pub level: u8,
    /// Position among the nodes of its level; it covers leaves
    /// `index << level .. (index + 1) << level`.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

/// The compact right edge of a tree: enough to append and to know the root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    /// Roots of the perfect subtrees, the largest (leftmost) first.
    nodes: Vec<Hash>,
}

/// An encoded frontier that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrontierError {
    /// The first byte names a format that this build does not know.
    #[error("unknown frontier format version {0}")]
    Version(u8),
    /// The number of hashes does not follow from the size.
    #[error("frontier has the wrong length for its tree size")]
    Length,
}

impl Frontier {
    /// The frontier of the empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf, given its [`leaf_hash`], and returns the nodes that it
    /// completed, lowest first; the first one is the leaf itself.
    ///
    /// A tree of `u64::MAX` leaves is full: a push to it changes nothing and
    /// returns no node.
    pub fn push(&mut self, leaf: Hash) -> Vec<CompletedNode> {
        let index = self.size;
        let Some(size) = index.checked_add(1) else {
            return Vec::new();
        };
        let mut node = CompletedNode {
            level: 0,
            index,
            hash: leaf,
        };
        let mut completed = vec![node];
        // Each trailing one bit of the old size is a perfect subtree of equal
        // height standing directly to the left.
        for _ in 0..index.trailing_ones() {
            let Some(left) = self.nodes.pop() else { break };
            node = CompletedNode {
                level: node.level.saturating_add(1),
                index: node.index >> 1,
                hash: node_hash(&left, &node.hash),
            };
            completed.push(node);
        }
        self.nodes.push(node.hash);
        self.size = size;
        completed
    }

    /// Root hash (RFC 6962 section 2.1).
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut from_the_right = self.nodes.iter().rev();
        let Some(smallest) = from_the_right.next() else {
            return empty_root();
        };
        from_the_right.fold(*smallest, |right, left| node_hash(left, &right))
    }

    /// Roots of the perfect subtrees, the largest (leftmost) first.
    #[must_use]
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Version byte, size in big-endian, then the hashes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FRONTIER_VERSION];
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(self.nodes.as_flattened());
        out
    }

    /// Reads what [`Frontier::encode`] wrote.
    ///
    /// # Errors
    /// When the version is unknown or the length does not follow from the size.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrontierError> {
        let (version, rest) = bytes.split_first().ok_or(FrontierError::Length)?;
        if *version != FRONTIER_VERSION {
            return Err(FrontierError::Version(*version));
        }
        let (size, rest) = rest.split_first_chunk::<8>().ok_or(FrontierError::Length)?;
        let size = u64::from_be_bytes(*size);
        let (nodes, remainder) = rest.as_chunks::<HASH_LENGTH>();
        if !remainder.is_empty() || nodes.len() != size.count_ones() as usize {
            return Err(FrontierError::Length);
        }
        Ok(Self {
            size,
            nodes: nodes.to_vec(),
        })
    }
}
