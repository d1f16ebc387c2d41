//! See `tarn_guest::fuzz::json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tarn_guest::fuzz::json(data));
