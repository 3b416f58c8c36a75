//! Feeds arbitrary bytes to the parsers of certificate signing requests; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mintmark_fuzz::csr(data));
