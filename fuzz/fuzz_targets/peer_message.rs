//! Feeds arbitrary bytes to what reads messages between servers; the property is in `src/raft.rs`.
#![no_main]

#[path = "../src/raft.rs"]
#[allow(dead_code, reason = "the other targets' properties are in the same file")]
mod raft;

libfuzzer_sys::fuzz_target!(|data: &[u8]| raft::peer_message(data));
