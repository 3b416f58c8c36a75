//! The properties of the fuzz target of the client library over their seeds, and over damaged seeds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../../fuzz/src/workload.rs"]
mod properties;
#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

use proptest::prelude::*;

use crate::seeds::{damaged, seeds};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]


    #[test]
    fn damaged_workload_answers_keep_their_property(bytes in damaged("workload_answer")) {
        properties::workload_answer(&bytes);
    }
}

#[test]
fn every_seed_keeps_its_property() {
    seeds("workload_answer")
        .iter()
        .for_each(|seed| properties::workload_answer(seed));
}
