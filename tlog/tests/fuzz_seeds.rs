//! The properties of the log's fuzz targets over their seeds, and over damaged seeds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../../fuzz/src/log.rs"]
mod properties;
#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

use proptest::prelude::*;

use crate::seeds::{damaged, seeds};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn signed_notes_keep_their_property(bytes in damaged("signed_note")) {
        properties::signed_note(&bytes);
    }

    #[test]
    fn tree_bytes_keep_their_property(bytes in damaged("tree_bytes")) {
        properties::tree_bytes(&bytes);
    }
}

#[test]
fn every_seed_keeps_its_property() {
    seeds("signed_note")
        .iter()
        .for_each(|seed| properties::signed_note(seed));
    seeds("tree_bytes")
        .iter()
        .for_each(|seed| properties::tree_bytes(seed));
}
