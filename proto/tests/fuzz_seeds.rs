//! The properties of the fuzz targets of the API over their seeds, and over damaged seeds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../../fuzz/src/api.rs"]
mod properties;
#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

use proptest::prelude::*;

use crate::seeds::{damaged, seeds};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn damaged_entries_keep_their_property(bytes in damaged("api_entry")) {
        properties::api_entry(&bytes);
    }

    #[test]
    fn damaged_bundles_keep_their_property(bytes in damaged("api_bundle")) {
        properties::api_bundle(&bytes);
    }
}

#[test]
fn every_seed_keeps_its_property() {
    seeds("api_entry")
        .iter()
        .for_each(|seed| properties::api_entry(seed));
    seeds("api_bundle")
        .iter()
        .for_each(|seed| properties::api_bundle(seed));
}
