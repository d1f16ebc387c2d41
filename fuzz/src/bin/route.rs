//! See `tarn_guest::fuzz::route`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tarn_guest::fuzz::route(data));
