//! Feeds arbitrary bytes to what reads entries in requests of the API; the property is in `src/api.rs`.
#![no_main]

#[path = "../src/api.rs"]
#[allow(dead_code, reason = "the other targets' properties are in the same file")]
mod api;

libfuzzer_sys::fuzz_target!(|data: &[u8]| api::api_entry(data));
