//! Seeds, and damaged seeds, for the tests that run the properties without a fuzzer.
//!
//! Responsible for reading a target's seeds and for damaging them the same way everywhere. Always holds: a
//! target without seeds fails. Not here: the properties; and the fuzzer, which has its own mutations.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

/// The seeds of a target, in the order of their bytes.
#[expect(
    clippy::disallowed_methods,
    reason = "seeds are files of this repository"
)]
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/seeds")
        .join(target);
    let files = std::fs::read_dir(folder).unwrap();
    let mut seeds: Vec<_> = files
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty(), "no seeds for {target}");
    seeds
}

/// A seed with a few bytes changed, removed, repeated or inserted.
pub fn damaged(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let edit = (any::<Index>(), 0usize..16, 0u8..4, any::<u8>());
    let edits = prop::collection::vec(edit, 0..4);
    (prop::sample::select(seeds(target)), edits).prop_map(|(mut bytes, edits)| {
        for (at, length, how, byte) in edits {
            let at = at.index(bytes.len() + 1);
            let to = (at + length).min(bytes.len());
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => drop(bytes.drain(at..to)),
                2 => {
                    let piece = bytes[at..to].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}
