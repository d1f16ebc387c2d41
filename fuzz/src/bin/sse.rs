//! See `tarn_guest::fuzz::sse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tarn_guest::fuzz::sse(data));
