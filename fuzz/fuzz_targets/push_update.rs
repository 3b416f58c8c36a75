//! Feeds arbitrary bytes to what reads updates that servers push to agents; the property is in `src/agent.rs`.
#![no_main]

#[path = "../src/agent.rs"]
#[allow(dead_code, reason = "the other targets' properties are in the same file")]
mod agent;

libfuzzer_sys::fuzz_target!(|data: &[u8]| agent::push_update(data));
