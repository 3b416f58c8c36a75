//! The properties of the fuzz targets of a server over their seeds, and over damaged seeds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../../fuzz/src/raft.rs"]
mod properties;
#[path = "../../fuzz/src/seeds.rs"]
mod seeds;

use proptest::prelude::*;

use crate::seeds::{damaged, seeds};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn damaged_commands_keep_their_property(bytes in damaged("raft_command")) {
        properties::raft_command(&bytes);
    }

    #[test]
    fn damaged_snapshots_keep_their_property(bytes in damaged("state_snapshot")) {
        properties::state_snapshot(&bytes);
    }

    #[test]
    fn damaged_peer_messages_keep_their_property(bytes in damaged("peer_message")) {
        properties::peer_message(&bytes);
    }
}

/// What must hold for every input.
type Property = fn(&[u8]);

#[test]
fn every_seed_keeps_its_property() {
    let targets: [(&str, Property); 3] = [
        ("raft_command", properties::raft_command),
        ("state_snapshot", properties::state_snapshot),
        ("peer_message", properties::peer_message),
    ];
    for (target, property) in targets {
        for seed in seeds(target) {
            property(&seed);
        }
    }
}
