//! Feeds arbitrary bytes to the filter before the HTTP/2 server; the property is in `src/http2.rs`.
#![no_main]

#[path = "../src/http2.rs"]
mod http2;

libfuzzer_sys::fuzz_target!(|data: &[u8]| http2::authority_filter(data));
