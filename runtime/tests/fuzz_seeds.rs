//! The property of the fuzz target of HTTP/2 over its seeds, and over damaged seeds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "../../fuzz/src/http2.rs"]
mod properties;
#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

use proptest::prelude::*;

use crate::seeds::{damaged, seeds};

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
