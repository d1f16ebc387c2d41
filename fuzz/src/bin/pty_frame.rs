//! See `tarn_guest::fuzz::pty_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tarn_guest::fuzz::pty_frame(data));
