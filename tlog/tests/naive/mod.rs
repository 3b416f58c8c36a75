//! RFC 6962 section 2.1 as it stands in the text: recursive, slow, obvious.
//! The crate is compared with it.

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::indexing_slicing, reason = "tests")]

use mintmark_tlog::proof::ReadError;
use mintmark_tlog::tree::empty_root;
use mintmark_tlog::{CompletedNode, Frontier, Hash, HashReader, leaf_hash, node_hash};

/// MTH(D[n]).
pub fn root(leaves: &[Vec<u8>]) -> Hash {
    match leaves {
        [] => empty_root(),
        [one] => leaf_hash(one),
        many => {
            let (left, right) = many.split_at(split(many.len()));
            node_hash(&root(left), &root(right))
        }
    }
}

/// PATH(m, D[n]).
pub fn path(index: usize, leaves: &[Vec<u8>]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if index < left.len() {
        let mut proof = path(index, left);
        proof.push(root(right));
        proof
    } else {
        let mut proof = path(index - left.len(), right);
        proof.push(root(left));
        proof
    }
}

/// PROOF(m, D[n]).
pub fn consistency(old: usize, leaves: &[Vec<u8>]) -> Vec<Hash> {
    if old == 0 {
        Vec::new()
    } else {
        subproof(old, leaves, true)
    }
}

fn subproof(old: usize, leaves: &[Vec<u8>], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if whole {
            Vec::new()
        } else {
            vec![root(leaves)]
        };
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if old <= left.len() {
        let mut proof = subproof(old, left, whole);
        proof.push(root(right));
        proof
    } else {
        let mut proof = subproof(old - left.len(), right, false);
        proof.push(root(left));
        proof
    }
}

fn split(length: usize) -> usize {
    let mut k = 1;
    while k * 2 < length {
        k *= 2;
    }
    k
}

/// Distinct leaves of varying length, the first one empty.
pub fn leaves(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|i| i.to_be_bytes()[8 - (i % 9).min(8)..].repeat(i % 5))
        .collect()
}

/// Keeps every node that a frontier completed.
#[derive(Default)]
pub struct Store {
    pub frontier: Frontier,
    pub nodes: std::collections::BTreeMap<(u8, u64), Hash>,
}

impl Store {
    pub fn of(leaves: &[Vec<u8>]) -> Self {
        let mut store = Self::default();
        for leaf in leaves {
            for CompletedNode { level, index, hash } in store.frontier.push(leaf_hash(leaf)) {
                assert!(
                    store.nodes.insert((level, index), hash).is_none(),
                    "completed once"
                );
            }
        }
        store
    }
}

impl HashReader for Store {
    fn node(&self, level: u8, index: u64) -> Result<Hash, ReadError> {
        self.nodes
            .get(&(level, index))
            .copied()
            .ok_or(ReadError::Missing { level, index })
    }
}
