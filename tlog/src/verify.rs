//! Re-computing a whole log and finding what does not belong to it.
//!
//! Always holds: `Ok` means that the leaves, in this order and no others, are
//! the tree of the checkpoint.
//!
//! Not here: whether the checkpoint is the log's own (see
//! [`crate::checkpoint::Checkpoint::open`]).

use thiserror::Error;

use crate::checkpoint::Checkpoint;
use crate::proof::{HashReader, ReadError, root_at};
use crate::tree::{Frontier, Hash, leaf_hash};

/// How leaves and a checkpoint contradict each other.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The leaves end before the tree does.
    #[error("the log ends at index {index}, its checkpoint says {size} leaves")]
    Truncated {
        /// First leaf that is missing.
        index: u64,
        /// Leaves that the checkpoint counts.
        size: u64,
    },
    /// There are leaves beyond the tree.
    #[error("leaf {index} is beyond the {size} leaves of the checkpoint")]
    Surplus {
        /// First leaf too many.
        index: u64,
        /// Leaves that the checkpoint counts.
        size: u64,
    },
    /// Some leaf differs; which one cannot be told from the root alone.
    #[error("the {size} leaves lead to another root than the checkpoint's")]
    Root {
        /// Leaves that were hashed.
        size: u64,
        /// The root that they lead to.
        computed: Hash,
    },
    /// This leaf is not the one that the tree contains.
    #[error("leaf {index} is not the one in the tree")]
    Altered {
        /// The first leaf that differs.
        index: u64,
    },
    /// The stored hashes themselves do not lead to the checkpoint's root.
    #[error("the stored hashes lead to another root than the checkpoint's")]
    Hashes,
    /// A stored hash could not be read.
    #[error("a stored hash could not be read")]
    Read(#[source] ReadError),
}

impl VerifyError {
    /// The leaf at which the log breaks, where that is known.
    #[must_use]
    pub fn index(&self) -> Option<u64> {
        match self {
            Self::Truncated { index, .. }
            | Self::Surplus { index, .. }
            | Self::Altered { index } => Some(*index),
            Self::Root { .. } | Self::Hashes | Self::Read(_) => None,
        }
    }
}

/// Re-computes the tree from all leaves, from index 0 on, and compares it with
/// the checkpoint.
///
/// # Errors
/// How they differ. A single changed leaf shows as [`VerifyError::Root`]; use
/// [`verify_leaves`] with the log's hashes to learn which one it is.
pub fn verify_log<L: AsRef<[u8]>>(
    leaves: impl IntoIterator<Item = L>,
    checkpoint: &Checkpoint,
) -> Result<(), VerifyError> {
    let size = checkpoint.size;
    let mut frontier = Frontier::new();
    for leaf in leaves {
        let index = frontier.size();
        if index == size {
            return Err(VerifyError::Surplus { index, size });
        }
        frontier.push(leaf_hash(leaf.as_ref()));
    }
    if frontier.size() < size {
        return Err(VerifyError::Truncated {
            index: frontier.size(),
            size,
        });
    }
    let computed = frontier.root();
    if computed == checkpoint.root {
        Ok(())
    } else {
        Err(VerifyError::Root { size, computed })
    }
}

/// As [`verify_log`], and names the first altered leaf with the help of the
/// log's stored hashes, which are checked against the checkpoint first.
///
/// # Errors
/// How they differ.
pub fn verify_leaves<L: AsRef<[u8]>>(
    leaves: impl IntoIterator<Item = L>,
    checkpoint: &Checkpoint,
    hashes: &impl HashReader,
) -> Result<(), VerifyError> {
    let size = checkpoint.size;
    if root_at(hashes, size).map_err(VerifyError::Read)? != checkpoint.root {
        return Err(VerifyError::Hashes);
    }
    let mut frontier = Frontier::new();
    for leaf in leaves {
        let index = frontier.size();
        if index == size {
            return Err(VerifyError::Surplus { index, size });
        }
        let hash = leaf_hash(leaf.as_ref());
        if hashes.node(0, index).map_err(VerifyError::Read)? != hash {
            return Err(VerifyError::Altered { index });
        }
        frontier.push(hash);
    }
    if frontier.size() < size {
        return Err(VerifyError::Truncated {
            index: frontier.size(),
            size,
        });
    }
    // The level-0 hashes above may be a different store than the interior
    // nodes that made the root.
    if frontier.root() == checkpoint.root {
        Ok(())
    } else {
        Err(VerifyError::Hashes)
    }
}
