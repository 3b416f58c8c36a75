//! Feeds arbitrary bytes to what reads answers of the Workload API; the property is in `src/workload.rs`.
#![no_main]

#[path = "../src/workload.rs"]
mod workload;

libfuzzer_sys::fuzz_target!(|data: &[u8]| workload::workload_answer(data));
