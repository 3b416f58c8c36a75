//! Feeds arbitrary bytes to the parsers of SPIFFE IDs and trust domains; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mintmark_fuzz::spiffe_id(data));
