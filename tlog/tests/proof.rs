//! Inclusion and consistency proofs, and the verification of whole logs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod naive;

use mintmark_tlog::proof::{ProofError, ProofMismatch, ReadError};
use mintmark_tlog::tree::empty_root;
use mintmark_tlog::verify::VerifyError;
use mintmark_tlog::{
    Checkpoint, Hash, HashReader, consistency_proof, inclusion_proof, leaf_hash, root_at,
    verify_consistency, verify_inclusion, verify_leaves, verify_log,
};
use naive::Store;
use proptest::prelude::*;

const SIZE_MAX: usize = 40;

#[test]
fn every_inclusion_proof_of_small_trees_is_the_rfc_path_and_verifies() {
    let leaves = naive::leaves(SIZE_MAX);
    let store = Store::of(&leaves);
    for size in 1..=SIZE_MAX {
        let root = naive::root(&leaves[..size]);
        assert_eq!(root_at(&store, size as u64).unwrap(), root);
        for index in 0..size {
            let proof = inclusion_proof(&store, index as u64, size as u64).unwrap();
            assert_eq!(
                proof,
                naive::path(index, &leaves[..size]),
                "{index} in {size}"
            );
            let leaf = leaf_hash(&leaves[index]);
            verify_inclusion(&leaf, index as u64, size as u64, &proof, &root).unwrap();
        }
    }
}

#[test]
fn every_consistency_proof_of_small_trees_is_the_rfc_proof_and_verifies() {
    let leaves = naive::leaves(SIZE_MAX);
    let store = Store::of(&leaves);
    for new in 0..=SIZE_MAX {
        let new_root = naive::root(&leaves[..new]);
        for old in 0..=new {
            let old_root = naive::root(&leaves[..old]);
            let proof = consistency_proof(&store, old as u64, new as u64).unwrap();
            assert_eq!(
                proof,
                naive::consistency(old, &leaves[..new]),
                "{old} to {new}"
            );
            verify_consistency(old as u64, &old_root, new as u64, &new_root, &proof).unwrap();
        }
    }
}

#[test]
fn an_inclusion_proof_for_another_leaf_place_size_or_root_is_refused() {
    let leaves = naive::leaves(21);
    let store = Store::of(&leaves);
    let root = naive::root(&leaves);
    let leaf = leaf_hash(&leaves[12]);
    let proof = inclusion_proof(&store, 12, 21).unwrap();
    verify_inclusion(&leaf, 12, 21, &proof, &root).unwrap();

    let other = leaf_hash(b"another");
    assert_eq!(
        verify_inclusion(&other, 12, 21, &proof, &root),
        Err(ProofMismatch::Root)
    );
    assert_eq!(
        verify_inclusion(&leaf, 13, 21, &proof, &root),
        Err(ProofMismatch::Root)
    );
    assert_eq!(
        verify_inclusion(&leaf, 12, 40, &proof, &root),
        Err(ProofMismatch::Length)
    );
    assert_eq!(
        verify_inclusion(&leaf, 12, 21, &proof, &other),
        Err(ProofMismatch::Root)
    );
    assert_eq!(
        verify_inclusion(&leaf, 21, 21, &proof, &root),
        Err(ProofMismatch::Sizes)
    );
    assert_eq!(
        verify_inclusion(&leaf, 0, 0, &[], &root),
        Err(ProofMismatch::Sizes)
    );

    let short = &proof[..proof.len() - 1];
    assert_eq!(
        verify_inclusion(&leaf, 12, 21, short, &root),
        Err(ProofMismatch::Length)
    );
    let long = [proof.clone(), vec![other]].concat();
    assert_eq!(
        verify_inclusion(&leaf, 12, 21, &long, &root),
        Err(ProofMismatch::Length)
    );
}

#[test]
fn a_consistency_proof_of_a_rewritten_log_is_refused() {
    let leaves = naive::leaves(21);
    let mut rewritten = leaves.clone();
    rewritten[3] = b"rewritten".to_vec();
    let store = Store::of(&rewritten);
    let (honest_old, new_root) = (naive::root(&leaves[..9]), naive::root(&rewritten));
    let proof = consistency_proof(&store, 9, 21).unwrap();
    let verify =
        |old, new, proof: &[Hash]| verify_consistency(old, &honest_old, new, &new_root, proof);
    assert_eq!(verify(9, 21, &proof), Err(ProofMismatch::Root));
    assert_eq!(verify(21, 9, &proof), Err(ProofMismatch::Sizes));
    assert_eq!(verify(9, 21, &proof[1..]), Err(ProofMismatch::Length));
    assert_eq!(verify(9, 21, &[]), Err(ProofMismatch::Length));
    assert_eq!(verify(9, 9, &proof), Err(ProofMismatch::Length));
    assert_eq!(verify(9, 9, &[]), Err(ProofMismatch::Root));
    assert_eq!(
        verify(0, 21, &[]),
        Err(ProofMismatch::Root),
        "not the empty root"
    );
    assert_eq!(
        verify_consistency(0, &empty_root(), 21, &new_root, &[]),
        Ok(())
    );
}

