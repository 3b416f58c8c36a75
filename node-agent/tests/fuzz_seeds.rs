//! The properties of the fuzz targets of an agent over their seeds, and over damaged seeds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../../fuzz/src/agent.rs"]
mod properties;
#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

use proptest::prelude::*;

use crate::seeds::{damaged, seeds};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]


    #[test]
    fn damaged_statements_keep_their_property(bytes in damaged("statement")) {
        properties::statement(&bytes);
    }

    #[test]
    fn damaged_push_updates_keep_their_property(bytes in damaged("push_update")) {
        properties::push_update(&bytes);
    }
}

#[test]
fn every_seed_keeps_its_property() {
    seeds("statement")
        .iter()
        .for_each(|seed| properties::statement(seed));
    seeds("push_update")
        .iter()
        .for_each(|seed| properties::push_update(seed));
}
