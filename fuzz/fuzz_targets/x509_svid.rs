//! Feeds arbitrary bytes to the parsers of certificates and of X.509-SVIDs; the property is in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mintmark_fuzz::x509_svid(data));
