//! See `tarn_guest::fuzz::path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tarn_guest::fuzz::path(data));