#[test]
fn proofs_beyond_the_tree_are_not_made() {
    let store = Store::of(&naive::leaves(4));
    let beyond = inclusion_proof(&store, 4, 4);
    assert!(matches!(
        beyond,
        Err(ProofError::LeafBeyondTree { index: 4, size: 4 })
    ));
    let reversed = consistency_proof(&store, 5, 4);
    assert!(matches!(
        reversed,
        Err(ProofError::SizesReversed { old: 5, new: 4 })
    ));
    let missing = inclusion_proof(&store, 0, 8);
    let Err(ProofError::Read(ReadError::Missing { level: 2, index: 1 })) = missing else {
        panic!("{missing:?}");
    };
}

fn checkpoint(leaves: &[Vec<u8>]) -> Checkpoint {
    let size = leaves.len() as u64;
    Checkpoint {
        origin: "example.org/audit/1".into(),
        size,
        root: naive::root(leaves),
    }
}

#[test]
fn an_unaltered_log_verifies() {
    for size in [0, 1, 2, 255, 256, 257] {
        let leaves = naive::leaves(size);
        verify_log(&leaves, &checkpoint(&leaves)).unwrap();
        verify_leaves(&leaves, &checkpoint(&leaves), &Store::of(&leaves)).unwrap();
    }
}

#[test]
fn an_altered_leaf_is_found_and_named() {
    let leaves = naive::leaves(30);
    let store = Store::of(&leaves);
    for index in 0..30 {
        let mut altered = leaves.clone();
        altered[index].push(1);
        let Err(VerifyError::Root { size: 30, computed }) =
            verify_log(&altered, &checkpoint(&leaves))
        else {
            panic!("altered leaf {index} passed");
        };
        assert_eq!(computed, naive::root(&altered));
        let error = verify_leaves(&altered, &checkpoint(&leaves), &store).unwrap_err();
        assert_eq!(error.index(), Some(index as u64));
    }
}

#[test]
fn swapped_missing_and_surplus_leaves_are_found_and_named() {
    let leaves = naive::leaves(30);
    let (store, checkpoint) = (Store::of(&leaves), checkpoint(&leaves));
    let both = |leaves: &[Vec<u8>]| {
        let plain = verify_log(leaves, &checkpoint).unwrap_err().index();
        (
            plain,
            verify_leaves(leaves, &checkpoint, &store)
                .unwrap_err()
                .index(),
        )
    };
    let mut swapped = leaves.clone();
    swapped.swap(7, 8);
    assert_eq!(both(&swapped), (None, Some(7)));
    assert_eq!(both(&leaves[..29]), (Some(29), Some(29)));
    let longer = [leaves.clone(), vec![b"more".to_vec()]].concat();
    assert_eq!(both(&longer), (Some(30), Some(30)));
    let mut gap = leaves.clone();
    gap.remove(4);
    assert_eq!(both(&gap), (Some(29), Some(4)), "the gap, not the end");
}

#[test]
fn stored_hashes_that_contradict_the_checkpoint_are_blamed_themselves() {
    let leaves = naive::leaves(30);
    let mut store = Store::of(&leaves);
    store.nodes.insert((4, 0), [0; 32]);
    let error = verify_leaves(&leaves, &checkpoint(&leaves), &store).unwrap_err();
    assert!(matches!(error, VerifyError::Hashes), "{error:?}");
    // A level-0 hash below an untouched interior node.
    let mut store = Store::of(&leaves);
    let mut altered = leaves.clone();
    altered[3] = b"altered".to_vec();
    store.nodes.insert((0, 3), leaf_hash(b"altered"));
    let error = verify_leaves(&altered, &checkpoint(&leaves), &store).unwrap_err();
    assert!(matches!(error, VerifyError::Hashes), "{error:?}");
}

proptest! {
    #[test]
    fn proofs_in_larger_trees_verify_and_no_altered_one_does(
        size in 1usize..600, pick in any::<prop::sample::Index>(),
        hash_pick in any::<prop::sample::Index>(), bit in 0usize..256,
    ) {
        let leaves = naive::leaves(size);
        let store = Store::of(&leaves);
        let (index, size) = (pick.index(size) as u64, size as u64);
        let root = root_at(&store, size).unwrap();
        let leaf = store.node(0, index).unwrap();
        let mut proof = inclusion_proof(&store, index, size).unwrap();
        prop_assert_eq!(verify_inclusion(&leaf, index, size, &proof, &root), Ok(()));
        let old_root = root_at(&store, index).unwrap();
        let mut consistency = consistency_proof(&store, index, size).unwrap();
        prop_assert_eq!(verify_consistency(index, &old_root, size, &root, &consistency), Ok(()));
        if !proof.is_empty() {
            let at = hash_pick.index(proof.len());
            proof[at][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify_inclusion(&leaf, index, size, &proof, &root).is_err());
        }
        if !consistency.is_empty() {
            let at = hash_pick.index(consistency.len());
            consistency[at][bit / 8] ^= 1 << (bit % 8);
            prop_assert!(
                verify_consistency(index, &old_root, size, &root, &consistency).is_err()
            );
        }
    }

    #[test]
    fn verification_of_garbage_never_panics(
        index in any::<u64>(), size in any::<u64>(),
        proof in prop::collection::vec(any::<[u8; 32]>(), 0..70),
    ) {
        prop_assert!(verify_inclusion(&[0; 32], index, size, &proof, &[1; 32]).is_err());
        prop_assert!(verify_consistency(index, &[0; 32], size, &[1; 32], &proof).is_err());
    }
}
