//! Tree hashing and the frontier, against published vectors and RFC 6962's own recursion.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod naive;

use mintmark_tlog::tree::{FrontierError, empty_root};
use mintmark_tlog::{Frontier, leaf_hash, node_hash};
use naive::Store;
use proptest::prelude::*;

/// Inputs and roots of the reference tests of Certificate Transparency.
const VECTOR_LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];
const VECTOR_ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

#[test]
fn roots_equal_the_published_vectors() {
    let mut frontier = Frontier::new();
    for (leaf, root) in VECTOR_LEAVES.iter().zip(VECTOR_ROOTS) {
        frontier.push(leaf_hash(&hex::decode(leaf).unwrap()));
        assert_eq!(
            hex::encode(frontier.root()),
            root,
            "size {}",
            frontier.size()
        );
    }
}

#[test]
fn the_empty_tree_has_the_hash_of_nothing_as_root() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(hex::encode(Frontier::new().root()), empty);
    assert_eq!(Frontier::new().size(), 0);
}

#[test]
fn leaf_and_node_hashes_are_kept_apart() {
    let (left, right) = (leaf_hash(b"a"), leaf_hash(b"b"));
    let node = node_hash(&left, &right);
    assert_ne!(node, leaf_hash(&[left, right].concat()), "second preimage");
    assert_ne!(node, node_hash(&right, &left), "order counts");
}

#[test]
fn a_push_returns_the_leaf_and_each_subtree_that_it_completes() {
    let mut frontier = Frontier::new();
    let levels: Vec<Vec<(u8, u64)>> = (0u8..8)
        .map(|i| {
            frontier
                .push(leaf_hash(&[i]))
                .iter()
                .map(|n| (n.level, n.index))
                .collect()
        })
        .collect();
    assert_eq!(levels[0], [(0, 0)]);
    assert_eq!(levels[1], [(0, 1), (1, 0)]);
    assert_eq!(levels[2], [(0, 2)]);
    assert_eq!(levels[3], [(0, 3), (1, 1), (2, 0)]);
    assert_eq!(levels[7], [(0, 7), (1, 3), (2, 1), (3, 0)]);
}

#[test]
fn an_encoded_frontier_with_a_wrong_version_or_length_is_refused() {
    let store = Store::of(&naive::leaves(5));
    let good = store.frontier.encode();
    assert_eq!(Frontier::decode(&good).unwrap(), store.frontier);

    let mut versioned = good.clone();
    versioned[0] = 9;
    assert_eq!(Frontier::decode(&versioned), Err(FrontierError::Version(9)));
    let mut resized = good.clone();
    resized[8] = 7; // three hashes needed, two there
    assert_eq!(Frontier::decode(&resized), Err(FrontierError::Length));
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(Frontier::decode(&longer), Err(FrontierError::Length));
    for end in 0..good.len() {
        assert_eq!(
            Frontier::decode(&good[..end]),
            Err(FrontierError::Length),
            "cut at {end}"
        );
    }
}

#[test]
fn a_full_frontier_takes_no_more() {
    let mut bytes = vec![1];
    bytes.extend_from_slice(&u64::MAX.to_be_bytes());
    bytes.extend_from_slice(&[7; 64 * 32]);
    let mut full = Frontier::decode(&bytes).unwrap();
    let before = full.clone();
    assert!(full.push(empty_root()).is_empty());
    assert_eq!(full, before);
}

proptest! {
    #[test]
    fn the_frontier_agrees_with_the_recursion(
        leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6), 0..130)
    ) {
        let store = Store::of(&leaves);
        prop_assert_eq!(store.frontier.root(), naive::root(&leaves));
        prop_assert_eq!(store.frontier.size(), leaves.len() as u64);
        prop_assert_eq!(store.frontier.nodes().len(), leaves.len().count_ones() as usize);
        for ((level, index), hash) in &store.nodes {
            let first = (*index as usize) << level;
            let last = first + (1usize << level);
            prop_assert_eq!(*hash, naive::root(&leaves[first..last]));
        }
    }

    #[test]
    fn a_decoded_frontier_continues_as_the_original(before in 0usize..70, after in 0usize..70) {
        let leaves = naive::leaves(before + after);
        let original = Store::of(&leaves[..before]).frontier;
        let mut decoded = Frontier::decode(&original.encode()).unwrap();
        prop_assert_eq!(&decoded, &original);
        for leaf in &leaves[before..] {
            decoded.push(leaf_hash(leaf));
        }
        prop_assert_eq!(decoded.root(), naive::root(&leaves));
    }

    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(frontier) = Frontier::decode(&bytes) {
            prop_assert_eq!(frontier.encode(), bytes);
        }
    }
}
