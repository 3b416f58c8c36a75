//! The property of the fuzz target of HTTP/2 over its seeds, and over damaged seeds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../../fuzz/src/http2.rs"]
mod properties;

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

#[expect(
    clippy::disallowed_methods,
    reason = "seeds are files of this repository"
)]
fn seeds(target: &str) -> Vec<Vec<u8>> {
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
fn damaged(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn damaged_connections_keep_their_property(bytes in damaged("authority_filter")) {
        properties::authority_filter(&bytes);
    }
}

#[test]
fn every_seed_keeps_its_property() {
    seeds("authority_filter")
        .iter()
        .for_each(|seed| properties::authority_filter(seed));
}
