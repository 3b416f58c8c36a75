//! Feeds arbitrary bytes to the parsers of bundle documents and maps; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mintmark_fuzz::bundle_document(data));
