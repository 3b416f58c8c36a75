//! Feeds arbitrary bytes to parsers of the transparency log; the property is in `src/log.rs`.
#![no_main]

#[path = "../src/log.rs"]
#[allow(dead_code, reason = "the other target's property is in the same file")]
mod log;

libfuzzer_sys::fuzz_target!(|data: &[u8]| log::signed_note(data));
