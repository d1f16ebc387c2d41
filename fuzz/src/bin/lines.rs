//! See `tarn_guest::fuzz::lines`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tarn_guest::fuzz::lines(data));
